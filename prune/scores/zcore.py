"""ZCore: coverage less redundancy of every image in many two-dimensional views of the features; no label, no training.

Griffin, Marks and Corso, "Zero-Shot Coreset Selection via Iterative Subspace Sampling", arXiv 2411.15349, algorithm 1.
Points are drawn in random views of two features, each from the triangular distribution between the least, the median
and the largest value of its feature. The image nearest to a point covers it and gains 1; the images nearest to that one
are redundant and lose 1 together, in shares that fall with the fourth power of the distance (L1). Best on features of a
foundation model (`prune adopt`); the largest scores are kept.

Written for millions of images, and for a result that does not depend on their order:

- Points are drawn in a few hundred views, many in each, and neighbours found by a k-d tree; the paper searches all
  images for each of a million points, each in a view of its own.
- The 32 nearest images share a loss, not 1,000: with the fourth power the others get some 2 % of it.
- Images at one and the same place of a view (features that are 0 in both, say) gain nothing there. In the paper one of
  them gains 1 and another loses 1, which is 0 for each on average.
"""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

from prune.runs.cores import in_order
from prune.runs.files import InputError
from prune.runs.progress import track
from prune.scores.sample_keys import for_purpose, sample_keys, uniform
from prune.scores.streaming import blocks, read_rows

POINTS = 1_000_000
"""Points drawn in all, as in the paper."""
VIEWS = 128
NEIGHBOURS = 32
EXPONENT = 4
_HELD = 1 << 30
"""Bytes of feature columns that are held at a time."""


def zcore(
    features: np.ndarray,
    *,
    seed: int = 0,
    keys: np.ndarray | None = None,
    points: int = POINTS,
    views: int = VIEWS,
    workers: int | None = None,
) -> np.ndarray:
    """ZCore's score of every image, (n,) float32 in [0, 1], the largest the most useful; NaN without features.

    Parameters
    ----------
    features : (n, d) float
        May be memory-mapped; compared as half floats.
    seed : int
    keys : (n,) uint64, optional
        Of `prune.scores.sample_keys`, from which scores start at random in [0, 1) as in the paper; from the row numbers
        when absent.
    points, views : int
        Points drawn in all, and the views among which they are shared.
    workers : int, optional
        Threads. The result does not depend on them.

    Raises
    ------
    InputError
        Fewer than two features that differ between images.
    """
    n = len(features)
    keys = sample_keys(seed, n=n) if keys is None else keys
    low, high, known = _ranges(features)
    live = np.flatnonzero(high > low)
    if len(live) < 2:
        raise InputError("ZCore needs at least two features that differ between images")
    rng = np.random.default_rng(seed)
    pairs = np.stack([rng.choice(live, 2, replace=False) for _ in range(views)])
    seeds = rng.integers(0, 2**63, views)
    each = -(-points // views)
    score = uniform(for_purpose(keys, "zcore"))
    rows = np.flatnonzero(known)
    width = max(1, _HELD // max(1, 4 * len(rows)))  # views whose columns are held at a time

    def work(given: tuple[np.ndarray, int]) -> np.ndarray:
        return _gains(given[0], each, np.random.default_rng(given[1]))

    for part in blocks(views, width):
        columns = _columns(features, pairs[part].reshape(-1), known)
        tasks = ((columns[2 * view : 2 * view + 2], int(number)) for view, number in enumerate(seeds[part]))
        for gains in track(in_order(work, tasks, workers, ahead=1), part.stop - part.start, "zcore"):
            score[rows] += gains
    inside = score[known]
    score = (score - inside.min()) / max(float(np.ptp(inside)), np.finfo(float).tiny)
    score[~known] = np.nan
    return np.asarray(score.astype(np.float32))


def _gains(columns: np.ndarray, points: int, rng: np.random.Generator) -> np.ndarray:
    """Coverage less redundancy of every image in one view, (2, n) float16 to (n,) float64."""
    code = columns[0].view(np.uint16).astype(np.uint32) << 16 | columns[1].view(np.uint16)
    places, number, count = np.unique(code, return_inverse=True, return_counts=True)
    at = np.stack(
        [(places >> 16).astype(np.uint16).view(np.float16), places.astype(np.uint16).view(np.float16)], axis=1
    )
    at = at.astype(np.float64)
    tree = cKDTree(at, balanced_tree=False, compact_nodes=False)
    middles = [np.median(column.astype(np.float32)) for column in columns]
    drawn = np.stack(
        [rng.triangular(low, middle, high, points) for low, middle, high in zip(at.min(0), middles, at.max(0))], axis=1
    )
    hit = tree.query(drawn, p=1)[1]
    hit, times = np.unique(hit[count[hit] == 1], return_counts=True)
    gain = np.bincount(hit, times, minlength=len(places))
    if len(places) > 1 and len(hit):
        distance, near = tree.query(at[hit], k=min(NEIGHBOURS + 1, len(places)), p=1)
        distance, near = distance[:, 1:], near[:, 1:]  # the first is the place itself
        # Relative distances: the fourth power of a small one is not a number that can be divided by.
        weight = count[near] * (distance[:, :1] / distance) ** EXPONENT
        weight *= (times / weight.sum(axis=1))[:, None]
        gain -= np.bincount(near.reshape(-1), weight.reshape(-1), minlength=len(places))
    return np.asarray((gain / count)[number])


def _ranges(features: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Least and largest value of each feature, (d,) each, and whether each image has finite features, (n,) bool."""
    low, high = np.full(features.shape[1], np.inf), np.full(features.shape[1], -np.inf)
    known = np.empty(len(features), bool)
    for rows in blocks(len(features)):
        x = read_rows(features, rows)
        known[rows] = np.isfinite(x).all(axis=1)
        if known[rows].any():
            inside = x[known[rows]]
            low, high = np.minimum(low, inside.min(axis=0)), np.maximum(high, inside.max(axis=0))
    return low, high, known


def _columns(features: np.ndarray, which: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Some features of the images that have any, (k, m) float16; zeros of either sign become one."""
    found = np.empty((len(which), int(known.sum())), np.float16)
    begin = 0
    for rows in blocks(len(features)):
        block = read_rows(features, rows)[known[rows]][:, which]
        found[:, begin : begin + len(block)] = np.clip(block, -65504, 65504).T + 0.0
        begin += len(block)
    return found
