"""Speed-up: the compute that all data need for a condition's accuracy, divided by the condition's compute.

All data, trained for several lengths, form a curve of accuracy over compute. A condition costs its pretraining and all
that comes before it: surrogate, features, gate and selection, of which each use of the index bears its share. With a
speed-up of 2, all data need twice the condition's compute for the same accuracy. Training less on all data has a
speed-up of 1 by definition.

The curve is monotone: the means over seeds are made so by isotonic regression (more compute is never worse), and joined
in the logarithm of compute by monotone cubic pieces (PCHIP; Fritsch and Butland, "A method for constructing local
monotone piecewise cubic interpolants", 1984). Straight lines would lie below a curve that flattens, and so flatter the
condition. Beyond the measured lengths nothing is extrapolated: the speed-up is then a bound, marked open.

Intervals redraw the accuracies of the condition and of all lengths together, as `estimates` does, and find the curve
and the compute anew in each draw. What each run costs is known and is not redrawn.

Compute may be in any unit, the same for all: FLOPs, seconds, or shares of one full pretraining. Accuracies are
fractions. Conditions are rows of a `RunTable`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

import numpy as np

from transfer.verdicts.estimates import LEVEL, RunTable, redrawn_accuracies

_HALVINGS = 40


class SpeedUp(NamedTuple):
    """A speed-up with its 95 % interval.

    A value beyond the measured lengths is marked open: the true one is at least (`above`) or at most (`below`) that.
    `low_open` and `high_open` mark the limits of the interval in the same way.
    """

    value: float
    low: float
    high: float
    open: Literal["", "above", "below"]
    low_open: bool
    high_open: bool


class Reached(NamedTuple):
    """The cheapest condition that comes within some points of all data, and the speed-up to that accuracy.

    `low` is 0 where it is not shown that any of the conditions gets there.
    """

    condition: int
    speed_up: SpeedUp


class CurvePoint(NamedTuple):
    """A condition than which no cheaper one is as accurate: its mean accuracy and its speed-up."""

    condition: int
    accuracy: float
    speed_up: SpeedUp


def compute_per_use(preparation: float, pretraining: float, uses: int) -> float:
    """Compute of one pretraining on an index that is used `uses` times.

    >>> compute_per_use(0.3, 0.2, 3)
    0.3
    """
    return preparation / uses + pretraining


def isotonic(values: np.ndarray) -> np.ndarray:
    """The nearest curves (least squares) that never fall from left to right.

    Parameters
    ----------
    values : (b, k) float
        One curve a row; all points weigh the same.

    Returns
    -------
    (b, k) float
    """
    count = values.shape[1]
    sums = np.concatenate([np.zeros((len(values), 1)), np.cumsum(values, axis=1)], axis=1)
    result = np.full(values.shape, -np.inf)
    # The value at i is the largest, over starts j <= i, of the smallest mean of j to k with k >= i.
    for start in range(count):
        means = (sums[:, start + 1 :] - sums[:, start : start + 1]) / np.arange(1, count - start + 1)
        least = np.minimum.accumulate(means[:, ::-1], axis=1)[:, ::-1]
        result[:, start:] = np.maximum(result[:, start:], least)
    return result


def compute_reaching(compute: np.ndarray, curves: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The least compute at which the monotone curve through measured accuracies reaches an accuracy.

    Parameters
    ----------
    compute : (k,) float
        Ascending, above 0; at least two.
    curves : (b, k) float
        Accuracy at each; made monotone here.
    wanted : (b,) float

    Returns
    -------
    (b,) float
        0 where a curve lies above `wanted` at its first point already, infinity where it never gets there.

    >>> compute_reaching(np.array([1.0, 4.0]), np.array([[0.5, 0.7]] * 3), np.array([0.6, 0.4, 0.8]))
    array([ 2.,  0., inf])
    """
    from scipy.interpolate import PchipInterpolator

    axis = np.log(compute)
    knots = isotonic(curves)
    # The piece in which each curve first reaches what is wanted: the number of points that lie below it.
    below = (knots < wanted[:, None]).sum(axis=1)
    inside = (below > 0) & (below < len(compute))
    found = np.where(below == 0, 0.0, np.inf)
    found[(knots[:, 0] == wanted)] = compute[0]
    if not inside.any():
        return found
    pieces = PchipInterpolator(axis, knots[inside], axis=1).c  # (4, k - 1, inside): powers 3 to 0 of the step
    at = below[inside] - 1
    cubic = pieces[:, at, np.arange(len(at))]
    width = axis[at + 1] - axis[at]
    left, right = np.zeros(len(at)), width.copy()
    for _ in range(_HALVINGS):
        middle = (left + right) / 2
        value = ((cubic[0] * middle + cubic[1]) * middle + cubic[2]) * middle + cubic[3]
        reached = value >= wanted[inside]
        left, right = np.where(reached, left, middle), np.where(reached, middle, right)
    found[inside] = np.exp(axis[at] + right)
    return found


def speed_up(runs: RunTable, condition: int, cost: float, full: Mapping[float, int]) -> SpeedUp | None:
    """The compute that all data need for the accuracy of `condition`, divided by `cost`.

    Parameters
    ----------
    cost : float
        Compute of the condition, everything counted (`compute_per_use`).
    full : mapping of float to int
        Compute to row of all data trained for each length. At least two.

    Returns
    -------
    SpeedUp or None
        None without a curve, a cost or a shared seed, and for all data themselves.
    """
    if len(full) < 2 or not cost > 0 or condition in full.values():
        return None
    compute = np.array(sorted(full))
    found = redrawn_accuracies(runs, [condition, *(full[one] for one in compute)])
    if found is None:
        return None
    means, redrawn, _ = found
    at = compute_reaching(compute, means[None, 1:], means[:1])
    return _bounded(at[0], compute_reaching(compute, redrawn[:, 1:], redrawn[:, 0]), compute, np.array([cost]))


def divided(one: SpeedUp, cost: float) -> SpeedUp:
    """The speed-up of the same accuracy at `cost` times the compute."""
    return one._replace(value=one.value / cost, low=one.low / cost, high=one.high / cost)


def speed_up_within(
    runs: RunTable, costs: Mapping[int, float], full: Mapping[float, int], points: float
) -> Reached | None:
    """The compute with which all data come within `points` of their best, divided by that of the cheapest condition.

    Both sides are measured at the same accuracy: what a condition has above it earns nothing. The interval takes into
    account that, on other seeds or test images, another condition may be the cheapest that gets there, or none.

    Parameters
    ----------
    costs : mapping of int to float
        Compute of each condition to choose from, everything counted.
    full : mapping of float to int
        As for `speed_up`; the longest length is what is to be reached.
    points : float
        In the unit of the accuracies.

    Returns
    -------
    Reached or None
        None where no condition gets there, without a curve, or without a seed that all share.
    """
    known = {row: cost for row, cost in costs.items() if cost > 0 and row not in full.values()}
    if len(full) < 2 or not known:
        return None
    compute, rows = np.array(sorted(full)), sorted(known, key=lambda row: known[row])
    found = redrawn_accuracies(runs, [*rows, *(full[one] for one in compute)])
    if found is None:
        return None
    means, redrawn, _ = found
    price = np.array([known[row] for row in rows])
    wanted, chosen = _cheapest(means[None], len(rows), points)
    if chosen[0] == len(rows):
        return None
    at = compute_reaching(compute, means[None, len(rows) :], wanted)
    wanted_drawn, chosen_drawn = _cheapest(redrawn, len(rows), points)
    drawn = compute_reaching(compute, redrawn[:, len(rows) :], wanted_drawn)
    paid = np.append(price, np.inf)[chosen_drawn]
    return Reached(rows[chosen[0]], _bounded(at[0], drawn, compute, np.concatenate([price[chosen], paid])))


def speed_up_curve(runs: RunTable, costs: Mapping[int, float], full: Mapping[float, int]) -> list[CurvePoint]:
    """Speed-up over accuracy: the conditions than which no cheaper one is as accurate, by rising accuracy.

    Parameters as for `speed_up_within`.
    """
    points = []
    best = -np.inf
    for row in sorted(costs, key=lambda row: (costs[row], -_mean(runs, row))):
        found = speed_up(runs, row, costs[row], full)
        if found is not None and _mean(runs, row) > best:
            best = _mean(runs, row)
            points.append(CurvePoint(row, best, found))
    return points


def _cheapest(accuracies: np.ndarray, conditions: int, points: float) -> tuple[np.ndarray, np.ndarray]:
    """The accuracy to reach, and the first of the conditions that does; `conditions` where none does."""
    wanted = isotonic(accuracies[:, conditions:])[:, -1] - points
    there = accuracies[:, :conditions] >= wanted[:, None]
    return wanted, np.where(there.any(axis=1), there.argmax(axis=1), conditions)


def _bounded(at: float, drawn: np.ndarray, compute: np.ndarray, cost: np.ndarray) -> SpeedUp:
    """Divide by the cost what all data need, clipped to the measured lengths; `cost`: of the value, then of the draws.

    A limit is open where so many draws lie beyond the measured lengths that the true limit does too.
    """
    least, most = compute[0], compute[-1]
    where: Literal["", "above", "below"] = "below" if at == 0 else "above" if np.isinf(at) else ""
    paid = cost[1:] if len(cost) > 1 else cost
    ratios = np.clip(drawn, least, most) / paid
    low, high = np.quantile(ratios, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    tail = (1 - LEVEL) / 2
    low_open = bool(((drawn == 0) & (ratios <= low)).mean() >= tail)
    high_open = bool((np.isinf(drawn) & (ratios >= high)).mean() >= tail)
    return SpeedUp(float(np.clip(at, least, most) / cost[0]), float(low), float(high), where, low_open, high_open)


def _mean(runs: RunTable, row: int) -> float:
    return float(np.nanmean(runs.values[row]))
