"""Parts of a fine-tuning: the network with a new classifier, its training in `pretrain`'s loop, its predictions."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from pretrain import preemption, sampling_order, step_errors, training_loop
from pretrain.distributed import Ranks
from pretrain.hooks import Hooks, Progress
from pretrain.progress_bar import bar
from pretrain.recipe import Recipe
from pretrain.schedule import Budget
from pretrain.training_run import augmented
from prune.data.dataset import Dataset
from prune.data.loader import open_loader
from prune.models import networks
from prune.models.feature_extraction import extract
from prune.models.image_sizes import refuse_size
from prune.runs.files import atomic, note
from transfer.evaluation.logistic import Linear
from transfer.evaluation.target_splits import loader_for

SHORT = 100_000_000
"""Pixels of training below which a killed run starts over: checkpoints would take as long as the training."""
_FAR_BELOW = 10.0  # how far below all others the bias of a class lies of which there are no training images


def with_new_head(backbone: nn.Module, spec: dict[str, Any]) -> nn.Module:
    """A copy of a network whose classifier has the classes of `spec` and weights of zero."""
    network = networks.build(spec)
    head: Any = networks.classifier_of(network)
    own = networks.head_names(network)
    given = {k: v for k, v in backbone.state_dict().items() if k not in own}
    network.load_state_dict({**network.state_dict(), **given})
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return network


@torch.no_grad()
def set_head(network: nn.Module, linear: Linear) -> None:
    """Give the network's classifier the weights of a linear probe of its features: the same logits for raw features.

    From (x - mean) / scale @ weight.T + bias follows x @ (weight / scale).T + bias - (mean / scale) @ weight.T.
    """
    head = network.get_classifier()  # type: ignore[operator]
    weight = linear.weight / linear.scale
    bias = linear.bias - weight @ linear.mean
    head.weight.zero_()
    head.bias.fill_(float(bias.min()) - _FAR_BELOW)
    rows = torch.from_numpy(np.asarray(linear.names))
    head.weight[rows] = torch.from_numpy(weight.astype(np.float32))
    head.bias[rows] = torch.from_numpy(bias.astype(np.float32))


def train_on_target(
    network: nn.Module,
    train: Dataset,
    rows: np.ndarray,
    recipe: Recipe,
    ranks: Ranks,
    out: Path,
    *,
    mean: Any,
    std: Any,
    seed: int,
    micro_batch: int | None = None,
    loader: Literal["auto", "ffcv", "torch"] = "auto",
    workers: int | None = None,
) -> Progress:
    """Train a network in place on these images; every process calls this.

    Parameters
    ----------
    network : nn.Module
        On the device of `ranks`.
    train : Dataset
    rows : (n,) int64
        Ascending.
    recipe, ranks : Recipe, Ranks
    out : Path
        Run directory: metrics.jsonl, and checkpoint/ where the training is long enough to need it.
    mean, std : sequence of 3 floats
        In grey levels.
    seed, micro_batch : int
        See `pretrain.training_loop.train`.
    loader, workers
        See `loader_for`.
    """
    refuse_size(network, recipe.resolution)
    batch = sampling_order.global_batch(len(rows), recipe.batch, ranks.world)
    size = sampling_order.rank_batch(batch, ranks.rank, ranks.world)

    def on_lines(lines: list[dict[str, Any]]) -> None:
        if ranks.rank == 0:
            with atomic(out / "metrics.jsonl") as partial:
                partial.write_text("".join(json.dumps(line) + "\n" for line in lines))

    short = len(rows) * recipe.epochs * recipe.resolution**2 < SHORT
    chosen, workers = loader_for(loader, workers, len(train), recipe.resolution)
    options: dict[str, Any] = {"batch_size": size, "loader": chosen, "workers": workers}
    ranks.announce(workers, recipe.compile)
    try:
        with (
            closing(open_loader(train, resolution=recipe.resolution, **options)) as images,
            bar(Path(out).name) as on_step,
            step_errors.in_one_line(micro_batch or size),
        ):
            return training_loop.train(
                network,
                augmented(images, recipe, seed),
                rows,
                recipe,
                ranks,
                budget=Budget(epochs=recipe.epochs),
                mean=mean,
                std=std,
                seed=seed,
                micro_batch=micro_batch,
                checkpoints=None if short else out / "checkpoint",
                hooks=Hooks(on_lines=on_lines, on_step=on_step),
            )
    except preemption.Requeue:
        if short:
            note("stopping on a signal: a training this short has no checkpoint; the same command starts it over")
        raise


def predict(
    network: nn.Module,
    spec: dict[str, Any],
    test: Dataset,
    device: torch.device,
    *,
    loader: Literal["auto", "ffcv", "torch"] = "auto",
    workers: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Predict all images of a dataset: the most probable class, (n,) int32, and its probability, (n,) float32."""
    n = len(test)
    predicted, confidence = np.empty(n, np.int32), np.empty(n, np.float32)
    chosen, workers = loader_for(loader, workers, n, spec["resolution"])
    passes = extract(network, spec, test, np.arange(n), loader=chosen, workers=workers, device=device)
    for _, logits, rows in passes:
        share = torch.softmax(torch.from_numpy(logits), 1)
        confidence[rows], predicted[rows] = (v.numpy() for v in share.max(1))
    return predicted, confidence
