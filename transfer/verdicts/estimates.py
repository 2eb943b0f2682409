"""What a study shows: paired differences over seeds and test images, with intervals that few seeds make wide.

A study trains conditions (a method at a keep) with several seeds and tests them all on the same images. If it were
repeated, the seeds and the test images would differ, as readers and cases do in a multi-reader study (Hillis, "A
comparison of denominator degrees of freedom methods for multiple observer ROC studies", Stat. Med. 26, 2007). The
hierarchical bootstrap here redraws both around the measured values:

* seeds: a few cannot be resampled (resampling two values halves their variance), so their mean is drawn from Student's
  t. From five seeds on its variance is that of the compared conditions themselves, with their covariance over the
  seeds: a paired t-test, which a third condition that varies wildly does not widen. With fewer seeds it is the residual
  of the two-way table seeds x conditions (a randomised-block ANOVA), pooled over the conditions of one target; a
  condition that varies more keeps its own, larger variance;
* images: the mean over images is drawn from a normal with the covariance of the conditions over images, minus the part
  that the seeds account for. This is the multiplier bootstrap in closed form; all conditions share the same images.

Limit: where one condition varies several times as much from seed to seed as the others, three seeds are too few to
show it, and its intervals are too narrow. In simulations of ten conditions with three seeds, 95 % intervals of a
difference cover 95 % when all vary alike, about 90 % when one of the two varies three times as much and about 85 % at
five times.

Accuracies are fractions, 0 to 1. NaN marks a run that is missing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from prune.methods.intervals import holm as holm

DRAWS = 20_000
OWN_VARIANCE = 5
"""Seeds from which the compared conditions' own variance serves, and is not pooled with that of others."""
LEVEL = 0.95
StudyVerdict = Literal["holds", "loses", "undecided"]
"""What is shown of a condition against full data; see `verdict_against_full`."""


class Estimate(NamedTuple):
    """A value with its 95 % interval; `p` is two-sided, and None with a single seed."""

    value: float
    low: float
    high: float
    p: float | None
    seeds: int


@dataclass(frozen=True)
class RunTable:
    """The runs of one target and evaluation as a table of conditions and seeds, ready to be compared.

    Attributes
    ----------
    values : (c, s) float
        Accuracy of each condition and seed; NaN where there is no run.
    images : (c, c) float
        Covariance of the conditions' accuracies due to the choice of test images (already divided by n).
    floor : (c,) float
        Least variance that one seed's accuracy can have: that of images which change from right to wrong between
        seeds, divided by n.
    """

    values: np.ndarray
    images: np.ndarray
    floor: np.ndarray


def run_table(values: np.ndarray, correct: list[list[np.ndarray] | None], n: int) -> RunTable:
    """Combine accuracies and per-image results of runs.

    Parameters
    ----------
    values : (c, s) float
    correct : list of c entries
        For each condition the bool (n,) arrays of its runs, one per seed that ran; None where only the accuracy is
        known: its images then count as independent of the other conditions', which widens the intervals.
    n : int
        Test images.
    """
    values = np.asarray(values, dtype=float)
    floor = np.zeros(len(values))
    lone = np.zeros(len(values))
    means = np.zeros((len(values), n))
    for row, runs in enumerate(correct):
        if not runs:
            accuracy = np.nanmean(values[row]) if np.isfinite(values[row]).any() else 0.0
            lone[row] = accuracy * (1 - accuracy)
            continue
        stack = np.stack(runs).astype(np.float32)
        means[row] = stack.mean(axis=0)
        if len(stack) > 1:
            floor[row] = stack.var(axis=0, ddof=1).mean()
            lone[row] = -floor[row] / len(stack)
    covariance = np.atleast_2d(np.cov(means, ddof=1)) if n > 1 else np.zeros((len(values), len(values)))
    # E[cov of the seed means] = cov of the images' true success rates + flips / seeds: subtract the flips.
    return RunTable(values, _positive(covariance + np.diag(lone)) / n, floor / n)


def mean_of_targets(tables: list[RunTable]) -> RunTable:
    """The mean over targets: the same runs, tested on several independent test sets of equal weight."""
    count = len(tables)
    return RunTable(
        np.mean([one.values for one in tables], axis=0),
        np.sum([one.images for one in tables], axis=0) / count**2,
        np.sum([one.floor for one in tables], axis=0) / count**2,
    )


def seed_variance(values: np.ndarray, *, blocks: bool = True) -> tuple[np.ndarray, int]:
    """Variance of one run's accuracy from seed to seed, per condition, and its degrees of freedom.

    Parameters
    ----------
    values : (c, s) float
    blocks : bool
        Remove what a seed adds to all conditions alike: right for differences between conditions.

    Returns
    -------
    variance : (c,) float
        The pooled residual variance, or the condition's own where that is larger. Zeros without a repeated seed.
    freedom : int
        Of the pooled variance; 0 where no condition was repeated.
    """
    condition, seed = np.nonzero(np.isfinite(values))
    design = [np.eye(len(values))[condition]]
    if blocks:
        design.append(np.eye(values.shape[1])[seed])
    x = np.concatenate(design, axis=1)
    q, singular, _ = np.linalg.svd(x, full_matrices=False)
    q = q[:, singular > 1e-9 * singular[0]]
    freedom = len(condition) - q.shape[1]
    if freedom < 1:
        return np.zeros(len(values)), 0
    y = values[condition, seed]
    squares = (y - q @ (q.T @ y)) ** 2
    share = 1 - (q**2).sum(axis=1)  # 1 - leverage: the part of a run's variance that its residual shows
    own_share = np.bincount(condition, share, len(values))
    own = np.bincount(condition, squares, len(values)) / np.maximum(own_share, 1e-9)
    return np.maximum(squares.sum() / freedom, np.where(own_share > 1e-6, own, 0.0)), freedom


def redrawn_accuracies(
    runs: RunTable, conditions: list[int], *, blocks: bool = True
) -> tuple[np.ndarray, np.ndarray, int] | None:
    """Redraw the accuracies of some conditions together, over the seeds that all of them have.

    Returns
    -------
    means : (k,) float
    redrawn : (DRAWS, k) float
    seeds : int
        How many seeds they share. With none shared, None is returned instead of the tuple.
    """
    chosen = runs.values[conditions]
    shared = np.isfinite(chosen).all(axis=0)
    seeds = int(shared.sum())
    if seeds == 0:
        return None
    means = chosen[:, shared].mean(axis=1)
    rng = np.random.default_rng(0)
    redrawn = np.broadcast_to(means, (DRAWS, len(conditions))).copy()
    if seeds >= OWN_VARIANCE:
        own = np.atleast_2d(np.cov(chosen[:, shared], ddof=1))
        own += np.diag(np.maximum(runs.floor[conditions] - np.diag(own), 0.0))
        student = np.sqrt((seeds - 1) / rng.chisquare(seeds - 1, (DRAWS, 1)))
        redrawn += rng.standard_normal(redrawn.shape) @ _root(own / seeds) * student
    elif (spread := seed_variance(runs.values, blocks=blocks))[1]:
        variance, freedom = spread
        scale = np.sqrt(np.maximum(variance, runs.floor)[conditions] / seeds)
        student = np.sqrt(freedom / rng.chisquare(freedom, (DRAWS, 1)))
        redrawn += rng.standard_normal(redrawn.shape) * scale * student
    redrawn += rng.standard_normal(redrawn.shape) @ _root(runs.images[np.ix_(conditions, conditions)])
    return means, redrawn, seeds


def accuracy(runs: RunTable, condition: int) -> Estimate | None:
    """Mean accuracy of one condition over its seeds, with its interval."""
    found = redrawn_accuracies(runs, [condition], blocks=False)
    return None if found is None else _estimate(found[0][0], found[1][:, 0], found[2], None)


def paired_difference(runs: RunTable, condition: int, reference: int, null: float = 0.0) -> Estimate | None:
    """How much better `condition` is than `reference`, paired over seeds and images.

    Parameters
    ----------
    null : float
        The difference that the p-value tests against: 0, or -margin.

    Returns
    -------
    Estimate or None
        None without a shared seed; with one shared seed the interval covers images only and there is no p-value.
    """
    found = redrawn_accuracies(runs, [condition, reference])
    if found is None:
        return None
    means, redrawn, seeds = found
    drawn = redrawn[:, 0] - redrawn[:, 1]
    return _estimate(means[0] - means[1], drawn, seeds, _two_sided(drawn - null) if seeds > 1 else None)


def verdict_against_full(against_full: Estimate | None, margin: float) -> StudyVerdict | None:
    """`holds` when the interval lies above -margin, `loses` when it lies below, `undecided` otherwise.

    One seed is too few: always `undecided`. None without a full-data run to compare with. `margin` is in the unit of
    the estimate.
    """
    if against_full is None:
        return None
    if against_full.seeds < 2:
        return "undecided"
    if against_full.low > -margin:
        return "holds"
    return "loses" if against_full.high < -margin else "undecided"


def _estimate(value: float, drawn: np.ndarray, seeds: int, p: float | None) -> Estimate:
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(float(value), float(low), float(high), p, seeds)


def _two_sided(drawn: np.ndarray) -> float:
    beyond = min((drawn <= 0).sum(), (drawn >= 0).sum())
    return float(min(1.0, 2 * (beyond + 1) / (len(drawn) + 1)))


def _positive(matrix: np.ndarray) -> np.ndarray:
    """The nearest covariance: negative eigenvalues, which subtraction can leave, become zero."""
    value, vector = np.linalg.eigh(matrix)
    return np.asarray((vector * np.maximum(value, 0)) @ vector.T)


def _root(matrix: np.ndarray) -> np.ndarray:
    """A matrix r with r.T @ r = `matrix`, for drawing normals with that covariance."""
    value, vector = np.linalg.eigh(matrix)
    return np.asarray((vector * np.sqrt(np.maximum(value, 0))).T)
