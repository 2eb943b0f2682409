"""Classify by the nearest training images: without training, it shows how well a feature space separates classes."""

from __future__ import annotations

import numpy as np
import torch

from prune.models.full_precision import full_precision

_ROWS = 1024
_COLUMNS = 1 << 16


@full_precision()
def classify(
    train: np.ndarray,
    labels: np.ndarray,
    test: np.ndarray,
    *,
    classes: int,
    k: int = 20,
    temperature: float = 0.07,
    device: str = "cpu",
) -> tuple[np.ndarray, np.ndarray]:
    """Let the k nearest training images by cosine vote, each with the weight exp(cosine / temperature).

    Wu, Xiong, Yu and Lin, "Unsupervised Feature Learning via Non-Parametric Instance Discrimination" (2018), section
    3.4; k and temperature as in their code and in DINO's evaluation.

    Parameters
    ----------
    train : (n, d) float
    labels : (n,) int
    test : (m, d) float
    classes : int
    k : int
        All training images vote when there are fewer.
    temperature : float
    device : str

    Returns
    -------
    predicted : (m,) int32
        On ties the lower class.
    confidence : (m,) float32
        Its share of the votes.
    """
    k = min(k, len(train))
    names = torch.from_numpy(np.asarray(labels).astype(np.int64)).to(device)
    predicted, confidence = np.empty(len(test), np.int32), np.empty(len(test), np.float32)
    for begin in range(0, len(test), _ROWS):
        x = _unit(test[begin : begin + _ROWS], device)
        near, place = torch.empty(len(x), 0, device=device), torch.empty(len(x), 0, dtype=torch.int64, device=device)
        for left in range(0, len(train), _COLUMNS):
            cosine = x @ _unit(train[left : left + _COLUMNS], device).T
            best, at = cosine.topk(min(k, cosine.shape[1]), dim=1)
            near, place = torch.cat([near, best], 1), torch.cat([place, at + left], 1)
            if near.shape[1] > k:
                near, kept = near.topk(k, dim=1)
                place = place.gather(1, kept)
        # Scaled so that the nearest has the weight 1: nothing overflows, and the shares stay the same.
        weight = torch.exp((near - near.amax(1, keepdim=True)) / temperature)
        votes = torch.zeros(len(x), classes, device=device).scatter_add_(1, names[place], weight)
        share, found = (votes / votes.sum(1, keepdim=True)).max(1)
        predicted[begin : begin + len(x)] = found.cpu().numpy()
        confidence[begin : begin + len(x)] = share.clamp(max=1.0).cpu().numpy()
    return predicted, confidence


def _unit(rows: np.ndarray, device: str) -> torch.Tensor:
    x = torch.from_numpy(rows.astype(np.float32)).to(device)
    return torch.nn.functional.normalize(x, dim=1)
