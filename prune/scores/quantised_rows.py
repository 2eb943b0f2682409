"""Features in 8 bits: each image's between its own least and largest, in 255 even steps; read as float32, by rows.

An image's numbers depend on that image alone: shards, an append and another order of the images change none, and equal
images stay equal. Steps of each feature over all images would lose as much (`docs/scale.md`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from prune.runs.files import InputError


class QuantisedRows:
    """A table of quantised numbers, (n, d), that is read like a float32 array by slices, rows or masks.

    Parameters
    ----------
    codes : (n, d) int8
    steps : (n, 2) float32
        Of each row the size of a step, and the number that code 0 stands for.
    """

    ndim = 2
    dtype = np.dtype(np.float32)

    def __init__(self, codes: np.ndarray, steps: np.ndarray) -> None:
        self.codes, self.steps = codes, steps

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, d)."""
        return self.codes.shape

    def __len__(self) -> int:
        return len(self.codes)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError("quantised rows become an array by a copy alone")
        found = self[:]
        return found if dtype is None else found.astype(dtype)

    def __getitem__(self, which: Any) -> np.ndarray:
        if isinstance(which, tuple):
            raise TypeError("quantised rows are read by rows alone")
        return widened(np.asarray(self.codes[which]), np.asarray(self.steps[which]))

    def read(self, rows: Any, read: Callable[[Any, Any], np.ndarray]) -> np.ndarray:
        """Rows by a slice or by their numbers, those of both arrays by `read`."""
        return widened(read(self.codes, rows), read(self.steps, rows))


def quantised(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Codes, (b, d) int8, and steps, (b, 2) float32, of finite numbers, (b, d).

    No number is farther than half a step from its own: 1/510 of the row's range.

    Examples
    --------
    >>> codes, steps = quantised(np.array([[0.0, 51.0, 255.0]]))
    >>> codes.tolist(), steps.tolist(), widened(codes, steps).tolist()
    ([[-128, -77, 127]], [[1.0, 128.0]], [[0.0, 51.0, 255.0]])
    """
    x = np.asarray(x, np.float32)
    low = x.min(axis=1, keepdims=True, initial=np.inf if x.shape[1] else 0.0)
    step = (x.max(axis=1, keepdims=True, initial=-np.inf if x.shape[1] else 0.0) - low) / np.float32(255)
    level = np.rint((x - low) / np.where(step > 0, step, 1))
    return (np.minimum(level, 255) - 128).astype(np.int8), np.concatenate([step, low + 128 * step], axis=1)


def as_stored(x: np.ndarray, dtype: str) -> list[np.ndarray]:
    """Features, (b, d), as `prune features --features-dtype` stores them: one array, or codes and steps for int8.

    Numbers beyond the largest float16, 65,504, become that number with their sign.
    """
    if dtype == "int8":
        return list(quantised(x))
    return [np.clip(x, -65504, 65504).astype(np.float16) if dtype == "float16" else np.asarray(x, np.float32)]


def widened(codes: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """The numbers that codes, (..., d) int8, stand for, float32; `steps`, (..., 2), as of `quantised`."""
    found: np.ndarray = codes * steps[..., :1]
    found += steps[..., 1:]
    return found


def checked_steps(path: Any, features: np.ndarray, steps: np.ndarray) -> QuantisedRows:
    """The quantised features of a file; `InputError` where their steps are damaged."""
    if steps.dtype != np.float32 or steps.shape != (len(features), 2):
        raise InputError(f"{path}: the steps of the 8-bit features are damaged; run `prune features` again")
    return QuantisedRows(features, steps)
