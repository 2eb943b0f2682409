"""Sample efficiency: how many of random's images one image of a selection is worth.

The keep at which random would reach the same accuracy, divided by the keep used. With 2, random needs twice as many
images. Random's accuracy is interpolated between the measured keeps, linearly in the logarithm of the keep; full data
is its last point.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np

from transfer.verdicts.estimates import LEVEL, RunTable, redrawn_accuracies


class Efficiency(NamedTuple):
    """Sample efficiency with its interval.

    A value beyond the measured keeps is marked open: the true one is at least (`above`) or at most (`below`) that.
    """

    value: float
    low: float
    high: float
    open: Literal["", "above", "below"]
    low_open: bool
    high_open: bool


def keep_reaching(keeps: np.ndarray, curves: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The smallest keep at which a curve reaches an accuracy, interpolated linearly in the logarithm of the keep.

    Parameters
    ----------
    keeps : (k,) float
        Ascending.
    curves : (b, k) float
        Accuracy at each keep.
    wanted : (b,) float

    Returns
    -------
    (b,) float
        0 where the curve reaches it at its first keep, infinity where it never does.
    """
    axis = np.log(keeps)
    found = np.full(len(curves), np.inf)
    for right in range(len(keeps) - 1, 0, -1):
        low, high = curves[:, right - 1], curves[:, right]
        inside = (low < wanted) & (wanted <= high)
        part = (wanted - low) / np.where(inside, high - low, 1.0)
        at = np.exp(axis[right - 1] + np.where(inside, part, 0.0) * (axis[right] - axis[right - 1]))
        found = np.where(inside, at, found)
    return np.where(curves[:, 0] >= wanted, 0.0, found)


def sample_efficiency(runs: RunTable, condition: int, keep: float, random: dict[float, int]) -> Efficiency | None:
    """The keep at which random reaches the same accuracy, divided by the keep used.

    Parameters
    ----------
    random : dict of float to int
        Keep to row of the random condition, with full data as keep 1. At least two keeps.

    Returns
    -------
    Efficiency or None
        Values beyond the measured keeps are clipped to them and marked open. None without a curve or a shared seed.
    """
    keeps = np.array(sorted(random))
    if len(keeps) < 2 or condition in random.values():
        return None
    found = redrawn_accuracies(runs, [condition, *(random[k] for k in keeps)])
    if found is None:
        return None
    means, redrawn, _ = found
    at = keep_reaching(keeps, means[None, 1:], means[:1])[0]
    drawn = np.clip(keep_reaching(keeps, redrawn[:, 1:], redrawn[:, 0]), keeps[0], keeps[-1]) / keep
    least, most = keeps[0] / keep, keeps[-1] / keep
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    where: Literal["", "above", "below"] = "below" if at == 0 else "above" if np.isinf(at) else ""
    value = float(np.clip(at, keeps[0], keeps[-1]) / keep)
    return Efficiency(value, float(low), float(high), where, bool(low <= least), bool(high >= most))
