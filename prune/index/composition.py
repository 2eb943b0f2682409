"""Columns of an index taken in part, and those of two indices of one source as one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .packed_ids import joined, taken


def part_of(columns: Mapping[str, Any], rows: np.ndarray) -> dict[str, Any]:
    """Some rows, (m,) int or a mask, of the columns of an index file."""
    return {name: taken(column, rows) if name == "id" else column[rows] for name, column in columns.items()}


def union(
    mine: Mapping[str, Any], theirs: Mapping[str, Any], extra: np.ndarray, codes: Sequence[int]
) -> dict[str, Any]:
    """All rows of the first columns and some of the second, in the source's order.

    Where the rows in the source are not known, or two samples claim one row, the order is that of the ids, or of the
    rows that cannot be trusted, and all rows become -1.

    Parameters
    ----------
    mine, theirs : mapping of str to (k,) array
        Columns of two index files.
    extra : (m,) bool
        The rows of `theirs` that are no rows of `mine`.
    codes : sequence of int
        What the second's reasons are called in the result.
    """
    theirs = dict(theirs)
    if len(codes):
        theirs["reason"] = np.array(codes, np.uint8)[theirs["reason"]]
    more = np.flatnonzero(extra)
    rows = np.concatenate([mine["position"], theirs["position"][more]])
    known = len(rows) > 0 and rows.min() >= 0
    if known:
        order = np.argsort(rows, kind="stable")
        rows = rows[order]
        if np.any(rows[1:] == rows[:-1]):
            rows[:] = -1  # the two were made from manifests in different orders
    else:
        order = np.argsort(np.concatenate([np.asarray(mine["id"]), np.asarray(theirs["id"][more])]), kind="stable")
        rows = rows[order]
    columns = {  # one after another: of 100 million samples each takes up to a gigabyte
        name: np.concatenate([mine[name], theirs[name][more]])[order] for name in mine if name not in ("id", "position")
    }
    begin = len(mine["position"])
    beyond = order >= begin
    order[beyond] = begin + more[order[beyond] - begin]
    return {"id": joined(mine["id"], theirs["id"], order), "position": rows, **columns}
