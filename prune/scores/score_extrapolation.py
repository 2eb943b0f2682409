"""Scores of images that no network has seen, from those of scored images that look alike in a cheap feature space.

Schmidt et al., "Effective Data Pruning through Score Extrapolation", 2025, arXiv 2506.09010: a score is computed on a
part of the data, and that of any other image is the mean of its k nearest scored neighbours, weighted by nearness.
Here neighbours are looked for within the image's class. A mean of neighbours is less spread than what it predicts, so
that scored images would fill both ends of an order; predictions are therefore brought to the distribution of the known
scores, rank by rank. How well it works is measured on scored images that are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from scipy.stats import hypergeom, spearmanr

from prune.scores.sample_keys import for_purpose
from prune.scores.streaming import read_scattered

_HELD_OUT = 0.2
"""Share of the scored images on which a prediction is measured."""
_AT_ONCE = 16_384
_SCALED_BY = 50_000
_DOUBT = 0.025
"""Chance of taking a score that its neighbours say nothing of for one that they predict."""


@dataclass(frozen=True)
class Quality:
    """How well the scores of left-out images were predicted.

    Attributes
    ----------
    images : int
        Left-out images.
    correlation : float
        Spearman's, of predicted and true scores.
    highest, lowest : float
        Share of the truly highest (lowest) `keep` that is among the predicted highest (lowest).
    by_chance : float
        The same of a random order.
    error : float
        Mean absolute difference of the predicted score, in standard deviations of the true ones.
    better : bool
        Whether one of the two ends is found beyond doubt more often than by chance, and the correlation is above 0.
    class_correlation, class_highest, class_lowest : float
        The same figures of the mean score of an image's class, without any neighbours.
    """

    images: int
    correlation: float
    highest: float
    lowest: float
    by_chance: float
    error: float
    better: bool
    class_correlation: float = 0.0
    class_highest: float = 0.0
    class_lowest: float = 0.0


def predict(
    features: np.ndarray, label: np.ndarray, known: np.ndarray, wanted: np.ndarray, values: np.ndarray, k: int
) -> np.ndarray:
    """Predict scores from the nearest scored images of the same class.

    Features are standardised by those of up to 50,000 scored images. Neighbours weigh as much as they are near: one
    over the distance. Exact; memory holds the features of one class.

    Parameters
    ----------
    features : (n, d) float
        May be memory-mapped.
    label : (n,) int
    known, wanted : (m,), (u,) int
        Rows with and without scores, ascending.
    values : (m, s) float
        Scores of `known`.
    k : int
        Neighbours; fewer where the class has fewer scored images.

    Returns
    -------
    (u, s) float64
        NaN for images of a class without a scored one.

    Examples
    --------
    Two neighbours at the distances 1 and 3 weigh 3 to 1; the third image's class has no scored one:

    >>> place = np.array([[0.0], [4.0], [1.0], [1.0]])
    >>> found = predict(place, np.array([0, 0, 0, 1]), np.array([0, 1]), np.array([2, 3]), np.array([[8.0], [16.0]]), 2)
    >>> found.round(6).tolist()
    [[10.0], [nan]]
    """
    import faiss

    some = known[:: max(1, len(known) // _SCALED_BY)]
    base = read_scattered(features, some).astype(np.float64)
    mean, spread = base.mean(axis=0), base.std(axis=0)
    spread = np.where(spread > 0, spread, 1.0)

    def standardised(rows: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray((read_scattered(features, rows) - mean) / spread, np.float32)

    found = np.full((len(wanted), values.shape[1]), np.nan)
    have_in = _by_class(label[known])
    for c, need in _by_class(label[wanted]).items():
        have = have_in.get(c)
        if have is None:
            continue
        near, score = standardised(known[have]), values[have].astype(np.float64)
        for begin in range(0, len(need), _AT_ONCE):
            part = need[begin : begin + _AT_ONCE]
            squared, at = faiss.knn(standardised(wanted[part]), near, min(k, len(have)))
            weight = 1.0 / np.maximum(np.sqrt(np.maximum(squared, 0.0)), 1e-6)
            weight /= weight.sum(axis=1, keepdims=True)
            found[part] = np.einsum("ij,ijs->is", weight, score[at])
    return found


def class_means(label: np.ndarray, known: np.ndarray, wanted: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Predict scores by the mean of the scored images of the same class; parameters as in `predict`.

    Examples
    --------
    >>> label, values = np.array([0, 0, 1, 0, 1, 2]), np.array([[1.0], [3.0], [5.0]])
    >>> class_means(label, np.array([0, 1, 2]), np.array([3, 4, 5]), values).ravel().tolist()
    [2.0, 5.0, nan]
    """
    found = np.full((len(wanted), values.shape[1]), np.nan)
    have = _by_class(label[known])
    for c, need in _by_class(label[wanted]).items():
        if c in have:
            found[need] = values[have[c]].mean(axis=0)
    return found


def _by_class(label: np.ndarray) -> dict[int, np.ndarray]:
    """Positions of the samples of each class that occurs, ascending."""
    order = np.argsort(label, kind="stable")
    classes, begin = np.unique(label[order], return_index=True)
    return dict(zip(classes.tolist(), np.split(order, begin[1:]), strict=True))


def spread_like(predicted: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Bring predictions to the distribution of known scores, keeping their order; NaN stays.

    Examples
    --------
    >>> spread_like(np.array([0.4, 0.6, 0.5]), np.array([0.0, 1.0, 2.0])).tolist()
    [0.0, 2.0, 1.0]
    """
    found = np.full(len(predicted), np.nan)
    rows = np.flatnonzero(np.isfinite(predicted))
    if len(rows):
        place = np.empty(len(rows))
        place[np.argsort(predicted[rows], kind="stable")] = (np.arange(len(rows)) + 0.5) / len(rows)
        have = np.sort(known)
        found[rows] = np.interp(place, (np.arange(len(have)) + 0.5) / len(have), have)
    return found


def quality(predicted: np.ndarray, true: np.ndarray, keep: float) -> Quality:
    """How well (m,) predicted scores agree with the true ones, at the two ends that a selection takes.

    Examples
    --------
    >>> one = quality(np.array([1.0, 2, 3, 4]), np.array([1.0, 2, 4, 3]), 0.5)
    >>> one.correlation, one.highest, one.lowest, one.by_chance
    (0.8, 1.0, 1.0, 0.5)
    """
    have = np.isfinite(predicted)
    predicted, true = predicted[have], true[have]
    n = len(true)
    count = max(1, round(keep * n))
    if n < 3 or not np.ptp(true) or not np.ptp(predicted):
        return Quality(n, 0.0, keep, keep, keep, float("nan"), False)
    ends = []
    for sign in (-1, 1):
        first, second = (np.argsort(sign * one, kind="stable")[:count] for one in (predicted, true))
        ends.append(len(np.intersect1d(first, second)))
    chance = [float(hypergeom.sf(both - 1, n, count, count)) for both in ends]
    correlation = float(spearmanr(predicted, true).statistic)
    above = np.arctanh(min(correlation, 1 - 1e-12)) * np.sqrt(n - 3) if n > 3 else 0.0
    return Quality(
        images=n,
        correlation=round(correlation, 4),
        highest=round(ends[0] / count, 4),
        lowest=round(ends[1] / count, 4),
        by_chance=round(count / n, 4),
        error=round(float(np.abs(predicted - true).mean() / true.std()), 4),
        better=bool(min(chance) < _DOUBT / 2 and above > 1.96),
    )


def extrapolate(
    features: np.ndarray,
    label: np.ndarray,
    scores: Mapping[str, np.ndarray],
    keys: np.ndarray,
    k: int,
    keep: float,
) -> tuple[dict[str, np.ndarray], dict[str, Quality]]:
    """Fill what is missing in the scores of a source.

    Parameters
    ----------
    features : (n, d) float
        Cheap features of all images.
    label : (n,) int
    scores : mapping of str to (n,) float
        NaN where unknown; known for the same images in all of them.
    keys : (n,) uint64
        Random numbers of the samples: which scored images are left out to measure.
    k : int
    keep : float
        Share at which the two ends are compared.

    Returns
    -------
    filled : dict of str to (n,) float32
        The scores whose quality is better than chance; known values are unchanged.
    qualities : dict of str to Quality
    """
    known = np.flatnonzero(np.isfinite(np.stack(list(scores.values()))).all(axis=0))
    wanted = np.flatnonzero(np.isnan(next(iter(scores.values()))))
    values = np.stack([values[known] for values in scores.values()], axis=1).astype(np.float64)
    order = np.argsort(for_purpose(keys, "extrapolation")[known], kind="stable")
    out, rest = np.sort(order[: round(_HELD_OUT * len(known))]), np.sort(order[round(_HELD_OUT * len(known)) :])
    tried = predict(features, label, known[rest], known[out], values[rest], k)
    plain = class_means(label, known[rest], known[out], values[rest])
    drawn = np.argsort(keys[known[out]], kind="stable")  # within a class the order is a draw
    qualities = {}
    for column, name in enumerate(scores):
        one = quality(spread_like(tried[:, column], values[rest, column]), values[out, column], keep)
        alone = quality(plain[drawn, column], values[out, column][drawn], keep)
        qualities[name] = replace(
            one, class_correlation=alone.correlation, class_highest=alone.highest, class_lowest=alone.lowest
        )
    filled = {}
    if any(one.better for one in qualities.values()):
        found = predict(features, label, known, wanted, values, k)
        for column, name in enumerate(scores):
            if qualities[name].better:
                filled[name] = np.array(scores[name], np.float32)
                filled[name][wanted] = spread_like(found[:, column], values[:, column])
    return filled, qualities
