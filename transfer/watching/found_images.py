"""Images that a watch has found: read from the CSV of `transfer watch --out`, written as a beton of later images."""

from __future__ import annotations

import csv
import zlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from prune.data.beton import BetonWriter, best_page
from prune.data.crops import render
from prune.data.listing import read_regular
from prune.data.stored_images import Stored, decode, prepare
from prune.index.manifest import Manifest, digest, manifest_path
from prune.models.evaluation_view import central_box
from prune.runs.csv_table import read_table
from prune.runs.files import InputError, atomic, counted, csv_cell, need_file, note, unguarded

LATER = "later"
"""First part of the ids of later images."""


@dataclass(frozen=True)
class FoundImages:
    """New images and what is known of them.

    Attributes
    ----------
    paths : list of str
        As the CSV has them.
    ids : list of str
        `later/DIGEST/NAME`.
    stored : list of Stored
    images : (n, r, r, 3) uint8
        Central squares.
    labels : (n,) int64
    answered : (n,) bool
        The label is the original model's answer, since the CSV has none.
    broke : (n,) bool
        The compressed model was wrong where the original was right; where the label is the original's answer: the two
        models disagreed.
    original : (n,) int64
        What the original predicted; -1 where the CSV does not say.
    """

    paths: list[str]
    ids: list[str]
    stored: list[Stored]
    images: np.ndarray
    labels: np.ndarray
    answered: np.ndarray
    broke: np.ndarray
    original: np.ndarray

    def part(self, rows: np.ndarray) -> FoundImages:
        """These images alone, (k,) int."""
        paths, ids, stored = ([one[row] for row in rows] for one in (self.paths, self.ids, self.stored))
        arrays = (self.images, self.labels, self.answered, self.broke, self.original)
        return FoundImages(paths, ids, stored, *(one[rows] for one in arrays))


def no_images(side: int) -> FoundImages:
    """None of this side in pixels."""
    numbers, flags = np.zeros(0, np.int64), np.zeros(0, bool)
    return FoundImages([], [], [], np.zeros((0, side, side, 3), np.uint8), numbers, flags, flags, numbers)


def read_found(
    place: Path, root: Path | None, classes: Sequence[str], known: Collection[int], side: int, ratio: float
) -> FoundImages:
    """Read the images that a CSV lists; unreadable and known ones are skipped, and counted.

    Parameters
    ----------
    place : Path
        Columns `path` and perhaps `label`, `original`, `compressed`, as `transfer watch --out` writes them.
    root : Path, optional
        Folder that the paths are relative to; that of the CSV when absent.
    classes : sequence of str
    known : collection of int
        Digests of images that are among the training images, or in the set, already.
    side, ratio
        Of the central squares.

    Raises
    ------
    InputError
        No such file or column, an unknown class, an image with neither label nor answer, or none that can be read.
    """
    rows, columns = read_table(need_file(place, "a CSV with a column `path`"), "--add ")
    if "path" not in columns:
        raise InputError(f"--add {place}: has no column `path`; its columns are {', '.join(columns) or 'none'}")
    if not rows:
        raise InputError(f"--add {place}: lists no image; a look of `transfer watch` without new images leaves it so")
    number_of = {name: number for number, name in enumerate(classes)}

    def known_class(line: int, row: dict[str, str], column: str) -> int:
        name = unguarded(row.get(column) or "")
        if name and name not in number_of:
            raise InputError(f"--add {place}: line {line}: column {column}: there is no class {name!r}")
        return number_of.get(name, -1)

    seen, unreadable, repeated = set(known), [], 0
    paths, ids, stored, images = list[str](), list[str](), list[Stored](), list[np.ndarray]()
    numbers: list[tuple[int, int, int]] = []
    for line, row in enumerate(rows, 2):
        path = unguarded(row["path"] or "")
        facts = (
            known_class(line, row, "label"),
            known_class(line, row, "original"),
            known_class(line, row, "compressed"),
        )
        if max(facts[:2]) < 0:
            raise InputError(f"--add {place}: line {line}: has neither a label nor the original model's answer")
        try:
            image = prepare(read_regular((root or place.parent) / path))
        except (OSError, ValueError):  # not an image, or not a path: it may contain a NUL byte
            unreadable.append(path or f"line {line}")
            continue
        mark = digest(image.data)
        if mark in seen:
            repeated += 1
            continue
        seen.add(mark)
        pixels = decode(image)
        images.append(np.ascontiguousarray(render(pixels, central_box(pixels, ratio), False, side)))
        stored.append(image)
        paths.append(path)
        ids.append(f"{LATER}/{mark:016x}/{Path(path).name}")
        numbers.append(facts)
    if unreadable:
        way = "" if root else "; paths relative to another folder: --root"
        note(f"{place}: {len(unreadable)} of {len(rows)} images cannot be read, first {unreadable[0]}{way}")
    if repeated:
        note(f"{place}: {counted(repeated, 'image')} skipped: known already")
    if unreadable and len(unreadable) == len(rows):
        raise InputError(f"--add {place}: lists no image that can be read; give the folder of their paths with --root")
    label, original, compressed = np.array(numbers, np.int64).reshape(-1, 3).T
    answered = label < 0
    label = np.where(answered, original, label)
    broke = (original == label) & (compressed >= 0) & (compressed != label)
    pictures = np.stack(images) if images else np.zeros((0, side, side, 3), np.uint8)
    return FoundImages(paths, ids, stored, pictures, label, answered, broke, original)


def write_later(out: Path, images: Sequence[Stored], ids: Sequence[str], labels: np.ndarray, classes: list[str]) -> str:
    """Write later images as a beton and its manifest; returns the manifest's fingerprint.

    The beton comes first, under its own name or not at all; the set that names the fingerprint is written after it.

    Parameters
    ----------
    images : sequence of Stored
        At least one.
    ids : sequence of str
    labels : (n,) int
    """
    data = [image.data for image in images]
    with atomic(out) as partial:
        with BetonWriter(partial, len(images), best_page(np.array([len(one) for one in data]))) as writer:
            for image, label in zip(images, labels, strict=True):
                shape = {"height": image.height, "width": image.width}
                writer.add(image.data, jpeg=image.jpeg, label=int(label), **shape)
        shapes = writer.samples["image"][: len(images)]
        manifest = Manifest(
            np.array([name.encode("utf-8", "surrogateescape") for name in ids]),
            np.asarray(labels, np.int32),
            writer.sizes[: len(images)],
            shapes["width"],
            shapes["height"],
            np.array([digest(one) for one in data], np.uint64),
            np.array([zlib.crc32(one) for one in data], np.uint32),
            list(classes),
            {"source": out.name},
        )
        manifest_path(out).unlink(missing_ok=True)  # a manifest of an earlier beton must never lie beside this one
        manifest.save(manifest_path(out))
    return manifest.fingerprint


def write_proposals(
    place: Path, paths: Sequence[str], answers: Sequence[str], distances: np.ndarray, threshold: float
) -> None:
    """Write the CSV of images that are unlike the set, farthest first; a person fills in `label` for --add."""
    with atomic(place) as partial, open(partial, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["path", "label", "original", "distance", "threshold"])
        for row in np.argsort(-distances, kind="stable"):
            numbers = [f"{distances[row]:.6f}", f"{threshold:.6f}"]
            writer.writerow([csv_cell(paths[row]), "", csv_cell(answers[row]), *numbers])
