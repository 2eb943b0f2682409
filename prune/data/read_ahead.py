"""Ask the system to read parts of a mapped beton before they are needed: a cold page would stop a decoder for as long.

Images that come in random order are asked for one by one. Where several of a beton's pages' images come soon, as in
`--order block`, the whole page is asked for, which a disk or a shared file system reads in one run.
"""

from __future__ import annotations

import ctypes
import mmap

import numpy as np

DENSE = 2.0
"""Images that come soon for each page that they lie in, from which whole pages are asked for."""
_GAP = 1 << 17
_call = ctypes.CDLL(None).madvise
_call.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


def runs(pointers: np.ndarray, sizes: np.ndarray, page_size: int) -> np.ndarray:
    """The parts of a file to ask for.

    Parameters
    ----------
    pointers, sizes : (k,) int64
        Where the images that come soon begin, and their bytes.
    page_size : int
        Of the beton.

    Returns
    -------
    (r, 2) int64
        Begin and end, ascending, without overlap.

    Examples
    --------
    >>> runs(np.array([0, 9_000_000]), np.array([1000, 1000]), 1 << 23).tolist()
    [[0, 1000], [9000000, 9001000]]
    >>> runs(np.array([0, 500, 4000, 9_000_000]), np.array([400, 400, 400, 400]), 1 << 23).tolist()
    [[0, 16777216]]
    """
    if not len(pointers):
        return np.empty((0, 2), np.int64)
    pages = np.unique(pointers // page_size)
    if len(pointers) >= DENSE * len(pages):
        begins, ends = pages * page_size, (pages + 1) * page_size
    else:
        order = np.argsort(pointers)
        begins, ends = pointers[order], (pointers + sizes)[order]
    first = np.flatnonzero(np.concatenate([[True], begins[1:] > ends[:-1] + _GAP]))
    return np.stack([begins[first], np.append(ends[first[1:] - 1], ends[-1])], axis=1)


def will_need(data: np.ndarray, parts: np.ndarray) -> None:
    """Ask for these parts, (r, 2) int64, of a mapped file, (bytes,) uint8; returns at once.

    It is advice: what the system refuses is read when it is needed.
    """
    base, size = data.ctypes.data, len(data)
    for begin, end in parts.tolist():
        begin -= (base + begin) % mmap.PAGESIZE
        _call(base + begin, min(end, size) - begin, mmap.MADV_WILLNEED)
