"""Several surrogates combined: scores averaged by rank or by value, votes averaged, and the surrogates' agreement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np

from prune.scores.score_table import BY_NAME


def rank_average(scores: Sequence[np.ndarray]) -> np.ndarray:
    """Average scores by rank, and map the mean ranks back to the scale of the scores; (n,) float32.

    The order is that of each sample's mean rank over the surrogates. The values come from the mean of the surrogates'
    quantile functions (quantile normalisation), since strata and weights depend on values, not on order alone:
    where all surrogates agree, the result is their score. A sample that some do not know (NaN) is averaged over
    the others, and is NaN when none knows it.

    Parameters
    ----------
    scores : sequence of (n,) float
    """
    rank = np.zeros(len(scores[0]))
    known = np.zeros(len(scores[0]))
    quantiles = []
    for score in scores:
        own = scaled_rank(score)
        rank += np.nan_to_num(own)
        known += ~np.isnan(own)
        if not np.isnan(own).all():
            quantiles.append((np.unique(own[~np.isnan(own)]), np.unique(score[~np.isnan(own)])))
    rank = np.divide(rank, known, out=np.full(len(rank), np.nan), where=known > 0)
    values = [np.interp(rank, ranks, sorted_scores) for ranks, sorted_scores in quantiles]
    found: np.ndarray = (np.mean(values, axis=0) if values else rank).astype(np.float32)
    return found


def mean_of_known(scores: Sequence[np.ndarray]) -> np.ndarray:
    """Average scores by value over the surrogates that know the sample (not NaN), (n,) float32; NaN when none does.

    What a paper defines as an expectation over trainings, as EL2N and GraNd are: unlike ranks, such a mean does not
    depend on which other samples a surrogate scored.
    """
    table = np.stack(scores)
    known = ~np.isnan(table)
    total, count = np.where(known, table, 0.0).sum(axis=0, dtype=np.float64), known.sum(axis=0)
    mean: np.ndarray = np.where(count > 0, total / np.maximum(count, 1), np.nan).astype(np.float32)
    return mean


def scaled_rank(score: np.ndarray) -> np.ndarray:
    """(rank - 1/2) / n among the known samples, (n,) float64; equal scores share their mean rank; NaN stays."""
    score = np.asarray(score)
    rank = np.full(len(score), np.nan)
    order = np.argsort(score, kind="stable")[: int((~np.isnan(score)).sum())]  # NaN sorts to the end
    if len(order):
        ascending = score[order]
        starts = np.flatnonzero(np.r_[True, ascending[1:] != ascending[:-1]])
        ends = np.r_[starts[1:], len(order)]
        rank[order] = np.repeat((starts + ends) / 2.0, ends - starts) / len(order)
    return rank


def agreement(scores: Sequence[np.ndarray]) -> float:
    """Spearman's rank correlation, averaged over all pairs of surrogates; NaN when a score is constant."""
    ranks = [scaled_rank(score) for score in scores]
    found = []
    for a, b in combinations(ranks, 2):
        both = ~(np.isnan(a) | np.isnan(b))
        if not both.any():  # each scored what the other trained on
            found.append(float("nan"))
            continue
        x, y = a[both] - a[both].mean(), b[both] - b[both].mean()
        scale = np.sqrt((x @ x) * (y @ y))
        found.append(float(x @ y / scale) if scale > 0 else float("nan"))
    return float(np.mean(found))


def together(parts: Sequence[Mapping[str, np.ndarray]]) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Join the arrays of several surrogates.

    Parameters
    ----------
    parts : sequence of mappings
        "sample/NAME" (n,) and "class/RULE/TARGET" (c,); those that only some surrogates have are dropped. Other arrays
        are taken from the first.

    Returns
    -------
    arrays : dict of str to array
        Sample scores averaged by rank, in their own units (or by value, where the table of scores says so); votes
        averaged.
    agreement : dict of str to float
        Spearman's correlation by name, for what was averaged.
    """
    if len(parts) == 1:
        return dict(parts[0]), {}
    arrays: dict[str, np.ndarray] = {}
    agreed: dict[str, float] = {}
    for name, first in parts[0].items():
        if not name.startswith(("sample/", "class/")):
            arrays[name] = first
        elif all(name in part for part in parts):
            mine = [part[name] for part in parts]
            row = BY_NAME.get(name.removeprefix("sample/"))
            by_value = name.startswith("class/") or (row is not None and row.average == "mean")
            arrays[name] = mean_of_known(mine) if by_value else rank_average(mine)
            own = "-chance/" not in name and "-apart/" not in name  # the others are no finding of a surrogate
            if own and not np.isnan(value := agreement(mine)):
                agreed[name] = round(value, 4)
    return arrays, agreed
