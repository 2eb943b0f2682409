"""Put a checked fine-tuning to work: network, head, the training loop of `pretrain`, predictions, files."""

from __future__ import annotations

import json
import shutil
import time
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from pretrain import preemption, sampling_order, training_flops, training_loop
from pretrain.distributed import Ranks, dtype_of, open_ranks
from pretrain.hooks import Hooks, Progress
from pretrain.progress_bar import bar
from pretrain.recipe import Recipe
from pretrain.schedule import Budget
from pretrain.training_run import augmented
from prune.data.dataset import Dataset
from prune.data.loader import open_loader
from prune.models import networks
from prune.runs.files import atomic, note, write_json
from prune.runs.run_directory import finish, plain
from transfer.evaluation.finetune_recipes import adapted, has_batch_norm, size_of
from transfer.evaluation.logistic import Linear
from transfer.evaluation.target_splits import SMALL, forward_flops, name_of, pair_features, save_predictions

if TYPE_CHECKING:
    from transfer.finetune import Config

_SHORT = 100_000_000
"""Pixels of training below which a run that is killed begins anew: checkpoints would take as long as the training."""
_FAR_BELOW = 10.0  # how far below all others the bias of a class lies that the training images lack


def finetune(config: Config, train: Dataset, test: Dataset, rows: np.ndarray, inputs: dict[str, str]) -> None:
    """Train on these rows, (n,) int64 ascending, and judge; every process calls this."""
    dtype_of(config.precision)
    begin = time.perf_counter()
    backbone, spec = networks.load_model(config.model)
    classes = train.manifest.classes
    name = size_of(len(rows)) if config.recipe == "auto" else config.recipe
    recipe = changed(adapted(name, spec, batch_norm=has_batch_norm(backbone)), config)
    spec = {**spec, "classes": classes, "recipe": f"finetune-{name}"}
    spec |= {"index": inputs.get("index"), "source": inputs["train"]}
    network = with_head(backbone, spec)
    with open_ranks(config.precision) as ranks:
        if config.head == "probe":
            _probed_head(config, network, train, test, rows, ranks)
        network = network.to(ranks.device)
        progress = _train(config, network, train, rows, recipe, spec, ranks)
        if ranks.rank == 0:
            facts = _predict(config, network, test, spec, ranks)
            cost = training_flops.per_image(network, recipe, recipe.resolution)
            seen = progress.samples + len(test)
            result = {
                "task": "finetune",
                "target": name_of(config.train),
                **facts,
                **inputs,
                "recipe": name,
                "head": config.head,
                "n_train": len(rows),
                "samples": seen,
                "flops": progress.samples * cost + len(test) * forward_flops(network, recipe.resolution),
                "seconds": round(max(progress.seconds, time.perf_counter() - begin), 3),
            }
            networks.save_model(config.out, network, spec)
            write_json(config.out / "result.json", result)
            finish(
                config.out,
                seconds=result["seconds"],
                samples=progress.samples,
                flops_per_sample=cost,
                images_per_second=progress.samples / max(progress.seconds, 1e-9),
                steps=progress.step,
                epochs=len(progress.lines),
                processes=ranks.world,
                recipe={"name": f"finetune-{name}", **plain(asdict(recipe))},
                inputs=inputs,
            )
            shutil.rmtree(config.out / "checkpoint", ignore_errors=True)
            note(f"{config.out}: top-1 {result['value']:.4f} on {len(test)} test images of {result['target']}")
        ranks.wait()


def changed(recipe: Recipe, config: Config) -> Recipe:
    """Take the flags that change a recipe into it."""
    if config.batch_size:
        recipe = replace(recipe, batch=config.batch_size, lr=recipe.lr * config.batch_size / recipe.batch)
    if config.lr:
        recipe = replace(recipe, lr=config.lr)
    if config.epochs:
        recipe = replace(recipe, epochs=config.epochs, warmup=min(recipe.warmup, config.epochs / 10))
    return recipe


def with_head(backbone: nn.Module, spec: dict[str, Any]) -> nn.Module:
    """The backbone with an empty (zero) classifier for the classes of `spec`."""
    network = networks.build(spec)
    head = network.get_classifier()  # type: ignore[operator]
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


def _probed_head(
    config: Config, network: nn.Module, train: Dataset, test: Dataset, rows: np.ndarray, ranks: Ranks
) -> None:
    """Train the probe on the features of these rows; every rank finds the same."""
    from transfer.evaluation.logistic import train_linear

    place = config.features or config.out / "features"
    found, _ = pair_features(config.model, train, test, place, config.loader, config.workers)
    x, y = np.asarray(found.features)[rows], np.asarray(found.label)[rows]
    linear, _ = train_linear(x, y, seed=config.seed, device=ranks.device.type)
    set_head(network, linear)


def _train(
    config: Config,
    network: nn.Module,
    train: Dataset,
    rows: np.ndarray,
    recipe: Recipe,
    spec: dict[str, Any],
    ranks: Ranks,
) -> Progress:
    batch = sampling_order.global_batch(len(rows), recipe.batch, ranks.world)
    size = sampling_order.rank_batch(batch, ranks.rank, ranks.world)

    def on_lines(lines: list[dict[str, Any]]) -> None:
        if ranks.rank == 0:
            with atomic(config.out / "metrics.jsonl") as partial:
                partial.write_text("".join(json.dumps(line) + "\n" for line in lines))

    short = len(rows) * recipe.epochs * recipe.resolution**2 < _SHORT
    try:
        with ExitStack() as opened:
            loader = open_loader(
                train, resolution=recipe.resolution, batch_size=size, **_reading(config, train, recipe)
            )
            opened.callback(loader.close)
            on_step = opened.enter_context(bar(Path(config.out).name))
            return training_loop.train(
                network,
                augmented(loader, recipe, config.seed),
                rows,
                recipe,
                ranks,
                budget=Budget(epochs=recipe.epochs),
                mean=spec["mean"],
                std=spec["std"],
                seed=config.seed,
                micro_batch=config.micro_batch,
                checkpoints=None if short else config.out / "checkpoint",
                hooks=Hooks(on_lines=on_lines, on_step=on_step),
            )
    except preemption.Requeue:
        if short:
            note("stopping on a signal: so short a training has no checkpoint; the same command begins it anew")
        raise


def _reading(config: Config, source: Dataset, recipe: Recipe) -> dict[str, Any]:
    """Which loader: FFCV compiles for seconds, which few small images do not pay back."""
    if config.loader != "auto":
        return {"loader": config.loader, "workers": config.workers}
    small = len(source) <= SMALL and recipe.resolution <= 64
    return (
        {"loader": "torch", "workers": config.workers or 1} if small else {"loader": "ffcv", "workers": config.workers}
    )


def _predict(config: Config, network: nn.Module, test: Dataset, spec: dict[str, Any], ranks: Ranks) -> dict[str, Any]:
    """Predict the test images in their order, write predictions.npz; what result.json says of it."""
    from prune.features import extract

    n, classes = len(test), spec["classes"]
    predicted, confidence = np.empty(n, np.int32), np.empty(n, np.float32)
    small = n <= SMALL and spec["resolution"] <= 64
    loader = ("torch" if small else "ffcv") if config.loader == "auto" else config.loader
    passes = extract(
        network,
        test,
        np.arange(n),
        resolution=spec["resolution"],
        mean=spec["mean"],
        std=spec["std"],
        loader=loader,  # type: ignore[arg-type]
        workers=config.workers or (1 if loader == "torch" else None),
        device=ranks.device,
    )
    for _, logits, rows in passes:
        share = torch.softmax(torch.from_numpy(logits), 1)
        confidence[rows], predicted[rows] = (v.numpy() for v in share.max(1))
    return save_predictions(config.out, np.asarray(test.manifest.labels), predicted, confidence, classes)
