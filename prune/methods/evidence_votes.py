"""Class votes of a scores file for quota `evidence`: counts by kind, those by chance, and what to tell of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from prune.methods.class_vote_shrinkage import (
    evidence,
    passing_votes,
    shrunk_shares,
    vote_limits,
    vote_quotas,
    warnings,
)
from prune.runs.files import InputError
from prune.scores.class_votes import combine

KINDS = ("lm", "fm")


@dataclass(frozen=True)
class CountedVotes:
    """Votes as counts of target images.

    Attributes
    ----------
    votes, chance : dict of str to (c,) float64
        Hard votes and votes of shuffled features by kind ("lm", "fm"), the targets combined.
    meaningless : tuple of str
        Targets none of whose votes is farther from chance than votes of shuffled features.
    """

    votes: dict[str, np.ndarray]
    chance: dict[str, np.ndarray]
    meaningless: tuple[str, ...] = ()

    def found(self) -> np.ndarray:
        """How much speaks for each class, (c,) float64 shares."""
        return evidence(self.votes, self.chance)

    def quotas(self, size: np.ndarray, budget: int, floor: np.ndarray, ties: np.ndarray) -> np.ndarray:
        """Quotas of the classes, (c,) int64, which sum to the budget or to less (`vote_quotas`)."""
        return vote_quotas(self.found(), self._shares(), size, budget, floor, ties=ties)

    def limits(self, budget: int) -> np.ndarray:
        """Images that the votes of each class stand for, (c,) int64 (`vote_limits`)."""
        return vote_limits(self.found(), self._shares(), budget)

    def _shares(self) -> np.ndarray:
        return shrunk_shares(np.sum(list(self.votes.values()), axis=0), np.sum(list(self.chance.values()), axis=0))

    def through(self, size: np.ndarray, passing: np.ndarray) -> CountedVotes:
        """The same where classes count by the part of their images that passes the gate."""
        return replace(self, votes={kind: passing_votes(v, size, passing) for kind, v in self.votes.items()})

    def told(self, kept: np.ndarray, names: Sequence[str]) -> list[str]:
        """What a user should know of votes and kept images by class, (c,) int, one sentence each."""
        return warnings(np.sum(list(self.votes.values()), axis=0), kept, names, self.meaningless)


def counted_votes(
    arrays: Mapping[str, np.ndarray], meta: Mapping[str, Any], targets: Sequence[str], how: str
) -> CountedVotes | None:
    """Votes of the targets as counts: their combined shares times the number of their images; None without targets.

    Parameters
    ----------
    arrays, meta : mapping
        Of the scores file.
    targets : sequence of str
        Those whose votes count.
    how : {"mean", "max", "min"}
        How several targets are combined (`prune.scores.class_votes.combine`).

    Raises
    ------
    InputError
        The scores file has no votes by chance.
    """
    votes: dict[str, np.ndarray] = {}
    chance: dict[str, np.ndarray] = {}
    for kind in KINDS:
        names = [f"class/{kind}/{target}" for target in targets]
        if not names or any(name not in arrays for name in names):
            continue
        by_chance = [f"class/{kind}-chance/{target}" for target in targets]
        if any(name not in arrays for name in by_chance):
            raise InputError(
                "quota evidence needs votes by chance, which scores files of older versions lack: "
                "run `prune score` again, with another --out"
            )
        images = sum(float(np.sum(arrays[name])) for name in names)  # every image has one hard vote
        votes[kind] = images * combine([arrays[name] for name in names], how)
        chance[kind] = images * combine([arrays[name] for name in by_chance], how)
    if not votes:
        return None
    told = meta.get("votes", {})
    weak = [t for t in targets if t in told and not any(one["meaningful"] for one in told[t].values())]
    return CountedVotes(votes, chance, tuple(weak))
