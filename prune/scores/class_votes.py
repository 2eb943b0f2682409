"""Class weights by mapping target images onto source classes: label mapping (LM) and feature mapping (FM).

Zhang et al., "Selectivity Drives Productivity: Efficient Dataset Pruning for Enhanced Transfer Learning", NeurIPS
2023, section 4. LM takes the source class that the surrogate's head predicts for a target image; FM takes the source
class whose mean feature is nearest. Hard votes count the first choice; soft votes divide each image's vote among the
classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from prune.runs.files import InputError

COMBINATIONS = ("mean", "max", "min")
_CELLS = 1 << 22
"""Preferences that are computed at once: 32 MiB, and several times that on the way."""
_KEPT = 1 << 23
"""Largest number of preferences (64 MiB) that `streamed_votes` keeps instead of computing them twice."""


def spread(scores: np.ndarray) -> float:
    """Standard deviation over the classes, averaged over the images: the unit of temperatures.

    Logits of a confident surrogate spread widely, those of an uncertain one little; a temperature in this unit softens
    both equally.

    Parameters
    ----------
    scores : (m, c) float
        Logits or negative squared distances. Columns that are -inf (classes without samples) are ignored.
    """
    columns = np.isfinite(scores).all(axis=0)
    if not columns.any():
        return 1.0
    return float(np.std(scores[:, columns].astype(np.float64), axis=1).mean()) or 1.0


def votes(scores: np.ndarray, temperature: float | None = None) -> np.ndarray:
    """Turn (m, c) preferences into (c,) votes, which sum to m.

    Parameters
    ----------
    scores : (m, c) float
        The larger, the more similar; -inf for classes that cannot be chosen.
    temperature : float, optional
        None: each row gives one vote to its largest entry, in equal parts where several are equal. Otherwise each row
        gives softmax(scores / temperature).

    Returns
    -------
    (c,) float64
    """
    scores = np.asarray(scores, np.float64)
    if temperature is None:
        first = scores == scores.max(axis=1, keepdims=True)
        equal = np.count_nonzero(first, axis=1)
        found = np.bincount(scores[equal == 1].argmax(axis=1), minlength=scores.shape[1]).astype(np.float64)
        return np.asarray(found + (first[equal > 1] / equal[equal > 1, None]).sum(axis=0))
    if not temperature > 0:
        raise InputError(f"temperature {temperature} must be above 0")
    shifted = (scores - scores.max(axis=1, keepdims=True)) / temperature
    share = np.exp(shifted)
    return np.asarray((share / share.sum(axis=1, keepdims=True)).sum(axis=0))


def rows_at_once(classes: int) -> int:
    """Images whose preferences among so many classes are computed at once."""
    return min(2048, max(64, _CELLS // max(1, classes)))


def streamed_votes(
    preference: Callable[[slice], np.ndarray], m: int, temperature: float, rows: int = 2048
) -> tuple[np.ndarray, np.ndarray]:
    """Hard votes, and soft votes at `temperature` spreads (`spread`), over blocks of images.

    Parameters
    ----------
    preference : function
        Maps a slice of images to their (k, c) preferences; called twice for each slice when there are many.
    m : int
        Number of images.
    temperature : float
        In units of `spread` over all images.

    Returns
    -------
    hard, soft : (c,) float64
        Each sums to m.
    """
    parts = [slice(begin, min(m, begin + rows)) for begin in range(0, m, rows)]
    hard, width = np.zeros(()), 0.0
    kept: list[np.ndarray] = []
    for part in parts:
        block = preference(part)
        hard = hard + votes(block)
        width += spread(block) * len(block) / m
        if m * block.shape[1] <= _KEPT:
            kept.append(block)
    soft = np.zeros(())
    for block in kept or map(preference, parts):
        soft = soft + votes(block, temperature * width)
    return hard, soft


def squared_distances(features: np.ndarray, means: np.ndarray) -> np.ndarray:
    """Squared Euclidean distances of (m, d) features to (c, d) means, (m, c) float64; infinite for a mean of NaN."""
    x, mu = np.asarray(features, np.float64), np.asarray(means, np.float64)
    centre = np.nanmean(mu, axis=0) if len(mu) else 0.0  # a common shift changes no distance and avoids cancellation
    x, mu = x - centre, mu - centre
    d2 = np.square(x).sum(1)[:, None] - 2.0 * (x @ mu.T) + np.square(mu).sum(1)[None]
    return np.where(np.isnan(d2), np.inf, np.maximum(d2, 0.0))


def class_sums(features: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sum the rows of (n, d) features by (n,) label: the labels that occur, (k,), and their sums, (k, d) float64.

    Sums of float16 features are exact in float64, and so the same in any order of the rows.
    """
    from scipy.sparse import csr_array  # here: choosing from scores needs this module and no SciPy

    present, place = np.unique(labels, return_inverse=True)
    ones = np.ones(len(labels))
    member = csr_array((ones, (place, np.arange(len(labels)))), shape=(len(present), len(labels)))
    return present.astype(np.int64), member @ np.asarray(features, np.float64)


def class_means(features: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """Mean feature of every class, (classes, d) float64; NaN for a class without samples."""
    sums = np.zeros((classes, features.shape[1]))
    for begin in range(0, len(labels), 8192):
        present, part = class_sums(features[begin : begin + 8192], labels[begin : begin + 8192])
        sums[present] += part
    return means_of(sums, np.bincount(labels, minlength=classes))


def means_of(sums: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Divide (c, d) sums by (c,) sizes; NaN where the size is 0."""
    return sums / np.where(sizes > 0, sizes, np.nan)[:, None]


def breadth(weights: np.ndarray) -> float:
    """Effective number of classes: the exponential of the shares' entropy; c for equal weights, 1 for one class."""
    share = np.asarray(weights, np.float64)
    share = share[share > 0] / share.sum()
    return float(np.exp(-(share * np.log(share)).sum()))


def sharpen(soft: np.ndarray, hard: np.ndarray) -> np.ndarray:
    """Shares in the order of the soft votes and as concentrated as the hard votes; (c,) float64, summing to 1.

    Hard votes depend on each image's first choice, in which two equally good surrogates differ. Soft votes agree far
    better on the order of the classes, but do not show how few of them matter. The soft shares are raised to the power
    at which their breadth equals that of the hard votes.

    Parameters
    ----------
    soft, hard : (c,) float
        Votes of one target.
    """
    share = np.asarray(soft, np.float64) / max(float(np.sum(soft)), np.finfo(float).tiny)
    aim = breadth(hard)
    if breadth(share) <= aim:
        return share
    logs = np.log(share, where=share > 0, out=np.full(len(share), -np.inf))
    logs -= logs.max()

    def power(exponent: float) -> np.ndarray:
        raised = np.exp(np.minimum(exponent * logs, 0.0))
        found: np.ndarray = raised / raised.sum()
        return found

    low, high = 1.0, 2.0
    while breadth(power(high)) > aim and high < 1e6:  # equal largest shares stay equal at any power
        low, high = high, 2 * high
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if breadth(power(middle)) > aim else (low, middle)
    return power(high)


def combine(weights: Sequence[np.ndarray], how: str = "mean") -> np.ndarray:
    """Combine several targets' votes into one weight per class, summing to 1.

    Each target's votes are first divided by their sum, so that a large target does not outvote a small one.

    Parameters
    ----------
    weights : sequence of (c,) float
        Votes, non-negative; one entry per target.
    how : {"mean", "max", "min"}
        max keeps what any target needs, min what all of them need. Where min leaves nothing, mean is used.

    Returns
    -------
    (c,) float64
    """
    if how not in COMBINATIONS:
        raise InputError(f"combination {how!r} is not one of {', '.join(COMBINATIONS)}")
    if not len(weights):
        raise InputError("no target to combine: give `prune score` --targets")
    shares = np.stack([np.asarray(w, np.float64) / max(float(np.sum(w)), np.finfo(float).tiny) for w in weights])
    merged = getattr(shares, how)(axis=0)
    if not merged.sum() > 0:
        merged = shares.mean(axis=0)
    return np.asarray(merged) / max(float(merged.sum()), np.finfo(float).tiny)


def columns_of(names: Sequence[str], wanted: Sequence[str]) -> np.ndarray | None:
    """Columns of the surrogate's logits that belong to the source's classes; None when a class is missing.

    Parameters
    ----------
    names : sequence of str
        The surrogate's own class names, in the order of its logits.
    wanted : sequence of str
        The source's class names.
    """
    where = {name: i for i, name in enumerate(names)}
    if len(where) != len(names) or any(name not in where for name in wanted):
        return None
    return np.array([where[name] for name in wanted], np.int64)
