r"""Learning from a stream on a small device: samples come in order, a byte budget holds at every moment.

    transfer stream --train cifar100.beton --test cifar100-test.beton --memory 1MB --order classes --every 500 \
        --steps 50 --policies raw uniform adaptive --seeds 0 1 2 --out runs/stream

Each sample is offered to the memory once. `raw` keeps pixels and drops; `uniform` keeps JPEGs of one quality and drops;
`adaptive` keeps pixels while there is room, then re-compresses or drops whatever costs the least value for the bytes
that it frees. After every --every samples the network learns from what is held, the importance of the held samples and
what each quality leaves of them are measured anew, and the accuracy on the classes so far is taken. Writes
OUT/result.json, OUT/report.html (the curve) and OUT/cells/<run>/. The same command goes on where it was stopped.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from prune.runs.files import InputError, at_least, note, read_json
from prune.runs.identity import Growing, Location, Recorded, RunOption, identity
from prune.runs.outputs import claim

if TYPE_CHECKING:
    from prune.data.dataset import Dataset
    from transfer.continual.stream_run import Setting

FORMAT = "winnow-stream-runs/1"


@dataclass(frozen=True)
class Config:
    train: Location[Path]
    """Images that come: `X.beton`, a folder of class folders, or `torchvision:NAME:ROOT:SPLIT`."""
    test: Location[Path]
    """Test images of the same classes."""
    out: Location[Path]
    """Run directory."""
    memory: Recorded[str]
    """Size of the memory: bytes (6MB, 500kB, 6144000), or as many as N raw images take (400raw)."""
    policies: Growing[tuple[Literal["raw", "uniform", "adaptive"], ...]] = ("raw", "uniform", "adaptive")
    """How room is made."""
    seeds: Growing[tuple[int, ...]] = (0, 1, 2)
    """A run each: order, initial weights, augmentation."""
    order: Literal["classes", "shuffled", "rows"] = "classes"
    """One class after the other, all mixed, or as they stand in the beton."""
    every: int = 500
    """Samples between two rounds of learning."""
    steps: int = 50
    """Optimiser steps of each round."""
    per_class: int | None = None
    """Use so many training images of each class, drawn from the seed; all when absent."""
    ladder: tuple[int, ...] = (75, 45, 20, 10)
    """Qualities below the pixels for `adaptive`, the finest first."""
    quality: int = 20
    """Of `uniform`."""
    codec: Literal["jpeg", "webp", "avif"] = "jpeg"
    """Of compressed samples."""
    rank: str = "herding"
    """Importance inside a class: herding, random, k-center, facility-location, or SCORE:top, SCORE:bottom."""
    recipe: str = "small-rn18"
    """Recipe of `pretrain`."""
    resolution: int | None = None
    """Side of the images in pixels instead of the recipe's."""
    batch_size: int | None = None
    """Images of a step instead of the recipe's; the learning rate follows in proportion."""
    init: Location[Path | None] = None
    """Model directory to start from."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """auto: bf16 where the hardware has it, fp32 elsewhere."""
    threads: RunOption[int | None] = None
    """torch's threads; OMP_NUM_THREADS or all cores when absent."""
    workers: RunOption[int | None] = None
    """Decoding threads for large sets."""


def run(config: Config) -> None:
    """Run what is missing, or return at once when nothing is."""
    from transfer.continual.exemplars import memory_bytes, need_rank, need_room
    from transfer.continual.stream_run import Setting, ladder
    from transfer.evaluation.output import need_one_process
    from transfer.evaluation.target_splits import open_splits
    from transfer.incremental import check_classes, initial, recipe_of

    need_one_process()
    recipe, side = recipe_of(config)
    need_rank(config.rank)
    at_least(config, 1, "every", "steps", "per_class", "threads", "workers")
    for quality in (config.quality, *config.ladder):
        if not 1 <= quality <= 100:
            raise InputError(f"quality {quality}: 1 to 100 is possible")
    if list(config.ladder) != sorted(set(config.ladder), reverse=True):
        raise InputError(f"--ladder {' '.join(map(str, config.ladder))}: qualities from the finest to the coarsest")
    if min(config.seeds, default=-1) < 0 or not config.policies:
        raise InputError("--seeds and --policies: name at least one each, seeds not below 0")
    memory = memory_bytes(config.memory, side)
    setting = Setting(
        recipe_name=config.recipe,
        recipe=recipe,
        side=side,
        memory=memory,
        every=config.every,
        steps=config.steps,
        order=config.order,
        per_class=config.per_class,
        ladder=config.ladder,
        quality=config.quality,
        codec=config.codec,
        rank=config.rank,
        init=config.init,
        workers=config.workers,
    )
    need_room(config.memory, memory, [ladder(setting, policy) for policy in config.policies])
    check_classes(config.train, config.test, 1)
    train, test = open_splits(config.train, config.test, config.out)
    inputs: dict[str, Any] = {
        "train": train.manifest.fingerprint,
        "test": test.manifest.fingerprint,
        "init": initial(config.init),
    }
    inputs["memory"] = memory
    asked = [(policy, seed) for seed in dict.fromkeys(config.seeds) for policy in dict.fromkeys(config.policies)]
    places: dict[tuple[str, int], Path] = {
        (policy, seed): config.out / "cells" / f"{policy}-s{seed}" for policy, seed in asked
    }
    with claim(config.out, config, inputs) as done:
        if done and all((place / "result.json").exists() for place in places.values()):
            return note(f"{config.out}: up to date")
        _learn(config, setting, places, train, test)
        _publish(config, identity(config) | inputs)


def _learn(
    config: Config, setting: Setting, places: dict[tuple[str, int], Path], train: Dataset, test: Dataset
) -> None:
    from pretrain.distributed import open_ranks
    from transfer.continual.stream_run import run_stream

    with open_ranks(config.precision, config.threads) as ranks:
        for (policy, seed), place in places.items():
            run_stream(setting, policy, seed, train, test, place, ranks)


def _publish(config: Config, made: dict[str, Any]) -> None:
    """Write result.json and report.html over all runs that there are."""
    from transfer.continual.incremental_results import publish
    from transfer.pages.stream_page import stream_html, stream_summary

    cells = [read_json(place) for place in sorted(config.out.glob("cells/*/result.json"))]
    facts = {"format": FORMAT, "task": "stream", "metric": "mean accuracy over the stream", "config": made}
    result = {**facts, "cells": cells, "summary": stream_summary(cells)}
    publish(
        config.out,
        result,
        stream_html,
        lambda line: f"{line['policy']}, {line['seeds']} seeds, at most {line['peak']:,} of {made['memory']:,} bytes",
    )
