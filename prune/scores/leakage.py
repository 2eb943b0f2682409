"""Leaks: near-duplicates between the source and a target's test images, found from both sides.

The rule is that of `prune.scores.near_duplicates`: the cosine is large, and the pair is much nearer than the test image
is to its other neighbours in the source.
"""

from __future__ import annotations

import numpy as np

from prune.scores.clusters import gather, stream, unit
from prune.scores.near_duplicates import CERTAIN, NEIGHBOUR, SIMILAR, stands_out
from prune.scores.streaming import blocks

_PAIR = np.dtype([("test", np.int64), ("row", np.int64), ("cosine", np.float32)])


def mean_feature(features: np.ndarray) -> np.ndarray:
    """Mean of (n, d) features, which may be memory-mapped; (d,) float64."""
    total = np.zeros(features.shape[1])
    for _, x in stream(features, "mean feature"):
        total += x.sum(axis=0, dtype=np.float64)
    return total / len(features)


def leaks(
    features: np.ndarray, tests: np.ndarray, centre: np.ndarray, similar: float = SIMILAR, stand_out: bool = True
) -> np.ndarray:
    """Find the source images that nearly duplicate a test image.

    Parameters
    ----------
    features : (n, d) float
        Of the source; may be memory-mapped.
    tests : (m, d) float
        Of a target's test images by the same surrogate.
    centre : (d,) float
        Mean feature of the source.
    similar : float
        Least cosine.
    stand_out : bool
        Whether a pair must also be much nearer than its neighbours.

    Returns
    -------
    (n,) int64
        Row of the test image that a source image nearly duplicates (the most similar one), or -1.
    """
    return _search(features, unit(tests, centre), centre, similar, stand_out)[0]


def both_sides(
    features: np.ndarray, tests: np.ndarray, centre: np.ndarray, similar: float = SIMILAR, stand_out: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """Find the source images that nearly duplicate a test image, and the test images that one nearly duplicates.

    One source image may nearly duplicate several test images, so the first array alone would count too few.

    Returns
    -------
    (n,) int64
        As of `leaks`.
    (m,) int64
        Row of the source image that nearly duplicates a test image (the most similar, then the lower row), or -1.
    """
    ready = unit(tests, centre)
    found, around = _search(features, ready, centre, similar, stand_out)
    of_test, best = np.full(len(ready), -1, np.int64), np.full(len(ready), -np.inf, np.float32)
    leaked = np.flatnonzero(found >= 0)  # all rows of all pairs are among them
    for part in blocks(len(leaked)):
        rows = leaked[part]
        cosines = ready @ unit(gather(features, rows), centre).T
        alike = cosines >= similar
        if stand_out:
            alike &= stands_out(1.0 - cosines, around[:, None], around[:, None], similar)
        alike[found[rows], np.arange(len(rows))] = True  # even where sums in another order round below the threshold
        cosines = np.where(alike, cosines, -np.inf)
        first = cosines.argmax(axis=1)
        cosine = cosines[np.arange(len(ready)), first]
        of_test = np.where(cosine > best, rows[first], of_test)
        best = np.maximum(best, cosine)
    return found, of_test


def _search(
    features: np.ndarray, ready: np.ndarray, centre: np.ndarray, similar: float, stand_out: bool
) -> tuple[np.ndarray, np.ndarray]:
    """`leaks` of test images, (m, d) rows of length 1; and 1 - cosine to each one's neighbour in the source, (m,)."""
    found = np.full(len(features), -1, np.int64)
    if not len(ready):
        return found, np.empty(0, np.float32)
    top = np.full((len(ready), NEIGHBOUR + 1), -1.0, np.float32)  # the copy itself, and the neighbours to compare with
    maybe = np.empty(0, _PAIR)
    for rows, x in stream(features, "leaks"):
        cosines = ready @ unit(x, centre).T
        both = np.concatenate([top, cosines], axis=1)
        both.partition(-top.shape[1], axis=1)
        top = both[:, -top.shape[1] :].copy()
        nearest = cosines.argmax(axis=0)
        cosine = cosines[nearest, np.arange(len(nearest))]
        certain = (cosine >= similar) & (not stand_out or 1.0 - cosine <= (1.0 - similar) / CERTAIN)
        found[rows] = np.where(certain, nearest, -1)
        if stand_out:
            # Neighbours only get nearer with further rows: a pair that does not stand out by now never will.
            around = 1.0 - top.min(axis=1)
            maybe = np.concatenate([maybe, _uncertain(cosines, around, certain, rows.start, similar)])
            usual = around[maybe["test"]]
            maybe = maybe[stands_out(1.0 - maybe["cosine"], usual, usual, similar)]
    maybe = maybe[np.lexsort((maybe["test"], -maybe["cosine"], maybe["row"]))]
    row, first = np.unique(maybe["row"], return_index=True)
    found[row] = maybe["test"][first]
    return found, 1.0 - top.min(axis=1)


def _uncertain(cosines: np.ndarray, around: np.ndarray, certain: np.ndarray, start: int, similar: float) -> np.ndarray:
    """Pairs of a block, (m, b) cosines from row `start` on, that stand out so far: at most five a test image.

    None of rows whose test image is `certain`, (b,) bool; `around`, (m,), is 1 - cosine to each test image's neighbour.
    """
    usual = around[:, None]
    test, row = np.nonzero((cosines >= similar) & stands_out(1.0 - cosines, usual, usual, similar) & ~certain)
    pairs = np.empty(len(test), _PAIR)
    pairs["test"], pairs["row"], pairs["cosine"] = test, row + start, cosines[test, row]
    return pairs
