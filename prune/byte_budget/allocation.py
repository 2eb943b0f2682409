"""Which samples to keep, and at which level each, so that the bytes fit a budget and the value is greatest.

Each sample is stored at one level of a ladder (bytes, value) or dropped (0, 0): a multiple-choice knapsack. Its linear
relaxation is solved exactly by the upper hulls of the samples and one Lagrange multiplier (Sinha and Zoltners, 1979;
Shoham and Gersho, 1988): all steps along all hulls are taken in the order of value per byte until the budget is full.
Then a greedy pass uses the bytes that are left. The loss against the relaxation is at most the value of one step.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from prune.runs.files import InputError, counted

DROPPED = -1
_CHUNK = 1 << 16


@dataclass(frozen=True)
class Allocation:
    """What `allocate` chose.

    Attributes
    ----------
    level : (n,) int8
        Column of the ladder; `DROPPED` for samples that are not kept.
    nbytes : int
        Bytes in all; never above the budget.
    value : float
        Summed value.
    bound : float
        No allocation within the budget and with these floors has a greater value (linear relaxation).
    forced : (n,) bool
        Kept for their class's floor, whatever their value.
    """

    level: np.ndarray
    nbytes: int
    value: float
    bound: float
    forced: np.ndarray

    @property
    def gap(self) -> float:
        """(bound - value) / bound, a fraction."""
        return max(0.0, (self.bound - self.value) / self.bound) if self.bound > 0 else 0.0


def values(distortion: np.ndarray, dropped: np.ndarray, weight: np.ndarray | None = None) -> np.ndarray:
    """Value of each level: `weight * (1 - distortion / dropped)`; negative where a level is worse than dropping.

    Parameters
    ----------
    distortion : (n, levels) float
        Feature MSE of each level against the original.
    dropped : (n,) or () float
        Feature MSE that counts when the sample is dropped; above 0.
    weight : (n,) float, optional
        Worth of each sample; 1 when absent.

    Returns
    -------
    (n, levels) float32
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        share = distortion / np.asarray(dropped, np.float32).reshape(-1, 1)
    value = 1 - np.where(distortion > 0, share, 0).astype(np.float32)
    return value if weight is None else value * np.asarray(weight, np.float32)[:, None]


def allocate(
    nbytes: np.ndarray,
    value: np.ndarray,
    budget: int,
    *,
    labels: np.ndarray | None = None,
    floors: np.ndarray | None = None,
    order: np.ndarray | None = None,
) -> Allocation:
    """Choose a level for each sample.

    The value never falls when the budget grows: in the order of value per byte, what is taken instead of a step that
    does not fit is worth less than that step.

    Parameters
    ----------
    nbytes : (n, levels) int
        Bytes of each level, above 0; columns in any order.
    value : (n, levels) float
    budget : int
        Bytes that may be used.
    labels, floors : (n,) int and (classes,) int, optional
        Every class keeps at least so many samples.
    order : (n,) int, optional
        Place of each sample among those of equal value per byte; the lower row first when absent.

    Raises
    ------
    InputError
        The floors alone need more than the budget, or more samples than a class has.
    """
    n = len(nbytes)
    first = np.empty(n, np.float32)
    for part in _parts(n):
        first[part] = (np.maximum(value[part], 0) / nbytes[part]).max(1)
    if floors is None or labels is None or not floors.any():
        return _filled(nbytes, value, budget, np.zeros(n, bool), order)
    smallest = nbytes.min(1)
    # Samples kept for the floors: those that come first in value per byte or, where these do not fit, in bytes. Neither
    # choice depends on the budget, so that the better of the two never loses value when the budget grows.
    found, needs = [], 0
    for key in (-first, smallest):
        forced = _first_of_class(labels, floors, key, order)
        needs = int(smallest[forced].sum(dtype=np.int64))
        if needs <= budget:
            found.append(_filled(nbytes, value, budget, forced, order))
    if not found:
        raise InputError(f"a budget of {budget:,} bytes: the floors alone need {needs:,}")
    best = max(found, key=lambda allocation: allocation.value)
    bound = _bound(nbytes, value, budget, labels, floors)
    return Allocation(best.level, best.nbytes, best.value, max(bound, best.value), best.forced)


def _parts(n: int) -> list[slice]:
    return [slice(begin, begin + _CHUNK) for begin in range(0, n, _CHUNK)]


def _first_of_class(labels: np.ndarray, floors: np.ndarray, key: np.ndarray, order: np.ndarray | None) -> np.ndarray:
    """Mark the `floors[c]` samples of every class with the lowest keys. (n,) bool."""
    sizes = np.bincount(labels, minlength=len(floors))
    if (short := np.flatnonzero(sizes < floors)).size:
        c = int(short[0])
        raise InputError(f"class {c} has {counted(int(sizes[c]), 'sample')}, fewer than its floor of {floors[c]}")
    rows = np.lexsort((key, labels) if order is None else (order, key, labels))
    place = np.arange(len(rows)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    marked = np.zeros(len(rows), bool)
    marked[rows] = place < floors[labels[rows]]
    return marked


def _filled(
    nbytes: np.ndarray, value: np.ndarray, budget: int, forced: np.ndarray, order: np.ndarray | None
) -> Allocation:
    level = np.where(forced, nbytes.argmin(1), DROPPED).astype(np.int8)
    kept = np.flatnonzero(forced)
    left = budget - int(nbytes[kept, level[kept]].sum(dtype=np.int64))
    parts = [_steps(nbytes[part], value[part], level[part], part.start) for part in _parts(len(nbytes))]
    sample, before, target, cost, gain = (np.concatenate(column) for column in zip(*parts))
    slope = gain / cost
    if order is None:
        rank = np.argsort(-slope, kind="stable")
    else:
        # The steps of one sample are in the order of their hull, and a stable sort leaves them so.
        rank = np.argsort(order[sample], kind="stable")
        rank = rank[np.argsort(-slope[rank], kind="stable")]
    costs = cost[rank]
    spent = np.cumsum(costs, dtype=np.int64)
    whole = int(np.searchsorted(spent, left, side="right"))
    bound = float(value[kept, level[kept]].sum(dtype=np.float64) + gain[rank[:whole]].sum(dtype=np.float64))
    left -= int(spent[whole - 1]) if whole else 0
    if whole < len(rank):
        bound += float(slope[rank[whole]]) * left
    level[sample[rank[:whole]]] = target[rank[:whole]]  # of several steps of a sample the last assignment counts
    _finish(level, (sample, before, target, cost), rank[whole:], left)
    kept = np.flatnonzero(level >= 0)
    used = int(nbytes[kept, level[kept]].sum(dtype=np.int64))
    total = float(value[kept, level[kept]].sum(dtype=np.float64))
    return Allocation(level, used, total, max(bound, total), forced)


def _steps(nbytes: np.ndarray, value: np.ndarray, start: np.ndarray, offset: int) -> tuple[np.ndarray, ...]:
    """Steps along the upper hull of each sample: sample, level left, level reached, bytes more, value more."""
    rows = np.arange(len(nbytes))
    here = np.where(start >= 0, nbytes[rows, start], 0).astype(np.int64)
    worth = np.where(start >= 0, value[rows, start], 0).astype(np.float64)
    steepest = np.full(len(rows), np.inf)
    found: list[tuple[np.ndarray, ...]] = []
    before = start
    while len(rows):
        more = nbytes[rows] - here[:, None]
        gain = value[rows] - worth[:, None]
        slope = np.where((more > 0) & (gain > 0), gain / np.maximum(more, 1), -1.0)
        target = slope.argmax(1)
        at = np.arange(len(rows))
        best = slope[at, target]
        on = best > 0
        rows, at, target = rows[on], at[on], target[on]
        cost = more[at, target]
        steepest = np.minimum(best[on], steepest[on])  # rounding must not reverse the order along a hull
        found.append((rows + offset, before[on], target.astype(np.int8), cost, steepest * cost))
        before = target.astype(np.int8)
        here, worth = here[on] + cost, value[rows, target].astype(np.float64)
    if not found:
        return np.zeros(0, np.int32), np.zeros(0, np.int8), np.zeros(0, np.int8), np.zeros(0, np.int32), np.zeros(0)
    sample, before, target, cost, gains = (np.concatenate(column) for column in zip(*found))
    return sample.astype(np.int32), before, target, cost.astype(np.int32), gains


def _finish(level: np.ndarray, steps: tuple[np.ndarray, ...], rank: np.ndarray, left: int) -> None:
    """Take further steps that fit, in order; a sample whose step did not fit takes none of its later steps."""
    if not len(rank):
        return
    sample, before, target, cost = steps
    ordered = cost[rank]
    least = np.minimum.accumulate(ordered[::-1])[::-1]
    for first in range(0, len(rank), _CHUNK):
        if least[first] > left:
            return
        part = rank[first : first + _CHUNK][ordered[first : first + _CHUNK] <= left]
        for step in part.tolist():
            who = sample[step]
            if cost[step] <= left and level[who] == before[step]:
                level[who], left = target[step], left - int(cost[step])


def _bound(nbytes: np.ndarray, value: np.ndarray, budget: int, labels: np.ndarray, floors: np.ndarray) -> float:
    """Least Lagrangian bound over the multiplier: the bound is convex in it, so a golden-section search finds it."""
    worth = np.empty(len(nbytes))

    def dual(multiplier: float) -> float:
        for part in _parts(len(nbytes)):
            worth[part] = (value[part] - multiplier * nbytes[part]).max(1)
        good = worth > 0
        lacking = np.maximum(floors - np.bincount(labels[good], minlength=len(floors)), 0)
        # For the floors of these classes, samples that cost more than they are worth are kept too: the least bad ones.
        rows = np.flatnonzero(~good & (lacking[labels] > 0))
        rows = rows[np.lexsort((-worth[rows], labels[rows]))]
        sizes = np.bincount(labels[rows], minlength=len(floors))
        place = np.arange(len(rows)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        return multiplier * budget + float(worth[good].sum() + worth[rows[place < lacking[labels[rows]]]].sum())

    low, high = -20.0, float(np.log10(max(1e-19, (np.maximum(value, 0) / nbytes).max()))) + 1
    ratio = (np.sqrt(5) - 1) / 2
    a, b = high - ratio * (high - low), low + ratio * (high - low)
    at_a, at_b = dual(10**a), dual(10**b)
    for _ in range(24):
        if at_a <= at_b:
            high, b, at_b = b, a, at_a
            a = high - ratio * (high - low)
            at_a = dual(10**a)
        else:
            low, a, at_a = a, b, at_b
            b = low + ratio * (high - low)
            at_b = dual(10**b)
    return min(at_a, at_b)
