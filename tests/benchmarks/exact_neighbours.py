"""Exact neighbours of some images of a large source, by which `scale.py` states what an approximate search finds."""

from __future__ import annotations

import faiss
import numpy as np

from prune.scores.clusters import unit
from prune.scores.near_duplicates import NEIGHBOUR, SIMILAR, stands_out
from prune.scores.streaming import blocks, read_rows, read_scattered, widen

SAMPLE = 2_000
_KNOWN = 2 * NEIGHBOUR
_BLOCK = 1 << 16


def duplicates_found(features: np.ndarray, centre: np.ndarray, duplicate_of: np.ndarray) -> tuple[float, int]:
    """Share of random images with a near-duplicate that are in one group with it, and the number of such images.

    Which pairs are near-duplicates is decided by the rule of `prune.scores.near_duplicates` with the true neighbours of
    both images among all others.
    """
    rows = np.sort(np.random.default_rng(0).choice(len(features), min(SAMPLE, len(features)), replace=False))
    cosine, near = _neighbours(features, centre, rows)
    at, place = np.nonzero(cosine >= SIMILAR)
    other, which = np.unique(near[at, place], return_inverse=True)
    theirs = _neighbours(features, centre, other)[0]
    distance = 1.0 - cosine[at, place]
    pair = stands_out(distance, 1.0 - cosine[at, NEIGHBOUR - 1], 1.0 - theirs[which, NEIGHBOUR - 1], SIMILAR)
    at, place = at[pair], place[pair]
    group = np.where(duplicate_of >= 0, duplicate_of, np.arange(len(features)))
    hit = group[rows[at]] == group[near[at, place]]
    many = len(np.unique(at))
    return (len(np.unique(at[hit])) / many if many else 1.0), many


def nearest_found(features: np.ndarray, centres: np.ndarray, number: np.ndarray) -> tuple[float, int]:
    """Share of random images whose cluster is that of the nearest centre in double precision, and their number."""
    rows = np.sort(np.random.default_rng(0).choice(len(features), min(SAMPLE, len(features)), replace=False))
    x, c = read_scattered(features, rows).astype(np.float64), centres.astype(np.float64)
    exact = ((c * c).sum(axis=1) - 2.0 * (x @ c.T)).argmin(axis=1)
    return float((number[rows] == exact).mean()), len(rows)


def _neighbours(features: np.ndarray, centre: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Largest cosines of some images and the rows that they belong to, without the images themselves: (m, k) each."""
    asked = unit(widen(read_scattered(features, rows)), centre)
    best, near = np.full((len(rows), _KNOWN), -np.inf, np.float32), np.full((len(rows), _KNOWN), -1)
    for part in blocks(len(features), _BLOCK):
        x = unit(widen(read_rows(features, part)), centre)
        cosine, found = faiss.knn(asked, x, min(_KNOWN, len(x)), metric=faiss.METRIC_INNER_PRODUCT)
        found += part.start
        cosine = np.concatenate([best, np.where(found == rows[:, None], -np.inf, cosine)], axis=1)
        order = np.argsort(-cosine, axis=1, kind="stable")[:, :_KNOWN]
        best = np.take_along_axis(cosine, order, axis=1)
        near = np.take_along_axis(np.concatenate([near, found], axis=1), order, axis=1)
    return best, near
