"""Several arrays read as one, one after another, without joining them in memory: columns and features of shards."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

Read = Callable[[Any, Any], np.ndarray]
"""Reads consecutive rows (a slice), or any (an array of int), of one of the arrays."""


def _plain(array: Any, rows: Any) -> np.ndarray:
    return np.asarray(array[rows])


class JoinedRows:
    """Arrays of equal row shape as one array, which is read by slices, rows or masks.

    Parameters
    ----------
    parts : sequence of (n_p, ...) array
        At least one; may be memory-mapped.
    order : (n,) int64, optional
        The row of the parts, one after another, that each row of the whole is: all of them or some; absent: all, in
        order.
    """

    def __init__(self, parts: Sequence[Any], order: np.ndarray | None = None) -> None:
        self.parts, self.order = list(parts), order
        self.begins = np.cumsum([0, *map(len, self.parts)])
        self.dtype = np.dtype(self.parts[0].dtype)
        for part in self.parts[1:]:
            self.dtype = np.promote_types(self.dtype, part.dtype)

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, ...)."""
        return (len(self), *self.parts[0].shape[1:])

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    def __len__(self) -> int:
        return int(self.begins[-1]) if self.order is None else len(self.order)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError("joined rows become an array by a copy alone")
        found = self.read(slice(0, len(self)))
        return found if dtype is None else found.astype(dtype)

    def __getitem__(self, which: Any) -> Any:
        if isinstance(which, (int, np.integer)):
            row = int(which) + (len(self) if which < 0 else 0)
            if not 0 <= row < len(self):
                raise IndexError(f"row {which} of {len(self)}")
            return self.read(slice(row, row + 1))[0]
        if isinstance(which, slice):
            begin, end, step = which.indices(len(self))
            return self.read(slice(begin, max(begin, end)) if step == 1 else np.arange(begin, end, step))
        rows = np.asarray(which)
        return self.read(np.flatnonzero(rows) if rows.dtype == bool else np.where(rows < 0, rows + len(self), rows))

    def read(self, rows: slice | np.ndarray, read: Read = _plain) -> np.ndarray:
        """Rows by a slice without a step, or by their numbers, each part's by `read`."""
        if isinstance(rows, slice) and self.order is None:
            return self._consecutive(rows, read)
        wanted = np.arange(rows.start, rows.stop) if isinstance(rows, slice) else rows
        if len(wanted) and (wanted.min() < 0 or wanted.max() >= len(self)):
            raise IndexError(f"rows beyond the {len(self)}")
        wanted = wanted if self.order is None else self.order[wanted]
        found = np.empty((len(wanted), *self.shape[1:]), self.dtype)
        place = np.searchsorted(self.begins, wanted, side="right") - 1
        for number in np.unique(place).tolist():
            mine = np.flatnonzero(place == number)
            local = wanted[mine] - self.begins[number]
            if local[-1] - local[0] == len(local) - 1 and np.all(np.diff(local) == 1):
                found[mine] = read(self.parts[number], slice(int(local[0]), int(local[-1]) + 1))
            else:
                found[mine] = read(self.parts[number], local)
        return found

    def _consecutive(self, rows: slice, read: Read) -> np.ndarray:
        first, last = np.searchsorted(self.begins, [rows.start, max(rows.start, rows.stop - 1)], side="right") - 1
        found = np.empty((rows.stop - rows.start, *self.shape[1:]), self.dtype)
        for number in range(int(first), min(int(last) + 1, len(self.parts))):
            begin = int(self.begins[number])
            low, high = max(rows.start, begin), min(rows.stop, int(self.begins[number + 1]))
            if low < high:
                found[low - rows.start : high - rows.start] = read(self.parts[number], slice(low - begin, high - begin))
        return found
