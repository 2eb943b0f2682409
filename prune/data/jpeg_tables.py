"""JPEG quantisation tables fitted to a network's features, one pair for each quality: the file and what it holds.

`prune codecs --fit` writes them (`prune/byte_budget/table_fitting.py`). Every JPEG contains its tables, so any decoder
reads it; only the encoder needs this file.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from prune.index.npz import open_arrays, save_arrays
from prune.runs.files import InputError

FORMAT = "winnow-jpeg-tables/1"


@dataclass(frozen=True)
class JpegTables:
    """Tables for the qualities 1 to 100.

    Attributes
    ----------
    steps : tuple of 100 pairs of 64 int
        For each quality the steps of luminance and of colour, 1 to 255, row by row; equal tables are stored once in a
        JPEG.
    full_colour : tuple of 100 bool
        Colour at the full resolution (4:4:4) instead of half (4:2:0).
    """

    steps: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]
    full_colour: tuple[bool, ...]

    def at(self, quality: int) -> tuple[list[int], list[int], str]:
        """Tables of luminance and colour, and Pillow's name of the subsampling, for a quality of 1 to 100."""
        luminance, colour = self.steps[quality - 1]
        return list(luminance), list(colour), "4:4:4" if self.full_colour[quality - 1] else "4:2:0"

    @property
    def fingerprint(self) -> str:
        """Of all tables: what an image's bytes depend on."""
        return hashlib.sha256(_array(self).tobytes() + np.array(self.full_colour, np.uint8).tobytes()).hexdigest()[:32]

    def save(self, path: Path, **facts: object) -> None:
        """Write the tables, with facts about how they were made."""
        arrays = {"steps": _array(self), "full_colour": np.array(self.full_colour, np.uint8)}
        save_arrays(path, arrays, {"format": FORMAT, **facts})

    @staticmethod
    def load(path: Path) -> JpegTables:
        """Read what `save` wrote; `InputError` for another, newer or damaged file."""
        arrays, _ = open_arrays(path, FORMAT, mapped=False)
        steps, full = arrays.get("steps"), arrays.get("full_colour")
        shapes = steps is not None and full is not None and steps.shape == (100, 2, 64) and full.shape == (100,)
        if steps is None or full is None or not shapes or steps.dtype != np.uint8 or (steps == 0).any():
            raise InputError(
                f"{path}: not whole: 100 pairs of 64 steps from 1 to 255 are expected; `prune codecs --fit` writes them"
            )
        pairs = tuple((tuple(map(int, one[0])), tuple(map(int, one[1]))) for one in steps)
        return JpegTables(pairs, tuple(bool(value) for value in full))


def _array(tables: JpegTables) -> np.ndarray:
    return np.array(tables.steps, np.uint8)
