r"""Class-incremental learning with a memory in bytes: classes come in tasks, a few images of earlier ones are replayed.

    transfer incremental --train cifar100.beton --test cifar100-test.beton --tasks 10 --memory 2000raw 500raw \
        --forms raw compressed same-codec --quality 30 --seeds 0 1 2 --out runs/incremental
    transfer incremental --train photos/train --test photos/test --memory 6MB --recipe rn18-16ep --out runs/photos-cil

A run for each memory size, form and seed: `raw` keeps pixels, `compressed` keeps JPEGs, `same-codec` also passes new
images and test images through that codec, so that all images share its traces. After each task the accuracy over all
classes so far, by the network's linear head and by the nearest mean of exemplars (iCaRL). Writes OUT/result.json,
OUT/report.html and OUT/cells/<run>/. The same command goes on where it was stopped; more seeds, forms and sizes may be
added later.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from prune.runs.files import InputError, at_least, note, read_json
from prune.runs.identity import Growing, Location, RunOption, identity
from prune.runs.outputs import claim

if TYPE_CHECKING:
    from pretrain.recipe import Recipe
    from prune.data.dataset import Dataset
    from transfer.continual.incremental_setting import Cell, Setting

FORMAT = "winnow-incremental/1"


@dataclass(frozen=True)
class Config:
    train: Location[Path]
    """Training images: `X.beton`, a folder of class folders, or `torchvision:NAME:ROOT:SPLIT`."""
    test: Location[Path]
    """Test images of the same classes."""
    out: Location[Path]
    """Run directory."""
    memory: Growing[tuple[str, ...]]
    """Sizes of the memory: bytes (6MB, 500kB, 6144000), or as many as N raw exemplars take (2000raw)."""
    forms: Growing[tuple[Literal["raw", "compressed", "same-codec"], ...]] = ("raw", "compressed", "same-codec")
    """How exemplars are kept; same-codec passes new and test images through the codec as well."""
    seeds: Growing[tuple[int, ...]] = (0, 1, 2)
    """A run each: order of classes, images drawn, initial weights, order, augmentation."""
    tasks: int = 10
    """Parts into which the classes are split."""
    per_class: int | None = None
    """Use so many training images of each class, drawn from the seed; all when absent."""
    recipe: str = "small-rn18"
    """Recipe of `pretrain`; its epochs are those of each task unless a budget is given."""
    epochs: float | None = None
    """Passes of each task over its images and the exemplars."""
    steps: int | None = None
    """Optimiser steps of each task: equal compute whatever the number of exemplars."""
    resolution: int | None = None
    """Side of the images in pixels instead of the recipe's."""
    batch_size: int | None = None
    """Images of a step instead of the recipe's; the learning rate follows in proportion."""
    codec: Literal["jpeg", "webp", "avif"] = "jpeg"
    """Of compressed exemplars."""
    quality: int = 0
    """1 to 100; 0: the one with the largest effective number of exemplars (count x kept FMSE), as the network sees them
    after the first task, for same-codec before it."""
    files: bool = False
    """Keep every compressed exemplar as a file of its own instead of keeping common headers once."""
    rank: str = "herding"
    """Which images become exemplars: herding, random, k-center, facility-location, or SCORE:top, SCORE:bottom."""
    distillation: float = 1.0
    """Weight of keeping the previous network's answers on earlier classes; 0: replay alone."""
    init: Location[Path | None] = None
    """Model directory to start from."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """auto: bf16 where the hardware has it, fp32 elsewhere."""
    threads: RunOption[int | None] = None
    """torch's threads; OMP_NUM_THREADS or all cores when absent."""
    workers: RunOption[int | None] = None
    """Decoding threads for large sets."""
    checkpoint_minutes: RunOption[float] = 10.0
    """Within a task, write a checkpoint whenever this time has passed."""


def run(config: Config) -> None:
    """Run what is missing, or return at once when nothing is."""
    from transfer.evaluation.output import need_one_process
    from transfer.evaluation.target_splits import open_splits

    need_one_process()
    setting = check(config)
    cells = _cells(config, setting)
    check_classes(config.train, config.test, config.tasks)
    train, test = open_splits(config.train, config.test, config.out)
    inputs = {"train": train.manifest.fingerprint, "test": test.manifest.fingerprint, "init": initial(config.init)}
    with claim(config.out, config, inputs) as done:
        if done and _held(config.out) >= {cell.name for cell in cells}:
            return note(f"{config.out}: up to date")
        _learn(config, setting, cells, train, test)
        _publish(config, identity(config) | inputs)


def check(config: Config) -> Setting:
    """Check every flag that can be checked without reading images.

    Raises
    ------
    InputError
        One line that names the wrong value and the way out.
    """
    from pretrain.schedule import Budget
    from transfer.continual.exemplars import need_rank
    from transfer.continual.incremental_setting import Setting

    recipe, side = recipe_of(config)
    given = {k: v for k in ("epochs", "steps") if (v := getattr(config, k)) is not None}
    if len(given) > 1:
        raise InputError("--epochs and --steps: give one budget")
    for name, value in given.items():
        if not 0 < value < float("inf"):
            raise InputError(f"--{name} {value}: a positive number is needed")
    for flag, least in (("tasks", 1), ("per_class", 1), ("threads", 1), ("workers", 1)):
        if (number := getattr(config, flag)) is not None and number < least:
            raise InputError(f"--{flag.replace('_', '-')} {number}: at least {least} is needed")
    if not 0 <= config.quality <= 100:
        raise InputError(f"--quality {config.quality}: 1 to 100 is possible, or 0 to have it chosen")
    need_rank(config.rank)
    at_least(config, 0, "distillation", "checkpoint_minutes")
    if min(config.seeds, default=-1) < 0 or not config.memory or not config.forms:
        raise InputError("--seeds, --memory and --forms: name at least one each, seeds not below 0")
    return Setting(
        recipe_name=config.recipe,
        recipe=recipe,
        budget=Budget(**given) if given else Budget(epochs=recipe.epochs),
        side=side,
        tasks=config.tasks,
        per_class=config.per_class,
        codec=config.codec,
        quality=config.quality,
        shared=not config.files,
        rank=config.rank,
        distillation=config.distillation,
        init=config.init,
        checkpoint_seconds=60 * config.checkpoint_minutes,
        workers=config.workers,
    )


def recipe_of(config: Any) -> tuple[Recipe, int]:
    """Look up the recipe with its flags taken into account, and the side of the images; `config` has those flags."""
    from pretrain import plan
    from pretrain.distributed import dtype_of

    dtype_of(config.precision)
    at_least(config, 1, "batch_size")
    recipe = plan.adapted(config.recipe, batch_size=config.batch_size, resolution=config.resolution)
    if recipe.method != "supervised" or recipe.mixup or recipe.cutmix:
        raise InputError(f"--recipe {config.recipe}: a supervised recipe without mixup and CutMix is needed")
    return recipe, recipe.evaluation or recipe.resolution


def _cells(config: Config, setting: Setting) -> list[Cell]:
    from transfer.continual.exemplars import memory_bytes, need_room
    from transfer.continual.incremental_setting import Cell

    # Shared headers are as long at any quality.
    forms = [replace(setting, quality=setting.quality or 1).form(form) for form in config.forms]
    sizes = {memory_bytes(text, setting.side): text for text in config.memory}
    for size, text in sizes.items():
        need_room(text, size, [[form] for form in forms])
    return [Cell(size, form, seed) for seed in dict.fromkeys(config.seeds) for size in sizes for form in config.forms]


def check_classes(train: Path, test: Path, tasks: int) -> None:
    """Check by listing alone that every class has images in both parts and that there are enough classes."""
    import numpy as np

    from transfer.studies.places import labels_of

    here, there = (np.unique(labels_of(str(place))) for place in (train, test))
    if len(lacking := np.setxor1d(here, there)):
        raise InputError(f"--test {test}: class number {lacking[0]} has images there or in {train}, not in both")
    if tasks > len(here):
        raise InputError(f"--tasks {tasks}: there are {len(here)} classes, and each task needs one")


def initial(init: Path | None) -> str | None:
    """Fingerprint of the model to start from."""
    from prune.models.networks import fingerprint
    from prune.runs.files import need_file

    if init is None:
        return None
    need_file(init / "model.json", "a model directory of `pretrain`")
    return fingerprint(init)


def _learn(config: Config, setting: Setting, cells: list[Cell], train: Dataset, test: Dataset) -> None:
    from pretrain.distributed import open_ranks
    from transfer.continual.incremental_run import run_cell

    with open_ranks(config.precision, config.threads) as ranks:
        for cell in cells:
            run_cell(setting, cell, train, test, config.out / "cells" / cell.name, ranks)


def _held(out: Path) -> set[str]:
    return {cell["name"] for cell in read_json(out / "result.json")["cells"]}


def _publish(config: Config, made: dict[str, Any]) -> None:
    """Write result.json and report.html over all runs that there are."""
    from transfer.continual.incremental_results import publish, summary
    from transfer.pages.incremental_page import incremental_html

    cells = [
        {"name": place.parent.name, **read_json(place)} for place in sorted(config.out.glob("cells/*/result.json"))
    ]
    facts = {"format": FORMAT, "task": "incremental", "metric": "average incremental accuracy", "config": made}
    result = {**facts, "cells": cells, "summary": summary(cells)}
    publish(
        config.out,
        result,
        incremental_html,
        lambda line: f"{line['form']}, {line['memory']:,} bytes, {line['seeds']} seeds",
    )
