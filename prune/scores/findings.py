"""Near-duplicates, leaks and suspected labels in words, and as a list of ids for a human to look at."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from prune.index.manifest import Manifest
from prune.runs.files import InputError, atomic
from prune.scores.feature_files import Features

_TOO_MANY = 0.2


def counts(arrays: Mapping[str, np.ndarray]) -> list[str]:
    """One line for each kind of finding."""
    lines = []
    if "duplicate_of" in arrays:
        copies = arrays["duplicate_of"]
        originals = len(np.unique(copies[copies >= 0]))
        lines.append(f"near-duplicates: {int((copies >= 0).sum())} copies of {originals} originals")
    for name, marked in arrays.items():
        if name.startswith("leak/"):
            lines.append(f"leaks: {int(marked.sum())} source images nearly duplicate an image of {name[5:]}")
    if "looks_like" in arrays:
        share = float(np.mean(arrays["looks_like"] >= 0))
        lines.append(f"suspects: {int((arrays['looks_like'] >= 0).sum())} labels look wrong")
        if share > _TOO_MANY:
            lines.append(f"suspects: {share:.0%} of all is more than labels are wrong: this surrogate knows too little")
    return lines


def write_findings(path: Path, arrays: Mapping[str, np.ndarray], source: Features) -> None:
    """Write a CSV: kind (duplicate, leak, suspect), id, class, and what it duplicates, leaks from or looks like.

    Raises
    ------
    InputError
        The source's manifest, which holds the ids, is not where the features file says.
    """
    if not source.manifest.is_file():
        raise InputError(f"--findings: the source's manifest is not at {source.manifest}")
    ids = Manifest.load(source.manifest).ids

    def name(row: int | np.integer) -> str:
        return bytes(ids[row]).decode(errors="replace")

    with atomic(path) as partial, open(partial, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("kind", "id", "class", "of"))
        if "duplicate_of" in arrays:
            for row in np.flatnonzero(arrays["duplicate_of"] >= 0):
                original = int(arrays["duplicate_of"][row])
                writer.writerow(("duplicate", name(row), source.classes[source.label[row]], name(original)))
        for column, marked in arrays.items():
            if column.startswith("leak/"):
                for row in np.flatnonzero(marked):
                    writer.writerow(("leak", name(row), source.classes[source.label[row]], column[5:]))
        if "looks_like" in arrays:
            for row in np.flatnonzero(arrays["looks_like"] >= 0):
                looks = source.classes[arrays["looks_like"][row]]
                writer.writerow(("suspect", name(row), source.classes[source.label[row]], looks))
