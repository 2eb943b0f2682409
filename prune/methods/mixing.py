"""Mixes of methods: the budget is split into parts, and each part is filled in turn from what the parts before it left.

    shares = parse_mix("lm:0.5,domain:0.3,random:0.2")
    parts = [Part(one.name, one.share, PRESETS[one.method]) for one in shares]
    choice = choose_mixed(source, parts, budget)   # choice.reason_names[choice.reason] says which part kept a sample

A part keeps what its method alone would keep with the part's budget, of the samples that are left. Floors, protected
classes and samples that are always kept hold over the whole, not for each part.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np

from prune.index.pruned_index import REASONS
from prune.methods.choose import FLOOR, PROTECTED, Candidates, Choice, check_protected, choose_samples
from prune.methods.presets import NAMES, Method
from prune.methods.quota import check_floors, quota
from prune.methods.sampling import COMPLEXITY
from prune.methods.stages import Stage
from prune.runs.files import InputError, share_of
from prune.scores.sample_keys import for_purpose, name_keys

SHORT = {"lm": "dp4tl-lm", "fm": "dp4tl-fm", "domain": "gate"}
"""Names of parts that stand for a method of another name."""


@dataclass(frozen=True)
class Share:
    """A part as a user states it: its name, its share of the budget, and the method that the name stands for."""

    name: str
    share: Fraction
    method: str


@dataclass(frozen=True)
class Part:
    """A part of a mix: its name, its share of the budget, and what fills it."""

    name: str
    share: Fraction
    method: Method


def parse_mix(text: str) -> list[Share]:
    """Read NAME:SHARE,NAME:SHARE,... in the order in which the parts are filled.

    Raises
    ------
    InputError
        Not of this form, an unknown method or one named twice, or shares that do not sum to 1.

    Examples
    --------
    >>> [(one.method, float(one.share)) for one in parse_mix("lm:0.7,random:0.3")]
    [('dp4tl-lm', 0.7), ('random', 0.3)]
    """
    found: list[Share] = []
    for piece in text.split(","):
        name, _, number = piece.strip().rpartition(":")
        if not name:
            raise InputError(f"--mix {text}: give parts as NAME:SHARE, with commas between them: lm:0.7,random:0.3")
        method = SHORT.get(name, name)
        if method not in NAMES:
            raise InputError(f"--mix {text}: no method {name!r}; there are {', '.join((*SHORT, *NAMES))}")
        if method in [one.method for one in found]:
            raise InputError(f"--mix {text}: names {method} twice")
        found.append(Share(name, _fraction(text, number), method))
    total = sum(one.share for one in found)
    if total != 1:
        raise InputError(f"--mix {text}: the shares sum to {float(total):g}; they must sum to 1")
    return found


def _fraction(text: str, number: str) -> Fraction:
    """A share by its decimal digits: 0.1 is a tenth, not the nearest binary fraction."""
    if (value := share_of(number)) is None:
        raise InputError(f"--mix {text}: the share {number!r} is no number in (0, 1]")
    return Fraction(repr(value))


def part_budgets(shares: Sequence[Fraction], budget: int) -> list[int]:
    """Split a budget into whole numbers by largest remainders; among equal remainders the earlier part comes first.

    Parameters
    ----------
    shares : sequence of Fraction
        Sum to 1.
    budget : int

    Examples
    --------
    7 samples are 3.5, 2.1 and 1.4:

    >>> part_budgets([Fraction(1, 2), Fraction(3, 10), Fraction(1, 5)], 7)
    [4, 2, 1]
    """
    down = [int(share * budget) for share in shares]
    order = sorted(range(len(shares)), key=lambda k: down[k] - shares[k] * budget)
    for k in order[: budget - sum(down)]:
        down[k] += 1
    return down


def mix_reasons(names: Sequence[str]) -> tuple[str, ...]:
    """Names of the reasons of a mix: `prune.index.REASONS`, then the parts that are not among them."""
    return (*REASONS, *(name for name in names if name not in REASONS))


def choose_mixed(
    source: Candidates,
    parts: Sequence[Part],
    budget: int,
    *,
    floor: np.ndarray | None = None,
    protected: np.ndarray | None = None,
    cut: float = 0.1,
    complexity: float = COMPLEXITY,
    seed: int = 0,
    stages: list[Stage] | None = None,
) -> Choice:
    """Keep `budget` samples by several methods; parameters, errors and result as those of `choose_samples`.

    Samples that are always kept, and protected classes, come first and belong to no part; the rest of the budget is
    split. The parts meet the floors over the whole, the last ones first: a part keeps samples for a floor only as far
    as the budgets behind it cannot.

    Returns
    -------
    Choice
        `reason` is "protected", "floor" or the name of the part; `score` is that of the part's rank, and NaN for what
        no part kept; `weight` is the mean over the parts by their budgets.
    """
    n, c, label = len(source.label), source.classes, np.asarray(source.label)
    eligible = np.ones(n, bool) if source.eligible is None else source.eligible
    kept = np.zeros(n, bool) if source.always is None else source.always & eligible
    if protected is not None:
        kept |= eligible & protected[label]
    must = np.bincount(label[kept], minlength=c)
    check_protected(int(must.sum()), budget)
    sizes = np.bincount(label[eligible], minlength=c)
    low = check_floors(sizes, budget, np.maximum(must, 0 if floor is None else np.minimum(floor, sizes)))

    names = mix_reasons([part.name for part in parts])
    reason = np.full(n, PROTECTED, np.uint8)
    score = np.full(n, np.nan, np.float32)
    weight = np.zeros(c)
    ties = for_purpose(name_keys(seed, source.names, c), "classes")
    later = budget - int(must.sum())
    for part, own in zip(parts, part_budgets([part.share for part in parts], later)):
        later -= own
        mine: list[Stage] = []
        lacking = np.maximum(low - np.bincount(label[kept], minlength=c), 0)
        found = choose_samples(
            replace(source, eligible=eligible & ~kept, always=None),
            part.method,
            own,
            floor=quota(lacking, lacking, max(0, int(lacking.sum()) - later), ties=ties),
            cut=cut,
            complexity=complexity,
            seed=seed,
            stages=None if stages is None else mine,
        )
        if stages is not None:
            stages.extend(replace(stage, part=part.name) for stage in mine)
        kept[found.rows] = True
        reason[found.rows] = np.where(found.reason == FLOOR, FLOOR, names.index(part.name))
        score[found.rows] = found.score
        weight += own * found.weight
    rows = np.flatnonzero(kept)
    quotas = np.bincount(label[rows], minlength=c)
    weight /= max(float(weight.sum()), np.finfo(float).tiny)
    return Choice(rows, reason[rows], score[rows], quotas, weight, sizes, names)
