"""Images held in memory as arrays (n, side, side, 3) uint8: read them, batch them for a network, predict them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from prune.data.batches import Loader
from prune.data.dataset import Dataset
from prune.data.loader import open_loader
from prune.models import evaluation_view, networks
from transfer.evaluation.target_splits import loader_for


def read_images(
    dataset: Dataset,
    rows: np.ndarray,
    side: int,
    *,
    loader: Literal["auto", "ffcv", "torch"] = "auto",
    workers: int | None = None,
    ratio: float = 1.0,
) -> tuple[np.ndarray, np.ndarray]:
    """Read the central squares of a dataset's images.

    Parameters
    ----------
    dataset : Dataset
    rows : (n,) int
    side : int
        In pixels.
    loader, workers
        See `loader_for`.
    ratio : float
        Side of the squares as a share of the image's shorter side.

    Returns
    -------
    images : (n, side, side, 3) uint8
        In the order of `rows`.
    labels : (n,) int64
    """
    if not len(rows):
        return np.zeros((0, side, side, 3), np.uint8), np.zeros(0, np.int64)
    chosen, workers = loader_for(loader, workers, len(rows))
    with closing(open_loader(dataset, resolution=side, batch_size=256, loader=chosen, workers=workers)) as opened:
        return read_with(opened, rows, ratio)


def read_with(loader: Loader, rows: np.ndarray, ratio: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Read central squares with an open loader: images and labels as from `read_images`, of at least one row."""
    images, labels = [], []
    with closing(loader.epoch(rows, crops=evaluation_view.central(loader.source, ratio))) as batches:  # type: ignore[type-var]
        for part, label, _ in batches:
            images.append(part.permute(0, 2, 3, 1).numpy().copy())
            labels.append(label.numpy().copy())
    return np.concatenate(images), np.concatenate(labels)


def balanced_rows(rows: np.ndarray, labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Draw about `count` of `rows`, equally many of every class as far as it has them: (k,) int64, ascending.

    Parameters
    ----------
    rows, labels : (n,) int
        Rows and their labels.
    count : int
    seed : int
    """
    classes = np.unique(labels)
    each, rng = -(-count // len(classes)), np.random.default_rng((seed, 0xBA1A))
    return np.sort(np.concatenate([rng.permutation(rows[labels == c])[:each] for c in classes]))


def normalised_batches(
    images: np.ndarray,
    labels: np.ndarray,
    spec: Mapping[str, Any],
    size: int = 64,
    device: torch.device | None = None,
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield batches of images (b, 3, r, r) as the network of `spec` takes them, and their labels, on the device."""
    for i in range(0, len(images), size):
        part = torch.from_numpy(np.ascontiguousarray(images[i : i + size])).permute(0, 3, 1, 2)
        known = torch.from_numpy(labels[i : i + size])
        yield networks.normalise(part.to(device), spec["mean"], spec["std"]), known.to(device)


@contextmanager
def moved(model: nn.Module, device: torch.device | None) -> Iterator[None]:
    """Have a network on the device within the block; it goes back where it was."""
    home = next(model.parameters()).device
    model.to(device or home)
    try:
        yield
    finally:
        model.to(home)


def predictor(
    model: nn.Module, spec: Mapping[str, Any], device: torch.device | None = None
) -> Callable[[np.ndarray], np.ndarray]:
    """Turn a torch network into a function from images (n, r, r, 3) uint8 to logits (n, c) float32.

    `device`: where it computes; where the network is when absent.
    """

    def predict(images: np.ndarray) -> np.ndarray:
        with torch.inference_mode(), moved(model, device):
            blank = np.zeros(len(images), np.int64)
            batches = normalised_batches(images, blank, spec, 256, next(model.parameters()).device)
            return np.concatenate([evaluation_view.logits(model, batch, spec).cpu().numpy() for batch, _ in batches])

    return predict
