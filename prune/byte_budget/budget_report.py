"""The result of `prune budget` as numbers and as tables: bytes, gap to the bound, qualities, classes."""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np

from prune.byte_budget.allocation import Allocation
from prune.index.index_summary import classes_to_list, summary
from prune.index.pruned_index import PrunedIndex
from prune.runs.files import printable


def numbers(chosen: PrunedIndex, index: PrunedIndex, budget: int, allocation: Allocation | None) -> dict[str, Any]:
    """Describe an index within a budget, JSON-serialisable; value and gap are null without the allocation.

    Parameters
    ----------
    chosen : PrunedIndex
        The samples kept, with their qualities.
    index : PrunedIndex
        The samples that could be kept.
    budget : int
    allocation : Allocation, optional
    """
    found = summary(chosen)
    before = np.bincount(index.labels, minlength=len(index.classes))
    rows = [
        {"class": row["class"], "kept": row["kept"], "of": int(had), "bytes": row["nbytes"],
         "floor": row["reasons"].get("floor", 0)}
        for row, had in zip(found["classes"], before)
    ]  # fmt: skip
    return {
        "budget": budget,
        "bytes": found["nbytes"],
        "source_bytes": index.source_nbytes,
        "kept": len(chosen),
        "of": len(index),
        "value": None if allocation is None else allocation.value,
        "bound": None if allocation is None else allocation.bound,
        "gap": None if allocation is None else allocation.gap,
        "quality": found["quality"],
        "classes": rows,
        "fingerprint": chosen.fingerprint,
    }


def show(result: dict[str, Any], *, as_json: bool) -> None:
    """Print the numbers."""
    if as_json:
        json.dump(result, sys.stdout, indent=1)
        sys.stdout.write("\n")
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(soft_wrap=not sys.stdout.isatty(), highlight=False)
    share = result["bytes"] / result["source_bytes"] if result["source_bytes"] else 0
    console.print(f"{result['bytes']:,} of {result['budget']:,} bytes allocated, {share:.2%} of the source's")
    if result["gap"] is not None:
        console.print(f"value {result['value']:,.2f}; the linear bound is {result['gap']:.4%} higher")
    console.print("quality: " + ", ".join(f"{name} {count:,}" for name, count in result["quality"].items()))
    table = Table()
    table.add_column("class")
    for head in ("kept", "of", "kB", "for the floor"):
        table.add_column(head, justify="right")
    kept, had = (np.array([row[key] for row in result["classes"]]) for key in ("kept", "of"))
    for label in classes_to_list(kept, had, 40):
        row = result["classes"][label]
        name = Text(printable(row["class"]))
        table.add_row(name, f"{row['kept']:,}", f"{row['of']:,}", f"{row['bytes'] / 1e3:,.1f}", f"{row['floor']:,}")
    console.print(table)
