"""What the lines of a study have cost, and how long the control of equal time must train for it.

The control is `random-equal-time`: random data at the same keep, trained longer until its training costs what the
chosen data's way costs in all: surrogate, features of source and targets, and pretraining. Cost is counted in FLOPs
(images seen x FLOPs an image), because seconds differ from run to run and a study must give the same result twice.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from prune.runs.files import read_json
from transfer.studies.plan import STEPS_LATER, Line
from transfer.studies.settings import cell_name

RULE = (
    "random-equal-time trains the random part for S * (1 + P / B) steps, rounded up: S and B are the steps and FLOPs "
    "of the random cell, P the FLOPs of one surrogate and of its features of the source and the targets"
)


def prolonged(steps: int, price: float, base: float) -> int:
    """Optimiser steps that cost at least `base` + `price`, when `steps` of them cost `base`.

    Examples
    --------
    >>> prolonged(100, 3.0, 40.0)
    108
    """
    return math.ceil(steps * (1 + price / base) - 1e-9)


def resolve(line: Line, out: Path) -> Line:
    """Put the number of steps in a line of the equal-time control, once the costs that decide it are recorded."""
    if STEPS_LATER not in line.command:
        return line
    cell, seed = cell_name("random", line.facts["keep"], line.facts["seed"]), f"s{line.facts['seed']}"
    base, surrogate, features = out / "backbones" / cell, out / "surrogates" / seed, out / "features" / seed
    if not all(_recorded(need, out) for need in line.needs if not need.startswith("write/")):
        return line
    price = _trained(surrogate)[1] + _extracted(features, surrogate)[1]
    steps = prolonged(read_json(base / "provenance.json")["steps"], price, _trained(base)[1])
    return replace(line, command=tuple(str(steps) if word == STEPS_LATER else word for word in line.command))


def _recorded(name: str, out: Path) -> bool:
    place = out / "done" / f"{name}.json"
    return place.exists() and read_json(place)["command"] is not None


def ledger(lines: Sequence[Line], out: Path) -> list[dict[str, Any]]:
    """One entry for each line that is done: stage, method, keep, seed, name, seconds, samples, flops.

    Seconds are the step's own where it records them, those of the line otherwise; FLOPs are counted for networks alone.
    """
    rows = []
    for line in lines:
        record = out / "done" / f"{line.name}.json"
        if line.stage == "collect" or not record.exists():
            continue
        samples, flops = _seen(line, out)
        seconds = _own_seconds(out / line.out) or read_json(record)["seconds"]
        facts = {key: line.facts.get(key) for key in ("method", "keep", "seed")}
        rows.append(
            {**facts, "stage": line.stage, "name": line.name, "seconds": seconds, "samples": samples, "flops": flops}
        )
    return rows


def _seen(line: Line, out: Path) -> tuple[int, float]:
    """Images that a line has seen, and the FLOPs spent on them."""
    place = out / line.out
    if line.stage == "write":
        from prune.index.manifest import Manifest, manifest_path

        return len(Manifest.load(manifest_path(place))), 0.0
    if line.stage in ("surrogate", "pretrain"):
        return _trained(place)
    if line.stage == "features":
        return _extracted(place, out / "surrogates" / place.name)
    if line.stage == "leaks" and place.is_dir():
        return _extracted(place, out / "surrogates" / f"s{line.facts['seed']}")
    if line.stage == "search" and not (place / "result.json").exists():
        return _trained(place)
    if line.stage in ("evaluate", "search"):
        result = read_json(place / "result.json")
        shared = any(need.split("/")[0] not in ("pretrain", "write", "ladder") for need in line.needs)
        if shared and "finetune" not in line.name.split("/")[0]:  # another evaluation has computed the features
            return 0, 0.0
        return result["samples"], result["flops"]
    return 0, 0.0


def _trained(place: Path) -> tuple[int, float]:
    facts = read_json(place / "provenance.json")
    return int(facts["samples"]), float(facts["samples"]) * float(facts["flops_per_sample"])


def _extracted(place: Path, model: Path) -> tuple[int, float]:
    from prune.index.npz import open_arrays

    n = sum(len(open_arrays(file, "winnow-features/1")[0]["label"]) for file in sorted(place.glob("*.features.npz")))
    # Forwards and backwards cost three times the forward pass alone.
    return n, n * float(read_json(model / "provenance.json")["flops_per_sample"]) / 3


def _own_seconds(place: Path) -> float | None:
    parts = [read_json(part)["seconds"] for part in sorted(place.glob("*.features.json"))] if place.is_dir() else []
    if parts:
        return sum(parts)
    file = next((place / n for n in ("result.json", "provenance.json") if (place / n).exists()), None)
    return read_json(file).get("seconds") if file else None
