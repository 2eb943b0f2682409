"""Ids in little memory: of each id only what differs from the one before it (front coding), in blocks of 4,096 ids.

Ids of large sources are long and alike: 100 million of 50 bytes take 5 GB as an array and less than half of that here.
A block is read without those before it, so a packed column may lie in a mapped file. Sorted ids pack best; any do.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from .whole_files import InputError

BLOCK = 4096
LARGE = 1 << 24
"""Ids above which a selection holds them packed, and is stored so."""
_STEP = 1 << 16  # ids that are unpacked at a time
_SHARED = 255
"""Most bytes that an id shares with the one before it."""
_LONGEST = 65_535
_WIDE = 1024  # bytes of an id above which a block is unpacked id by id
_GROUP = 32  # ids of a block that are filled from one another in one loop, all groups at once
MEMBERS = {"id_shared": "|u1", "id_length": "<u2", "id_begin": "<i8", "id_rest": "|u1"}
"""Arrays of an index file that hold packed ids, with their NumPy types."""


class PackedIds:
    """A column of ids, (k,) bytes, that is read by slices, rows or masks like an array.

    Parameters
    ----------
    shared : (k,) uint8
        Bytes that an id has in common with the one before it, at its beginning; 0 for the first of a block.
    length : (k,) uint16
        Bytes of the id.
    begin : (b + 1,) int64
        Where each block begins in `rest`, and its end.
    rest : (m,) uint8
        The other bytes of all ids, one after another.

    Raises
    ------
    InputError
        The arrays do not fit together; what is wrong inside a block is found when it is read.
    """

    ndim = 1

    def __init__(self, shared: np.ndarray, length: np.ndarray, begin: np.ndarray, rest: np.ndarray) -> None:
        if len(shared) != len(length) or len(begin) != -(-len(length) // BLOCK) + 1:
            raise InputError("packed ids: the columns differ in length from one another")
        if begin[0] != 0 or begin[-1] != len(rest):
            raise InputError("packed ids: the blocks do not cover the ids")
        self.shared, self.length, self.begin, self.rest = shared, length, begin, rest
        self.dtype = np.dtype(f"S{max(1, int(length.max(initial=1)))}")

    @property
    def members(self) -> dict[str, np.ndarray]:
        """The arrays under their names in an index file."""
        return dict(zip(MEMBERS, (self.shared, self.length, self.begin, self.rest)))

    @property
    def shape(self) -> tuple[int]:
        """(k,)."""
        return (len(self),)

    def __len__(self) -> int:
        return len(self.length)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError("packed ids become an array by a copy alone")
        found = self._range(0, len(self))
        return found if dtype is None else found.astype(dtype)

    def __getitem__(self, which: Any) -> Any:
        if isinstance(which, slice):
            begin, end, step = which.indices(len(self))
            if step != 1:
                return self._gathered(np.arange(begin, end, step))
            return self._range(begin, max(begin, end))
        if isinstance(which, (int, np.integer)):
            row = int(which) + (len(self) if which < 0 else 0)
            if not 0 <= row < len(self):
                raise IndexError(f"row {which} of {len(self)} ids")
            return self._range(row, row + 1)[0]
        rows = np.asarray(which)
        return self._gathered(np.flatnonzero(rows) if rows.dtype == bool else rows)

    def _range(self, begin: int, end: int) -> np.ndarray:
        found = np.empty(end - begin, self.dtype)
        for block in range(begin // BLOCK, -(-end // BLOCK) if end > begin else 0):
            first = block * BLOCK
            low, high = max(begin, first), min(end, first + BLOCK)
            found[low - begin : high - begin] = self._block(block)[low - first : high - first]
        return found

    def _gathered(self, rows: np.ndarray) -> np.ndarray:
        if len(rows) and (rows.min() < -len(self) or rows.max() >= len(self)):
            raise IndexError(f"rows beyond the {len(self)} ids")
        if len(rows) and rows.min() < 0:
            rows = np.where(rows < 0, rows + len(self), rows)
        rows = rows.astype(np.int64, copy=False)
        order = None if np.all(rows[1:] >= rows[:-1]) else np.argsort(rows)
        ascending = rows if order is None else rows[order]
        found = np.empty(len(rows), self.dtype)
        begin = 0
        while begin < len(rows):
            block = int(ascending[begin]) // BLOCK
            end = int(np.searchsorted(ascending, (block + 1) * BLOCK))
            ids = self._block(block)[ascending[begin:end] - block * BLOCK]
            found[slice(begin, end) if order is None else order[begin:end]] = ids
            begin = end
        return found

    def placed(self, places: np.ndarray, begin: int, end: int) -> np.ndarray:
        """The ids with the places [begin, end) in another order, (end - begin,) bytes; unpacks every block once.

        Parameters
        ----------
        places : (k,) int
            Place of each id in that order: a permutation.
        """
        found = np.empty(end - begin, self.dtype)
        for block in range(len(self.begin) - 1):
            part = places[block * BLOCK : (block + 1) * BLOCK]
            inside = np.flatnonzero((part >= begin) & (part < end))
            found[part[inside] - begin] = self._block(block)[inside]
        return found

    def _block(self, block: int) -> np.ndarray:
        """The ids of a block, (at most BLOCK,) bytes."""
        rows = slice(block * BLOCK, min(len(self), (block + 1) * BLOCK))
        shared, length = np.asarray(self.shared[rows]), np.asarray(self.length[rows])
        rest = np.asarray(self.rest[int(self.begin[block]) : int(self.begin[block + 1])])
        before = np.concatenate([[0], length[:-1]])
        own = int(length.sum(dtype=np.int64)) - int(shared.sum(dtype=np.int64))
        if len(rest) != own or (shared > np.minimum(length, before)).any():
            raise InputError(f"packed ids: block {block} is damaged")
        width = max(1, int(length.max()))
        return (_one_by_one if width > _WIDE else _all_at_once)(shared, length, rest, width)


def _all_at_once(shared: np.ndarray, length: np.ndarray, rest: np.ndarray, width: int) -> np.ndarray:
    """The ids of a block, (at most BLOCK,) bytes, by a table of their bytes.

    A byte that an id shares is that of the last id above which has one of its own in this column: with the number of
    the row in front of each byte that a row has of its own, and 0 elsewhere, it is the largest so far.
    """
    count = len(length)
    whole = -(-count // _GROUP) * _GROUP
    table, own = np.zeros((whole, width), np.uint8), np.zeros((whole, width), bool)
    np.greater_equal(np.arange(width, dtype=np.min_scalar_type(width - 1)), shared[:, None], out=own[:count])
    table[:count][own[:count] & (np.arange(width, dtype=np.uint16) < length[:, None])] = rest
    numbered: np.ndarray = own * (np.arange(whole, dtype=np.uint32) << np.uint32(8))[:, None]
    numbered |= table
    groups = numbered.reshape(-1, _GROUP, width)
    for row in range(1, _GROUP):
        np.maximum(groups[:, row], groups[:, row - 1], out=groups[:, row])
    np.maximum(groups[1:], np.maximum.accumulate(groups[:-1, -1], axis=0)[:, None], out=groups[1:])
    return numbered[:count].astype(np.uint8).view(f"S{width}").reshape(-1)


def _one_by_one(shared: np.ndarray, length: np.ndarray, rest: np.ndarray, width: int) -> np.ndarray:
    """The ids of a block, where a table of row numbers for each byte would take gigabytes."""
    found, ends = np.zeros(len(length), f"S{width}"), np.cumsum(length - shared).tolist()
    whole, begin, last = rest.tobytes(), 0, b""
    for row, (keep, end) in enumerate(zip(shared.tolist(), ends)):
        found[row] = last = last[:keep] + whole[begin:end]
        begin = end
    return found


def pack(parts: Iterable[np.ndarray]) -> PackedIds:
    """Pack a column of ids that comes in parts.

    Parameters
    ----------
    parts : iterable of (m,) bytes
        One after another, of any lengths.

    Raises
    ------
    InputError
        An id of more than 65,535 bytes.
    """
    length, shared, rest, sizes = _Growing(np.uint16), _Growing(np.uint8), _Growing(np.uint8), [0]

    def add(ids: np.ndarray) -> None:
        for column, values in zip((shared, length, rest), _packed(ids)):
            column.add(values)
        sizes.append(len(rest))

    left = np.zeros(0, "S1")
    for part in parts:
        joined = np.concatenate([left, part]) if len(left) else part
        whole = len(joined) // BLOCK * BLOCK
        for begin in range(0, whole, BLOCK):
            add(joined[begin : begin + BLOCK])
        left = joined[whole:].copy()
    if len(left):
        add(left)
    return PackedIds(shared.array(), length.array(), np.array(sizes, np.int64), rest.array())


class _Growing:
    """An array that parts are added to; never held twice, as a list of parts is that is joined in the end."""

    def __init__(self, dtype: Any) -> None:
        self.held, self.used = np.empty(1 << 16, dtype), 0

    def __len__(self) -> int:
        return self.used

    def add(self, values: np.ndarray) -> None:
        """Add an array behind the others."""
        if (end := self.used + len(values)) > len(self.held):
            self.held.resize(max(end, len(self.held) * 9 // 8), refcheck=False)  # in place, where the system can
        self.held[self.used : end] = values
        self.used = end

    def array(self) -> np.ndarray:
        """What was added, once no more is to be."""
        self.held.resize(self.used, refcheck=False)
        return self.held


def taken(ids: np.ndarray | PackedIds, rows: np.ndarray) -> np.ndarray | PackedIds:
    """The ids of some rows, (k,) int or a mask: an array, or packed where there are more than `LARGE`."""
    rows = np.flatnonzero(rows) if rows.dtype == bool else rows
    if len(rows) <= LARGE:
        return np.asarray(ids[rows])
    return pack(ids[rows[begin : begin + _STEP]] for begin in range(0, len(rows), _STEP))


def joined(first: np.ndarray | PackedIds, second: np.ndarray | PackedIds, order: np.ndarray) -> np.ndarray | PackedIds:
    """Two columns one after the other, in another order: an array, or packed where there are more than `LARGE`.

    Parameters
    ----------
    order : (k,) int64
        Rows of the two together: all or some.
    """
    both = np.promote_types(first.dtype, second.dtype)

    def part(rows: np.ndarray) -> np.ndarray:
        found, mine = np.empty(len(rows), both), rows < len(first)
        found[mine], found[~mine] = first[rows[mine]], second[rows[~mine] - len(first)]
        return found

    if len(order) <= LARGE:
        return part(order)
    return pack(part(order[begin : begin + _STEP]) for begin in range(0, len(order), _STEP))


def lengths(ids: np.ndarray | PackedIds) -> np.ndarray:
    """Bytes of each id, (k,) int32 or uint16."""
    if isinstance(ids, PackedIds):
        return np.asarray(ids.length)
    found = np.empty(len(ids), np.int32)
    for begin in range(0, len(ids), _STEP):
        found[begin : begin + _STEP] = np.char.str_len(ids[begin : begin + _STEP])
    return found


def _packed(ids: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Shared bytes, lengths and other bytes of the ids of one block."""
    ids = np.ascontiguousarray(ids)
    length = np.char.str_len(ids).astype(np.int32)
    if length.max() > _LONGEST:
        raise InputError(f"an id of {int(length.max())} bytes: at most {_LONGEST} can be stored")
    table = ids.view(np.uint8).reshape(len(ids), ids.dtype.itemsize)[:, : max(1, int(length.max()))]
    shared = np.zeros(len(ids), np.int32)
    differs = table[1:] != table[:-1]
    # Ids that are equal differ nowhere: then all bytes are shared.
    shared[1:] = np.where(differs.any(axis=1), differs.argmax(axis=1), table.shape[1])
    shared[1:] = np.minimum(np.minimum(shared[1:], _SHARED), np.minimum(length[1:], length[:-1]))
    column = np.arange(table.shape[1])
    rest = table[(column >= shared[:, None]) & (column < length[:, None])]
    return shared.astype(np.uint8), length.astype(np.uint16), rest
