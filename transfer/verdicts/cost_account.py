"""What a study cost, and what its indices save: the whole bill, in seconds and in FLOPs.

To pretrain on a pruned set costs its pretraining plus, once per index, the preparation: surrogate, features, scores and
selection. Writing the images, evaluating, and the look for test images in the source are the same with and without
pruning; they are listed, and stand in no factor. Every figure is the mean over the seeds that ran.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from transfer.studies.settings import UNGUIDED

USES = (1, 3, 10)
UNITS = ("seconds", "flops")
ON_BOTH_SIDES = ("write", "leaks", "evaluate", "collect", "search")
"""Stages that a study with full data needs as well, and the search for a keep, which is stated by itself."""
_CHAIN = ("write", "surrogate", "features", "score", "select", "leaks", "search", "pretrain", "evaluate")
Entry = Mapping[str, Any]


def bill(ledger: Sequence[Entry], price: float | None = None) -> dict[str, Any]:
    """Sum up the ledger of a study.

    Parameters
    ----------
    ledger : sequence of mapping
        Entries of results.json: stage, method, keep, seed, seconds, samples, flops.
    price : float, optional
        Of one hour of the machine.

    Returns
    -------
    dict
        "stages": what ran in all, by stage; "rows": per (method, keep) what one index and one pretraining cost and
        save, None where nothing can be said; "full": one pretraining on all data, or None.
    """
    methods = list(dict.fromkeys(e["method"] for e in ledger if e["stage"] == "pretrain"))
    found = {(e["method"], e["keep"]) for e in ledger if e["stage"] == "pretrain"}
    pairs = sorted(found, key=lambda pair: (methods.index(pair[0]), pair[1]))
    full = _pretraining(ledger, "full", 1.0)
    return {
        "stages": _stages(ledger, price),
        "full": full,
        "rows": [_row(ledger, method, keep, full, price) for method, keep in pairs if method != "full"],
    }


def factor(preparation: float, pretraining: float, full: float, uses: int) -> float | None:
    """How many times cheaper `uses` pretrainings on one index are than as many on full data.

    >>> round(factor(0.29, 0.2, 1.0, 1), 2)
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

    From preparation + uses * keep * full = uses * full. 0 or less: it cannot pay at any keep.
    """
    return 1 - preparation / (uses * full) if full > 0 else None


def _row(
    ledger: Sequence[Entry], method: str, keep: float, full: dict[str, float] | None, price: float | None
) -> dict[str, Any]:
    once, each = _preparation(ledger, method, keep), _pretraining(ledger, method, keep)
    assert each is not None
    row: dict[str, Any] = {"method": method, "keep": round(keep, 9), "preparation": once, "pretraining": each}
    for unit in UNITS:
        whole = full[unit] if full else 0.0
        known = whole > 0 and each[unit] > 0
        row[f"share_{unit}"] = once[unit] / whole if known else None
        row[f"total_{unit}"] = (once[unit] + each[unit]) / whole if known else None
        row[f"factor_{unit}"] = {str(n): factor(once[unit], each[unit], whole, n) if known else None for n in USES}
        row[f"break_even_uses_{unit}"] = break_even_uses(once[unit], each[unit], whole) if known else None
        row[f"break_even_keep_{unit}"] = {
            str(n): break_even_keep(once[unit], whole, n) if known else None for n in USES
        }
    if price is not None:
        row["price"] = _price(once["seconds"] + each["seconds"], price)
        row["price_full"] = _price(full["seconds"], price) if full else None
    return row


def _preparation(ledger: Sequence[Entry], method: str, keep: float) -> dict[str, float]:
    """What one index of `method` at `keep` takes: its own steps, and the shared ones if it looks at a surrogate."""
    own = [
        entry
        for entry in ledger
        if entry["stage"] not in (*ON_BOTH_SIDES, "pretrain")
        and entry["method"] in (method, *(() if method in UNGUIDED else (None,)))
        and entry["keep"] in (keep, None)
    ]
    stages = dict.fromkeys(entry["stage"] for entry in own)
    parts = [_per_seed(entry for entry in own if entry["stage"] == stage) for stage in stages]
    return {unit: sum(part[unit] for part in parts) for unit in (*UNITS, "samples")}


def _pretraining(ledger: Sequence[Entry], method: str, keep: float) -> dict[str, float] | None:
    found = [e for e in ledger if e["stage"] == "pretrain" and (e["method"], e["keep"]) == (method, keep)]
    return _per_seed(found) if found else None


def _per_seed(entries: Iterable[Entry]) -> dict[str, float]:
    """Entries without a seed are done once; those with one are done once per seed: their mean over the seeds."""
    entries = list(entries)
    seeds = {entry["seed"] for entry in entries if entry["seed"] is not None}
    return {
        unit: sum(entry[unit] / (1 if entry["seed"] is None else len(seeds)) for entry in entries)
        for unit in (*UNITS, "samples")
    }


def _stages(ledger: Sequence[Entry], price: float | None) -> list[dict[str, Any]]:
    rows = []
    there = dict.fromkeys(entry["stage"] for entry in ledger)
    for stage in sorted(there, key=lambda name: _CHAIN.index(name) if name in _CHAIN else len(_CHAIN)):
        found = [entry for entry in ledger if entry["stage"] == stage]
        row: dict[str, Any] = {"stage": stage, "steps": len(found)}
        row |= {unit: sum(entry[unit] for entry in found) for unit in (*UNITS, "samples")}
        if price is not None:
            row["price"] = _price(row["seconds"], price)
        rows.append(row)
    return rows


def _price(seconds: float, price: float) -> float:
    return seconds / 3600 * price
