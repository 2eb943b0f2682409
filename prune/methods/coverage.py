"""Ranks on features that cover a class: greedy rules on the samples of one class at a time."""

from __future__ import annotations

import heapq
from typing import Any

import faiss
import numpy as np

from prune.methods.rank import places
from prune.runs.progress import track
from prune.scores.clusters import gather, unit

RULES = ("k-center", "herding", "facility-location", "d2")
NEIGHBOURS = 10
_DENSE = 8192
"""Classes up to this size get a table of all inner products; larger ones do without."""


class _Products:
    """Inner products of a block's rows with one row at a time, from a table where many are needed."""

    def __init__(self, x: np.ndarray, picks: int) -> None:
        self._x = x
        # The table is one fast matrix product. Without it each row takes a pass over memory, some 32 times slower.
        self._table = x @ x.T if len(x) <= _DENSE and picks * 32 > len(x) else None

    def __call__(self, row: int) -> np.ndarray:
        return np.asarray(self._x @ self._x[row] if self._table is None else self._table[row])


def k_center(x: np.ndarray, k: int) -> np.ndarray:
    """k-center greedy: from the row nearest the mean, always the row farthest from those chosen. (k,) int64.

    Sener and Savarese, "Active Learning for Convolutional Neural Networks: A Core-Set Approach", ICLR 2018,
    algorithm 1: at most twice the best covering radius. Equal distances: the lower row.

    Parameters
    ----------
    x : (n, d) float32
    k : int
        At most n.
    """
    x = x - x.mean(axis=0)
    square = np.einsum("ij,ij->i", x, x)
    products = _Products(x, k)
    picks = np.empty(k, np.int64)
    distance = np.full(len(x), np.inf, np.float32)
    for step in range(k):
        pick = int(distance.argmax()) if step else int(square.argmin())
        picks[step] = pick
        np.minimum(distance, square + square[pick] - 2.0 * products(pick), out=distance)
        distance[pick] = -np.inf
    return picks


def herding(x: np.ndarray, k: int) -> np.ndarray:
    """Herding: each pick moves the mean of those chosen nearest to the mean of all. (k,) int64.

    Welling, "Herding Dynamical Weights to Learn", ICML 2009, in the form of Rebuffi et al. (iCaRL), CVPR 2017,
    algorithm 4, without repeats. Equal distances: the lower row.

    Parameters
    ----------
    x : (n, d) float32
    k : int
        At most n.
    """
    x = x - x.mean(axis=0)  # the mean of all is then zero
    square = np.einsum("ij,ij->i", x, x)
    products = _Products(x, k)
    picks = np.empty(k, np.int64)
    # || sum + x ||^2 without the term that is the same for every x
    cost = square.copy()
    for step in range(k):
        pick = int(cost.argmin())
        picks[step] = pick
        cost += 2.0 * products(pick)
        cost[pick] = np.inf
    return picks


def facility_location(x: np.ndarray, k: int, neighbours: int = 256) -> np.ndarray:
    """Facility location: greedily the largest gain in the sum over all rows of the best cosine to a pick. (k,) int64.

    Mirzasoleiman, Bilmes and Leskovec, "Coresets for Data-efficient Training of Machine Learning Models" (CRAIG), ICML
    2020, equation 11, by Minoux's lazy greedy. Cosines below 0 count as 0. In classes of more than 8,192 samples a
    row covers only its 256 nearest. Equal gains: the lower row.

    Parameters
    ----------
    x : (n, d) float32
    k : int
        At most n.
    """
    x = unit(x)
    covered: np.ndarray | None = None
    if len(x) <= _DENSE:
        likeness = np.maximum(x @ x.T, 0.0)
    else:
        square, covered = knn(x, neighbours - 1)
        covered = np.c_[np.arange(len(x)), covered]
        likeness = np.maximum(1.0 - np.c_[np.zeros(len(x), np.float32), square] / 2.0, 0.0)
    best = np.zeros(len(x), np.float32)

    def gain(row: int) -> float:
        have = best if covered is None else best[covered[row]]
        # Two rows that cover only each other gain the same: rounding errors must not decide between them.
        return round(float(np.maximum(likeness[row] - have, 0.0).sum(dtype=np.float64)), 4)

    heap = [(-gain(row), row) for row in range(len(x))]
    heapq.heapify(heap)
    picks = np.empty(k, np.int64)
    for step in range(k):
        while True:
            _, row = heapq.heappop(heap)
            now = gain(row)
            if not heap or (-now, row) <= heap[0]:
                break
            heapq.heappush(heap, (-now, row))
        picks[step] = row
        where = slice(None) if covered is None else covered[row]
        best[where] = np.maximum(best[where], likeness[row])
    return picks


def knn(x: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Nearest neighbours of every row among the others: squared distances (n, k) float32 and rows (n, k) int64.

    Exact up to 50,000 rows; beyond, by an inverted file (faiss IVF, 32 probes).
    """
    n, d = x.shape
    k = min(k, n - 1)
    x = np.ascontiguousarray(x, np.float32)
    if n <= 50_000:
        index: Any = faiss.IndexFlatL2(d)
    else:
        lists = int(np.sqrt(n))
        index = faiss.IndexIVFFlat(faiss.IndexFlatL2(d), d, lists)
        index.cp.min_points_per_centroid, index.cp.max_points_per_centroid = 1, 64
        index.train(x)
        index.nprobe = 32
    index.add(x)
    square, rows = index.search(x, k + 1)
    # Among equal rows faiss may return another one before the row itself: remove the row wherever it is.
    own = rows == np.arange(n)[:, None]
    own[~own.any(axis=1), -1] = True
    return square[~own].reshape(n, k), rows[~own].reshape(n, k)


def d2(x: np.ndarray, score: np.ndarray, k: int, neighbours: int = NEIGHBOURS, gamma: float = 1.0) -> np.ndarray:
    """D2 pruning: difficulty spread over a k-NN graph; each pick lowers the value of its neighbours. (k,) int64.

    Maharana, Yadav and Bansal, "D2 Pruning: Message Passing for Balancing Diversity and Difficulty in Data Pruning",
    ICLR 2024, section 3. Forward: a node's value is its own score plus its neighbours' scores times exp(-gamma d).
    Reverse: after each pick its neighbours lose exp(-gamma d) times the pick's value. Distances d are in units of the
    mean distance between neighbours, so that gamma means the same for every surrogate. Equal values: the lower row.

    Where the authors' code differs: it uses raw distances, and gamma in the reverse pass alone. It also subtracts
    values that have become negative, so that a late pick raises its neighbours and the next picks crowd around it; here
    a pick with a negative value takes nothing from its neighbours.

    Parameters
    ----------
    x : (n, d) float32
    score : (n,) float
        Not negative; the larger, the harder.
    k : int
        At most n.
    neighbours : int
    gamma : float
        Of both directions.
    """
    n = len(x)
    if n < 2:
        return np.arange(k)
    square, near = knn(x, neighbours)
    distance = np.sqrt(np.maximum(square, 0.0))
    weight = np.exp(-gamma * distance / (float(distance.mean()) or 1.0)).astype(np.float64)
    # The graph is undirected: an edge counts for both ends, whichever of them found the other.
    rows, cols = np.repeat(np.arange(n), near.shape[1]), near.reshape(-1)
    edges = np.stack([np.r_[rows, cols], np.r_[cols, rows]])
    _, once = np.unique(edges[0] * n + edges[1], return_index=True)
    start, end = edges[:, once]
    strength = np.r_[weight.reshape(-1), weight.reshape(-1)][once]
    starts = np.searchsorted(start, np.arange(n + 1))
    value = score + np.bincount(start, strength * score[end], minlength=n)
    picks = np.empty(k, np.int64)
    # Values only fall: the first entry of the heap that is up to date is the largest value of all.
    heap = list(zip((-value).tolist(), range(n)))
    heapq.heapify(heap)
    for step in range(k):
        while -heap[0][0] != value[heap[0][1]]:
            heapq.heapreplace(heap, (-value[heap[0][1]], heap[0][1]))
        pick = heapq.heappop(heap)[1]
        picks[step] = pick
        if value[pick] > 0:
            around = slice(starts[pick], starts[pick + 1])
            value[end[around]] -= strength[around] * value[pick]
    return picks


def coverage_places(
    rule: str,
    features: np.ndarray,
    rows: np.ndarray,
    groups: np.ndarray,
    quotas: np.ndarray,
    hardness: np.ndarray | None = None,
    held: np.ndarray | None = None,
) -> np.ndarray:
    """Apply a rule inside every group; (n,) int64, the order of taking, those below the quota being chosen.

    Parameters
    ----------
    rule : one of `RULES`
    features : (m, d) float
        May be memory-mapped; one group at a time is read.
    rows : (n,) int64
        The samples' rows of the features, in any order; that of the samples decides ties.
    groups : (n,) int in [0, c)
    quotas : (c,) int
    hardness : (n,) float, optional
        For "d2": the larger, the harder. Scaled to [0, 1] in each group; NaN counts as 0.
    held : (m,) int64, optional
        What `rows` calls each row of `features`, ascending; its number when absent. Samples that are not among them
        have no features, and come after all others of their group.
    """
    if held is not None:
        return _places_of_a_part(rule, features, rows, groups, quotas, hardness, held)
    order = np.argsort(groups, kind="stable")
    ends = np.cumsum(np.bincount(groups, minlength=len(quotas)))
    place = np.empty(len(rows), np.int64)
    for k, end, size in track(zip(quotas, ends, np.diff(ends, prepend=0)), len(ends), rule):
        inside = order[end - size : end]
        if 0 < k < size:
            ascending = np.argsort(rows[inside])  # a file is read forwards
            x = np.empty((size, features.shape[1]), np.float32)
            x[ascending] = gather(features, rows[inside][ascending])
            if rule == "d2":
                assert hardness is not None
                picks = d2(x, _scaled(hardness[inside]), int(k))
            else:
                picks = {"k-center": k_center, "herding": herding, "facility-location": facility_location}[rule](
                    x, int(k)
                )
            rest = np.setdiff1d(np.arange(size), picks)
            inside = inside[np.r_[picks, rest]]
        place[inside] = np.arange(size)
    return place


def _places_of_a_part(
    rule: str,
    features: np.ndarray,
    rows: np.ndarray,
    groups: np.ndarray,
    quotas: np.ndarray,
    hardness: np.ndarray | None,
    held: np.ndarray,
) -> np.ndarray:
    """`coverage_places` where some samples have no features: the rule orders the others, and these follow."""
    at = np.minimum(np.searchsorted(held, rows), len(held) - 1)
    known = held[at] == rows
    sizes = np.bincount(groups[known], minlength=len(quotas))
    place = np.empty(len(rows), np.int64)
    place[known] = coverage_places(
        rule,
        features,
        at[known],
        groups[known],
        np.minimum(quotas, sizes),
        None if hardness is None else hardness[known],
    )
    last = groups[~known]
    place[~known] = sizes[last] + places(np.arange(len(last)), last)[0]
    return place


def _scaled(values: np.ndarray) -> np.ndarray:
    values = np.asarray(values, np.float64)
    known = np.isfinite(values)
    if not known.any():
        return np.zeros(len(values))
    low, high = values[known].min(), values[known].max()
    return np.asarray(np.clip(np.nan_to_num((values - low) / ((high - low) or 1.0), nan=0.0), 0.0, 1.0))
