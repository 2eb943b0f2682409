"""The smallest keep that holds, found on a ladder of keeps. Pure functions.

The rule: a rung holds when a pruning method has the verdict `holds` there (first evaluation, mean over targets);
`undecided` and `loses` do not hold, and full data holds by definition. What holds at a keep is taken to hold above it.
The search begins at the rung that a cheap ladder predicts (the surrogate's recipe instead of the backbone's, first
seed, point estimates), goes down a rung where that holds and up one where it does not, and ends when a rung that holds
stands directly above one that does not: both are confirmed with the backbone, by the study's own statistics.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from transfer.studies.settings import UNGUIDED

LADDER = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7)


def predicted(values: Mapping[float, float], full: float, margin: float) -> float:
    """The lowest rung from which every rung up to the top is within `margin` of full data; the top one if none is.

    Parameters
    ----------
    values : mapping of float to float
        Keep to accuracy on the cheap ladder.
    full, margin : float
        In the unit of the values.

    >>> predicted({0.1: 0.50, 0.2: 0.69, 0.5: 0.70}, 0.70, 0.02)
    0.2
    """
    keeps = sorted(values, reverse=True)
    found = keeps[0]
    for keep in keeps:
        if values[keep] < full - margin:
            break
        found = keep
    return found


def next_rung(ladder: Sequence[float], holds: Mapping[float, bool], start: float) -> float | None:
    """The keep to confirm next; None when the search has ended.

    Parameters
    ----------
    ladder : sequence of float
    holds : mapping of float to bool
        Keeps that are confirmed, on the ladder or not.
    start : float
        The predicted rung.

    >>> next_rung((0.1, 0.2, 0.5), {}, 0.2), next_rung((0.1, 0.2, 0.5), {0.2: True}, 0.2)
    (0.2, 0.1)
    >>> next_rung((0.1, 0.2, 0.5), {0.2: True, 0.1: False}, 0.2) is None
    True
    """
    if not holds:
        return start
    best = answer(holds)
    failed = max((keep for keep, does in holds.items() if not does and keep < best), default=0.0)
    between = sorted(keep for keep in ladder if failed < keep < best)
    if not between:
        return None
    return between[0] if best == 1.0 and failed else between[-1]


def answer(holds: Mapping[float, bool]) -> float:
    """The smallest keep that holds with every confirmed keep above it holding too; 1 (full data) when none does."""
    found = 1.0
    for keep in sorted(holds, reverse=True):
        if not holds[keep]:
            break
        found = keep
    return found


def held(rows: Sequence[Mapping[str, Any]]) -> dict[float, bool]:
    """From the headline rows of an analysis: which keeps hold with any pruning method."""
    found: dict[float, bool] = {}
    for row in rows:
        if row["method"] not in UNGUIDED and row["verdict"] is not None:
            found[row["keep"]] = found.get(row["keep"], False) or row["verdict"] == "holds"
    return found
