"""Ranks: which samples fill a class's quota.

Most rules are a sort key per sample, smallest first (`by_key`). Here and in the neighbours, ties go to the lower row:
`prune.methods.choose` puts the rows in an order drawn from seed and ids first. NaN comes last. Stratified and weighted
draws are in `prune.methods.sampling`, rules on features in `prune.methods.coverage`.
"""

from __future__ import annotations

import numpy as np


def top_key(score: np.ndarray) -> np.ndarray:
    """Largest scores first; NaN last."""
    return _last(-np.asarray(score, np.float32))


def bottom_key(score: np.ndarray) -> np.ndarray:
    """Smallest scores first; NaN last."""
    return _last(np.asarray(score, np.float32))


def middle_key(score: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Samples nearest to the median rank of their group first, (n,) float32: nested windows around the median.

    Parameters
    ----------
    score : (n,) float
    groups : (n,) int
        Class of every sample (zeros for one group over all).
    """
    place, size = places(bottom_key(score), groups)
    return np.abs(place - (size - 1) / 2.0).astype(np.float32)


def _last(key: np.ndarray) -> np.ndarray:
    return np.where(np.isnan(key), np.float32(np.inf), key)


def places(key: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Place of every sample in its group's ascending order of the key (from 0), and the group's size; (n,) int64."""
    order, starts, sizes = grouped(key, groups)
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order)) - np.repeat(starts, sizes)
    return place, sizes[groups] if len(groups) else place


_ROWS = 1 << 20


def stable_order(key: np.ndarray) -> np.ndarray:
    """Rows in ascending order of the key, (n,) int64, equal keys in the order of the rows: as a stable sort gives them.

    An unstable sort, which processors do several times faster, and then a sort of the rows whose keys are equal.
    """
    order = np.argsort(key)
    if len(key) < 2 or len(key) >= 1 << 32 or key[order[-1]] != key[order[-1]]:  # NaN is equal to nothing
        return np.argsort(key, kind="stable")
    begins = np.ones(len(key) + 1, bool)  # where another key than the one before it begins
    for first in range(0, len(key), _ROWS):
        part = key[order[first : first + _ROWS + 1]]
        begins[first + 1 : first + len(part)] = part[1:] != part[:-1]
    at = np.flatnonzero(~(begins[1:] & begins[:-1]))
    if len(at):
        run = np.cumsum(begins[at]).astype(np.uint64) << np.uint64(32)
        order[at] = np.sort(run | order[at].astype(np.uint64)) & np.uint64(0xFFFFFFFF)
    return order


def grouped(key: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows sorted by (group, key, row), and the start and size of every group in that order."""
    groups = np.asarray(groups)
    order = stable_order(key)
    small = groups.astype(np.uint16) if len(groups) and groups.max() < 1 << 16 else groups  # 16 bits sort by radix
    order = order[np.argsort(small[order], kind="stable")]
    sizes = np.bincount(groups, minlength=1)
    return order, np.cumsum(sizes) - sizes, sizes


def by_key(key: np.ndarray, groups: np.ndarray, quotas: np.ndarray) -> np.ndarray:
    """Mark the `quotas[g]` samples with the smallest keys in every group g.

    Parameters
    ----------
    key : (n,) float
        No NaN. Samples with key +inf come last.
    groups : (n,) int in [0, c)
    quotas : (c,) int
        At most the size of the group.

    Returns
    -------
    (n,) bool
        `quotas.sum()` of them True. Ties go to the lower row.

    Examples
    --------
    >>> by_key(np.array([.9, .1, .5]), np.array([0, 0, 1]), np.array([1, 1]))
    array([False,  True,  True])
    """
    place, _ = places(key, groups)
    found: np.ndarray = place < np.asarray(quotas, np.int64)[groups]
    return found


def threshold_quotas(key: np.ndarray, groups: np.ndarray, budget: int, floors: np.ndarray) -> np.ndarray:
    """Quotas of one threshold over all samples: every group's floor first, then the smallest keys of all.

    Parameters
    ----------
    key : (n,) float
    groups : (n,) int in [0, c)
    budget : int
        At least `floors.sum()`.
    floors : (c,) int
        At most the size of the group.

    Returns
    -------
    (c,) int64
    """
    floors = np.asarray(floors, np.int64)
    first = by_key(key, groups, floors) if floors.any() else np.zeros(len(key), bool)
    rest = np.flatnonzero(~first)
    rest = rest[np.argsort(key[rest], kind="stable")[: budget - int(floors.sum())]]
    return floors + np.bincount(groups[rest], minlength=len(floors))
