"""The table of a selection by class: sizes, quotas, and how many samples are kept for which reason."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from prune.index.pruned_index import REASONS
from prune.methods.choose import Choice
from prune.runs.files import atomic, csv_cell, printable

NAMES = ("quota_reason", "floor", "protected", "coverage", "random")
"""Columns of the table by reason code; the column "quota" is the number of samples that the class may keep. The parts
of a mix follow under their own names."""
_OF_THE_CLASS = ("class", "size", "available", "weight", "quota", "kept")


def class_table(choice: Choice, label: np.ndarray, classes: list[str]) -> list[dict[str, Any]]:
    """One row per class: name, size, available, weight, quota, kept, and how many are kept for which reason."""
    c = len(classes)
    columns = dict(enumerate(NAMES)) | dict(enumerate(choice.reason_names[len(REASONS) :], len(REASONS)))
    size = np.bincount(label, minlength=c)
    kept = label[choice.rows]
    why = {name: np.bincount(kept[choice.reason == code], minlength=c) for code, name in columns.items()}
    return [
        {
            "class": classes[k],
            "size": int(size[k]),
            "available": int(choice.available[k]),
            "weight": float(choice.weight[k]),
            "quota": int(choice.quotas[k]),
            "kept": sum(int(count[k]) for count in why.values()),
            **{name: int(count[k]) for name, count in why.items()},
        }
        for k in range(c)
    ]


def write_report(rows: list[dict[str, Any]], path: Path) -> None:
    """Write the table as CSV."""
    with atomic(path) as partial, open(partial, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows({name: csv_cell(value) for name, value in row.items()} for row in rows)


def print_json(tables: dict[str, list[dict[str, Any]]]) -> None:
    """Print tables as JSON on standard output: a list of classes, of several an object of lists."""
    json.dump(tables if len(tables) > 1 else next(iter(tables.values())), sys.stdout, indent=1)
    sys.stdout.write("\n")


def print_table(rows: list[dict[str, Any]]) -> None:
    """Print the table on standard output."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    grid = Table(*("class", "size", "available", "weight", "kept", "why"))
    for row in rows:
        reasons = [name for name in row if name not in _OF_THE_CLASS]
        why = ", ".join(f"{row[name]} {name.removesuffix('_reason')}" for name in reasons if row[name])
        counts = [str(row[k]) for k in ("size", "available")]
        grid.add_row(Text(printable(row["class"])), *counts, f"{row['weight']:.4f}", str(row["kept"]), why)
    Console().print(grid)
