"""What a study cost, and what its indices save, in seconds and in FLOPs.

To pretrain on a pruned set costs its pretraining plus, once per index, the preparation: gate, surrogate, features,
scores and selection. Writing the images, evaluating, and counting test images that the source contains cost the same
with and without pruning: they are listed and enter no factor. Every figure is the mean over the seeds that ran.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from transfer.verdicts.controls import CONTROLS, needs_surrogate

USES = (1, 3, 10)
UNITS = ("seconds", "flops")
WITHOUT_FACTOR = ("write", "leaks", "evaluate", "collect", "search")
"""Stages that a study with full data needs as well, and the search for a keep, whose cost is given separately."""
_STAGES = ("write", "gate", "surrogate", "features", "score", "select", "leaks", "search", "pretrain", "evaluate")
CostRecord = Mapping[str, Any]


def cost_account(records: Sequence[CostRecord], price: float | None = None) -> dict[str, Any]:
    """Sum up what the tasks of a study cost.

    Parameters
    ----------
    records : sequence of mapping
        Of results.json: stage, method, keep, seed, seconds, samples, flops.
    price : float, optional
        Of one hour of the machine.

    Returns
    -------
    dict
        "stages": what ran in all, by stage; "rows": per (method, keep) what one index and one pretraining cost and
        save, None where it is unknown; "full": one pretraining on all data, or None.
    """
    methods = list(dict.fromkeys(e["method"] for e in records if e["stage"] == "pretrain"))
    found = {(e["method"], e["keep"]) for e in records if e["stage"] == "pretrain"}
    pairs = sorted(found, key=lambda pair: (methods.index(pair[0]), pair[1]))
    full = _pretraining(records, "full", 1.0)
    return {
        "stages": _by_stage(records, price),
        "full": full,
        "rows": [_row(records, method, keep, full, price) for method, keep in pairs if method != "full"],
    }


def duration_text(seconds: float) -> str:
    """A duration in a unit that suits it.

    >>> duration_text(41.2), duration_text(2500), duration_text(90_000)
    ('41 seconds', '42 minutes', '25.0 hours')
    """
    if seconds < 10:
        return f"{seconds:.1f} seconds"
    if seconds < 120:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"


def duration_range_text(least: float, most: float) -> str:
    """A range of durations; one figure where both ends read the same.

    >>> duration_range_text(1210, 1790), duration_range_text(80, 150), duration_range_text(4.0, 4.01)
    ('20 to 30 minutes', '80 seconds to 2 minutes', 'about 4.0 seconds')
    """
    first, last = duration_text(least), duration_text(most)
    if first == last:
        return f"about {last}"
    number, unit = first.split()
    return f"{number if last.endswith(unit) else first} to {last}"


def cost_factor(preparation: float, pretraining: float, full: float, uses: int) -> float | None:
    """How many times cheaper `uses` pretrainings on one index are than as many on full data.

    >>> round(cost_factor(0.29, 0.2, 1.0, 1), 2)
    2.04
    """
    cost = preparation + uses * pretraining
    return uses * full / cost if cost > 0 and full > 0 else None


def break_even_uses(preparation: float, pretraining: float, full: float) -> int | None:
    """The least number of uses at which the index costs no more than full data; None when it never does."""
    saved = full - pretraining
    if saved <= 0:
        return None
    return max(1, math.ceil(preparation / saved - 1e-9))


def break_even_keep(preparation: float, full: float, uses: int) -> float | None:
    """The keep below which an index that costs `preparation` pays, with pretraining in proportion to the keep.

    From preparation + uses * keep * full = uses * full. With 0 or less it pays at no keep.
    """
    return 1 - preparation / (uses * full) if full > 0 else None


def _row(
    records: Sequence[CostRecord], method: str, keep: float, full: dict[str, float] | None, price: float | None
) -> dict[str, Any]:
    once, each = _preparation(records, method, keep), _pretraining(records, method, keep)
    assert each is not None
    row: dict[str, Any] = {"method": method, "keep": round(keep, 9), "preparation": once, "pretraining": each}
    for unit in UNITS:
        whole = full[unit] if full else 0.0
        known = whole > 0 and each[unit] > 0
        row[f"share_{unit}"] = once[unit] / whole if known else None
        row[f"total_{unit}"] = (once[unit] + each[unit]) / whole if known else None
        row[f"factor_{unit}"] = {str(n): cost_factor(once[unit], each[unit], whole, n) if known else None for n in USES}
        row[f"break_even_uses_{unit}"] = break_even_uses(once[unit], each[unit], whole) if known else None
        row[f"break_even_keep_{unit}"] = {
            str(n): break_even_keep(once[unit], whole, n) if known else None for n in USES
        }
    if price is not None:
        row["price"] = _money(once["seconds"] + each["seconds"], price)
        row["price_full"] = _money(full["seconds"], price) if full else None
    return row


def _preparation(records: Sequence[CostRecord], method: str, keep: float) -> dict[str, float]:
    """What one index of `method` at `keep` takes: its own tasks, and of the shared ones those that it needs."""

    def is_shared(record: CostRecord) -> bool:
        return record["method"] is None and method not in CONTROLS and (needs_surrogate(method) or _is_gate(record))

    own = [
        record
        for record in records
        if record["stage"] not in (*WITHOUT_FACTOR, "pretrain")
        and (record["method"] == method or is_shared(record))
        and record["keep"] in (keep, None)
    ]
    stages = dict.fromkeys(record["stage"] for record in own)
    parts = [_per_seed(record for record in own if record["stage"] == stage) for stage in stages]
    return {unit: sum(part[unit] for part in parts) for unit in (*UNITS, "samples")}


def _is_gate(record: CostRecord) -> bool:
    return bool(record["stage"] == "gate")


def _pretraining(records: Sequence[CostRecord], method: str, keep: float) -> dict[str, float] | None:
    found = [e for e in records if e["stage"] == "pretrain" and (e["method"], e["keep"]) == (method, keep)]
    return _per_seed(found) if found else None


def _per_seed(records: Iterable[CostRecord]) -> dict[str, float]:
    """The sum for one seed: a task without a seed runs once; for one that runs per seed the mean over seeds counts."""
    records = list(records)
    seeds = {record["seed"] for record in records if record["seed"] is not None}
    return {
        unit: sum(record[unit] / (1 if record["seed"] is None else len(seeds)) for record in records)
        for unit in (*UNITS, "samples")
    }


def _by_stage(records: Sequence[CostRecord], price: float | None) -> list[dict[str, Any]]:
    rows = []
    there = dict.fromkeys(record["stage"] for record in records)
    for stage in sorted(there, key=lambda name: _STAGES.index(name) if name in _STAGES else len(_STAGES)):
        found = [record for record in records if record["stage"] == stage]
        row: dict[str, Any] = {"stage": stage, "steps": len(found)}
        row |= {unit: sum(record[unit] for record in found) for unit in (*UNITS, "samples")}
        if price is not None:
            row["price"] = _money(row["seconds"], price)
        rows.append(row)
    return rows


def _money(seconds: float, price: float) -> float:
    return seconds / 3600 * price
