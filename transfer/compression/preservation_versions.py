"""A preservation set and its versions: an index over the training images, a small beton of later ones, what came why.

NAME.index.npz is an index like any other. A set that has grown has its later images in NAME.later.beton beside it, and
the last entry of the index's provenance names the beton's fingerprint, the version, the checksum of the version before
and what changed: "came" (later images: id, class, label, why, stays), "stays" (members that once broke a model) and
"left". An index without such an entry is version 1.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from prune.data.dataset import Dataset, open_dataset
from prune.index.manifest import Manifest
from prune.index.pruned_index import PrunedIndex
from prune.runs.files import InputError, need_file, note, read_json
from transfer.compression import journal
from transfer.evaluation.image_arrays import read_images

GIVEN, ANSWER = "given", "original's answer"
"""Where the label of a later image comes from: a person, or the original model."""
NO_LATER = np.zeros(0, np.int64)


@dataclass(frozen=True)
class PreservationSet:
    """One version of a preservation set, opened.

    Attributes
    ----------
    index : PrunedIndex
    rows : (n,) int64
        Rows of its training images in their manifest, ascending.
    later : Dataset or None
        Its later images.
    version : int
        From 1.
    checksum : str
        Of the index file, 32 hexadecimal digits of SHA-256.
    stays : dict of str to str
        Ids of the images that never leave, training and later ones, and why.
    """

    index: PrunedIndex
    rows: np.ndarray
    later: Dataset | None
    version: int
    checksum: str
    stays: dict[str, str]

    def __len__(self) -> int:
        return len(self.rows) + (0 if self.later is None else len(self.later))

    @property
    def fingerprint(self) -> str:
        """Identifies the images; of a set without later images it is that of its index."""
        if self.later is None:
            return self.index.fingerprint
        both = f"{self.index.fingerprint} {self.later.manifest.fingerprint}"
        return hashlib.sha256(both.encode()).hexdigest()[:32]

    @property
    def record(self) -> dict[str, Any]:
        """What a journal or a report names the set by."""
        later = 0 if self.later is None else len(self.later)
        return {"version": self.version, "checksum": self.checksum, "images": len(self), "later": later}

    def ids(self, manifest: Manifest) -> list[str]:
        """Ids of all images: training images by ascending row, then later ones in their beton's order."""
        parts = [np.asarray(manifest.ids)[self.rows]]
        parts += [] if self.later is None else [np.asarray(self.later.manifest.ids)]
        return [name.decode("utf-8", "surrogateescape") for part in parts for name in part.tolist()]

    def read_later(self, side: int, ratio: float) -> tuple[np.ndarray, np.ndarray]:
        """Central squares (n, side, side, 3) uint8 of the later images and their labels (n,) int64."""
        if self.later is None:
            return np.zeros((0, side, side, 3), np.uint8), NO_LATER
        rows = np.arange(len(self.later), dtype=np.int64)
        return read_images(self.later, rows, side, loader="torch", workers=1, ratio=ratio)


def later_path(index: Path) -> Path:
    """Where the later images of a set lie.

    Examples
    --------
    >>> later_path(Path("runs/pets.preserve.index.npz")).name
    'pets.preserve.later.beton'
    """
    name = index.name.removesuffix(".npz").removesuffix(".index")
    return index.with_name(f"{name}.later.beton")


def open_preservation(place: Path, manifest: Manifest) -> PreservationSet:
    """Open a preservation set of the training images of `manifest`.

    Raises
    ------
    InputError
        It keeps no image, is of other images, its record is damaged, or its later images are missing or are others.
    """
    need_file(place, "an index file")
    index = PrunedIndex.load(place)
    if not len(index):
        raise InputError(f"{place}: keeps no image")
    rows = np.sort(index.rows_in(manifest)).astype(np.int64)
    history = versions_of(place, index)
    later, last = None, history[-1] if history else {}
    if last.get("later"):
        beton = later_path(place)
        if not beton.is_file():
            raise InputError(f"{beton}: no such file; it holds the later images of {place} and belongs beside it")
        later = open_dataset(beton)
        if later.manifest.fingerprint != last["later"] or list(later.manifest.classes) != list(manifest.classes):
            raise InputError(f"{beton}: holds other images than version {last['version']} of {place}")
    return PreservationSet(index, rows, later, last.get("version", 1), checksum_of(place), _stays(history))


def checksum_of(place: Path) -> str:
    """SHA-256 of a file, 32 hexadecimal digits."""
    with open(place, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:32]


def versions_of(place: Path, index: PrunedIndex) -> list[dict[str, Any]]:
    """The provenance entries by which a set grew, the oldest first; none of version 1.

    Raises
    ------
    InputError
        Such an entry is damaged, or the versions do not follow one another.
    """
    found = [entry for entry in index.provenance if "version" in entry]
    for number, entry in enumerate(found, 2):
        try:
            sound = _is_sound(entry) and entry["version"] == number
        except (KeyError, TypeError, AttributeError):
            sound = False
        if not sound:
            raise InputError(f"{place}: its record of version {number} is damaged; take an earlier version of the set")
    return found


def _is_sound(entry: Mapping[str, Any]) -> bool:
    changes = entry["changes"]
    return (
        isinstance(entry["parent"], str)
        and isinstance(entry["later"], str | None)
        and all(isinstance(one[key], str) for one in changes["came"] for key in ("id", "class", "label", "why"))
        and all(isinstance(one["stays"], bool) for one in changes["came"])
        and all(isinstance(one[key], str) for one in changes["stays"] for key in ("id", "why"))
        and all(isinstance(one, str) for one in changes["left"])
    )


def _stays(history: list[dict[str, Any]]) -> dict[str, str]:
    """Ids of the images that never leave, and why; the first reason counts."""
    found: dict[str, str] = {}
    for entry in history:
        for one in (*entry["changes"]["came"], *entry["changes"]["stays"]):
            if one.get("stays", True):
                found.setdefault(one["id"], one["why"])
    return found


def rejected_cases(run: Path, members: PreservationSet, manifest: Manifest) -> dict[str, str]:
    """Images that rejected steps of a compression lost, by id, and which step it was; the first one counts.

    Raises
    ------
    InputError
        Not a run of `transfer compress`, a run on another preservation set, or a damaged journal.
    """
    entries = journal.need_journal(run, "--runs ")
    used = read_json(Path(run) / "config.json").get("preserve")
    if used != members.fingerprint:
        raise InputError(f"--runs {run}: was tested on another preservation set than version {members.version}")
    ids, found = members.ids(manifest), dict[str, str]()
    for entry in entries:
        for place in entry.get("broke", ()):
            if place >= len(ids):
                raise InputError(f"--runs {run}: step {entry['step']} names image {place} of {len(ids)}: damaged")
            found.setdefault(ids[place], f"rejected step {entry['step']}")
    rejected = [entry for entry in entries if entry["verdict"] == journal.ROLLED_BACK]
    if rejected and not any("broke" in entry for entry in entries):
        note(f"{run}: an older run, whose journal does not name the images that its rejected steps lost")
    return found
