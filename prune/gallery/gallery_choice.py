"""Chooses the images of a gallery: the highest and lowest scores of each class, and groups of duplicates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Strip:
    """Some rows of the source under one heading."""

    title: str
    rows: np.ndarray


@dataclass(frozen=True)
class Panel:
    """One class: how many are kept and dropped, and which are shown."""

    label: int
    kept_count: int
    dropped_count: int
    kept: tuple[Strip, ...]
    dropped: tuple[Strip, ...]


def panels(
    labels: np.ndarray,
    kept: np.ndarray,
    scores: np.ndarray,
    classes: Sequence[int],
    pictures: int,
    titles: tuple[str, str] = ("highest", "lowest"),
) -> list[Panel]:
    """Choose the rows to show of each class.

    Parameters
    ----------
    labels : (n,) int
    kept : (n,) bool
    scores : (n,) float
        NaN where unknown.
    classes : sequence of int
        Labels of the classes to show; -1 stands for all of the source at once.
    pictures : int
        Most images in a strip.
    titles : (str, str)
        Headings of the strips with the highest and the lowest scores.

    Returns
    -------
    list of Panel
        For a group without scores, a random draw (the same every time).
    """
    order = np.argsort(labels, kind="stable")
    sizes = np.bincount(labels)
    ends = np.cumsum(sizes)
    found = []
    for label in classes:
        if label < 0:
            rows = np.arange(len(labels))
        elif label < len(sizes):
            rows = order[ends[label] - sizes[label] : ends[label]]
        else:
            rows = np.zeros(0, np.int64)
        inside = kept[rows]
        strips = [
            _strips(group, scores, pictures, titles, np.random.default_rng(label + 1))
            for group in (rows[inside], rows[~inside])
        ]
        found.append(Panel(label, int(inside.sum()), int((~inside).sum()), *strips))
    return found


def _strips(
    rows: np.ndarray, scores: np.ndarray, pictures: int, titles: tuple[str, str], rng: np.random.Generator
) -> tuple[Strip, ...]:
    known = rows[np.isfinite(scores[rows])]
    if not len(known):
        drawn = np.sort(rng.choice(rows, min(2 * pictures, len(rows)), replace=False))
        return (Strip("a random draw (no scores known)", drawn),) if len(drawn) else ()
    ascending = known[np.argsort(scores[known], kind="stable")]
    descending = known[np.argsort(-scores[known], kind="stable")]
    highest = descending[:pictures]
    lowest = ascending[:pictures]
    lowest = lowest[~np.isin(lowest, highest)]
    return tuple(Strip(title, rows) for title, rows in zip(titles, (highest, lowest)) if len(rows))


def duplicate_groups(
    digests: np.ndarray, duplicate_of: np.ndarray | None, kept: np.ndarray, limit: int
) -> list[np.ndarray]:
    """Gather rows that show the same image.

    Parameters
    ----------
    digests : (n,) uint64
        Equal digests: equal bytes.
    duplicate_of : (n,) int64, optional
        Row of the original of a near-duplicate; -1 for originals.
    kept : (n,) bool
    limit : int
        At most this many groups: first those of which some are kept and some dropped, then the larger ones.

    Returns
    -------
    list of (m,) int64
        Rows of each group, ascending; m > 1.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    n = len(digests)
    _, first, inverse = np.unique(digests, return_index=True, return_inverse=True)
    one, other = np.arange(n), first[inverse]
    if duplicate_of is not None:
        copies = np.flatnonzero((duplicate_of >= 0) & (duplicate_of < n))
        one, other = np.concatenate([one, copies]), np.concatenate([other, duplicate_of[copies]])
    edges = one != other
    graph = coo_array((np.ones(int(edges.sum()), bool), (one[edges], other[edges])), shape=(n, n))
    group = connected_components(graph, directed=False)[1]
    size = np.bincount(group)
    size_kept = np.bincount(group[kept], minlength=len(size))
    several = np.flatnonzero(size > 1)
    mixed = (size_kept[several] > 0) & (size_kept[several] < size[several])
    chosen = several[np.lexsort((several, -size[several], ~mixed))][:limit]
    rows = np.flatnonzero(np.isin(group, chosen))
    return [rows[group[rows] == number] for number in chosen]
