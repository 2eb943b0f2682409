"""How much more an image looks like the targets than like the rest of the source: log-odds of a logistic regression.

A logistic regression with both classes of equal weight that tells a target's images from the source's estimates the
ratio of their densities: its log-odds are log p(x | target) - log p(x | source) (Qin 1998; Sugiyama et al., "Density
Ratio Estimation in Machine Learning", 2012, chapter 4). No label plays a part, and any features serve: a surrogate's,
adopted ones, or thumbnails. Every image is scored by a model that did not see it.

`prune.methods.gate` turns the odds into the share of the source that may be kept at all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.linalg import eigh
from scipy.optimize import minimize
from scipy.special import expit

from prune.runs.cores import in_order
from prune.runs.files import InputError
from prune.runs.progress import track
from prune.scores.clusters import gather
from prune.scores.sample_keys import for_purpose, sample_keys
from prune.scores.streaming import ROWS, blocks, read_rows, widen

FOLDS = 2
"""Each image is scored by the model of the other folds."""
RIDGES = (2e-2, 2e-3, 2e-4)
"""Penalties on the squared weights of standardised features, for each feature (see `_fit`), against a mean log-loss.

The weakest is strong on purpose. Without it a classifier finds what separates any two data sets, such as how their
images were compressed, and no source image looks like the targets' any more: on responses of random filters (128, in
each quarter of the image), CIFAR-10 (JPEG) and CIFAR-100 (PNG) then differ with an area under the curve of 0.98. Under
the penalty the odds follow the broad differences, and those are differences of domain.
"""
ALL = "domain"
"""Name of the score of all targets together; that of one target is ALL/NAME."""


@dataclass(frozen=True)
class DomainScores:
    """Held-out log-odds of looking like the targets.

    Attributes
    ----------
    source : dict of str to (n,) float32
        By `domain` (all targets, each of equal weight) and `domain/NAME`. NaN where the features are not finite.
    targets : dict of str to (m,) float32
        The same of the targets' images; those of `domain` are all targets' images, in the order given.
    weights : dict of str to (m,) float64
        What each target image counts for, summing to 1: in `domain`, each target as a whole counts the same.
    ridges : dict of str to float
        The penalty that held-out log-loss chose, for each target.
    models : Models
        For `odds_of_new`; targets in the order given.
    """

    source: dict[str, np.ndarray]
    targets: dict[str, np.ndarray]
    weights: dict[str, np.ndarray]
    ridges: dict[str, float]
    models: Models


def domain_scores(
    source: np.ndarray,
    targets: Mapping[str, np.ndarray],
    *,
    keys: np.ndarray | None = None,
    target_keys: Mapping[str, np.ndarray] | None = None,
    folds: int = FOLDS,
    sample: int | None = None,
    workers: int | None = None,
) -> DomainScores:
    """Score the source by how much its images look like each target, and like all of them together.

    The models are fitted on samples of bounded size; one pass over the source then gives all scores. The score of all
    targets together is the log of the mean of the targets' density ratios: that of their mixture, in which each target
    has the same share. A source image that looks like one of them is thus not outvoted by the others.

    Parameters
    ----------
    source : (n, d) float
        May be mapped. Rows that are not finite (images without features) score NaN.
    targets : mapping of str to (m, d) float
        Features of each target's training images by the same model; at least 2 * folds rows each.
    keys, target_keys : (n,) uint64 and mapping of str to (m,) uint64, optional
        Of `prune.scores.sample_keys`, from the ids. They decide the folds and the samples, which then do not depend on
        the order of the rows. Row numbers stand for the ids when absent.
    folds : int
        At least 2.
    sample : int, optional
        Images of the source, and of each target, to fit on; 16 for each feature when absent, at least 4,096.
    workers : int, optional
        Threads of the pass over the source.

    Raises
    ------
    InputError
        No target, too few images, or features of different lengths.
    """
    d = source.shape[1]
    _check(source, targets, folds)
    sample = max(4096, 16 * d) if sample is None else sample
    keys = sample_keys(0, n=len(source)) if keys is None else keys
    fold = _folds(keys, folds)
    rows = _sample(source, keys, sample)
    if len(rows) < 2 * folds:
        raise InputError(
            f"domain scores need at least {2 * folds} source images with finite features; take 'domain' off --also"
        )
    mine = _Side(gather(source, rows), fold[rows])
    theirs, their_folds = {}, {}
    for name, features in targets.items():
        their_keys = sample_keys(0, n=len(features)) if target_keys is None else target_keys[name]
        their_folds[name] = _folds(their_keys, folds)
        picked = _sample(features, their_keys, sample)
        theirs[name] = _Side(gather(features, picked), their_folds[name][picked])
        if len(picked) < 2 * folds:
            raise InputError(
                f"target {name}: {len(picked)} images with finite features; domain scores need at least {2 * folds}: "
                "add images to the target, or take 'domain' off --also"
            )
    basis = _basis([mine, *theirs.values()])
    mine = basis.rotated(mine)
    fits = {name: _fit(mine, basis.rotated(side), basis.spread, folds) for name, side in theirs.items()}
    models = basis.models([fits[name][0] for name in targets])
    names = list(targets)
    found = _named(names, _odds(source, fold, models, workers, "domain"))
    each = {name: _named(names, _odds(targets[name], their_folds[name], models, workers, "domain")) for name in names}
    seen = {ALL: np.concatenate([each[name][ALL] for name in names])}
    weights = {ALL: np.concatenate([np.full(len(targets[t]), 1 / len(targets[t]) / len(names)) for t in names])}
    for name in names:
        seen[f"{ALL}/{name}"] = each[name][f"{ALL}/{name}"]
        weights[f"{ALL}/{name}"] = np.full(len(targets[name]), 1 / len(targets[name]))
    return DomainScores(found, seen, weights, {name: fits[name][1] for name in names}, models)


def odds_of_new(
    features: np.ndarray, keys: np.ndarray, names: Sequence[str], models: Models, workers: int | None = None
) -> dict[str, np.ndarray]:
    """Log-odds of images that came after the models were fitted, (n,) float32 by `domain` and `domain/NAME`.

    No model has seen them; each is scored by one alone, as the earlier images were, and its id decides by which.

    Parameters
    ----------
    features : (n, d) float
    keys : (n,) uint64
    names : sequence of str
        Targets, in the order in which the models were fitted.
    models : Models
    workers : int, optional
    """
    fold = (for_purpose(keys, "folds") % np.uint64(models.weights.shape[1])).astype(np.uint8)
    return _named(names, _odds(features, fold, models, workers, "domain"))


def area_under_curve(source: np.ndarray, target: np.ndarray, weight: np.ndarray | None = None) -> tuple[float, float]:
    """Chance that a target image has higher odds than a source image (ties count half), and its standard error.

    The error is that of DeLong, DeLong and Clarke-Pearson, Biometrics 44 (1988).

    Parameters
    ----------
    source : (n,) float
        Held-out odds; NaN does not count.
    target : (m,) float
    weight : (m,) float, optional
        What each target image counts for.
    """
    known = ~np.isnan(target)
    low, high = np.sort(source[~np.isnan(source)]), target[known]
    weight = np.ones(len(high)) if weight is None else np.asarray(weight, np.float64)[known]
    weight = weight / weight.sum()
    order = np.argsort(high, kind="stable")
    ranked, above = high[order], np.r_[0.0, np.cumsum(weight[order])]
    below = (np.searchsorted(low, high, "left") + np.searchsorted(low, high, "right")) / (2 * len(low))
    beaten = 1 - (above[np.searchsorted(ranked, low, "left")] + above[np.searchsorted(ranked, low, "right")]) / 2
    area = float(weight @ below)
    effective = 1 / float(np.square(weight).sum())
    spread = float(np.square(weight) @ np.square(below - area)) * effective / max(effective - 1, 1)
    return area, float(np.sqrt(spread + beaten.var() / len(low)))


@dataclass(frozen=True)
class _Side:
    """A sample of one class: (k, d) float32 features and the (k,) fold of each."""

    features: np.ndarray
    fold: np.ndarray


@dataclass(frozen=True)
class _Basis:
    """Coordinates in which the fits are well conditioned: standardised, then turned to the principal axes."""

    mean: np.ndarray
    deviation: np.ndarray
    axes: np.ndarray
    spread: np.ndarray

    def rotated(self, side: _Side) -> _Side:
        return _Side(((side.features - self.mean) / self.deviation) @ self.axes, side.fold)

    def models(self, weights: Sequence[np.ndarray]) -> Models:
        """Weights (t, folds, d + 1) of rotated features, the last the constant, as weights of plain ones."""
        stacked = np.stack(weights)
        plain = stacked[..., :-1] @ self.axes.T.astype(np.float64) / self.deviation
        return Models(self.mean, plain.astype(np.float32), stacked[..., -1].astype(np.float32))


@dataclass(frozen=True)
class Models:
    """For each target and fold the weights (t, folds, d) of features less `mean` (d,), and the constants (t, folds)."""

    mean: np.ndarray
    weights: np.ndarray
    constants: np.ndarray


def _check(source: np.ndarray, targets: Mapping[str, np.ndarray], folds: int) -> None:
    if not targets:
        raise InputError("domain scores need targets: run `prune score` with --targets")
    if folds < 2:
        raise InputError(f"{folds} folds: at least 2, so that no image is scored by a model that saw it")
    for name, features in targets.items():
        if features.shape[1] != source.shape[1]:
            raise InputError(f"target {name}: {features.shape[1]} features, the source has {source.shape[1]}")


def _folds(keys: np.ndarray, folds: int) -> np.ndarray:
    """Fold of every image by the rank of its key, (n,) uint8: as many in each as can be."""
    found = np.empty(len(keys), np.uint8)
    found[np.argsort(for_purpose(keys, "folds"), kind="stable")] = np.arange(len(keys)) % folds
    return found


def _sample(features: np.ndarray, keys: np.ndarray, size: int) -> np.ndarray:
    """Up to `size` rows with finite features, those of the smallest keys, ordered by them."""
    keys = for_purpose(keys, "domain")
    order = np.argsort(keys, kind="stable")
    taken: list[np.ndarray] = []
    for part in blocks(len(order), size):
        rows = np.sort(order[part])
        rows = rows[np.isfinite(gather(features, rows)).all(axis=1)]
        taken.append(rows[np.argsort(keys[rows], kind="stable")])
        if sum(map(len, taken)) >= size:
            break
    return np.concatenate(taken)[:size]


def _basis(sides: Sequence[_Side]) -> _Basis:
    """Mean and deviation with the source counting half and each target the same, and the axes of that cloud."""
    shares = [0.5, *[0.5 / (len(sides) - 1)] * (len(sides) - 1)]
    mean = sum(share * side.features.mean(axis=0, dtype=np.float64) for share, side in zip(shares, sides))
    square = sum(share * np.square(s.features - mean).mean(axis=0, dtype=np.float64) for share, s in zip(shares, sides))
    deviation = np.sqrt(square)
    deviation[deviation <= 1e-6 * max(float(deviation.max()), 1e-300)] = 1.0
    mean, deviation = mean.astype(np.float32), deviation.astype(np.float32)
    gram = np.zeros((len(mean), len(mean)))
    for share, side in zip(shares, sides):
        for rows in blocks(len(side.features), 4096):
            z = (side.features[rows] - mean) / deviation
            gram += (share / len(side.features)) * (z.T @ z)
    spread, axes = eigh(gram)
    return _Basis(mean, deviation, axes.astype(np.float32), np.maximum(spread, 0.0))


def _fit(mine: _Side, theirs: _Side, spread: np.ndarray, folds: int) -> tuple[np.ndarray, float]:
    """Weights (folds, d + 1) of the models without each fold, and the ridge that held-out log-loss chose.

    The penalty is in proportion to the number of features: n copies of a feature share a weight, and the sum of their
    squares is an n-th of its square.
    """
    x = np.concatenate([mine.features, theirs.features])
    sign = np.r_[np.full(len(mine.features), -1.0), np.ones(len(theirs.features))]
    fold = np.r_[mine.fold, theirs.fold]
    train = [(x[fold != k], sign[fold != k]) for k in range(folds)]
    test = [(x[fold == k], sign[fold == k]) for k in range(folds)]
    now = np.zeros((folds, x.shape[1] + 1))
    best, chosen, least = now, 0.0, np.inf
    for ridge in (each * x.shape[1] for each in RIDGES):
        now = np.stack([_minimised(*part, ridge, spread, start) for part, start in zip(train, now)])
        loss = float(np.mean([_loss(*part, weights) for part, weights in zip(test, now)]))
        if loss >= least:
            break
        best, chosen, least = now, ridge, loss
    return best, chosen


def _balanced(sign: np.ndarray) -> np.ndarray:
    """Weights of the samples, each class summing to one half."""
    up = float((sign > 0).sum())
    return np.where(sign > 0, 0.5 / max(up, 1.0), 0.5 / max(len(sign) - up, 1.0))


def _loss(x: np.ndarray, sign: np.ndarray, weights: np.ndarray) -> float:
    z = x @ weights[:-1].astype(np.float32) + weights[-1]
    return float(_balanced(sign) @ np.logaddexp(0.0, -sign * z))


def _minimised(x: np.ndarray, sign: np.ndarray, ridge: float, spread: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Weights (d + 1,) of the penalised logistic regression, by L-BFGS.

    Steps are taken in weights scaled so that the Hessian, which is at most a quarter of the features' second moments
    plus the ridge, is at most the identity.
    """
    scale = np.r_[1.0 / np.sqrt(spread / 4 + ridge), 2.0]
    share = _balanced(sign)

    def objective(scaled: np.ndarray) -> tuple[float, np.ndarray]:
        weights = scale * scaled
        z = x @ weights[:-1].astype(np.float32) + weights[-1]
        slope = -sign * share * expit(-sign * z)
        gradient = np.r_[slope.astype(np.float32) @ x + ridge * weights[:-1], slope.sum()]
        loss = share @ np.logaddexp(0.0, -sign * z) + ridge / 2 * np.square(weights[:-1]).sum()
        return float(loss), gradient * scale

    found = minimize(objective, start / scale, jac=True, method="L-BFGS-B", options={"maxiter": 100, "gtol": 1e-5})
    return np.asarray(scale * found.x)


def _odds(features: np.ndarray, fold: np.ndarray, models: Models, workers: int | None, what: str) -> np.ndarray:
    """Log-odds of each row for each target by the model of its fold, (n, t) float32; NaN for rows not finite."""
    t, folds, d = models.weights.shape
    stacked = models.weights.reshape(t * folds, d).T.copy()
    found = np.empty((len(features), t), np.float32)

    def work(rows: slice) -> tuple[slice, np.ndarray]:
        x = widen(read_rows(features, rows))
        x -= models.mean
        with np.errstate(invalid="ignore", over="ignore"):
            all_odds = (x @ stacked).reshape(len(x), t, folds)
        own = fold[rows].astype(np.int64)
        odds = all_odds[np.arange(len(x)), :, own] + models.constants.T[own]
        return rows, np.where(np.isfinite(odds), odds, np.nan)

    total = -(-len(features) // ROWS)
    for rows, odds in track(in_order(work, blocks(len(features)), workers, ahead=2), total, what):
        found[rows] = odds
    return found


def _named(names: Sequence[str], odds: np.ndarray) -> dict[str, np.ndarray]:
    """Columns by name, and the log of the targets' mean density ratio; (n, t) to t + 1 arrays (n,)."""
    top = odds.max(axis=1)
    with np.errstate(invalid="ignore"):
        mixture = top + np.log(np.exp(odds - top[:, None]).mean(axis=1))
    return {ALL: mixture} | {f"{ALL}/{name}": odds[:, place].copy() for place, name in enumerate(names)}
