"""Stay close to an earlier selection: of each class as many samples as the rules keep, the earlier ones where they may.

A pool that grows changes scores and quotas a little, and with them which of many equal samples are kept. Whoever has
trained on the earlier ones, or has moved them, wants the fewest changes that the quotas demand.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from prune.index.matching import find
from prune.index.pruned_index import REASONS, PrunedIndex
from prune.methods.choose import FLOOR, PROTECTED, Choice
from prune.methods.decision import Decision
from prune.methods.presets import rank_parts
from prune.methods.rank import places
from prune.runs.files import InputError

REASON = "kept before"
"""Why a sample is kept that the rules alone would have left to another one of its class."""


def rows_like(path: Path, ids: np.ndarray) -> np.ndarray:
    """Mark the samples of a source, (n,) bytes, that an earlier index keeps, (n,) bool.

    Raises
    ------
    InputError
        The index keeps no sample of this source.
    """
    old = PrunedIndex.open(path, verify=True)
    rows = find(old.ids, ids)[0]
    if len(old) and not (rows >= 0).any():
        raise InputError(f"--like {path}: none of its {len(old)} samples is in this source")
    found = np.zeros(len(ids), bool)
    found[rows[rows >= 0]] = True
    return found


def stay_close(
    decision: Decision, like: np.ndarray, label: np.ndarray, rank: str, scores: Mapping[str, np.ndarray]
) -> Choice:
    """The choice of a decision with as few changes from an earlier selection as its quotas allow.

    Each class keeps as many samples as before. Earlier samples that may be kept take the places of new ones: the first
    by the order of the rank come back, for the last of the new ones. What lists, protected classes and floors keep
    stays.

    Parameters
    ----------
    decision : Decision
    like : (n,) bool
        The earlier selection.
    label : (n,) int
    rank : str
        Of the method, for the score that is recorded.
    scores : mapping of str to (n,) float
    """
    choice, n = decision.choice, len(label)
    kept, may = np.zeros(n, bool), np.ones(n, bool)
    kept[choice.rows] = True
    for mask in decision.excluded.values():
        may &= ~mask
    fixed = np.zeros(n, bool)
    fixed[choice.rows] = np.isin(choice.reason, (PROTECTED, FLOOR))
    order = decision.stages[0].place if decision.stages else np.zeros(n, np.int64)
    back, out = np.flatnonzero(like & ~kept & may), np.flatnonzero(kept & ~like & ~fixed)
    classes = len(choice.quotas)
    swaps = np.minimum(*(np.bincount(label[rows], minlength=classes) for rows in (back, out)))
    back = back[places(order[back], label[back])[0] < swaps[label[back]]]
    out = out[places(-order[out], label[out])[0] < swaps[label[out]]]
    kept[out], kept[back] = False, True
    rows = np.flatnonzero(kept)
    reason, score = np.full(n, len(choice.reason_names), np.uint8), np.full(n, np.nan, np.float32)
    reason[choice.rows], score[choice.rows] = choice.reason, choice.score
    if (name := rank_parts(rank, scores)[0]) and choice.reason_names == REASONS:
        score[back] = scores[name][back]
    return replace(
        choice, rows=rows, reason=reason[rows], score=score[rows], reason_names=(*choice.reason_names, REASON)
    )
