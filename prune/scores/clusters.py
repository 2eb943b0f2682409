"""k-means with faiss on a sample of the rows, assignment block by block, and the streaming of features in blocks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import faiss
import numpy as np

from prune.runs.progress import track
from prune.scores.sample_keys import for_purpose, sample_keys
from prune.scores.streaming import ROWS, blocks, read_rows, read_scattered, widen

_STARTS = 16
"""Samples per centre from which k-means++ draws the first centres."""
_CHEAP = 1e10
"""Multiplications of a k-means up to which it is tried several times."""
_TRIES = 3


def stream(features: np.ndarray, what: str) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield (rows, float32 block) over (mapped) features, under a progress bar."""
    n = len(features)
    for rows in track(blocks(n), -(-n // ROWS), what):
        yield rows, widen(read_rows(features, rows))


def unit(x: np.ndarray, centre: np.ndarray | None = None) -> np.ndarray:
    """Rows scaled to length 1, float32, after `centre` is subtracted; a row of zeros stays.

    Pooled features of a ReLU network are all positive, so all their cosines are large; without their mean they spread.
    """
    x = np.asarray(x, np.float32)
    if centre is not None:
        x = x - np.asarray(centre, np.float32)
    norm = np.sqrt(np.einsum("ij,ij->i", x, x))
    return x / np.where(norm > 0, norm, 1.0)[:, None]


def kmeans(
    features: np.ndarray,
    k: int,
    *,
    seed: int = 0,
    keys: np.ndarray | None = None,
    cosine: bool = False,
    centre: np.ndarray | None = None,
    iterations: int = 12,
    per_centre: int = 64,
) -> np.ndarray:
    """k-means centres, (k, d) float32, which do not depend on the order of the rows.

    Computed from `per_centre * k` samples, drawn by their keys, when there are more: centres are means, and means of 64
    samples are as good here as means of 1,000. The first centres are drawn by greedy k-means++ (Arthur and
    Vassilvitskii, SODA 2007). Small problems are solved three times, and the best solution is returned.

    Parameters
    ----------
    features : (n, d) float
        May be memory-mapped.
    k : int
        At most n.
    seed : int
    keys : (n,) uint64, optional
        Of the samples, drawn from the seed and their ids; from their row numbers when absent.
    cosine : bool
        Spherical k-means on rows of length 1.
    centre : (d,) float, optional
        Subtracted first.
    """
    n, d = features.shape
    draw = for_purpose(sample_keys(seed, n=n) if keys is None else keys, "k-means")
    rows = np.argsort(draw, kind="stable")[: per_centre * k]
    sample = np.empty((len(rows), d), np.float32)
    ascending = np.argsort(rows)  # a file is read forwards
    for part in blocks(len(rows)):
        block = gather(features, rows[ascending[part]])
        sample[ascending[part]] = unit(block, centre) if cosine else block - (0 if centre is None else centre)
    if k >= len(sample):
        return sample
    rng = np.random.default_rng(seed)
    tries = _TRIES if float(len(sample)) * k * d * iterations <= _CHEAP else 1
    best, least = sample[:k], np.inf
    for _ in range(tries):
        start = first_centres(sample[: _STARTS * k], k, rng)
        found: Any = faiss.Kmeans(
            d,
            k,
            niter=iterations,
            seed=int(rng.integers(1, 2**31)),
            spherical=cosine,
            min_points_per_centroid=1,
            max_points_per_centroid=per_centre,
        )
        found.train(sample, init_centroids=start)
        loss = float(found.obj[-1]) * (-1 if cosine else 1)  # of cosines, the sum is maximised
        if loss < least:
            best, least = np.array(found.centroids, np.float32), loss
    return best


def first_centres(x: np.ndarray, k: int, rng: np.random.Generator) -> np.ndarray:
    """Centres to start from, (k, d) float32, by greedy k-means++: rows of x, spread out.

    Each centre is the best of 2 + ln k rows drawn in proportion to their squared distance from the centres so far.

    Parameters
    ----------
    x : (n, d) float32
    k : int
        At most n.
    """
    square = np.einsum("ij,ij->i", x, x)
    picks = [int(rng.integers(len(x)))]
    distance = np.maximum(square + square[picks[0]] - 2.0 * (x @ x[picks[0]]), 0.0)
    distance[picks[0]] = 0.0
    for _ in range(k - 1):
        total = np.cumsum(distance, dtype=np.float64)
        if not total[-1] > 0:  # fewer different rows than centres
            picks += np.setdiff1d(np.arange(len(x)), picks)[: k - len(picks)].tolist()
            break
        drawn = np.searchsorted(total, rng.random(2 + int(np.log(k))) * total[-1], side="right")
        drawn = np.minimum(drawn, len(x) - 1)
        nearer = np.maximum(square[:, None] + square[drawn] - 2.0 * (x @ x[drawn].T), 0.0)
        nearer = np.minimum(nearer, distance[:, None])
        choice = int(nearer.sum(axis=0, dtype=np.float64).argmin())
        picks.append(int(drawn[choice]))
        distance = nearer[:, choice]
        distance[picks[-1]] = 0.0
    return np.ascontiguousarray(x[picks])


def gather(features: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Rows of (memory-mapped) features, float32; consecutive rows are read at once."""
    if len(rows) and rows[-1] - rows[0] + 1 == len(rows) and np.all(np.diff(rows) == 1):
        return widen(read_rows(features, slice(int(rows[0]), int(rows[-1]) + 1)))
    return widen(read_scattered(features, rows))


_MARGIN = 1e-5
"""Relative rounding error of a matrix product, generously: centres that near the best one are compared exactly."""
_RIVALS = 16
_MANY = 256
"""Centres from which on faiss proposes the nearest one: in blocks that stay in the cache, in half the time."""


def nearest(block: np.ndarray, centres: np.ndarray, cosine: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Nearest centre of each row: its number (b,) int32, and its cosine or squared distance (b,) float32.

    A matrix product rounds differently with the number of threads and the row's place in the block. It only proposes
    centres; those within its rounding error of the best are compared by sums that depend on the row and the centre
    alone. Equally near centres: the lower number.
    """
    if len(centres) < _MANY or len(block) < 2:
        return _nearest(block, centres, cosine)
    block, centres = np.ascontiguousarray(block, np.float32), np.ascontiguousarray(centres, np.float32)
    metric = faiss.METRIC_INNER_PRODUCT if cosine else faiss.METRIC_L2
    value, number = faiss.knn(block, centres, 2, metric=metric)
    scale: Any = 1.0
    if not cosine:
        scale = np.einsum("ij,ij->i", block, block) + np.einsum("ij,ij->i", centres, centres).max()
    first, rest = number[:, 0].astype(np.int32), np.flatnonzero(~(np.abs(value[:, 1] - value[:, 0]) > _MARGIN * scale))
    apart = centres[first] if cosine else block - centres[first]
    best = np.einsum("ij,ij->i", block if cosine else apart, apart)
    if len(rest):
        first[rest], best[rest] = _nearest(block[rest], centres, cosine)
    return first, best


def _nearest(block: np.ndarray, centres: np.ndarray, cosine: bool) -> tuple[np.ndarray, np.ndarray]:
    """`nearest` by all products at once."""
    products = block @ centres.T
    if cosine:
        scale: np.ndarray | float = 1.0
    else:
        products *= 2.0
        squares = np.einsum("ij,ij->i", centres, centres)
        products -= squares
        scale = np.einsum("ij,ij->i", block, block) + squares.max()
    row, number = np.nonzero(products >= (products.max(axis=1) - _MARGIN * scale)[:, None])
    starts = np.searchsorted(row, np.arange(len(block)))
    few = np.arange(len(row)) - starts[row] < _RIVALS
    row, number = row[few], number[few]
    starts = np.searchsorted(row, np.arange(len(block)))
    if cosine:
        exact = np.einsum("ij,ij->i", block[row], centres[number])
    else:
        apart = block[row] - centres[number]
        exact = -np.einsum("ij,ij->i", apart, apart)
    best = np.maximum.reduceat(exact, starts)
    first = np.minimum.reduceat(np.where(exact == best[row], number, len(centres)), starts)
    return first.astype(np.int32), best if cosine else -best


def rand_index(one: np.ndarray, other: np.ndarray) -> float:
    """Adjusted Rand index of two clusterings (Hubert and Arabie, 1985): 1 when equal, 0 on average by chance.

    Parameters
    ----------
    one, other : (n,) int
    """
    both = one.astype(np.int64) * (int(other.max()) + 1) + other
    pairs = [float((c * (c - 1) / 2).sum()) for c in (np.unique(v, return_counts=True)[1] for v in (both, one, other))]
    chance = pairs[1] * pairs[2] / (len(one) * (len(one) - 1) / 2)
    most = (pairs[1] + pairs[2]) / 2
    return 1.0 if most == chance else (pairs[0] - chance) / (most - chance)
