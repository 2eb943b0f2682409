"""Images and their compressed copies from a CSV, for `transfer watch-codec`."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from prune.byte_budget.codec_files import ImageCodec
from prune.data.listing import read_regular
from prune.data.stored_images import decode, prepare
from prune.runs.csv_table import read_table
from prune.runs.files import InputError

Pair = tuple[np.ndarray, np.ndarray, int]


def listed(place: Path, least: int | None = None) -> list[dict[str, str]]:
    """The lines of a CSV of images; `InputError` where it has no column `path`, or fewer lines than `least`."""
    rows, columns = read_table(place)
    if "path" not in columns:
        raise InputError(f"{place}: has no column `path`; its columns are {', '.join(columns) or 'none'}")
    if least is not None and len(rows) < least:
        raise InputError(
            f"{place}: {len(rows)} images, a look takes {least}: wait for more, or begin with a smaller --size"
        )
    return rows


def read_pairs(place: Path, newest: int | None, codec: ImageCodec, quality: int) -> list[Pair]:
    """Pixels of each image, pixels of its copy, and the copy's bytes.

    Parameters
    ----------
    place : Path
        CSV with a column `path` and perhaps `stored`, relative to the file or absolute.
    newest : int, optional
        Only so many of the last lines; fewer lines are an error.
    codec, quality
        For images without a stored copy.

    Raises
    ------
    InputError
        No such column, too few lines, or an image or copy that cannot be read.
    """
    rows = listed(place, newest)
    first = 0 if newest is None else len(rows) - newest
    return [_pair(place, number, row, codec, quality) for number, row in enumerate(rows[first:], first + 2)]


def _pair(place: Path, number: int, row: dict[str, str], codec: ImageCodec, quality: int) -> Pair:
    try:
        name = row["path"] or ""
        pixels = decode(prepare(read_regular(place.parent / name)))
        name = row.get("stored") or ""
        if name:
            data = read_regular(place.parent / name)
            # A learned codec's bytes are no format that an image library knows.
            copy = codec.decode(data) if codec.name == "learned" else decode(prepare(data))
        else:
            data = codec.encode(pixels, quality)
            copy = codec.decode(data)
    except (OSError, ValueError) as error:
        raise InputError(f"{place}: line {number}: {name or 'no path'} cannot be read ({error})") from None
    return pixels, copy, len(data)
