"""Indices of one source compose: union, intersection, difference and a nested sample."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from prune.index.index_file import FIELDS, shown
from prune.index.matching import find, hashes
from prune.index.provenance import record
from prune.runs.files import InputError

if TYPE_CHECKING:
    from prune.index.pruned_index import PrunedIndex


def union(left: PrunedIndex, right: PrunedIndex) -> PrunedIndex:
    """Samples of either; `left` describes those of both."""
    same_source(left, right)
    extra = find(right.ids, left.ids)[0] < 0
    names = left.reason_names + tuple(name for name in right.reason_names if name not in left.reason_names)
    codes = np.array([names.index(name) for name in right.reason_names], np.uint8)
    theirs = right.columns | {"reason": codes[right.reasons] if len(codes) else right.reasons}
    columns = {name: np.concatenate([column, theirs[name][extra]]) for name, column in left.columns.items()}
    joined = _made_of(replace(left, reason_names=names), columns)
    order = _order(joined)
    joined = _made_of(joined, {name: column[order] for name, column in joined.columns.items()})
    rows = joined.positions
    if len(rows) > 1 and rows[0] >= 0 and np.any(rows[1:] == rows[:-1]):
        # The two were made from manifests in different orders: no row can be trusted.
        joined = replace(joined, positions=np.full(len(rows), -1))
    return _recorded(joined, "union", left, right)


def intersection(left: PrunedIndex, right: PrunedIndex) -> PrunedIndex:
    """Samples of both, as `left` describes them."""
    same_source(left, right)
    return _recorded(_rows(left, find(left.ids, right.ids)[0] >= 0), "intersection", left, right)


def difference(left: PrunedIndex, right: PrunedIndex) -> PrunedIndex:
    """Samples of `left` that `right` lacks."""
    same_source(left, right)
    return _recorded(_rows(left, find(left.ids, right.ids)[0] < 0), "without", left, right)


def sample(index: PrunedIndex, keep: float, seed: int) -> PrunedIndex:
    """See `PrunedIndex.sample`."""
    if not 0 < keep <= 1:
        raise InputError(f"keep {keep} is not in (0, 1]")
    count = min(len(index), max(1, round(keep * len(index))))
    chosen = np.sort(proportional_order(index.labels, hashes(index.ids, seed + 1))[:count])
    entry = record("sample", {"keep": keep, "seed": seed}, {"index": index.fingerprint})
    return replace(_rows(index, chosen), provenance=[*index.provenance, entry])


def proportional_order(labels: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Order samples so that every beginning of the order is shared among the classes in proportion.

    The r-th sample (from 0) of a class with m samples gets the place (r + 1/2) / m: Sainte-Lague's method, whose
    shares never shrink when more is shared out, so that the beginnings are nested. The first of every class comes
    before all others.

    Parameters
    ----------
    labels : (n,) int
    keys : (n,) uint64
        The order inside a class, ascending; ties go to the lower row.

    Returns
    -------
    (n,) int64
        Rows.
    """
    by_class = np.lexsort((keys, labels))
    sizes = np.bincount(labels)
    begins = np.cumsum(sizes) - sizes
    ordered = labels[by_class]
    rank = np.arange(len(labels)) - begins[ordered]
    place = (rank + 0.5) / sizes[ordered] - (rank == 0)
    return by_class[np.lexsort((keys[by_class], place))]


def same_source(left: PrunedIndex, right: PrunedIndex) -> None:
    """Refuse to compose indices of different sources."""
    if left.source != right.source:
        missing = find(right.ids, left.ids)[0] < 0
        first = f" (first: {shown(right.ids[np.argmax(missing)])})" if missing.any() else ""
        raise InputError(
            f"the indices come from different sources, {left.source} with {left.source_samples} images and "
            f"{right.source} with {right.source_samples}; {int(missing.sum())} of {len(right)} samples of the second "
            f"are not in the first{first}"
        )
    if left.classes != right.classes:
        raise InputError("the indices name the classes of their source differently")


def _made_of(index: PrunedIndex, columns: dict[str, np.ndarray]) -> PrunedIndex:
    changes: dict[str, Any] = {FIELDS[name]: column for name, column in columns.items()}
    return replace(index, **changes)


def _rows(index: PrunedIndex, rows: np.ndarray) -> PrunedIndex:
    return _made_of(index, {name: column[rows] for name, column in index.columns.items()})


def _order(index: PrunedIndex) -> np.ndarray:
    """The source's order where all rows are known, the ids' order otherwise."""
    known = len(index) > 0 and index.positions.min() >= 0
    return np.argsort(index.positions if known else index.ids, kind="stable")


def _recorded(index: PrunedIndex, step: str, left: PrunedIndex, right: PrunedIndex) -> PrunedIndex:
    inputs = {"left": left.fingerprint, "right": right.fingerprint}
    return replace(index, provenance=[*left.provenance, record(step, {}, inputs, right=right.provenance)])
