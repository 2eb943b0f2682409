"""Read the rows of large arrays block by block, without mapping whole files into memory."""

from __future__ import annotations

import errno
import functools
import mmap
import os
from collections.abc import Iterator

import numpy as np

from prune.index.joined_rows import JoinedRows
from prune.scores.quantised_rows import QuantisedRows

ROWS = 1024
"""Rows read at a time: their features stay in a core's cache while they are used."""
_GAP = 1 << 14
"""Bytes between two rows that are read along with them: faster than another call."""
_SPAN = 1 << 22
"""Bytes that are read at once, at most, where rows between the wanted ones are read along."""


def as_float16(array: np.ndarray) -> np.ndarray:
    """A float16 copy. Values beyond its largest, 65,504, become that value with their sign."""
    found = np.empty(np.shape(array), np.float16)
    for rows in blocks(len(found), 8192):
        found[rows] = np.clip(array[rows], -65504, 65504)
    return found


def blocks(n: int, rows: int = ROWS) -> Iterator[slice]:
    """Cut range(n) into slices of at most `rows`."""
    for begin in range(0, n, rows):
        yield slice(begin, min(n, begin + rows))


def read_rows(array: np.ndarray, rows: slice) -> np.ndarray:
    """Read consecutive rows of an array, which may be a memory-mapped file.

    A mapped file is read with file operations: the pages that a map touches count as this process's memory until the
    kernel reclaims them, and a source of 14 million images has more of them than a machine has memory.
    """
    if isinstance(array, (JoinedRows, QuantisedRows)):
        return array.read(rows, _read)
    if (mapped := _mapped(array)) is None:
        return np.asarray(array[rows])
    name, place = mapped
    block = array[rows]
    at = place + (block.__array_interface__["data"][0] - array.__array_interface__["data"][0])
    return np.fromfile(name, array.dtype, block.size, offset=at).reshape(block.shape)


def read_scattered(array: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Read some rows, (k,) int, of an array, which may be a memory-mapped file; in ascending order they come fastest.

    With file operations, as `read_rows`: for one row that a map touches, the kernel maps the fifteen pages around it,
    too, and ten thousand rows of a large file become gigabytes of this process.
    """
    if isinstance(array, (JoinedRows, QuantisedRows)):
        return array.read(rows, _read)
    if (mapped := _mapped(array)) is None or not len(rows):
        return np.asarray(array[rows])
    name, place = mapped
    found = np.empty((len(rows), *array.shape[1:]), array.dtype)
    step, flat = array.strides[0], found.reshape(len(rows), -1).view(np.uint8)
    # Consecutive rows are read at once, and so are those with few bytes between them.
    rows = np.asarray(rows, np.int64)
    ahead, span = np.diff(rows), rows * step // _SPAN
    near = (ahead > 0) & ((ahead - 1) * step <= _GAP) & (span[1:] == span[:-1])
    ends = np.append(np.flatnonzero(~(near | (ahead == 1))) + 1, len(rows))
    descriptor = os.open(name, os.O_RDONLY)
    try:
        begin = 0
        for end in ends.tolist():
            first, many = int(rows[begin]), int(rows[end - 1]) - int(rows[begin]) + 1
            into = flat[begin:end] if many == end - begin else np.empty((many, flat.shape[1]), np.uint8)
            _fill(descriptor, into.reshape(-1), place + step * first)
            if many > end - begin:
                flat[begin:end] = into[rows[begin:end] - first]
            begin = end
    finally:
        os.close(descriptor)
    return found


def _read(array: np.ndarray, rows: slice | np.ndarray) -> np.ndarray:
    return read_rows(array, rows) if isinstance(rows, slice) else read_scattered(array, rows)


def _mapped(array: np.ndarray) -> tuple[str, int] | None:
    """The file of a mapped array, and where its rows begin; None for an array that has to be read by its own means."""
    if not isinstance(array, np.memmap) or not array.flags.c_contiguous or array.ndim == 0 or not array.size:
        return None
    mapped: mmap.mmap = array._mmap  # type: ignore[attr-defined]
    begin = np.frombuffer(mapped, np.uint8).__array_interface__["data"][0]
    # A view keeps the offset of the map that it was cut from, so its place in the file follows from its address.
    start: int = array.offset - array.offset % mmap.ALLOCATIONGRANULARITY
    return str(array.filename), start + int(array.__array_interface__["data"][0]) - int(begin)


def _fill(descriptor: int, into: np.ndarray, at: int) -> None:
    """Read bytes of a file from a place on; `OSError` where the file ends before."""
    done = 0
    while done < len(into):
        got = os.preadv(descriptor, [into[done:].data], at + done)
        if got == 0:
            raise OSError(errno.EIO, "the file has become shorter")
        done += got


@functools.cache
def _float32_of_float16() -> np.ndarray:
    return np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)


def widen(array: np.ndarray) -> np.ndarray:
    """A float32 copy; float16 by a table of all 65,536 values, in half the time of NumPy's conversion."""
    if array.dtype != np.float16:
        return array.astype(np.float32)
    found = np.empty(array.shape, np.float32)
    np.take(_float32_of_float16(), array.view(np.uint16), out=found, mode="clip")
    return found


def release_pages(array: np.ndarray) -> None:
    """Return the memory of a map's pages that scattered reads have touched."""
    if isinstance(array, np.memmap):
        array._mmap.madvise(mmap.MADV_DONTNEED)  # type: ignore[attr-defined]
