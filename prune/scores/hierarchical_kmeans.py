"""Balanced choice without labels: hierarchical k-means with resampling, and an order that takes turns among clusters.

Vo et al., "Automatic Data Curation for Self-Supervised Learning: A Clustering-Based Approach", TMLR 2024, arXiv
2405.15613, sections 3.2 to 3.4. The centres of k-means follow the density of the data: most lie where most images are.
k-means on these centres is spread more evenly, and so on for each level. Resampling brings each level nearer to even:
k-means is repeated on the few points nearest to each of its centres, of which there are as many everywhere.

    tree = hierarchical_kmeans(features, default_counts(len(features)), keys=keys)
    kept = balanced_order(tree.parents, keys) < budget
    score = balance(features, keys=keys)  # the same order as a score
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from prune.runs.cores import in_order
from prune.runs.files import InputError
from prune.runs.progress import track
from prune.scores.clusters import gather, kmeans, nearest, unit
from prune.scores.sample_keys import for_purpose, sample_keys
from prune.scores.streaming import ROWS, blocks, read_rows, widen

PER_CENTRE = 64
"""Samples per centre of the lowest level on which its centres are computed."""
MOST = 2048
RESAMPLES = 10
"""Rounds of resampling at each level above the lowest, as in the paper's configuration for large data."""
_SHARE = 0.5
"""Points taken around each centre when resampling, as a share of the mean cluster size (the paper's choice)."""


@dataclass(frozen=True)
class Hierarchy:
    """A tree of clusters over the samples.

    Attributes
    ----------
    centres : tuple of (k_t, d) float32
        Of each level, the lowest first.
    parents : tuple of int32 arrays
        The first, (n,), is the lowest cluster of each sample (-1 for features that are not finite); the next, (k_1,),
        the cluster of the second level in which each lowest cluster lies; and so on.
    """

    centres: tuple[np.ndarray, ...]
    parents: tuple[np.ndarray, ...]


def default_counts(n: int) -> tuple[int, ...]:
    """Clusters of each level for n samples: one for 64 samples, at most 2,048, then an eighth from level to level.

    Examples
    --------
    >>> default_counts(1_281_167)
    (2048, 256, 32)
    >>> default_counts(1000)
    (15,)
    """
    counts = [min(max(1, n // PER_CENTRE), MOST)]
    while counts[-1] >= 64:
        counts.append(counts[-1] // 8)
    return tuple(counts)


def balance(
    features: np.ndarray, seed: int = 0, keys: np.ndarray | None = None, workers: int | None = None
) -> np.ndarray:
    """How late a sample is taken when clusters of features take turns, (n,) float32 in [0, 1); the earliest is 0.

    Vo et al., section 3.4, on the levels of `default_counts` with rows of length 1. Labels are not used. The samples
    below any threshold are spread evenly over the clusters, so smaller keeps are part of larger ones. NaN where a
    feature is not finite.

    Parameters
    ----------
    features : (n, d) float
        May be memory-mapped.
    seed : int
    keys : (n,) uint64, optional
        Of `prune.scores.sample_keys`; from the row numbers when absent.
    workers : int, optional
        Threads of the last pass.
    """
    n = len(features)
    keys = sample_keys(seed, n=n) if keys is None else keys
    tree = hierarchical_kmeans(features, default_counts(n), seed=seed, keys=keys, cosine=True, workers=workers)
    order = balanced_order(tree.parents, keys)
    return np.where(tree.parents[0] >= 0, order / n, np.nan).astype(np.float32)


def hierarchical_kmeans(
    features: np.ndarray,
    counts: Sequence[int],
    *,
    seed: int = 0,
    keys: np.ndarray | None = None,
    cosine: bool = False,
    resamples: int = RESAMPLES,
    workers: int | None = None,
) -> Hierarchy:
    """Cluster the samples, then the centres of the clusters, and so on.

    The lowest level is computed on a sample of the rows that is drawn by the keys; all rows are assigned in one pass
    in the end. Every level above it is resampled, as is a lowest level that is the only one; the clusters of the lowest
    are so small that those above decide the balance.

    Parameters
    ----------
    features : (n, d) float
        May be memory-mapped.
    counts : sequence of int
        Clusters of each level, descending; the first at most n.
    seed : int
    keys : (n,) uint64, optional
        Of `prune.scores.sample_keys`; from the row numbers when absent.
    cosine : bool
        Scale rows to length 1 first.
    resamples : int
        Rounds at each level that is resampled; 0 is hierarchical k-means alone.
    workers : int, optional
        Threads of the last pass.

    Raises
    ------
    InputError
        Counts that do not descend, or more clusters than samples with finite features.
    """
    if not counts or any(a <= b for a, b in zip(counts, counts[1:])) or counts[-1] < 1:
        raise InputError(f"clusters of the levels {list(counts)}: each level must have fewer than the one below it")
    keys = sample_keys(seed, n=len(features)) if keys is None else keys
    rows = np.argsort(for_purpose(keys, "hierarchical k-means"), kind="stable")[: PER_CENTRE * counts[0]]
    ascending = np.sort(rows)
    points = np.concatenate([gather(features, ascending[part]) for part in blocks(len(ascending))])
    points = points[np.searchsorted(ascending, rows)]  # in the order of the keys, whatever that of the rows
    finite = np.isfinite(points).all(axis=1)
    points, rows = points[finite], rows[finite]
    points = unit(points) if cosine else points
    if len(points) < counts[0]:
        raise InputError(f"{counts[0]} clusters: {len(points)} samples with finite features")
    rounds = 0 if len(counts) > 1 else resamples
    centres, parents = [_resampled(points, counts[0], keys[rows], seed, rounds)], []
    for count in counts[1:]:
        below = centres[-1]
        centres.append(_resampled(below, count, sample_keys(seed, n=len(below)), seed, resamples))
        parents.append(_assigned(below, centres[-1]))
    lowest = np.full(len(features), -1, np.int32)

    def work(part: slice) -> tuple[slice, np.ndarray]:
        x = widen(read_rows(features, part))
        known = np.isfinite(x).all(axis=1)
        found = np.full(len(x), -1, np.int32)
        found[known] = nearest(unit(x[known]) if cosine else x[known], centres[0])[0]
        return part, found

    total = -(-len(features) // ROWS)
    for part, found in track(in_order(work, blocks(len(features)), workers, ahead=2), total, "clusters"):
        lowest[part] = found
    return Hierarchy(tuple(centres), (lowest, *parents))


def balanced_order(
    parents: Sequence[np.ndarray], keys: np.ndarray | None = None, may: np.ndarray | None = None
) -> np.ndarray:
    """Order in which samples are taken so that any first ones are spread evenly over the clusters; (n,) int64.

    Hierarchical sampling (section 3.4): a budget is shared evenly over the highest clusters, each share evenly over the
    clusters below, each of which gives what it has when that is less. Taking turns gives the same for all budgets at
    once: the clusters of a level take turns, in each turn those below it take turns, and the samples of a lowest
    cluster come in the order of their keys. Keeps are therefore nested.

    Parameters
    ----------
    parents : sequence of int arrays
        Of a `Hierarchy`.
    keys : (n,) uint64, optional
        Row numbers when absent.
    may : (n,) bool, optional
        Samples that may be taken; all others come last, as do those without a cluster.

    Examples
    --------
    Clusters 0 and 1 lie in one cluster of the second level, cluster 2 in another. Turns: one of cluster 0, the only one
    of cluster 2, one of cluster 1, and then what cluster 0 has left.

    >>> balanced_order([np.array([0, 0, 0, 1, 2]), np.array([0, 0, 1])]).tolist()
    [0, 3, 4, 2, 1]
    """
    n = len(parents[0])
    keys = np.arange(n, dtype=np.uint64) if keys is None else keys
    free = np.asarray(parents[0]) >= 0
    rows = np.flatnonzero(free if may is None else free & may)
    group = np.asarray(parents[0], np.int64)[rows]
    turn = _ranks(np.lexsort((keys[rows], group)), group)
    for above in (*parents[1:], None):
        over = np.zeros(len(group), np.int64) if above is None else np.asarray(above, np.int64)[group]
        turn = _ranks(np.lexsort((group, turn, over)), over)
        group = over
    found = np.empty(n, np.int64)
    last = np.setdiff1d(np.arange(n), rows)
    found[rows] = turn
    found[last[np.argsort(keys[last], kind="stable")]] = np.arange(len(rows), n)
    return found


def _ranks(order: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Place of each sample in its group, (m,) int64, from an order by group."""
    sizes = np.bincount(group, minlength=1)
    found = np.empty(len(order), np.int64)
    found[order] = np.arange(len(order)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return found


def _resampled(x: np.ndarray, k: int, keys: np.ndarray, seed: int, rounds: int) -> np.ndarray:
    """k-means centres of x, (k, d) float32, and then of the points nearest to each of them, and so on."""
    centres = kmeans(x, k, seed=seed, keys=keys, per_centre=PER_CENTRE)
    each = max(2, round(_SHARE * len(x) / k))
    for turn in range(rounds if k < len(x) else 0):
        number, distance = _nearest(x, centres)
        order = np.lexsort((keys, distance, number))
        kept = np.sort(order[_ranks(order, number)[order] < each])
        if len(kept) <= k:
            break
        centres = kmeans(x[kept], k, seed=seed + turn + 1, keys=keys[kept], per_centre=PER_CENTRE)
    return centres


def _nearest(x: np.ndarray, centres: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    parts = [nearest(x[part], centres) for part in blocks(len(x))]
    return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])


def _assigned(x: np.ndarray, centres: np.ndarray) -> np.ndarray:
    return _nearest(x, centres)[0]
