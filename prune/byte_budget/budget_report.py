"""What a budget came to: bytes, gap, qualities, classes; as numbers and as tables."""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np

from prune.byte_budget.allocation import Plan
from prune.index.index_summary import summary
from prune.index.pruned_index import PrunedIndex


def numbers(chosen: PrunedIndex, index: PrunedIndex, budget: int, plan: Plan | None) -> dict[str, Any]:
    """JSON-serialisable: bytes, value and gap (null when the plan was made before), histogram, one row per class."""
    told = summary(chosen)
    before = np.bincount(index.labels, minlength=len(index.classes))
    rows = [
        {"class": row["class"], "kept": row["kept"], "of": int(had), "bytes": row["nbytes"],
         "floor": row["reasons"].get("floor", 0)}
        for row, had in zip(told["classes"], before)
    ]  # fmt: skip
    return {
        "budget": budget,
        "bytes": told["nbytes"],
        "source_bytes": index.source_nbytes,
        "kept": len(chosen),
        "of": len(index),
        "value": None if plan is None else plan.value,
        "bound": None if plan is None else plan.bound,
        "gap": None if plan is None else plan.gap,
        "quality": told["quality"],
        "classes": rows,
        "fingerprint": chosen.fingerprint,
    }


def show(told: dict[str, Any], *, as_json: bool) -> None:
    """Print the numbers."""
    if as_json:
        json.dump(told, sys.stdout, indent=1)
        sys.stdout.write("\n")
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from prune.gallery.gallery_choice import telling_classes

    console = Console(soft_wrap=not sys.stdout.isatty(), highlight=False)
    share = told["bytes"] / told["source_bytes"] if told["source_bytes"] else 0
    console.print(f"{told['bytes']:,} of {told['budget']:,} bytes planned, {share:.2%} of the source's")
    if told["gap"] is not None:
        console.print(f"value {told['value']:,.2f}; the linear bound is {told['gap']:.4%} higher")
    console.print("quality: " + ", ".join(f"{name} {count:,}" for name, count in told["quality"].items()))
    table = Table()
    table.add_column("class")
    for head in ("kept", "of", "kB", "for the floor"):
        table.add_column(head, justify="right")
    kept, had = (np.array([row[key] for row in told["classes"]]) for key in ("kept", "of"))
    for label in telling_classes(kept, had, 40):
        row = told["classes"][label]
        name = Text("".join(c if c.isprintable() else "�" for c in row["class"]))
        table.add_row(name, f"{row['kept']:,}", f"{row['of']:,}", f"{row['bytes'] / 1e3:,.1f}", f"{row['floor']:,}")
    console.print(table)
