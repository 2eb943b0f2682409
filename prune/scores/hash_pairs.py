"""Near-duplicates by perceptual hash: pairs of images whose hashes differ in few bits, found without comparing all.

    pairs = hash_pairs(hashes)             # (m, 2) rows, each pair once
    found = one_original(pairs, n, keys)   # row of the original for each copy

faiss compares the hashes bit-parallel: all of them up to 200,000, and from there on those of an inverted file's nearest
lists. Each image asks with the hashes of its variants (`prune.data.perceptual_hash`) for plain hashes of others.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import faiss
import numpy as np

from prune.runs.progress import track

RADIUS = 10
"""Most bits in which the hashes of copies differ, of 64."""
CROWD = 5
"""An image with more partners than this is one of a kind of which many share a hash (digits, glyphs): see `crowded`."""
EXACT = 200_000
"""Hashes up to this number are compared with all others."""
_PROBES = 32
"""Lists of the inverted file that a hash is compared with."""
_ROWS = 4096


def hash_pairs(hashes: np.ndarray, radius: int = RADIUS) -> np.ndarray:
    """Pairs of images of which one has a variant whose hash is near the other's, (m, 2) int64, each once, ascending.

    Images with equal plain hashes are joined to the first of them alone, so that thousands of one placeholder image do
    not make millions of pairs.

    Parameters
    ----------
    hashes : (n, v) uint64
        Column 0 is the image's own hash, the others are those of its variants.
    radius : int

    Examples
    --------
    >>> hash_pairs(np.array([[0b0000], [0b0001], [0xFFFF]], np.uint64), radius=1).tolist()
    [[0, 1]]
    """
    n = len(hashes)
    plain, first, same = np.unique(hashes[:, 0], return_index=True, return_inverse=True)
    repeated = np.flatnonzero(first[same] != np.arange(n))
    parts = [np.stack([first[same[repeated]], repeated], axis=1)]
    if len(plain):
        index = _index(plain)
        for column in range(hashes.shape[1]):
            asked = hashes[first, column] if column == 0 else hashes[:, column]
            rows = first if column == 0 else np.arange(n)
            for begin, of, found in _near(index, asked, radius):
                parts.append(np.stack([rows[begin + of], first[found]], axis=1))
    pairs = np.sort(np.concatenate(parts).astype(np.int64), axis=1)
    return np.unique(pairs[pairs[:, 0] != pairs[:, 1]], axis=0)


def _index(plain: np.ndarray) -> Any:
    codes = _codes(plain)
    if len(plain) <= EXACT:
        index: Any = faiss.IndexBinaryFlat(64)
    else:
        lists = int(4 * np.sqrt(len(plain)))
        index = faiss.IndexBinaryIVF(faiss.IndexBinaryFlat(64), 64, lists)
        index.nprobe = _PROBES
        index.cp.max_points_per_centroid = 64
        index.train(codes[:: max(1, len(codes) // (64 * lists))])
    index.add(codes)
    return index


def _near(index: Any, asked: np.ndarray, radius: int) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Blocks of (first row asked, row within the block, row found)."""
    for begin in track(range(0, len(asked), _ROWS), -(-len(asked) // _ROWS), "hashes"):
        block = _codes(asked[begin : begin + _ROWS])
        ends, _, found = index.range_search(block, radius + 1)  # faiss returns distances below the radius
        of = np.repeat(np.arange(len(block)), np.diff(ends.astype(np.int64)))
        yield begin, of, found.astype(np.int64)


def _codes(hashes: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(hashes.astype(">u8")).view(np.uint8).reshape(-1, 8)


def crowded(pairs: np.ndarray, n: int) -> np.ndarray:
    """Which pairs have an image with more than `CROWD` partners on either side, (m,) bool.

    There the hash does not tell copies from images of one kind, and only nearly equal images are copies.
    """
    partners = np.bincount(pairs.reshape(-1), minlength=n)
    return np.asarray((partners[pairs] > CROWD).any(axis=1))


def one_original(pairs: np.ndarray, n: int, keys: np.ndarray) -> np.ndarray:
    """Row of each copy's original, (n,) int64, -1 for originals and images without a copy.

    Images are taken in the order of their keys: one that is no copy yet is an original, and its partners that are
    neither become its copies. Originals are copies of nothing, so there are no chains.

    Parameters
    ----------
    pairs : (m, 2) int
        Pairs of copies.
    n : int
        Images.
    keys : (n,) uint64

    Examples
    --------
    >>> one_original(np.array([[0, 1], [1, 2]]), 4, np.array([3, 1, 2, 0], np.uint64)).tolist()
    [1, -1, 1, -1]
    """
    found = np.full(n, -1, np.int64)
    if not len(pairs):
        return found
    both = np.concatenate([pairs, pairs[:, ::-1]])
    both = both[np.lexsort((keys[both[:, 1]], both[:, 0]))]
    rows, starts = np.unique(both[:, 0], return_index=True)
    ends = np.r_[starts[1:], len(both)]
    original = np.zeros(n, bool)
    for at in np.argsort(keys[rows], kind="stable").tolist():
        row = int(rows[at])
        if found[row] >= 0:
            continue
        original[row] = True
        partners = both[starts[at] : ends[at], 1]
        free = partners[(found[partners] < 0) & ~original[partners]]
        found[free] = row
    return found
