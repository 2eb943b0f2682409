r"""Class-incremental learning with a memory in bytes: classes arrive in tasks, images of earlier ones are replayed.

    transfer incremental --train cifar100.beton --test cifar100-test.beton --tasks 10 --memory 2000raw 500raw \
        --forms raw compressed same-codec --quality 30 --seeds 0 1 2 --out runs/incremental
    transfer incremental --train photos/train --test photos/test --memory 6MB --recipe rn18-16ep --out runs/photos-cil

One run for each memory size, form and seed: `raw` stores pixels, `compressed` stores JPEGs, `same-codec` also passes
new and test images through that codec, so that all images share its artefacts. After each task the accuracy over all
classes so far is measured, by the network's linear head and by the nearest mean of exemplars (iCaRL). Writes
OUT/result.json, OUT/report.html and OUT/cells/<run>/. The same command resumes a run that was stopped; more seeds,
forms and sizes may be added later.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from prune.runs.compute_device import DeviceFlag, using
from prune.runs.files import InputError, at_least, counted, note, positive, read_json
from prune.runs.identity import Growing, Location, Recorded, RunOption, identity
from prune.runs.outputs import claim
from prune.runs.path_checks import need_directory

if TYPE_CHECKING:
    from prune.data.dataset import Dataset
    from transfer.continual.incremental_setting import IncrementalRun, IncrementalSetting

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
    """Sizes of the memory: bytes (6MB, 500kB, 6144000), or the bytes of N raw exemplars (2000raw)."""
    forms: Growing[tuple[Literal["raw", "compressed", "same-codec"], ...]] = ("raw", "compressed", "same-codec")
    """How exemplars are stored; same-codec passes new and test images through the codec as well."""
    seeds: Growing[tuple[int, ...]] = (0, 1, 2)
    """One run for each: it decides the order of classes, the images drawn, initial weights and augmentation."""
    tasks: int = 10
    """Number of tasks into which the classes are split."""
    per_class: int | None = None
    """Use this many training images of each class, drawn from the seed; all when absent."""
    recipe: str = "small-rn18"
    """Recipe of `pretrain`; each task is trained for its epochs unless --epochs or --steps is given."""
    epochs: float | None = None
    """Passes over the images of each task and the exemplars."""
    steps: int | None = None
    """Optimiser steps of each task: equal compute for any number of exemplars."""
    resolution: int | None = None
    """Side of the images in pixels instead of the recipe's."""
    batch_size: int | None = None
    """Images per step instead of the recipe's; the learning rate follows in proportion."""
    codec: Recorded[str] = "jpeg"
    """Codec of compressed exemplars: jpeg, webp, avif, or a file of `prune codecs`."""
    quality: int = 0
    """1 to 100. 0: the quality with the largest effective number of exemplars (their count times the share of their
    value that compression keeps, by the network's features after the first task, for same-codec before it)."""
    files: bool = False
    """Store every compressed exemplar as a file of its own instead of storing common headers once."""
    rank: str = "herding"
    """Which images become exemplars: herding, random, k-center, facility-location, or SCORE:top, SCORE:bottom."""
    distillation: float = 1.0
    """Weight of the previous network's predictions on earlier classes in the loss; 0: replay only."""
    init: Location[Path | None] = None
    """Model directory to start from."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """auto: bf16 where the hardware has it, fp16 on other GPUs, fp32 on other CPUs."""
    threads: RunOption[int | None] = None
    """Threads of torch; OMP_NUM_THREADS or all cores when absent."""
    workers: RunOption[int | None] = None
    """Decoding threads for large sets."""
    device: RunOption[DeviceFlag] = "auto"
    """auto: the GPU, where there is one; a job that was given a GPU and cannot use it is refused."""
    checkpoint_minutes: RunOption[float] = 10.0
    """Write a checkpoint within a task whenever this time has passed."""


def run(config: Config) -> None:
    """Do the missing runs, or return at once when there are none."""
    _check(config)
    with using(config.device):
        _run(config)


def _run(config: Config) -> None:
    from pretrain.distributed import dtype_of
    from transfer.continual.continual_inputs import initial_fingerprint, need_same_classes
    from transfer.evaluation.output import need_one_process
    from transfer.evaluation.target_splits import open_splits

    need_one_process()
    dtype_of(config.precision)
    setting = _setting(config)
    runs = _runs(config, setting)
    train, test = open_splits(
        config.train, config.test, config.out, lambda here, there: need_same_classes(here, there, config.tasks)
    )
    init = initial_fingerprint(config.init)
    inputs = {"train": train.manifest.fingerprint, "test": test.manifest.fingerprint, "init": init}
    inputs["codec"] = setting.codec.fingerprint
    with claim(config.out, config, inputs) as done:
        if done and _finished(config.out) >= {one.name for one in runs}:
            return note(f"{config.out}: up to date")
        _learn(config, setting, runs, train, test)
        _publish(config, identity(config) | inputs)


def _check(config: Config) -> None:
    """Check numbers, recipe, codec, rank, sizes and, of betons, the number of classes, before torch is imported."""
    from prune.index.manifest import open_manifest
    from transfer.continual.continual_inputs import need_same_classes

    if config.epochs is not None and config.steps is not None:
        raise InputError("--epochs and --steps: give one budget")
    positive(config, "epochs", "steps")
    need_directory(config.out)
    at_least(config, 1, "batch_size", "resolution", "tasks", "per_class", "threads", "workers")
    if not 0 <= config.quality <= 100:
        raise InputError(f"--quality {config.quality}: 1 to 100 is possible, or 0 to have it chosen")
    at_least(config, 0, "distillation", "checkpoint_minutes")
    if min(config.seeds, default=-1) < 0 or not config.memory or not config.forms:
        raise InputError("--seeds, --memory and --forms: name at least one each, seeds not below 0")
    _runs(config, _setting(config))
    if config.train.suffix == ".beton":  # its classes are known without reading an image
        labels = open_manifest(config.train).labels
        need_same_classes(labels, labels, config.tasks)


def _setting(config: Config) -> IncrementalSetting:
    """Check what names something: recipe, codec, rank."""
    from pretrain.schedule import Budget
    from prune.byte_budget.codec_files import need_qualities, open_codec
    from transfer.continual.continual_inputs import learning_recipe
    from transfer.continual.exemplars import need_rank
    from transfer.continual.incremental_setting import IncrementalSetting

    recipe, side = learning_recipe(config.recipe, batch_size=config.batch_size, resolution=config.resolution)
    given = {k: v for k in ("epochs", "steps") if (v := getattr(config, k)) is not None}
    codec = open_codec(config.codec)
    need_qualities(codec, [config.quality] if config.quality else [], "--quality")
    need_rank(config.rank)
    return IncrementalSetting(
        recipe_name=config.recipe,
        recipe=recipe,
        budget=Budget(**given) if given else Budget(epochs=recipe.epochs),
        side=side,
        tasks=config.tasks,
        per_class=config.per_class,
        codec=codec,
        quality=config.quality,
        shared=not config.files,
        rank=config.rank,
        distillation=config.distillation,
        init=config.init,
        checkpoint_seconds=60 * config.checkpoint_minutes,
        workers=config.workers,
    )


def _runs(config: Config, setting: IncrementalSetting) -> list[IncrementalRun]:
    """One run for each seed, memory size and form; checks that the sizes hold an exemplar."""
    from transfer.continual.exemplars import memory_bytes, need_room
    from transfer.continual.incremental_setting import IncrementalRun

    # Shared headers have the same length at any quality.
    forms = [replace(setting, quality=setting.quality or 1).form(form) for form in config.forms]
    sizes = {memory_bytes(text, setting.side): text for text in config.memory}
    for size, text in sizes.items():
        need_room(text, size, [[form] for form in forms])
    seeds = dict.fromkeys(config.seeds)
    return [IncrementalRun(size, form, seed) for seed in seeds for size in sizes for form in config.forms]


def _learn(
    config: Config, setting: IncrementalSetting, runs: list[IncrementalRun], train: Dataset, test: Dataset
) -> None:
    from pretrain.distributed import open_ranks
    from transfer.continual.incremental_run import learn_tasks

    with open_ranks(config.precision, config.threads) as ranks:
        ranks.announce(config.workers, setting.recipe.compile)
        for one in runs:
            learn_tasks(setting, one, train, test, config.out / "cells" / one.name, ranks)


def _finished(out: Path) -> set[str]:
    """Names of the runs in result.json."""
    return {one["name"] for one in read_json(out / "result.json")["cells"]}


def _publish(config: Config, made: dict[str, Any]) -> None:
    """Write result.json and report.html over all finished runs."""
    from transfer.continual.incremental_results import publish, summary
    from transfer.pages.incremental_page import incremental_html

    places = sorted(config.out.glob("cells/*/result.json"))
    runs = [{"name": place.parent.name, **read_json(place)} for place in places]
    facts = {"format": FORMAT, "task": "incremental", "metric": "average incremental accuracy", "config": made}
    publish(
        config.out,
        {**facts, "cells": runs, "summary": summary(runs)},
        incremental_html,
        lambda entry: f"{entry['form']}, {entry['memory']:,} bytes, {counted(entry['seeds'], 'seed')}",
    )
