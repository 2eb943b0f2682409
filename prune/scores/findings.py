"""What scoring found, for people: near-duplicates, leaks and suspected labels, counted or as a CSV file."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from prune.index.manifest import Manifest, manifest_exists
from prune.runs.files import InputError, atomic, csv_cell
from prune.scores.feature_files import Features

_TOO_MANY_SUSPECTS = 0.2
_FOUND_BY = ("", "features", "hash", "features and hash")


def finding_counts(arrays: Mapping[str, np.ndarray]) -> list[str]:
    """Near-duplicates, leaks and suspected labels of a scores file, one line each."""
    lines = []
    if "duplicate_of" in arrays:
        copies = arrays["duplicate_of"]
        originals = len(np.unique(copies[copies >= 0]))
        by = np.asarray(arrays.get("duplicate_by", ()))
        how = f", {int((by & 1 > 0).sum())} found by features, {int((by & 2 > 0).sum())} by hash" if len(by) else ""
        lines.append(f"near-duplicates: {int((copies >= 0).sum())} copies of {originals} originals{how}")
    for name, marked in arrays.items():
        if name.startswith("leak/"):
            lines.append(f"leaks: {int(marked.sum())} source images nearly duplicate an image of {name[5:]}")
    if "looks_like" in arrays:
        share = float(np.mean(arrays["looks_like"] >= 0))
        lines.append(f"suspects: {int((arrays['looks_like'] >= 0).sum())} labels look wrong")
        if share > _TOO_MANY_SUSPECTS:
            lines.append(f"suspects: {share:.0%} of all labels is too many to be true: the surrogate is too weak")
    return lines


def write_findings(path: Path, arrays: Mapping[str, np.ndarray], source: Features) -> None:
    """Write a CSV: kind (duplicate, leak, suspect), id, class, what it duplicates, leaks from or looks like, and by.

    `by` is what found a duplicate (features, hash, both), and the suspicion of a suspect, of whom the strongest come
    first.

    Raises
    ------
    InputError
        The source's manifest, which holds the ids, is not where the features file says.
    """
    if not manifest_exists(source.manifest):
        raise InputError(f"--findings: the source's manifest is not at {source.manifest}")
    ids = Manifest.load(source.manifest).ids

    def name(row: int | np.integer[Any]) -> str:
        return bytes(ids[row]).decode(errors="replace")

    with atomic(path) as partial, open(partial, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)

        def write(*cells: str) -> None:
            writer.writerow(map(csv_cell, cells))

        write("kind", "id", "class", "of", "by")
        if "duplicate_of" in arrays:
            for row in np.flatnonzero(arrays["duplicate_of"] >= 0):
                original = int(arrays["duplicate_of"][row])
                by = _FOUND_BY[int(arrays["duplicate_by"][row])] if "duplicate_by" in arrays else "features"
                write("duplicate", name(row), source.classes[source.label[row]], name(original), by)
        for column, marked in arrays.items():
            if column.startswith("leak/"):
                for row in np.flatnonzero(marked):
                    write("leak", name(row), source.classes[source.label[row]], column[5:], "features")
        if "looks_like" in arrays:
            rows = np.flatnonzero(arrays["looks_like"] >= 0)
            suspicion = np.asarray(arrays.get("sample/suspicion", np.zeros(len(ids))))
            for row in rows[np.argsort(-suspicion[rows], kind="stable")]:
                looks = source.classes[arrays["looks_like"][row]]
                write("suspect", name(row), source.classes[source.label[row]], looks, f"{suspicion[row]:.4f}")
