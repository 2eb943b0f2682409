"""Images are asked for before their turn: one by one in random order, whole pages where many of a page come soon."""

import ctypes
import doctest
import mmap
import os
import time

import numpy as np

from prune.data import read_ahead

PAGE = 1 << 21


def resident(data: np.ndarray) -> float:
    """Share of a mapped file that is in memory."""
    count = -(-len(data) // mmap.PAGESIZE)
    found = (ctypes.c_ubyte * count)()
    call = ctypes.CDLL(None).mincore
    call.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p)
    assert call(data.ctypes.data, len(data), ctypes.addressof(found)) == 0
    return sum(one & 1 for one in found) / count


def test_the_examples_hold():
    assert doctest.testmod(read_ahead).failed == 0


def test_sparse_images_are_asked_for_alone_and_dense_ones_with_their_pages():
    draw = np.random.default_rng(0)
    sparse = draw.permutation(1000)[:50] * PAGE + 70
    parts = read_ahead.runs(sparse, np.full(50, 1000), PAGE)
    assert int((parts[:, 1] - parts[:, 0]).sum()) == 50 * 1000
    dense = np.concatenate([page * PAGE + np.arange(0, PAGE, PAGE // 4) for page in (9, 3, 4)])
    parts = read_ahead.runs(draw.permutation(dense), np.full(12, 100), PAGE)
    assert parts.tolist() == [[3 * PAGE, 5 * PAGE], [9 * PAGE, 10 * PAGE]]
    assert read_ahead.runs(dense[:0], dense[:0], PAGE).shape == (0, 2)


def test_what_is_asked_for_comes_into_memory_without_being_touched(tmp_path):
    place = tmp_path / "file"
    place.write_bytes(bytes(4 * PAGE))
    with open(place, "r+b") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)  # as good as cold
    data = np.memmap(place, np.uint8, "r")
    read_ahead.will_need(data, np.array([[5, 2 * PAGE], [3 * PAGE, 9 * PAGE]]))  # beyond the end: to the end
    deadline = time.monotonic() + 30
    while resident(data) < 0.75 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert resident(data) >= 0.75
