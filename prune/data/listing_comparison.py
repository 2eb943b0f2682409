"""Compares another program's listing of images with what a beton holds, and says what differs and why."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from prune.data.class_folders import TOOLS
from prune.data.stored_images import SUFFIXES
from prune.index.manifest import Manifest
from prune.index.matching import find, first_repeat, path_hint, shown
from prune.runs.files import counted


@dataclass(frozen=True)
class Comparison:
    """How a listing differs from a manifest.

    Attributes
    ----------
    both : int
        Images that both have.
    listed_alone, held_alone : list of bytes
        Names of the listing that the manifest lacks, and ids that the listing lacks.
    other_class : list of (bytes, str, str)
        Id, class here and class there, of images that both have.
    repeated : int
        Names that the listing has again.
    ordered : bool
        Whether the images that both have come in the same order.
    """

    both: int
    listed_alone: list[bytes]
    held_alone: list[bytes]
    other_class: list[tuple[bytes, str, str]]
    repeated: int
    ordered: bool

    @property
    def same(self) -> bool:
        """Whether both hold the same images in the same classes."""
        return not (self.listed_alone or self.held_alone or self.other_class or self.repeated)


def compare(listing: np.ndarray, labels: list[str] | None, manifest: Manifest) -> Comparison:
    """Compare a listing with a manifest.

    Parameters
    ----------
    listing : (m,) bytes
        Ids of the listing, in its order.
    labels : list of m str, optional
        Names of their classes, where the listing has them.
    manifest : Manifest
    """
    ids = np.asarray(manifest.ids)
    rows, _ = find(listing, ids)
    there, _ = find(ids, listing)
    hit = rows[rows >= 0]
    other = []
    for name, row, label in zip(listing, rows, labels or ()):
        if row >= 0 and (held := manifest.classes[manifest.labels[row]]) != label:
            other.append((bytes(name), held, label))
    return Comparison(
        both=len(set(hit.tolist())),
        listed_alone=[bytes(name) for name in listing[rows < 0]],
        held_alone=[bytes(name) for name in ids[there < 0]],
        other_class=other,
        repeated=(first_repeat(listing) or (0, 0))[0],
        ordered=bool(np.all(np.diff(hit) >= 0)),
    )


def described(found: Comparison, path: Path, listing: np.ndarray, manifest: Manifest) -> list[str]:
    """The comparison in words, one line each; the first counts what both have."""
    order = "in the same order" if found.ordered else "in another order: its rows are not those of the beton"
    lines = [f"{path}: {counted(found.both, 'image')} of {len(manifest)} are in both, {order}"]
    if found.listed_alone:
        skipped = dict(manifest.meta.get("skipped", []))
        kinds = Counter(_kind(name, skipped) for name in found.listed_alone)
        first = {_kind(name, skipped): name for name in reversed(found.listed_alone)}
        parts = ", ".join(f"{count} {kind} ({shown(first[kind])})" for kind, count in kinds.most_common())
        hint = "" if found.both else path_hint(listing, np.asarray(manifest.ids), flags=True)
        lines.append(f"in the listing alone: {parts}" + (f"; {hint}" if hint else ""))
    if found.held_alone:
        suffixes = Counter(os.path.splitext(name)[1].lower().decode("utf-8", "replace") for name in found.held_alone)
        parts = ", ".join(f"{count} {suffix or 'without a suffix'}" for suffix, count in suffixes.most_common(5))
        lines.append(f"in the beton alone: {parts} (first {shown(found.held_alone[0])})")
    if found.other_class:
        name, here, there = found.other_class[0]
        lines.append(
            f"of another class: {len(found.other_class)} (first {shown(name)}: {here!r} here, {there!r} there)"
        )
    if found.repeated:
        lines.append(f"listed again: {counted(found.repeated, 'name')}")
    return lines


def _kind(name: bytes, skipped: dict[str, str]) -> str:
    """Why the beton lacks an image that is listed."""
    text = os.fsdecode(name)
    parts = text.split("/")
    if text in skipped:
        return f"unreadable: {skipped[text]}"
    if set(parts[:-1]) & TOOLS:
        return "in a folder of tools"
    if any(part.startswith(".") for part in parts):
        return "hidden"
    if os.path.splitext(parts[-1])[1].lower() not in SUFFIXES:
        return "not of an image's suffix"
    return "in no class folder" if len(parts) == 1 else "not known here"
