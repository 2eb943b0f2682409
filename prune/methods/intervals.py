"""Intervals of shares and p-values of several tests: what audits, verdicts and the watch of a model share."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist

import numpy as np


def wilson(count: int, n: int, confidence: float) -> tuple[float, float]:
    """Wilson's interval for a share of `count` in `n`; (0, 1) for n = 0.

    Examples
    --------
    >>> [round(float(v), 4) for v in wilson(1, 10, 0.95)]
    [0.0179, 0.4042]
    """
    if n == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share, scale = count / n, 1 + z * z / n
    middle = (share + z * z / (2 * n)) / scale
    half = float(z * np.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / scale)
    return max(0.0, middle - half), min(1.0, middle + half)


def holm(p: Sequence[float]) -> list[float]:
    """Adjust p-values for their number (Holm 1979): with a cut at 0.05, the chance of any false claim is at most 5 %.

    Examples
    --------
    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    order = np.argsort(p, kind="stable")
    adjusted = np.empty(len(p))
    worst = 0.0
    for rank, place in enumerate(order):
        worst = max(worst, min(1.0, (len(p) - rank) * p[place]))
        adjusted[place] = worst
    found: list[float] = adjusted.tolist()
    return found
