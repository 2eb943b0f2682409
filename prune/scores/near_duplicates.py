"""Near-duplicates inside the source (SemDeDup); near-duplicates of test images: `prune.scores.leakage`.

Abbas et al., "SemDeDup: Data-efficient learning at web-scale through semantic deduplication", 2023: k-means splits the
set into clusters, and only pairs inside a cluster are compared, so the work is about n times the cluster size.

The paper's threshold on the cosine suits one well-trained encoder. With a cheap surrogate, whole classes lie above any
fixed threshold, so a pair must also be much nearer to each other than either is to its other neighbours.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from prune.runs.progress import track
from prune.scores.clusters import gather, kmeans, nearest, stream, unit
from prune.scores.sample_keys import for_purpose, sample_keys
from prune.scores.streaming import blocks

SIMILAR = 0.95
"""Least cosine of near-duplicates, the source's mean feature subtracted."""
NEIGHBOUR = 5
"""A pair's distance is compared with that to the fifth neighbour, so that groups of up to five stand out."""
RATIO = 0.125
"""Largest ratio of a pair's 1 - cosine to that of the fifth neighbour. Separates copies from look-alikes on generated
data with surrogates of 3 and 25 epochs, where no threshold on the cosine does."""
CERTAIN = 25.0
"""A pair this many times nearer than `similar` requires needs no comparison: members of larger groups of copies."""
_SIDE = 2048
"""Rows of a cluster that are compared at once, at most."""
_CELLS = 1 << 24
"""Comparisons held at once."""
_CLUSTER = 1000
"""Samples in a cluster."""
_ONE_LEVEL = 64
"""Most clusters of a single k-means; more are made in two levels."""
_BLOCK_BYTES = 1 << 28
"""Average size of a first-level cluster's features, at most."""
_ONE_PASS = 1 << 18
"""Samples above which those that are no copies yet are compared in other clusters, too: the more clusters, the more
pairs lie on both sides of a border."""


def near_duplicates(
    features: np.ndarray,
    centre: np.ndarray,
    similar: float = SIMILAR,
    *,
    stand_out: bool = True,
    clusters: int | None = None,
    seed: int = 0,
    keys: np.ndarray | None = None,
) -> np.ndarray:
    """Find for every sample the original that it nearly duplicates.

    In each group the sample farthest from its cluster's centre is the original, as in the paper; ties go by key.
    A sample duplicates the first original that it is similar to. Originals duplicate nothing, so there are no chains.

    Of more than 262,144 samples, those that are no copies yet are compared once more in clusters around other centres:
    `tests/benchmarks/scale.py` measures the share of all pairs that is found.

    Parameters
    ----------
    features : (n, d) float
        May be memory-mapped.
    centre : (d,) float
        Mean feature of the source.
    similar : float
        Least cosine of near-duplicates, in (0, 1].
    stand_out : bool
        False: the cosine alone decides, as in the paper.
    clusters : int, optional
        One per 1,000 samples when absent.
    seed : int
    keys : (n,) uint64, optional
        Of the samples, drawn from the seed and their ids; from their row numbers when absent.

    Returns
    -------
    (n,) int64
        Row of the original; -1 for originals and for samples without a near-duplicate.
    """
    n, d = features.shape
    k = clusters if clusters is not None else max(1, n // _CLUSTER)
    found = np.full(n, -1, np.int64)
    keys = sample_keys(seed, n=n) if keys is None else keys
    leads = np.zeros(n, bool)
    for turn in range(2 if n > _ONE_PASS else 1):
        if turn:
            leads[found[found >= 0]], keys = True, for_purpose(keys, "near-duplicates, second clusters")
        for mine in track(*_coarse(features, k, centre, seed, keys), "near-duplicates"):
            mine = mine[found[mine] < 0]
            x = np.empty((len(mine), d), np.float32)
            for part in blocks(len(mine), 8192):
                x[part] = unit(gather(features, mine[part]), centre)
            few = max(1, round(k * len(mine) / n))
            new = _inside(x, mine, keys[mine], few, similar, stand_out, seed, leads[mine])
            found[mine] = np.where(leads[mine], -1, new)
    return found


def _coarse(
    features: np.ndarray, k: int, centre: np.ndarray, seed: int, keys: np.ndarray
) -> tuple[Iterator[np.ndarray], int]:
    """First level of a large set: about sqrt(k) clusters, as the ascending rows of each, and their number.

    A single k-means with one centre per 1,000 samples would compare every sample with every centre: work that grows
    with the square of the set.
    """
    n, d = features.shape
    if k <= _ONE_LEVEL:
        return iter([np.arange(n)] if n else []), 1
    many = max(round(k**0.5), -(-n * d * 4 // _BLOCK_BYTES))
    centres = kmeans(features, many, seed=seed, keys=keys, cosine=True, centre=centre, per_centre=256)
    place = np.empty(n, np.int32)
    for rows, x in stream(features, "clusters"):
        place[rows] = nearest(unit(x, centre), centres, cosine=True)[0]
    order = np.argsort(place, kind="stable")
    parts = np.split(order, np.cumsum(np.bincount(place, minlength=many))[:-1])
    return (part for part in parts if len(part)), many


def _inside(
    x: np.ndarray,
    rows: np.ndarray,
    keys: np.ndarray,
    k: int,
    similar: float,
    stand_out: bool,
    seed: int,
    leads: np.ndarray,
) -> np.ndarray:
    """Row of the original for every row of a block, or -1; (m,) int64.

    Parameters
    ----------
    x : (m, d) float32
        Rows of length 1.
    rows : (m,) int64
        Their rows in the source, ascending.
    keys : (m,) uint64
    k : int
        Clusters.
    leads : (m,) bool
        Rows that have copies already: they come before all others of their cluster.
    """
    centres = kmeans(x, min(k, len(x)), seed=seed, keys=keys, cosine=True)
    place, typical = np.empty(len(x), np.int32), np.empty(len(x), np.float32)
    for part in blocks(len(x), 8192):
        place[part], typical[part] = nearest(x[part], centres, cosine=True)
    order = np.lexsort((keys, typical, ~leads, place))
    ends = np.cumsum(np.bincount(place, minlength=len(centres)))
    found = np.full(len(x), -1, np.int64)
    for end, size in zip(ends, np.diff(ends, prepend=0)):
        if size > 1:
            mine = order[end - size : end]
            # Equal rows share their original: thousands of one placeholder image would make millions of pairs.
            first = first_of_equals(x[mine])
            alone = np.flatnonzero(first == np.arange(size))
            of = originals(x[mine[alone]], similar, stand_out)
            original = np.empty(size, np.int64)
            original[alone] = np.where(of >= 0, alone[of], alone)
            original = original[first]
            found[mine] = np.where(original != np.arange(size), rows[mine[original]], -1)
    return found


def first_of_equals(x: np.ndarray) -> np.ndarray:
    """First row with the same numbers (compared by a 64-bit hash), for every row; (m,) int64."""
    odd = np.random.default_rng(0).integers(0, 1 << 63, x.shape[1], np.uint64) * np.uint64(2) + np.uint64(1)
    mixed = np.empty(len(x), np.uint64)
    for part in blocks(len(x)):
        bits = np.ascontiguousarray(x[part], np.float32).view(np.uint32).astype(np.uint64)
        mixed[part] = (bits * odd).sum(axis=1, dtype=np.uint64)  # modulo 2^64
    _, first, which = np.unique(mixed, return_index=True, return_inverse=True)
    return first[which]


def originals(x: np.ndarray, similar: float, stand_out: bool = True) -> np.ndarray:
    """The first earlier row that each row nearly duplicates and that duplicates none itself, (n,) int64; -1 for none.

    Rows are compared with the earlier originals alone, block by block: a crowd of thousands, as a weak surrogate makes
    of a class, costs time and no memory for its pairs.

    Parameters
    ----------
    x : (n, d) float32
        Rows of length 1, in order of precedence.
    similar : float
        Least cosine.
    stand_out : bool
        Whether a pair must also be much nearer than its neighbours.
    """
    n = len(x)
    side = max(16, min(_SIDE, _CELLS // max(1, n)))
    around = np.ones(n, np.float32)
    if stand_out:
        for part in blocks(n, side):
            around[part] = _neighbour(x[part] @ x.T, 1)

    def alike(mine: np.ndarray | slice, other: np.ndarray | slice) -> np.ndarray:
        cosines = x[mine] @ x[other].T
        found: np.ndarray = cosines >= similar
        if stand_out and found.any():
            found &= stands_out(1.0 - cosines, around[mine][:, None], around[other][None, :], similar)
        return found

    found = np.full(n, -1, np.int64)
    for part in blocks(n, side):
        earlier = np.flatnonzero(found[: part.start] < 0)
        if len(earlier):
            match = alike(part, earlier)
            hit = np.flatnonzero(match.any(axis=1))
            found[part.start + hit] = earlier[match[hit].argmax(axis=1)]
        match = alike(part, part)
        for row in np.flatnonzero(np.tril(match, -1).any(axis=1)).tolist():
            if found[part.start + row] < 0:
                near = part.start + np.flatnonzero(match[row, :row])
                near = near[found[near] < 0]
                if len(near):
                    found[part.start + row] = near[0]
    return found


def _neighbour(cosines: np.ndarray, own: int) -> np.ndarray:
    """1 - cosine to each row's fifth neighbour, 1 where there is none; `own` entries of a row are the row itself."""
    rank = NEIGHBOUR + own
    if cosines.shape[1] < rank:
        return np.ones(len(cosines), np.float32)
    return 1.0 - np.partition(cosines, -rank, axis=1)[:, -rank]


def stands_out(distance: np.ndarray, here: np.ndarray, there: np.ndarray, similar: float) -> np.ndarray:
    """Whether pairs are much nearer than the other neighbours of both (geometric mean), or nearly equal."""
    usual = np.sqrt(np.maximum(here, 0.0) * np.maximum(there, 0.0))
    found: np.ndarray = (distance <= RATIO * usual) | (distance <= (1.0 - similar) / CERTAIN)
    return found


def groups(duplicate_of: np.ndarray) -> list[np.ndarray]:
    """Groups of near-duplicates, each its original's row followed by its duplicates' rows; originals ascending."""
    copies = np.flatnonzero(duplicate_of >= 0)
    originals, which = np.unique(duplicate_of[copies], return_inverse=True)
    order = np.argsort(which, kind="stable")
    parts = np.split(copies[order], np.cumsum(np.bincount(which, minlength=len(originals)))[:-1]) if len(copies) else []
    return [np.r_[first, rest] for first, rest in zip(originals, parts)]
