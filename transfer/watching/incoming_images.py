"""The new images of `transfer watch`: read from the paths in a CSV and cropped to squares."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from prune.data.crops import render
from prune.data.listing import read_regular
from prune.data.stored_images import decode, prepare
from prune.index.manifest import digest
from prune.models.evaluation_view import central_box
from prune.runs.csv_table import read_table
from prune.runs.files import InputError, note


@dataclass(frozen=True)
class IncomingImages:
    """The images of a CSV: their paths as written, pixels, labels (-1: unknown), and the paths that cannot be read.

    `digests` are those of the files' bytes, 64 bits each.
    """

    paths: list[str]
    images: np.ndarray
    labels: np.ndarray
    unreadable: list[str]
    digests: list[int] = field(default_factory=list)


def read_incoming(
    place: Path, classes: list[str], side: int, ratio: float = 1.0, wanted: Callable[[int], bool] | None = None
) -> IncomingImages:
    """Read the images that a CSV lists, cropped to their central square; unreadable ones are skipped.

    Parameters
    ----------
    place : Path
    classes : list of str
    side, ratio
        Of the square.
    wanted : function, optional
        Called with the digest of a file's bytes: False skips the image. Then it is no mistake that none is left.

    Raises
    ------
    InputError
        There is no such file, no column `path`, an unknown label, or no readable image.
    """
    if not place.is_file():
        raise InputError(f"--images {place}: no such file; a CSV with a column `path` is expected")
    rows, columns = read_table(place)
    if "path" not in columns:
        raise InputError(f"{place}: has no column `path`; its columns are {', '.join(columns) or 'none'}")
    known = {name: label for label, name in enumerate(classes)}
    paths, images, labels, unreadable, digests = [], [], [], [], []
    for number, row in enumerate(rows, 2):
        label = row.get("label") or ""
        if label and label not in known:
            raise InputError(f"{place}: line {number}: the model has no class {label!r}")
        try:
            data = read_regular(place.parent / (row["path"] or ""))
            mark = digest(data)
            if wanted is not None and not wanted(mark):
                continue
            pixels = decode(prepare(data))
        except (OSError, ValueError):  # not an image, or not a path: it may contain a NUL byte
            unreadable.append(row["path"] or f"line {number}")
            continue
        images.append(np.ascontiguousarray(render(pixels, central_box(pixels, ratio), False, side)))
        paths.append(row["path"])
        labels.append(known[label] if label else -1)
        digests.append(mark)
    if unreadable:
        note(f"{place}: {len(unreadable)} of {len(rows)} images cannot be read, first {unreadable[0]}")
    if not images and (wanted is None or len(unreadable) == len(rows)):
        raise InputError(f"{place}: lists no image that can be read")
    pixels = np.stack(images) if images else np.zeros((0, side, side, 3), np.uint8)
    return IncomingImages(paths, pixels, np.array(labels, np.int64), unreadable, digests)
