"""Accuracy and loss over a whole set, each image exactly once, whatever the number of ranks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from pretrain import sampling_order
from pretrain.distributed import Ranks
from prune.data.batches import Loader
from prune.models import evaluation_view


@torch.no_grad()
def evaluate(
    network: nn.Module, loader: Loader, rows: np.ndarray, ranks: Ranks, spec: Mapping[str, Any]
) -> dict[str, float]:
    """Evaluate on the images at `rows` as `spec`, the content of the network's model.json, shows them.

    Returns
    -------
    dict
        "top1" (a ratio of counts, so equal for every number of ranks), "loss" (cross entropy without smoothing), "n".
    """
    device = ranks.device
    mean, std = (torch.tensor(spec[v], device=device).float().view(1, 3, 1, 1) for v in ("mean", "std"))
    crops = evaluation_view.central(loader.source, evaluation_view.crop_ratio(spec))
    sums = torch.zeros(3, dtype=torch.float64, device=device)
    training = network.training
    network.eval()
    mine = sampling_order.evaluation_rows(rows, ranks.rank, ranks.world)
    for images, labels, _ in loader.epoch(mine, crops=crops, resolution=spec["resolution"]):
        images, labels = (v.to(device, non_blocking=True) for v in (images, labels))
        with ranks.autocast():
            logits = evaluation_view.logits(network, (images.float() - mean) / std, spec)
        losses = functional.cross_entropy(logits, labels, reduction="none")
        hits = (logits.argmax(1) == labels).sum()
        sums += torch.stack([losses.double().sum(), hits.double(), torch.full_like(sums[0], len(labels))])
    network.train(training)
    loss, correct, count = ranks.total(sums).tolist()
    return {"top1": correct / count, "loss": loss / count, "n": int(count)}
