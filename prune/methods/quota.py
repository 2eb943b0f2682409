"""Quotas: how many samples each class keeps. Whole numbers that sum to the budget, between floor and class size."""

from __future__ import annotations

from decimal import ROUND_HALF_UP, Decimal

import numpy as np

from prune.runs.files import InputError


def budget_of(keep: float, n: int) -> int:
    """Number of samples that a keep of `n` means: keep * n, rounded to the nearest whole number, 0.5 up; at least 1.

    `keep` is taken as its decimal digits, not as the nearest binary fraction: 0.285 of 1,000 is 285.

    Raises
    ------
    InputError
        `keep` outside (0, 1].
    """
    if not 0 < keep <= 1:
        raise InputError(f"keep {keep} is outside (0, 1]")
    return max(1, int((Decimal(repr(float(keep))) * n).quantize(Decimal(1), ROUND_HALF_UP)))


def floors_of(floor: float, class_size: np.ndarray) -> np.ndarray:
    """Floor of every class, (c,) int64, never above its size.

    Parameters
    ----------
    floor : float
        Below 1: a fraction of the class, rounded up. From 1: a whole number of samples.
    class_size : (c,) int
    """
    if not (0 <= floor < 1 or (floor >= 1 and float(floor).is_integer())):  # NaN and infinity are neither
        raise InputError(f"floor {floor} is neither a fraction below 1 nor a whole number of samples")
    size = np.asarray(class_size, np.int64)
    if floor >= 1:
        return np.minimum(int(min(floor, 2**62)), size)
    share = Decimal(repr(float(floor)))
    up, down = share.as_integer_ratio()
    return np.array([-(-int(s) * up // down) for s in size], np.int64)


def largest_floor(class_size: np.ndarray, budget: int) -> int:
    """Largest count f with sum of min(f, size) <= budget."""
    size = np.sort(np.asarray(class_size, np.int64))
    low, high = 0, int(size[-1]) if len(size) else 0
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if np.minimum(size, middle).sum() <= budget else (low, middle - 1)
    return low


def check_floors(class_size: np.ndarray, budget: int, floor: int | np.ndarray) -> np.ndarray:
    """Floors limited to the sizes, (c,) int64; `InputError` when they, or the budget, cannot be met."""
    size = np.asarray(class_size, np.int64)
    low = np.minimum(np.broadcast_to(np.asarray(floor, np.int64), size.shape), size)
    if low.size and low.min() < 0:
        raise InputError("a floor below 0")
    if not 0 <= budget <= size.sum():
        raise InputError(f"a budget of {budget} samples, but {size.sum()} are available")
    if low.sum() > budget:
        raise InputError(
            f"the floors need {low.sum()} samples and the budget is {budget}; "
            f"the largest floor that fits every class is {largest_floor(size, budget)}"
        )
    return low


def quota(
    class_weight: np.ndarray,
    class_size: np.ndarray,
    budget: int,
    floor: int | np.ndarray = 0,
    ties: np.ndarray | None = None,
) -> np.ndarray:
    """Share a budget over the classes in proportion to their weights.

    Water-filling: every class gets clip(level * weight, floor, size), with the one level at which these sum to the
    budget; they are rounded by largest remainders. Classes of weight 0 stay at their floor unless the others are full;
    the rest of the budget is then shared by size.

    Parameters
    ----------
    class_weight : (c,) float
        Non-negative, finite.
    class_size : (c,) int
    budget : int
        Samples to keep over all classes.
    floor : int or (c,) int
        The least that a class keeps; a smaller class is kept whole.
    ties : (c,) number, optional
        Among equal remainders the class with the smallest comes first; the lower class when absent.

    Returns
    -------
    (c,) int64
        Sums to `budget`; never above the size, never below min(floor, size).

    Raises
    ------
    InputError
        Budget above the number of samples, floors above the budget, or weights that are negative or not finite.

    Examples
    --------
    >>> quota(np.array([3, 1, 0]), np.array([10, 10, 10]), 9, floor=1)
    array([6, 2, 1])
    """
    size = np.asarray(class_size, np.int64)
    weight = np.asarray(class_weight, np.float64)
    if weight.shape != size.shape:
        raise InputError(f"{weight.size} class weights for {size.size} classes")
    if not np.isfinite(weight).all() or (weight.size and weight.min() < 0):
        raise InputError("class weights must be finite and not negative")
    low = check_floors(size, budget, floor)
    share = _fill(weight, low.astype(np.float64), size.astype(np.float64), float(budget))
    return _whole(share, low, size, budget, np.arange(len(size)) if ties is None else ties)


def _fill(weight: np.ndarray, low: np.ndarray, high: np.ndarray, budget: float) -> np.ndarray:
    """Real shares clip(level * weight, low, high) that sum to the budget."""
    weight = weight / max(weight.max(initial=0.0), np.finfo(float).tiny)
    live = (weight > 1e-300) & (high > 0)
    if high[live].sum() + low[~live].sum() <= budget:  # every weighted class is full: the rest shares by size
        share = np.where(live, high, low)
        room = np.where(live, 0.0, high - low)
        left = budget - share.sum()
        return share + (room * (left / room.sum()) if left > 0 else 0.0)
    share = low.copy()
    w, lo, hi = weight[live], low[live], high[live]
    target = budget - low[~live].sum()
    # The sum is piecewise linear in the level: find the segment that contains the target, then solve it.
    knots = np.unique(np.concatenate([lo / w, hi / w]))
    first, last = 0, len(knots) - 1
    while first < last:
        middle = (first + last) // 2
        first, last = (first, middle) if np.clip(knots[middle] * w, lo, hi).sum() >= target else (middle + 1, last)
    at = knots[first]
    before = knots[first - 1] if first else 0.0
    free = (lo / w < at) & (hi / w > before)
    fixed = np.clip(before * w, lo, hi)[~free].sum()
    level = (target - fixed) / w[free].sum() if free.any() else at
    share[live] = np.clip(level * w, lo, hi)
    return share


def _whole(share: np.ndarray, low: np.ndarray, high: np.ndarray, budget: int, ties: np.ndarray) -> np.ndarray:
    """Largest remainders: whole numbers within [low, high] that sum to the budget."""
    down = np.clip(np.floor(share + 1e-9).astype(np.int64), low, high)
    rest = np.round(share - down, 9)  # equal shares must not differ by a rounding error
    while (left := budget - int(down.sum())) != 0:
        step = 1 if left > 0 else -1
        movable = np.flatnonzero(down < high if step > 0 else down > low)
        order = movable[np.lexsort((ties[movable], -step * rest[movable]))][: abs(left)]
        down[order] += step
        rest[order] -= step
    return down


def whole_classes(
    votes: np.ndarray,
    soft: np.ndarray,
    class_size: np.ndarray,
    budget: int,
    floor: int | np.ndarray = 0,
    trim: float = 0.0,
    ties: np.ndarray | None = None,
) -> np.ndarray:
    """All or nothing: fill classes in order of votes until the budget is spent (DP4TL).

    The class that no longer fits whole is filled partly, so that the sum is exact; the rank decides which of its
    samples stay (the presets draw them at random). Floors are filled first.

    With `trim`, a class counts as full without that share of it, rounded down; the rest is filled in the same order
    once all classes are full in this sense.

    Parameters
    ----------
    votes : (c,) float
        Hard votes; the most first.
    soft : (c,) float
        Soft votes, which order classes with equal votes.
    class_size : (c,) int
    budget : int
    floor : int or (c,) int
    trim : float in [0, 1)
    ties : (c,) number, optional
        Among classes that are equal in both, the one with the smallest comes first; the lower class when absent.

    Returns
    -------
    (c,) int64

    Examples
    --------
    >>> whole_classes(np.array([3, 9, 1]), np.zeros(3), np.array([8, 8, 8]), 14, trim=0.25)
    array([6, 6, 2])
    """
    size = np.asarray(class_size, np.int64)
    kept = check_floors(size, budget, floor).copy()
    last = np.arange(len(size)) if ties is None else ties
    order = np.lexsort((last, -np.asarray(soft, np.float64), -np.asarray(votes, np.float64)))
    for full in (size - np.floor(trim * size + 1e-9).astype(np.int64), size):
        room = np.maximum(full - kept, 0)[order]
        before = np.cumsum(room) - room
        kept[order] += np.clip(budget - int(kept.sum()) - before, 0, room)
    return kept
