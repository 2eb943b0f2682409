"""One training run from its checked plan: opens loaders and network, calls the training loop, writes the model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from pretrain import (
    dynamics_recorder,
    sampling_order,
    simsiam,
    step_errors,
    training_flops,
    training_loop,
    validation,
)
from pretrain.config import Config
from pretrain.distributed import Ranks
from pretrain.hooks import Batches, Hooks, NonFinite, Progress
from pretrain.plan import TrainingPlan
from pretrain.progress_bar import bar
from pretrain.recipe import Recipe
from prune.data import crops
from prune.data.batches import Batch, Loader
from prune.data.loader import open_loader
from prune.index.manifest import manifest_path
from prune.models import networks
from prune.models.image_sizes import refuse_size
from prune.models.networks import MEAN, STD
from prune.runs.files import InputError, atomic, note
from prune.runs.identity import plain
from prune.runs.outputs import finish
from prune.scores.feature_files import order_fingerprint

_SECOND_VIEW = 1 << 40  # added to the seed for the crops of the second view


def pretrain(config: Config, plan: TrainingPlan, ranks: Ranks) -> None:
    """Train and write the model directory; every rank calls this."""
    recipe, rows = plan.recipe, plan.rows
    spec = specification(config, plan)
    batch = sampling_order.global_batch(len(rows), recipe.batch, ranks.world)
    rank_batch = sampling_order.rank_batch(batch, ranks.rank, ranks.world)
    side = max(recipe.resolution, recipe.start_resolution)
    torch.manual_seed(config.seed)
    network = networks.build(spec).to(ranks.device)
    for size in sorted({recipe.start_resolution or recipe.resolution, recipe.resolution, spec["resolution"]}):
        refuse_size(network, size)
    _refuse_wrong_gradients(network, recipe, ranks)
    if config.init is not None:
        warm_start(network, config.init, spec["classes"])
    ranks.announce(config.workers, recipe.compile)
    options: dict[str, Any] = {"workers": config.workers, "loader": config.loader}
    with ExitStack() as opened:
        loaders = [
            opened.enter_context(closing(open_loader(plan.source, resolution=side, batch_size=rank_batch, **options)))
            for _ in range(2 if recipe.method == "simsiam" else 1)
        ]
        for loader in loaders:
            for _ in loader.epoch(rows[:1]):  # compiles the loader: that is start-up, not training
                pass
        val = None
        if plan.val:
            val = open_loader(plan.val, resolution=spec["resolution"], batch_size=256, **options)
            opened.callback(val.close)
        progress = _train(config, plan, ranks, network, loaders, val, spec)
    if ranks.rank == 0:
        _write(config, plan, ranks, network, spec, progress)
    ranks.wait()


def _refuse_wrong_gradients(network: nn.Module, recipe: Recipe, ranks: Ranks) -> None:
    """Raise `InputError` where the CPU's bf16 kernels would leave gradients uninitialised."""
    if ranks.device.type != "cpu" or ranks.dtype != torch.bfloat16:
        return
    side = min(recipe.resolution, recipe.start_resolution or recipe.resolution)
    if networks.strides_over_one_pixel(network, side):
        raise InputError(
            f"images of {side} px are too small for {recipe.arch} in bf16 on the CPU, where gradients would be wrong: "
            "raise --resolution, or give --precision fp32"
        )


def specification(config: Config, plan: TrainingPlan) -> dict[str, Any]:
    """Content of model.json, from which the model can be rebuilt."""
    recipe = plan.recipe
    return {
        "arch": recipe.arch,
        "kwargs": plain(recipe.kwargs),
        "stem": recipe.stem,
        "classes": plan.source.manifest.classes,
        "resolution": recipe.evaluation or recipe.resolution,
        "crop_ratio": recipe.crop_ratio,
        "mirror": recipe.mirror,
        "mean": list(MEAN),
        "std": list(STD),
        "recipe": config.recipe,
        "index": plan.fingerprints["index"],
        "source": plan.fingerprints["beton"],
        **({"fold": config.fold} if config.fold else {}),
    }


def warm_start(network: nn.Module, directory: Any, classes: list[str]) -> None:
    """Copy all weights that fit from a model directory; the classifier stays random unless the classes are the same."""
    model, spec = networks.load_model(directory)
    given, own = model.state_dict(), network.state_dict()
    head = () if spec["classes"] == classes else networks.head_names(network)
    fits = {k: v for k, v in given.items() if k in own and own[k].shape == v.shape and k not in head}
    new = sorted(own.keys() - fits.keys())
    network.load_state_dict({**own, **fits})
    if new:
        note(f"{directory}: no weights for {', '.join(new)}, which start at random")


def augmented(loader: Loader, recipe: Recipe, seed: int) -> Batches:
    """Build batches with the recipe's crops, which depend on (seed, epoch, row) alone."""
    heights, widths = loader.source.beton.heights, loader.source.beton.widths

    def batches(rows: np.ndarray, epoch: int, resolution: int) -> Iterator[Batch]:
        draw = None
        if recipe.crop == "resized":
            draw = partial(crops.random_resized_crops, heights, widths, seed=seed, epoch=epoch, scale=recipe.scale)
        elif recipe.crop == "padded":
            draw = partial(crops.padded_crops, heights, widths, seed=seed, epoch=epoch, padding=recipe.padding)
        return loader.epoch(rows, crops=draw and (lambda these: draw(rows=these)), resolution=resolution)

    return batches


def _train(
    config: Config,
    plan: TrainingPlan,
    ranks: Ranks,
    network: nn.Module,
    loaders: list[Loader],
    val: Loader | None,
    spec: dict[str, Any],
) -> Progress:
    tracker = ranks.accelerator
    if tracker.log_with:
        tracker.init_trackers("winnow", config={"recipe": config.recipe, "seed": config.seed})

    recipe = plan.recipe
    trained, batches, loss = network, augmented(loaders[0], recipe, config.seed), None
    if recipe.method == "simsiam":
        trained = simsiam.Siamese(network).to(ranks.device)
        loss = simsiam.loss(*(torch.tensor(v, device=ranks.device).view(1, 3, 1, 1) for v in (MEAN, STD)))
        batches = simsiam.two_views(batches, augmented(loaders[1], recipe, config.seed + _SECOND_VIEW))

    def after_epoch(model: nn.Module, line: dict[str, Any]) -> None:
        if val is not None:
            found = validation.evaluate(network, val, np.arange(len(val)), ranks, spec)
            if not np.isfinite(found["loss"]):
                raise NonFinite(
                    f"the validation loss after epoch {line['epoch']} is not finite: try a lower learning rate"
                )
            line.update(val_top1=round(found["top1"], 6), val_loss=round(found["loss"], 6))
        note("  ".join(f"{k} {v}" for k, v in line.items() if k not in ("seconds", "samples", "step")))
        if tracker.log_with:
            tracker.log({k: v for k, v in line.items() if k != "step"}, step=line["step"])

    def on_lines(lines: list[dict[str, Any]]) -> None:
        if ranks.rank == 0:
            with atomic(config.out / "metrics.jsonl") as partial:
                partial.write_text("".join(json.dumps(line) + "\n" for line in lines))

    def on_records(epoch: int, records: dict[str, np.ndarray]) -> None:
        if ranks.rank == 0:
            dynamics_recorder.write_epoch(config.out, epoch, records)

    try:
        size = config.micro_batch or sampling_order.rank_batch(recipe.batch, ranks.rank, ranks.world)
        with bar(config.out.name) as on_step, step_errors.in_one_line(size):
            return training_loop.train(
                trained,
                batches,
                plan.rows,
                recipe,
                ranks,
                budget=plan.budget,
                mean=MEAN,
                std=STD,
                seed=config.seed,
                micro_batch=config.micro_batch,
                loss=loss,
                checkpoints=config.out / "checkpoint",
                checkpoint_seconds=60 * config.checkpoint_minutes,
                dynamics=config.dynamics,
                pages=_pages(plan) if config.order == "block" else None,
                hooks=Hooks(after_epoch, on_records, on_lines, on_step),
            )
    finally:
        for each in tracker.trackers:
            each.finish()


def _pages(plan: TrainingPlan) -> np.ndarray:
    """The page of the beton in which each image lies, (n,) int64."""
    beton = plan.source.beton
    pages: np.ndarray = beton.samples["image"]["pointer"].astype(np.int64) // beton.page_size
    return pages


def _write(
    config: Config, plan: TrainingPlan, ranks: Ranks, network: nn.Module, spec: dict[str, Any], progress: Progress
) -> None:
    sides = {line["resolution"] for line in progress.lines}
    cost = {side: training_flops.per_image(network, plan.recipe, side) for side in sides}
    total = sum(line["samples"] * cost[line["resolution"]] for line in progress.lines)
    if config.dynamics:
        labels = np.asarray(plan.source.manifest.labels)[plan.rows]
        meta = {"classes": spec["classes"], "fingerprint": spec["source"], "source_size": len(plan.source)}
        meta["order"] = order_fingerprint(manifest_path(plan.source.beton.path))
        dynamics_recorder.assemble(config.out, len(progress.lines), plan.rows, labels, meta)
    networks.save_model(config.out, network, spec)
    finish(
        config.out,
        seconds=progress.seconds,
        samples=progress.samples,
        flops_per_sample=total / progress.samples,
        images_per_second=progress.samples / max(progress.seconds, 1e-9),
        epochs=len(progress.lines),
        steps=progress.step,
        rows=len(plan.rows),
        processes=ranks.world,
        **({"processes_changed": progress.processes} if progress.processes else {}),
        device=torch.cuda.get_device_name() if ranks.device.type == "cuda" else "cpu",
        precision=str(ranks.dtype or torch.float32).removeprefix("torch."),
        recipe={"name": config.recipe, **plain(asdict(plan.recipe))},
        index=spec["index"],
        source=spec["source"],
        changed=plan.changed,
        init=plan.fingerprints["init"],
        val=plan.fingerprints["val"],
        last=progress.lines[-1],
    )
