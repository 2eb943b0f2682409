"""What the tasks of a study have cost, and how long the runs must train whose total compute is given.

The controls `full-equal-compute` and `random-equal-compute` train all data, and a random part of the same size, until
their training costs as much as the pruned run does in all: its share of surrogate and features of source and targets,
and pretraining. Cost is counted in FLOPs (images seen x FLOPs per image), because seconds differ from run to run and a
study must give the same result twice.

With `--compute` every pruned run trains until it has cost, preparation included, that share of the run on full data.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from prune.runs.files import InputError, read_json
from transfer.studies.settings import run_name
from transfer.studies.task import STEPS_LATER, Task, read_plan

EQUAL_COMPUTE_RULE = (
    "random-equal-compute trains the random part for S * (1 + P / U / B) steps, rounded up, and full-equal-compute all "
    "data for T * (B + P / U) / F: S and B are the steps and FLOPs of the random run, T and F those of the full run, P "
    "the FLOPs of one surrogate and of its features of the source and the targets, U the number of uses"
)


def prolonged_steps(steps: int, extra: float, base: float) -> int:
    """Optimiser steps that cost at least `base` + `extra`, when `steps` of them cost `base`; `extra` may be negative.

    Examples
    --------
    >>> prolonged_steps(100, 3.0, 40.0)
    108
    """
    return math.ceil(steps * (1 + extra / base) - 1e-9)


def resolved(task: Task, out: Path) -> Task:
    """The task with its number of steps in the command, once the costs that decide it are recorded."""
    if STEPS_LATER not in task.command:
        return task
    if not all(_recorded(need, out) for need in task.needs if not need.startswith("write/")):
        return task
    seed = f"s{task.facts['seed']}"
    preparation = 0.0  # thumbnails need no network
    if any(need.endswith(f"surrogate/{seed}") for need in task.needs):
        preparation = preparation_flops(out / task.facts.get("at", ""), seed)
    preparation /= task.facts.get("uses", 1)
    steps = _steps_within(task, out, preparation) if "compute" in task.facts else _steps_as(task, out, preparation)
    return replace(task, command=tuple(str(steps) if word == STEPS_LATER else word for word in task.command))


def preparation_flops(root: Path, run: str) -> float:
    """FLOPs of a surrogate and of its features; `run` is its name in the directories of `root`."""
    surrogate = root / "surrogates" / run
    return _training_cost(surrogate)[1] + _extraction_cost(root / "features" / run, surrogate)[1]


def full_pretraining_flops(out: Path, seed: int) -> float:
    """FLOPs of the backbone on all data."""
    return _training_cost(out / "backbones" / run_name("full", 1.0, seed))[1]


def _steps_as(task: Task, out: Path, preparation: float) -> int:
    """Steps of a control that trains for as much compute as a pruned run and its preparation take."""
    trained = [out / "backbones" / need.split("/")[1] for need in task.needs if need.startswith("pretrain/")]
    base, pruned = trained[0], trained[-1]  # whose steps change, and the run at the same keep: often the same
    extra = preparation + (_training_cost(pruned)[1] - _training_cost(base)[1])
    return prolonged_steps(read_json(base / "provenance.json")["steps"], extra, _training_cost(base)[1])


def _steps_within(task: Task, out: Path, preparation: float) -> int:
    """Steps that bring a run to its share of the compute of full data, preparation included.

    A small network of the search trains for the same share of its own full run.
    """
    full = run_name("full", 1.0, task.facts["seed"])
    whole = full_pretraining_flops(out, task.facts["seed"])
    share = task.facts["compute"] - preparation / whole
    if share <= 0:
        raise InputError(
            f"--compute {task.facts['compute']:g}: surrogate and features alone cost {preparation / whole:.2f} of one "
            "full pretraining; a smaller --surrogate-sample, more --uses or a larger --compute is needed"
        )
    base = out / ("ladder" if task.stage == "search" else "backbones") / full
    return prolonged_steps(read_json(base / "provenance.json")["steps"], share - 1, 1.0)


def read_resolved_plan(out: Path) -> list[Task]:
    """The tasks of plan.jsonl, with every number of steps that is known by now."""
    return [resolved(task, out) for task in read_plan(out)]


def _recorded(name: str, out: Path) -> bool:
    place = out / "done" / f"{name}.json"
    return place.exists() and read_json(place)["command"] is not None


def cost_records(tasks: Sequence[Task], out: Path) -> list[dict[str, Any]]:
    """One record for each task that is done: stage, method, keep, seed, name, seconds, samples, flops.

    Seconds are those that the step recorded, or else those that the task took. FLOPs count networks only.
    """
    records = []
    for task in tasks:
        record = out / "done" / f"{task.name}.json"
        if task.stage == "collect" or not record.exists():
            continue
        samples, flops = _cost_of(task, out)
        seconds = _recorded_seconds(out / task.out) or read_json(record)["seconds"]
        facts = {key: task.facts.get(key) for key in ("method", "keep", "seed")}
        records.append(
            {**facts, "stage": task.stage, "name": task.name, "seconds": seconds, "samples": samples, "flops": flops}
        )
    return records


def _cost_of(task: Task, out: Path) -> tuple[int, float]:
    """Images that a task has seen, and the FLOPs spent on them."""
    place, stage = out / task.out, task.facts.get("kind", task.stage)
    if stage == "write":
        from prune.index.manifest import Manifest, manifest_path

        return len(Manifest.load(manifest_path(place))), 0.0
    if stage == "gate" and place.is_dir():  # thumbnails need no network
        return _images(place), 0.0
    if stage in ("surrogate", "pretrain"):
        return _training_cost(place)
    if stage == "features":
        return _extraction_cost(place, out / task.facts.get("at", "") / "surrogates" / place.name)
    if stage == "leaks" and place.is_dir():
        return _extraction_cost(place, out / "surrogates" / f"s{task.facts['seed']}")
    if stage == "search" and not (place / "result.json").exists():
        return _training_cost(place)
    if stage in ("evaluate", "search"):
        result = read_json(place / "result.json")
        shared = any(need.split("/")[0] not in ("pretrain", "write", "ladder", "candidates") for need in task.needs)
        if shared and "finetune" not in task.name.split("/")[0]:  # another evaluation has computed the features
            return 0, 0.0
        return result["samples"], result["flops"]
    return 0, 0.0


def _training_cost(place: Path) -> tuple[int, float]:
    facts = read_json(place / "provenance.json")
    if "samples" not in facts:  # weights from elsewhere
        return 0, 0.0
    return int(facts["samples"]), float(facts["samples"]) * float(facts["flops_per_sample"])


def _extraction_cost(place: Path, model: Path) -> tuple[int, float]:
    n, facts = _images(place), read_json(model / "provenance.json")
    if "flops_per_sample" not in facts:  # a model with weights from elsewhere
        from prune.models.forward_flops import forward_flops
        from prune.models.networks import load_model

        network, spec = load_model(model)
        return n, n * forward_flops(network, spec["resolution"])
    # A training step (forward and backward) costs three times a forward pass.
    return n, n * float(facts["flops_per_sample"]) / 3


def _images(place: Path) -> int:
    """Images of the features files in a directory."""
    from prune.index.npz import open_arrays

    return sum(len(open_arrays(file, "winnow-features/1")[0]["label"]) for file in sorted(place.glob("*.features.npz")))


def _recorded_seconds(place: Path) -> float | None:
    parts = [read_json(part)["seconds"] for part in sorted(place.glob("*.features.json"))] if place.is_dir() else []
    if parts:
        return float(sum(parts))
    file = next((place / n for n in ("result.json", "provenance.json") if (place / n).exists()), None)
    seconds: float | None = read_json(file).get("seconds") if file else None
    return seconds
