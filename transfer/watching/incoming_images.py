"""The new images of `transfer watch`: what a CSV names, read and cut to squares."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from prune.data.batches import render
from prune.data.crops import center_crops
from prune.data.stored_images import decode, prepare
from prune.runs.files import InputError, note


@dataclass(frozen=True)
class New:
    """The images of the CSV: their paths as written, pixels, and labels (-1: unknown)."""

    paths: list[str]
    images: np.ndarray
    labels: np.ndarray
    unreadable: list[str]


def read_images(place: Path, classes: list[str], side: int) -> New:
    """Read the images that a CSV names, cut to their central square; those that cannot be read are left out.

    Raises
    ------
    InputError
        No such file, no column `path`, an unknown label, or no image that can be read.
    """
    if not place.is_file():
        raise InputError(f"--images {place}: no such file; a CSV with a column `path` is expected")
    try:
        with open(place, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            rows = list(reader)
            columns = reader.fieldnames or []
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{place}: not a CSV file in UTF-8 ({error})") from None
    if "path" not in columns:
        raise InputError(f"{place}: has no column `path`; its columns are {', '.join(columns) or 'none'}")
    known = {name: label for label, name in enumerate(classes)}
    paths, images, labels, unreadable = [], [], [], []
    for number, row in enumerate(rows, 2):
        label = row.get("label") or ""
        if label and label not in known:
            raise InputError(f"{place}: line {number}: the model has no class {label!r}")
        try:
            pixels = decode(prepare((place.parent / (row["path"] or "")).read_bytes()))
        except (OSError, ValueError):  # no image, or no path: it may hold a NUL byte
            unreadable.append(row["path"] or f"line {number}")
            continue
        box = center_crops(np.array([pixels.shape[0]]), np.array([pixels.shape[1]])).boxes[0]
        images.append(np.ascontiguousarray(render(pixels, box, False, side)))
        paths.append(row["path"])
        labels.append(known[label] if label else -1)
    if unreadable:
        note(f"{place}: {len(unreadable)} of {len(rows)} images cannot be read, first {unreadable[0]}")
    if not images:
        raise InputError(f"{place}: names no image that can be read")
    return New(paths, np.stack(images), np.array(labels), unreadable)
