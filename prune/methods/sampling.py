"""Draws guided by a score: coverage-centric strata (CCS), and the ratio-adaptive Beta draw of DUAL."""

from __future__ import annotations

import numpy as np

from prune.methods.rank import bottom_key, places

STRATA = 50
"""Strata of CCS, as in the paper; fewer where the quota is smaller."""
COMPLEXITY = 4.0
"""c_D of DUAL's Beta draw: the paper's value for CIFAR-100 (5.5 for CIFAR-10, 11 for ImageNet-1k)."""
CONCENTRATION = 15.0
"""C of DUAL's Beta draw."""


def ccs_places(
    hardness: np.ndarray,
    groups: np.ndarray,
    quotas: np.ndarray,
    draw: np.ndarray,
    *,
    cut: float = 0.1,
    strata: int = STRATA,
) -> np.ndarray:
    """CCS inside each group: cut the hardest, then draw evenly from strata of equal width of the score.

    Zheng et al., "Coverage-centric Coreset Selection for High Pruning Rates", ICLR 2023, algorithm 1. The budget is
    shared over the strata from the smallest on: each gets an equal part of the rest, or all its samples.

    Parameters
    ----------
    hardness : (n,) float
        The larger, the harder; NaN (unknown) counts as hardest.
    groups : (n,) int in [0, c)
    quotas : (c,) int
        At most the size of the group.
    draw : (n,) float
        Uniform random numbers: in each stratum the samples with the smallest ones are drawn.
    cut : float
        Fraction of each group that is cut, in [0, 1); less where the quota needs more.
    strata : int

    Returns
    -------
    (n,) int64
        Order of taking inside the group; those below the quota are chosen.
    """
    groups, quotas = np.asarray(groups, np.int64), np.asarray(quotas, np.int64)
    c = len(quotas)
    unknown = np.isnan(hardness)
    place, _ = places(np.where(unknown, -np.inf, -hardness.astype(np.float64)), groups)
    sizes = np.bincount(groups, minlength=c)
    lost = np.bincount(groups[unknown], minlength=c)
    cuts = np.minimum(np.maximum(np.floor(cut * sizes + 1e-9).astype(np.int64), lost), sizes - quotas)
    inside = place >= cuts[groups]

    low, high = np.full(c, np.inf), np.full(c, -np.inf)
    known = inside & ~unknown
    np.minimum.at(low, groups[known], hardness[known])
    np.maximum.at(high, groups[known], hardness[known])
    width = np.where(high > low, high - low, 1.0)
    steps = np.maximum(np.minimum(strata, quotas), 1)
    at = np.where(unknown, high[groups], hardness) - low[groups]
    with np.errstate(invalid="ignore"):
        stratum = np.floor(at / width[groups] * steps[groups])
    stratum = np.clip(np.nan_to_num(stratum), 0, steps[groups] - 1).astype(np.int64)

    counts = np.bincount(groups[inside] * strata + stratum[inside], minlength=c * strata).reshape(c, strata)
    share = _share_over_strata(counts, quotas).reshape(-1)
    bin_of = np.where(inside, groups * strata + stratum, c * strata)
    drawn, _ = places(draw, bin_of)
    chosen = inside & (drawn < np.r_[share, 0][bin_of])
    return places(np.where(chosen, 0.0, 1.0), groups)[0]


def _share_over_strata(counts: np.ndarray, quotas: np.ndarray) -> np.ndarray:
    """Share each row's quota over its strata, the smallest first, in equal parts of the rest; (c, s) int64."""
    order = np.argsort(counts, axis=1, kind="stable")
    ascending = np.take_along_axis(counts, order, axis=1)
    left = quotas.copy()
    dealt = np.zeros_like(counts)
    for column in range(counts.shape[1]):
        dealt[:, column] = np.minimum(ascending[:, column], left // (counts.shape[1] - column))
        left -= dealt[:, column]
    found = np.zeros_like(counts)
    np.put_along_axis(found, order, dealt, axis=1)
    return found


def beta_key(
    score: np.ndarray,
    confidence: np.ndarray,
    keep: float,
    draw: np.ndarray,
    *,
    complexity: float = COMPLEXITY,
) -> np.ndarray:
    """Keys of a weighted draw without replacement: score times Beta density of the confidence; (n,) float64.

    Cho et al., ICML 2025 (DUAL), section 3.3: with r the pruned share and mu the mean confidence of the ten best
    scores, beta = 15 (1 - mu) (1 - r^c_D) and alpha = 16 - beta. The more is pruned, the easier the samples drawn.

    Parameters
    ----------
    score : (n,) float
        Not negative (DUAL); NaN comes last.
    confidence : (n,) float
        Mean probability of the label over the epochs, in [0, 1].
    keep : float
        In (0, 1].
    draw : (n,) float
        Uniform random numbers in (0, 1).
    complexity : float
        c_D: the larger, the stronger the pruning at which easy samples are drawn.
    """
    known = ~(np.isnan(score) | np.isnan(confidence))
    best = np.flatnonzero(known)[np.argsort(bottom_key(-score[known]), kind="stable")[:10]]
    mu = float(np.mean(confidence[best], dtype=np.float64)) if len(best) else 0.5
    beta = max(1e-3, CONCENTRATION * (1.0 - mu) * (1.0 - (1.0 - keep) ** complexity))
    alpha = CONCENTRATION + 1.0 - beta
    m = np.clip(np.where(known, confidence, 0.5).astype(np.float64), 1e-3, 1 - 1e-3)
    with np.errstate(divide="ignore", invalid="ignore"):
        weight = (alpha - 1) * np.log(m) + (beta - 1) * np.log1p(-m) + np.log(np.where(known, score, 0.0))
        # An exponential race: the k smallest of E / w are a draw of k without replacement by the weights w.
        key = np.log(-np.log(draw)) - weight
    return np.where(np.isnan(key), np.inf, key)
