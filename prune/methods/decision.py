"""Which samples a selection keeps, from arrays alone: the gate, then near-duplicates, then quota and rank.

    rules = rules_of(config)                       # the settings of `prune select`
    gate = gate_of(rules, pool.arrays, pool.meta)
    parts = parts_of(rules, keep, pool.arrays)
    decision = decide(pool, rules, parts, budget, gate, constraints)
    decision.choice.rows

`prune select`, `prune explain` and `prune.select` call it, so that they agree.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from fractions import Fraction
from functools import partial
from typing import Any

import numpy as np

from prune.methods import eligibility, presets
from prune.methods.choose import FLOOR, Candidates, Choice, choose_samples
from prune.methods.evidence_votes import CountedVotes, counted_votes
from prune.methods.gate_scores import OpenGate, chosen_gate, let_through
from prune.methods.group_floors import Groups, forced_samples, narrowness
from prune.methods.mixing import Part, choose_mixed, parse_mix
from prune.methods.presets import Method
from prune.methods.selection_inputs import (
    Constraints,
    Pool,
    class_floors,
    class_weights,
    protected_classes,
    wanted_targets,
)
from prune.methods.stages import Stage
from prune.runs.files import InputError
from prune.scores.sample_keys import for_purpose, sample_keys


@dataclass(frozen=True)
class Rules:
    """Settings that decide what is kept; `prune select --help` describes each of them."""

    method: str = "winnow"
    mix: str | None = None
    quota: str | None = None
    rank: str | None = None
    gate: str | None = None
    base: float | None = None
    trim: float | None = None
    floor: float | None = None
    floor_groups: int | None = None
    targets: tuple[str, ...] = ()
    combine: str = "mean"
    protect: tuple[str, ...] = ()
    drop_duplicates: bool = False
    drop_leaks: bool = False
    drop_suspects: bool = False
    cut: float = 0.1
    complexity: float = 4.0
    seed: int = 0


def rules_of(settings: Any) -> Rules:
    """The rules in a config of `prune select`, or in what an index recorded of it (a mapping)."""
    known = settings if isinstance(settings, Mapping) else vars(settings)
    given: dict[str, Any] = {one.name: known[one.name] for one in fields(Rules) if one.name in known}
    ready: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in given.items()}
    return Rules(**ready)


@dataclass(frozen=True)
class Decision:
    """What is kept, and why the rest is not.

    Attributes
    ----------
    choice : Choice
    excluded : dict of str to (n,) bool
        Samples that could not be kept, by the first cause that applies: "never", "suspect", "leak", "gate",
        "duplicate". This and the next two are empty unless the decision is traced.
    stages : list of Stage
        The orders in which the others were taken.
    least_odds : float
        Domain odds from which a sample passes the gate; NaN where it is open.
    floored : (n,) bool, optional
        Samples that a floor of groups keeps.
    limits : (c,) int64, optional
        Images that the votes of each class stand for, where quota `evidence` decides alone.
    spared : (n,) bool, optional
        Near-duplicates that the method would drop, and that may be kept since the budget, a floor or a class that is
        kept whole needs them.
    """

    choice: Choice
    excluded: dict[str, np.ndarray]
    stages: list[Stage] = field(default_factory=list)
    least_odds: float = float("nan")
    floored: np.ndarray | None = None
    limits: np.ndarray | None = None
    spared: np.ndarray | None = None

    def kept_copies(self) -> np.ndarray:
        """Rows of the near-duplicates that are kept although the method would drop them, (k,) int64, ascending."""
        rows = self.choice.rows
        return rows[:0] if self.spared is None else rows[self.spared[rows]]


def gate_of(rules: Rules, arrays: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> OpenGate:
    """The gate that the user asks for, or that of the method; a mix has that of winnow where winnow is a part."""
    own = rules.method
    if rules.mix is not None:
        own = "winnow" if "winnow" in [one.method for one in parse_mix(rules.mix)] else "random"
    return chosen_gate(rules.gate or presets.gate_of(own, arrays), arrays, meta)


def parts_of(rules: Rules, keep: float, arrays: Mapping[str, np.ndarray]) -> list[Part]:
    """The parts of the mix, each with the method for its share of the keep; the method alone where there is no mix."""
    if rules.mix is None:
        return [Part(rules.method, Fraction(1), _method(rules, keep, arrays))]
    return [
        Part(one.name, one.share, presets.method(one.method, keep * float(one.share), arrays))
        for one in parse_mix(rules.mix)
    ]


def _method(rules: Rules, keep: float, arrays: Mapping[str, np.ndarray]) -> Method:
    found = presets.method(rules.method, keep, arrays)
    return presets.changed(found, rules.quota, rules.rank, rules.base, rules.trim)


def votes_of(pool: Pool, rules: Rules) -> CountedVotes | None:
    """Votes for quota `evidence`."""
    targets = wanted_targets(pool.meta.get("targets", []), rules.targets)
    return counted_votes(pool.arrays, pool.meta, targets, rules.combine)


def decide(
    pool: Pool,
    rules: Rules,
    parts: list[Part],
    budget: int,
    gate: OpenGate,
    constraints: Constraints,
    *,
    features: np.ndarray | None = None,
    feature_rows: np.ndarray | None = None,
    groups: Groups | None = None,
    trace: bool = False,
) -> Decision:
    """Keep `budget` samples of a pool.

    Parameters
    ----------
    pool : Pool
    rules : Rules
    parts : list of Part
        Of `parts_of`.
    budget : int
    gate : OpenGate
        Of `gate_of`.
    constraints : Constraints
        The user's lists.
    features : (n, d) float, optional
        For ranks that use them.
    feature_rows : (m,) int64, optional
        The samples whose features these are; all when absent.
    groups : Groups, optional
        For `rules.floor_groups`.
    trace : bool
        Also keep what explains the decision: causes and orders, some arrays over all samples.

    Raises
    ------
    InputError
        Constraints that the budget cannot meet, or scores or votes that the method needs and the pool lacks.
    """
    whole = partial(
        _decide,
        pool,
        rules,
        parts,
        budget,
        gate,
        features=features,
        feature_rows=feature_rows,
        trace=trace or rules.floor_groups is not None,
    )
    first = whole(constraints)
    if rules.floor_groups is None:
        return first
    if groups is None:
        raise InputError("--floor-groups needs --groups: a CSV file with the columns id and group")
    n, always = len(pool.label), constraints.always
    given = np.zeros(n, bool) if always is None else always
    forced = forced_samples(
        lambda mask: _mask(n, whole(replace(constraints, always=given | mask)).choice.rows),
        groups,
        rules.floor_groups,
        budget,
        eligibility.eligible(n, constraints.never, _dropped(pool, rules), always),
        narrowness(first.stages, pool.label, list(first.excluded.values())),
    )
    if not forced.any():
        return first
    final = whole(replace(constraints, always=given | forced))
    reason = np.where(forced[final.choice.rows], FLOOR, final.choice.reason).astype(np.uint8)
    return replace(final, choice=replace(final.choice, reason=reason), floored=forced)


def _mask(n: int, rows: np.ndarray) -> np.ndarray:
    found = np.zeros(n, bool)
    found[rows] = True
    return found


def _dropped(pool: Pool, rules: Rules) -> np.ndarray | None:
    return eligibility.dropped(pool.arrays, len(pool.label), leaks=rules.drop_leaks, suspects=rules.drop_suspects)


def _decide(
    pool: Pool,
    rules: Rules,
    parts: list[Part],
    budget: int,
    gate: OpenGate,
    constraints: Constraints,
    *,
    features: np.ndarray | None,
    feature_rows: np.ndarray | None,
    trace: bool,
) -> Decision:
    ground = _Ground.of(pool, rules, parts, budget, gate, constraints)
    arrays, label, count, always = pool.arrays, pool.label, len(pool.classes), constraints.always
    n, methods = len(label), [part.method for part in parts]
    weights = class_weights(arrays, pool.meta.get("targets", []), rules.targets, rules.combine)
    if constraints.weights is not None:
        weights["weights"] = constraints.weights
    eligible, listed = ground.listed.copy(), ground.listed
    causes = _listed_causes(pool, rules, constraints, eligible) if trace else {}
    counted = votes_of(pool, rules) if any(method.quota == "evidence" for method in methods) else None
    least_odds = float("nan")
    if (passing := ground.passing(budget)) is not None:
        if trace:
            causes["gate"] = eligible & ~passing
            least_odds = _least_odds(gate.odds, passing)
        eligible &= passing
        if counted is not None:
            counted = counted.through(*(np.bincount(k, minlength=count) for k in (label, label[passing])))
    found = ground.surplus(eligible)
    copies = ground.dropped(found, eligible, budget)
    spared = eligible & found & ~copies
    if trace:
        causes["duplicate"] = eligible & copies
    if budget > (left := int((eligible & ~copies).sum())):
        gone = _listed_causes(pool, rules, constraints, listed) | {"duplicate": eligible & copies}
        raise InputError(eligibility.too_few(budget, left, {name: int(mask.sum()) for name, mask in gone.items()}, n))
    eligible &= ~copies
    source = Candidates(
        label,
        count,
        {name[7:]: values for name, values in arrays.items() if name.startswith("sample/")},
        weights,
        eligible,
        always,
        features,
        pool.ids,
        pool.classes,
        feature_rows,
        counted,
    )
    choose = partial(choose_samples, source, methods[0])
    if rules.mix is not None:
        choose = partial(choose_mixed, source, parts)
    stages: list[Stage] = []
    choice = choose(
        budget,
        floor=ground.floor,
        protected=ground.protected,
        cut=rules.cut,
        complexity=rules.complexity,
        seed=rules.seed,
        stages=stages if trace else None,
    )
    limits = counted.limits(budget) if trace and counted is not None and rules.mix is None else None
    return Decision(choice, causes, stages, least_odds, limits=limits, spared=spared)


def largest_without_copies(
    pool: Pool, rules: Rules, parts: list[Part], budget: int, gate: OpenGate, constraints: Constraints
) -> int:
    """The largest budget, up to `budget`, that needs no near-duplicate which the method would drop.

    0 where every budget needs some: for a floor, or a class that is kept whole.
    """
    ground = _Ground.of(pool, rules, parts, budget, gate, constraints)

    def needs_some(amount: int) -> bool:
        passing = ground.passing(amount)
        may = ground.listed if passing is None else ground.listed & passing
        found = ground.surplus(may)
        return bool((may & found & ~ground.dropped(found, may, amount)).any())

    least, most = max(1, int(ground.low.sum())), budget
    if needs_some(least):
        return 0
    while least < most:  # a larger budget never needs fewer
        middle = (least + most + 1) // 2
        least, most = (least, middle - 1) if needs_some(middle) else (middle, most)
    return least


@dataclass(frozen=True)
class _Ground:
    """Which samples a decision chooses among: what lists, gate and near-duplicates leave.

    Attributes
    ----------
    listed : (n,) bool
        Samples that lists and flags allow.
    floor : (c,) int64 or None
        The least of each class; `low` has zeros instead of None.
    protected : (c,) bool or None
        Classes that are kept whole.
    ties : (n,) uint64
    """

    pool: Pool
    rules: Rules
    parts: list[Part]
    gate: OpenGate
    always: np.ndarray | None
    listed: np.ndarray
    floor: np.ndarray | None
    low: np.ndarray
    protected: np.ndarray | None
    ties: np.ndarray

    @classmethod
    def of(
        cls, pool: Pool, rules: Rules, parts: list[Part], budget: int, gate: OpenGate, constraints: Constraints
    ) -> _Ground:
        n, count, always = len(pool.label), len(pool.classes), constraints.always
        protected = protected_classes(rules.protect, pool.classes)
        floor = class_floors(rules.floor, np.bincount(pool.label, minlength=count), budget)
        low = np.zeros(count, np.int64) if floor is None else floor
        listed = eligibility.eligible(n, constraints.never, _dropped(pool, rules), always)
        ties = for_purpose(sample_keys(rules.seed, ids=pool.ids, n=n), "ties")
        return cls(pool, rules, parts, gate, always, listed, floor, low, protected, ties)

    def passing(self, budget: int) -> np.ndarray | None:
        """Samples that the gate lets through for a budget, (n,) bool; None where it is open."""
        if self.gate.width >= 1:
            return None
        label, listed, low = self.pool.label, self.listed, self.low
        return let_through(self.gate, listed, label, low, budget, self.protected, self.always, self.ties)

    def surplus(self, may: np.ndarray) -> np.ndarray:
        """Near-duplicates that the rules or a method would drop of those that may be kept, (n,) bool."""
        arrays = self.pool.arrays
        if self.rules.drop_duplicates:
            return eligibility.surplus_copies(eligibility.originals(arrays), may, self.always, self.ties)
        if any(part.method.without_duplicates for part in self.parts) and "duplicate_of" in arrays:
            return eligibility.surplus_copies(np.asarray(arrays["duplicate_of"]), may, self.always, self.ties)
        return np.zeros(len(may), bool)

    def dropped(self, found: np.ndarray, may: np.ndarray, budget: int) -> np.ndarray:
        """Those of the near-duplicates `found` that a budget can do without, (n,) bool."""
        if self.rules.drop_duplicates:
            return found
        label, low = self.pool.label, self.low
        return eligibility.removable_copies(found, may, label, budget, low, self.protected, self.ties)


def _least_odds(odds: np.ndarray, passing: np.ndarray) -> float:
    """The least odds that pass by themselves: what floors hold open lies below the best that is shut out."""
    shut, inside = odds[~passing], odds[passing]
    most = float(np.nanmax(shut)) if (~np.isnan(shut)).any() else -np.inf
    return float(np.min(inside[inside >= most], initial=np.inf))


def _listed_causes(pool: Pool, rules: Rules, constraints: Constraints, eligible: np.ndarray) -> dict[str, np.ndarray]:
    never, arrays = constraints.never, pool.arrays
    return eligibility.causes(arrays, eligible, never, leaks=rules.drop_leaks, suspects=rules.drop_suspects)
