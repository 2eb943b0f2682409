"""How a selection came about: each order in which samples were taken, for `prune explain`.

stages: list[Stage] = []
choice = choose_samples(source, method, budget, stages=stages)
# a sample is kept by a stage when 0 <= stage.place < stage.quotas of its class
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Stage:
    """One order of taking: of each class the first `quotas` samples are kept.

    Attributes
    ----------
    rank : str
        "random", "el2n:top", ...; with alternatives, the one that was used.
    place : (n,) int32
        Place in the order, from 0: inside the class, or over all samples. -1 for samples that were not to choose from:
        they may not be kept, are always kept, or an earlier stage kept them.
    quotas : (c,) or (1,) int64
        How many of each class are taken; one number where the order runs over all samples.
    part : str
        Name of the part of a mix; empty when there is none.
    """

    rank: str
    place: np.ndarray
    quotas: np.ndarray
    part: str = ""

    @property
    def over_all(self) -> bool:
        """Whether the order runs over all samples at once."""
        return len(self.quotas) == 1

    def quota_of(self, label: np.ndarray | int) -> np.ndarray:
        """Quota that holds for samples of these classes."""
        return np.asarray(self.quotas[0 if self.over_all else label])


def whole_places(n: int, rows: np.ndarray, place: np.ndarray) -> np.ndarray:
    """Places of `rows`, (m,) int, as an array over all n samples, -1 for the others; (n,) int32."""
    found = np.full(n, -1, np.int32)
    found[rows] = place
    return found
