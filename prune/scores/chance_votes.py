"""Votes of shuffled features: what class votes look like when the images that cast them have nothing in common.

A weak surrogate's votes pile up on a few classes whatever it is shown: large ones (LM), and those whose mean lies near
the middle of all features (FM; "hubs", Radovanovic et al., JMLR 2010). Shuffling every feature among a target's images
keeps how each feature is distributed and breaks up the images. Where the votes of what is left are the votes of the
images, those mean nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from prune.scores.class_votes import rows_at_once, votes
from prune.scores.streaming import blocks

ROUNDS = 8
IMAGES = 8192
"""Images of a target that are shuffled; of a larger target a sample."""


@dataclass(frozen=True)
class ChanceVotes:
    """Votes by chance, and how far from them the votes are.

    Attributes
    ----------
    votes : (c,) float64
        Votes of shuffled features, averaged over the rounds; they sum to the number of images.
    distance : float
        Total variation distance of the votes from `votes`, in [0, 1]: the least share that would have to change class.
    by_chance, error : float
        The same distance for the votes of one more round of shuffled features: mean and standard deviation.
    """

    votes: np.ndarray
    distance: float
    by_chance: float
    error: float

    @property
    def meaningful(self) -> bool:
        """Whether the votes are farther from chance than shuffled features by more than three standard deviations."""
        return beyond_chance(self.distance, self.by_chance, self.error)


def beyond_chance(distance: float, by_chance: float, error: float) -> bool:
    """`ChanceVotes.meaningful` from its three numbers."""
    return distance > by_chance + 3 * max(error, 1e-9)


def take_facts(arrays: dict[str, np.ndarray]) -> dict[str, dict[str, dict[str, float | bool]]]:
    """Remove "class/RULE-apart/TARGET" from the arrays of a scores file; returns its numbers by target and rule.

    "distance", "by_chance" and "error" are those of `ChanceVotes`, "meaningful" says what follows from them.
    """
    facts: dict[str, dict[str, dict[str, float | bool]]] = {}
    for name in [name for name in arrays if name.startswith("class/") and "-apart/" in name]:
        rule, _, target = name.removeprefix("class/").partition("-apart/")
        three = [float(value) for value in arrays.pop(name)]
        numbers = dict(zip(("distance", "by_chance", "error"), (round(value, 6) for value in three)))
        facts.setdefault(target, {})[rule] = {**numbers, "meaningful": beyond_chance(*three)}
    return facts


def one_order(features: np.ndarray, seed: int = 0, most: int = IMAGES) -> np.ndarray:
    """Rows of (m, d) features in an order that depends on their values alone, at most `most` of them by the seed."""
    width = features.shape[1] * features.dtype.itemsize
    if not width:
        return features[:most]
    content = np.ascontiguousarray(features).view(f"S{width}").reshape(-1)
    order = np.argsort(content, kind="stable")
    if len(order) > most:
        order = order[np.sort(np.random.default_rng(seed).choice(len(order), most, replace=False))]
    return np.asarray(features[order])


def votes_against_chance(
    features: np.ndarray, preference: Callable[[np.ndarray], np.ndarray], *, seed: int = 0, rounds: int = ROUNDS
) -> ChanceVotes:
    """Compare hard votes with those of shuffled features.

    Parameters
    ----------
    features : (m, d) float
        Of a target's images.
    preference : function
        From (b, d) features to (b, c) preferences, as for `prune.scores.class_votes.votes`: minus the squared distances
        to the class means for FM; for LM the logits, by the surrogate's head (`linear_head`).
    seed : int
    rounds : int
        At least 2.
    """
    x = np.asarray(features, np.float32)
    rng = np.random.default_rng(seed)
    mine = _votes(x, preference)
    each = np.stack([_votes(rng.permuted(x, axis=0), preference) for _ in range(rounds)])
    mean = each.mean(axis=0)
    # A round is compared with the others' mean, as the votes are with the mean of all rounds.
    apart = [_distance(one, (mean * rounds - one) / (rounds - 1)) for one in each]
    return ChanceVotes(mean, _distance(mine, mean), float(np.mean(apart)), float(np.std(apart, ddof=1)))


def linear_head(features: np.ndarray, logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weights (d, c) and constants (c,) of the linear layer that made (n, c) logits of (n, d) features.

    By least squares on a sample of some thousand images; exact to the precision of the stored values.
    """
    x, z = np.asarray(features, np.float64), np.asarray(logits, np.float64)
    centre, middle = x.mean(axis=0), z.mean(axis=0)
    weights = np.linalg.lstsq(x - centre, z - middle, rcond=1e-6)[0]
    return weights, middle - centre @ weights


def _votes(x: np.ndarray, preference: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    height = rows_at_once(preference(x[:1]).shape[1])
    return np.asarray(sum(votes(preference(x[rows])) for rows in blocks(len(x), height)))


def _distance(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a / a.sum() - b / b.sum()).sum() / 2)
