"""The smallest keep that holds, found on a ladder of keeps. Pure functions.

A keep holds when a pruning method has the verdict `holds` there (first evaluation, mean over targets). `undecided` and
`loses` do not hold, and full data holds by definition. A keep is taken to hold when a smaller one does.

Small networks predict the keep cheaply: they train the surrogate's recipe instead of the backbone's, with the first
seed, and their accuracies are compared without intervals. The search starts with the backbone at the predicted keep,
goes one step down the ladder where that holds and one step up where it does not, and ends when a keep that holds is
directly above one that does not. The backbone has then confirmed both, by the study's own statistics.

At a given total compute (`--compute`) the most accurate keep is searched instead, in the same way; accuracies are then
those on images held out of the guiding targets' training images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from transfer.verdicts.controls import CONTROLS

LADDER = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7)


def predicted_keep(accuracies: Mapping[float, float], full: float, margin: float) -> float:
    """The lowest keep from which all keeps up to the top are within `margin` of full data; the top one if none is.

    Parameters
    ----------
    accuracies : mapping of float to float
        Keep to accuracy of the small networks.
    full, margin : float
        In the unit of the accuracies.

    >>> predicted_keep({0.1: 0.50, 0.2: 0.69, 0.5: 0.70}, 0.70, 0.02)
    0.2
    """
    keeps = sorted(accuracies, reverse=True)
    found = keeps[0]
    for keep in keeps:
        if accuracies[keep] < full - margin:
            break
        found = keep
    return found


def keep_to_confirm(ladder: Sequence[float], holds: Mapping[float, bool], start: float) -> float | None:
    """The keep that the backbone is to confirm next; None when the search has ended.

    Parameters
    ----------
    ladder : sequence of float
    holds : mapping of float to bool
        Keeps that the backbone has tried, on the ladder or not, and whether they hold.
    start : float
        The predicted keep.

    >>> keep_to_confirm((0.1, 0.2, 0.5), {}, 0.2), keep_to_confirm((0.1, 0.2, 0.5), {0.2: True}, 0.2)
    (0.2, 0.1)
    >>> keep_to_confirm((0.1, 0.2, 0.5), {0.2: True, 0.1: False}, 0.2) is None
    True
    """
    if not holds:
        return start
    best = smallest_keep(holds)
    failed = max((keep for keep, does in holds.items() if not does and keep < best), default=0.0)
    between = sorted(keep for keep in ladder if failed < keep < best)
    if not between:
        return None
    return between[0] if best == 1.0 and failed else between[-1]


def most_accurate_keep(accuracies: Mapping[float, float]) -> float:
    """The keep with the highest accuracy; of equal ones the smallest.

    >>> most_accurate_keep({0.1: 0.50, 0.2: 0.69, 0.5: 0.69})
    0.2
    """
    return min(accuracies, key=lambda keep: (-accuracies[keep], keep))


def keep_to_try(ladder: Sequence[float], accuracies: Mapping[float, float], start: float) -> float | None:
    """The keep that the backbone is to try next at a given total compute; None when the search has ended.

    With the total given, a larger keep means fewer passes over it. The search climbs: it begins at the predicted keep
    and ends when the best of the keeps that were tried is better than both its neighbours on the ladder.

    Parameters
    ----------
    ladder : sequence of float
    accuracies : mapping of float to float
        Of the backbone, at the keeps tried.
    start : float
        The predicted keep.

    >>> keep_to_try((0.1, 0.2, 0.5), {}, 0.2), keep_to_try((0.1, 0.2, 0.5), {0.2: 0.6}, 0.2)
    (0.2, 0.1)
    >>> keep_to_try((0.1, 0.2, 0.5), {0.2: 0.6, 0.1: 0.5, 0.5: 0.4}, 0.2) is None
    True
    """
    if not accuracies:
        return start
    best = most_accurate_keep(accuracies)
    below = [keep for keep in ladder if keep < best and not _same(keep, best)]
    above = [keep for keep in ladder if keep > best and not _same(keep, best)]
    neighbours = [*([max(below)] if below else []), *([min(above)] if above else [])]
    return next((keep for keep in neighbours if not any(_same(keep, tried) for tried in accuracies)), None)


def _same(a: float, b: float) -> bool:
    return abs(a - b) < 1e-9


def smallest_keep(holds: Mapping[float, bool]) -> float:
    """The smallest keep that holds and above which every keep that was tried holds; 1 (full data) when none does."""
    found = 1.0
    for keep in sorted(holds, reverse=True):
        if not holds[keep]:
            break
        found = keep
    return found


def keeps_that_hold(rows: Sequence[Mapping[str, Any]]) -> dict[float, bool]:
    """For each keep among an analysis's headline rows: whether any pruning method holds there."""
    found: dict[float, bool] = {}
    for row in rows:
        if row["method"] not in CONTROLS and row["verdict"] is not None:
            found[row["keep"]] = found.get(row["keep"], False) or row["verdict"] == "holds"
    return found
