"""Quotas from class votes that know how sure they are: whole classes as far as the votes can be believed, then no more.

Votes are a sample, cast by a surrogate that errs. Taken at their word ("whole classes in order of votes", DP4TL) they
keep a class of thousands of images on three stray votes once the classes with many votes have run out. Here

1. votes count as far as they exceed those of shuffled features (`evidence`; `prune.scores.chance_votes`);
2. shares of votes are shrunk towards a stated prior, by as many votes as half the classes (`shrunk_shares`);
3. classes are taken whole in the order of evidence, none beyond ten times its share of votes (`vote_quotas`);
4. what is left of the budget goes to the next criterion, image by image and not class by class (`fill_rest`).

Classes that the gate mostly shuts out count by the part that passes, so stray votes for another domain come to little.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from prune.methods.quota import check_floors

MULTIPLE = 10.0
"""Times its share of the votes that a class may have of the budget."""
BELIEVED = 0.1
"""Part of its votes that a class keeps as evidence when chance explains all of them."""
SHARED = 0.1
"""Part of each kind's evidence that is replaced by the mean of all kinds, so that none alone can rule out a class."""
LEAST = 0.05
"""Weight of a kind of votes all of which chance explains."""
COUNTED = 3.0
"""Votes by chance from which a class tells how much chance explains."""
APART = 0.25
"""Share of the kept images beyond what votes stand for (`beyond_votes`) from which a report warns."""


def explained(votes: np.ndarray, chance: np.ndarray) -> float:
    """Part of the votes by chance that is found in the votes, in [0, 1].

    Votes are taken as a mixture of what the target needs and of chance. Classes that the target does not need have
    votes by chance alone, and the ratio of votes to chance votes there is the part of chance. A quarter of the chance
    votes are taken to lie in such classes: the weighted lower quartile of the ratio over the classes.

    Parameters
    ----------
    votes, chance : (c,) float
        Of the same number of images.

    Examples
    --------
    Half of what chance would give the first two classes is found there; the third has what is not by chance:

    >>> explained(np.array([30.0, 10, 60]), np.array([60.0, 20, 20]))
    0.5
    """
    known = chance >= COUNTED
    if not known.any():
        return 0.0
    ratio, weight = votes[known] / chance[known], chance[known]
    order = np.argsort(ratio, kind="stable")
    at = np.searchsorted(np.cumsum(weight[order]), weight.sum() / 4)
    return float(min(1.0, ratio[order][at]))


def evidence(votes: Mapping[str, np.ndarray], chance: Mapping[str, np.ndarray]) -> np.ndarray:
    """How much speaks for each class beyond chance, (c,) float64 shares that sum to 1.

    Of each kind of votes (LM, FM) the part that chance explains is taken off, down to a tenth of a class's votes. The
    kinds are combined by their geometric mean, each with the part of its votes that chance does not explain as its
    weight: they err in different ways, and what only one of them says is rather an error. A tenth of each is first
    replaced by the mean of all, so that a class which only one of them names still counts.

    Parameters
    ----------
    votes : mapping of str to (c,) float
        Hard votes by kind, targets combined; not negative.
    chance : mapping of str to (c,) float
        Votes of shuffled features by kind, in the same unit; a kind without them counts as it is.

    Examples
    --------
    Without votes by chance both kinds weigh the same. Their mean is 60, 12.5 and 27.5 %; a tenth of it and nine tenths
    of each kind are 87, 10.25 and 2.75 % by LM, 33, 14.75 and 52.25 % by FM; their geometric means 53.6, 12.3 and
    12.0 % are divided by their sum.

    >>> evidence({"lm": np.array([90.0, 10, 0]), "fm": np.array([30.0, 15, 55])}, {}).round(2)
    array([0.69, 0.16, 0.15])
    """
    parts, weights = [], []
    for kind, counted in votes.items():
        counted = np.asarray(counted, np.float64)
        by_chance = np.asarray(chance.get(kind, np.zeros_like(counted)), np.float64)
        part = explained(counted, by_chance)
        rest = np.maximum(counted - part * by_chance, BELIEVED * counted)
        parts.append(rest / max(float(rest.sum()), np.finfo(float).tiny))
        weights.append(max(1 - part, LEAST))
    mean = np.average(parts, axis=0, weights=weights)
    mixed = [(1 - SHARED) * part + SHARED * mean for part in parts]
    agreed = np.prod([part ** (weight / sum(weights)) for part, weight in zip(mixed, weights)], axis=0)
    return np.asarray(agreed / max(float(agreed.sum()), np.finfo(float).tiny))


def shrunk_shares(votes: np.ndarray, prior: np.ndarray, strength: float | None = None) -> np.ndarray:
    """Shares of votes, (c,) float64, as the posterior mean of a multinomial under a Dirichlet prior.

    Parameters
    ----------
    votes : (c,) float
        Counts of images, not shares: few votes are shrunk much, many little.
    prior : (c,) float
        Shares that hold without any vote: the votes of shuffled features; the classes' sizes where there are none.
    strength : float, optional
        Votes that the prior counts for; half the number of classes when absent, the weight of Jeffreys' prior.

    Examples
    --------
    Two votes for the first of four classes of equal size, against a prior worth two:

    >>> shrunk_shares(np.array([2.0, 0, 0, 0]), np.ones(4))
    array([0.625, 0.125, 0.125, 0.125])
    """
    votes, prior = np.asarray(votes, np.float64), np.asarray(prior, np.float64)
    strength = len(votes) / 2 if strength is None else strength
    weight = strength * prior / max(float(prior.sum()), np.finfo(float).tiny)
    total = float(votes.sum() + weight.sum())
    return (votes + weight) / max(total, np.finfo(float).tiny)


def vote_quotas(
    found: np.ndarray,
    shares: np.ndarray,
    class_size: np.ndarray,
    budget: int,
    floor: int | np.ndarray = 0,
    *,
    multiple: float = MULTIPLE,
    ties: np.ndarray | None = None,
) -> np.ndarray:
    """Whole classes in the order of evidence, each up to a multiple of its share of votes; (c,) int64.

    They sum to the budget or to less. The rest is for the next criterion (`fill_rest`), not for the next class.

    Parameters
    ----------
    found : (c,) float
        Of `evidence`; a class without any takes no part beyond its floor.
    shares : (c,) float
        Of `shrunk_shares`.
    class_size : (c,) int
        Images of each class that may be kept.
    budget : int
    floor : int or (c,) int
        The least that a class keeps, served first; a smaller class is kept whole.
    multiple : float
        At least 1.
    ties : (c,) number, optional
        The smallest first among classes of equal evidence; class numbers when absent.

    Examples
    --------
    Of 100 images, class 0 may have 10 * 0.6 * 100 and has 30; class 1 is kept whole, class 2 has 10 * 0.004 * 100 = 4:

    >>> vote_quotas(np.array([0.6, 0.39, 0.01]), np.array([0.6, 0.396, 0.004]), np.array([30, 40, 900]), 100)
    array([30, 40,  4])
    """
    size = np.asarray(class_size, np.int64)
    kept = check_floors(size, budget, floor).copy()
    ties = np.arange(len(size)) if ties is None else ties
    most = np.minimum(vote_limits(found, shares, budget, multiple), size)
    order = np.lexsort((ties, -np.asarray(found, np.float64)))
    room = np.maximum(most - kept, 0)[order]
    before = np.cumsum(room) - room
    kept[order] += np.clip(budget - int(kept.sum()) - before, 0, room)
    return kept


def vote_limits(found: np.ndarray, shares: np.ndarray, budget: int, multiple: float = MULTIPLE) -> np.ndarray:
    """Images that the votes of each class stand for, (c,) int64: a multiple of its share of the budget.

    0 for a class for which nothing speaks. Parameters as in `vote_quotas`.

    Examples
    --------
    >>> vote_limits(np.array([0.6, 0.4, 0.0]), np.array([0.6, 0.396, 0.004]), 100)
    array([600, 396,   0])
    """
    most = np.floor(multiple * np.asarray(shares, np.float64) * budget + 1e-9)
    return np.where(np.asarray(found) > 0, most, 0).astype(np.int64)


def fill_rest(
    kept: np.ndarray, criterion: np.ndarray, budget: int, may: np.ndarray | None = None, keys: np.ndarray | None = None
) -> np.ndarray:
    """Fill what quotas left of the budget with the samples that are best by another criterion, (n,) bool.

    Parameters
    ----------
    kept : (n,) bool
        Samples that are kept already, at most `budget`.
    criterion : (n,) float
        The largest first, whatever the class; NaN last.
    budget : int
    may : (n,) bool, optional
        Samples that may be kept; all when absent.
    keys : (n,) number, optional
        The smallest wins a tie; row numbers when absent.

    Examples
    --------
    >>> fill_rest(np.array([True, False, False]), np.array([0.0, 1.0, 2.0]), 2)
    array([ True, False,  True])
    """
    free = np.flatnonzero(~kept if may is None else may & ~kept)  # a gate leaves few of many millions
    worst_last = -np.asarray(criterion[free], np.float64)
    order = np.argsort(worst_last, kind="stable") if keys is None else np.lexsort((keys[free], worst_last))
    found = kept.copy()
    found[free[order[: budget - int(kept.sum())]]] = True
    return found


def passing_votes(votes: np.ndarray, class_size: np.ndarray, passing: np.ndarray) -> np.ndarray:
    """Votes of each class in proportion to the part of its images that passes the gate, (c,) float64."""
    part = np.asarray(passing, np.float64) / np.maximum(class_size, 1)
    return np.asarray(part * votes)


def beyond_votes(votes: np.ndarray, kept: np.ndarray, multiple: float = MULTIPLE) -> np.ndarray:
    """Share of the kept images by class that goes beyond a multiple of the class's share of votes, (c,) float64.

    Examples
    --------
    Class 1 has 1 % of the votes and 60 % of the kept images:

    >>> beyond_votes(np.array([99.0, 1]), np.array([40, 60]))
    array([0. , 0.5])
    """
    shares = [np.asarray(x, np.float64) / max(float(np.sum(x)), np.finfo(float).tiny) for x in (kept, votes)]
    return np.maximum(shares[0] - multiple * shares[1], 0.0)


def warnings(votes: np.ndarray, kept: np.ndarray, names: Sequence[str], meaningless: Sequence[str] = ()) -> list[str]:
    """What a user should know of votes and kept images, one sentence each.

    Parameters
    ----------
    votes, kept : (c,) float
        Votes and kept images of each class.
    names : sequence of str
        Of the classes.
    meaningless : sequence of str
        Targets whose votes are no farther from chance than votes of shuffled features.
    """
    found = [
        f"votes of {target} are those of shuffled features: the surrogate is too weak for them to mean anything"
        for target in meaningless
    ]
    beyond = beyond_votes(votes, kept)
    if beyond.sum() > APART:
        most = int(np.argmax(beyond))
        found.append(
            f"votes and kept images part: {beyond.sum():.0%} of the kept images are beyond {MULTIPLE:.0f} times the "
            f"share of votes of their classes, most of them in {names[most]}"
        )
    return found
