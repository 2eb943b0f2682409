r"""Learning from a stream on a small device: samples arrive in order, and a byte budget is never exceeded.

    transfer stream --train cifar100.beton --test cifar100-test.beton --memory 1MB --order classes --every 500 \
        --steps 50 --policies raw uniform adaptive --seeds 0 1 2 --out runs/stream

Each sample is offered to the memory once. `raw` stores pixels and drops samples; `uniform` stores JPEGs of one quality
and drops samples; `adaptive` stores pixels while there is room, then re-compresses or drops what loses the least value
for the bytes that it frees. After every --every samples the network learns from the memory, the importance of its
samples and the share that each quality keeps of them are updated, and the accuracy on the classes so far is measured.
Writes OUT/result.json, OUT/report.html (the curve) and OUT/cells/<run>/. The same command resumes a run that was
stopped. The budget may change meanwhile (--budget-schedule, --budget-file): a smaller one holds at once. --margin keeps
a share of the memory for what the importance got wrong; --follow-use compresses first what is seldom drawn.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from prune.runs.compute_device import DeviceFlag, using
from prune.runs.files import InputError, at_least, counted, note, read_json
from prune.runs.identity import Growing, Location, Recorded, RunOption, identity
from prune.runs.outputs import claim
from prune.runs.path_checks import need_directory

if TYPE_CHECKING:
    from prune.data.dataset import Dataset
    from transfer.continual.changing_budget import ChangingBudget
    from transfer.continual.stream_run import StreamSetting

FORMAT = "winnow-stream-runs/1"
LADDER = (75, 45, 20, 10)
"""Qualities of `adaptive` for codecs that have all from 1 to 100."""


@dataclass(frozen=True)
class Config:
    train: Location[Path]
    """Images that arrive: `X.beton`, a folder of class folders, or `torchvision:NAME:ROOT:SPLIT`."""
    test: Location[Path]
    """Test images of the same classes."""
    out: Location[Path]
    """Run directory."""
    memory: Recorded[str]
    """Size of the memory: bytes (6MB, 500kB, 6144000), or the bytes of N raw images (400raw)."""
    budget_schedule: tuple[str, ...] = ()
    """Sizes from a number of arrived samples on, such as 1000:500kB 3000:2MB; --memory until the first."""
    budget_file: Location[Path | None] = None
    """File with one size, read again before every round; while it has none the last good one holds."""
    write_limit: str | None = None
    """Most bytes written to the memory in a round, such as 200kB: new samples and re-compressed ones."""
    margin: float = 0.0
    """Share of the memory for samples drawn evenly from all that arrived, which no rank drops: where --rank errs."""
    replay: Literal["even", "loss"] = "even"
    """A round draws every stored sample equally often, or in proportion to its loss."""
    follow_use: bool = False
    """A sample that rounds draw often keeps more bytes than one that they seldom draw; for --replay loss."""
    policies: Growing[tuple[Literal["raw", "uniform", "adaptive"], ...]] = ("raw", "uniform", "adaptive")
    """How room is made in the memory."""
    seeds: Growing[tuple[int, ...]] = (0, 1, 2)
    """One run for each: it decides order, initial weights and augmentation."""
    order: Literal["classes", "shuffled", "rows"] = "classes"
    """One class after the other, all mixed, or in the order of the beton."""
    every: int = 500
    """Number of samples between two rounds of learning."""
    steps: int = 50
    """Optimiser steps of each round."""
    per_class: int | None = None
    """Use this many training images of each class, drawn from the seed; all when absent."""
    ladder: tuple[int, ...] = ()
    """Qualities of `adaptive` after raw pixels, the finest first; absent: 75 45 20 10, or a learned codec's own."""
    quality: int = 20
    """Quality of `uniform`."""
    codec: Recorded[str] = "jpeg"
    """Codec of compressed samples: jpeg, webp, avif, or a file of `prune codecs`."""
    rank: str = "herding"
    """Importance within a class: herding, random, k-center, facility-location, or SCORE:top, SCORE:bottom."""
    recipe: str = "small-rn18"
    """Recipe of `pretrain`."""
    resolution: int | None = None
    """Side of the images in pixels instead of the recipe's."""
    batch_size: int | None = None
    """Images per step instead of the recipe's; the learning rate follows in proportion."""
    wrong_ranks: float = 0.0
    """Exchange the ranks of this share of the samples at random, to see what errors cost and --margin saves."""
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


def run(config: Config) -> None:
    """Do the missing runs, or return at once when there are none."""
    config = _checked(config)
    with using(config.device):
        _run(config)


def _run(config: Config) -> None:
    from transfer.continual.continual_inputs import initial_fingerprint, need_same_classes
    from transfer.evaluation.output import need_one_process
    from transfer.evaluation.target_splits import open_splits

    need_one_process()
    setting = _setting(config)
    train, test = open_splits(
        config.train, config.test, config.out, lambda here, there: need_same_classes(here, there, 1)
    )
    inputs: dict[str, Any] = {
        "train": train.manifest.fingerprint,
        "test": test.manifest.fingerprint,
        "init": initial_fingerprint(config.init),
        "memory": setting.memory,
        "codec": setting.codec.fingerprint,
    }
    places: dict[tuple[str, int], Path] = {
        (policy, seed): config.out / "cells" / f"{policy}-s{seed}"
        for seed in dict.fromkeys(config.seeds)
        for policy in dict.fromkeys(config.policies)
    }
    with claim(config.out, config, inputs) as done:
        if done and all((place / "result.json").exists() for place in places.values()):
            return note(f"{config.out}: up to date")
        _learn(config, setting, places, train, test)
        _publish(config, identity(config) | inputs)


def _checked(config: Config) -> Config:
    """Check numbers, recipe, codec, rank and sizes before torch is imported; returns the settings with their ladder."""
    from prune.byte_budget.codec_files import need_qualities, open_codec
    from transfer.continual.continual_inputs import learning_recipe
    from transfer.continual.exemplar_form import policy_forms
    from transfer.continual.exemplars import memory_bytes, need_rank, need_room

    need_directory(config.out)
    at_least(config, 1, "batch_size", "resolution", "every", "steps", "per_class", "threads", "workers")
    codec = open_codec(config.codec)
    if not config.ladder:
        config = replace(config, ladder=tuple(sorted(codec.qualities, reverse=True)) or LADDER)
    for quality in (config.quality, *config.ladder):
        if not 1 <= quality <= 100:
            raise InputError(f"quality {quality}: 1 to 100 is possible")
    if list(config.ladder) != sorted(set(config.ladder), reverse=True):
        raise InputError(f"--ladder {' '.join(map(str, config.ladder))}: qualities from the finest to the coarsest")
    if not 0 <= config.margin < 1:
        raise InputError(f"--margin {config.margin:g}: a share of the memory from 0 to below 1")
    if not 0 <= config.wrong_ranks <= 1:
        raise InputError(f"--wrong-ranks {config.wrong_ranks:g}: a share from 0 to 1")
    if min(config.seeds, default=-1) < 0 or not config.policies:
        raise InputError("--seeds and --policies: name at least one each, seeds not below 0")
    _, side = learning_recipe(config.recipe, batch_size=config.batch_size, resolution=config.resolution)
    need_rank(config.rank)
    if "uniform" in config.policies:
        need_qualities(codec, [config.quality], "--quality")
    if "adaptive" in config.policies:
        need_qualities(codec, config.ladder, "--ladder")
    forms = [policy_forms(policy, codec, config.quality, config.ladder, side) for policy in config.policies]
    need_room(config.memory, memory_bytes(config.memory, side), forms)
    if config.write_limit is not None:
        memory_bytes(config.write_limit, side, "--write-limit")
    for step, (_, size) in zip(config.budget_schedule, _budget(config, side).schedule):
        need_room(step, size, forms, "--budget-schedule")
    return config


def _setting(config: Config) -> StreamSetting:
    """The settings of all runs."""
    from pretrain.distributed import dtype_of
    from prune.byte_budget.codec_files import open_codec
    from transfer.continual.continual_inputs import learning_recipe
    from transfer.continual.exemplars import memory_bytes
    from transfer.continual.stream_run import StreamSetting

    dtype_of(config.precision)
    recipe, side = learning_recipe(config.recipe, batch_size=config.batch_size, resolution=config.resolution)
    return StreamSetting(
        recipe_name=config.recipe,
        recipe=recipe,
        side=side,
        memory=memory_bytes(config.memory, side),
        every=config.every,
        steps=config.steps,
        order=config.order,
        per_class=config.per_class,
        ladder=config.ladder,
        quality=config.quality,
        codec=open_codec(config.codec),
        rank=config.rank,
        init=config.init,
        workers=config.workers,
        budget=_budget(config, side),
        margin=config.margin,
        wrong_ranks=config.wrong_ranks,
        replay=config.replay,
        follow_use=config.follow_use,
        write_limit=None if config.write_limit is None else memory_bytes(config.write_limit, side, "--write-limit"),
    )


def _learn(
    config: Config, setting: StreamSetting, places: dict[tuple[str, int], Path], train: Dataset, test: Dataset
) -> None:
    from pretrain.distributed import open_ranks
    from transfer.continual.stream_run import run_stream

    with open_ranks(config.precision, config.threads) as ranks:
        ranks.announce(config.workers, setting.recipe.compile)
        for (policy, seed), place in places.items():
            run_stream(setting, policy, seed, train, test, place, ranks)


def _publish(config: Config, made: dict[str, Any]) -> None:
    """Write result.json and report.html over all finished runs."""
    from transfer.continual.incremental_results import publish
    from transfer.pages.stream_page import stream_html, stream_summary

    runs = [read_json(place) for place in sorted(config.out.glob("cells/*/result.json"))]
    facts = {"format": FORMAT, "task": "stream", "metric": "mean accuracy over the stream", "config": made}
    changing = config.budget_schedule or config.budget_file is not None
    budget = "bytes, within the budget of each moment" if changing else f"of {made['memory']:,} bytes"
    publish(
        config.out,
        {**facts, "cells": runs, "summary": stream_summary(runs)},
        stream_html,
        lambda entry: f"{entry['policy']}, {counted(entry['seeds'], 'seed')}, at most {entry['peak']:,} {budget}",
    )


def _budget(config: Config, side: int) -> ChangingBudget:
    """The budget that changes; a file without an amount is refused before a run begins, and tolerated from then on."""
    from transfer.continual.changing_budget import ChangingBudget, read_schedule

    found = ChangingBudget(read_schedule(config.budget_schedule, side), config.budget_file, side)
    return found if config.out.exists() else found.checked()
