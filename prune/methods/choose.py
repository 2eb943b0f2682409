"""Choose samples: class weights become quotas, a rank fills every class's quota, and each kept sample has a reason.

No choice depends on the order of the samples or of the classes: ties are broken, and samples are drawn, by numbers that
come from the seed and the samples' ids (`prune.scores.sample_keys`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from prune.index.pruned_index import REASONS
from prune.methods import rank as ranks
from prune.methods.class_vote_shrinkage import fill_rest
from prune.methods.evidence_votes import CountedVotes
from prune.methods.presets import BY_QUOTA, OVER_ALL, Method, rank_parts
from prune.methods.quota import check_floors, quota, whole_classes
from prune.methods.sampling import COMPLEXITY, beta_key, ccs_places
from prune.methods.stages import Stage, whole_places
from prune.runs.files import InputError
from prune.scores.sample_keys import for_purpose, name_keys, sample_keys, uniform
from prune.scores.score_table import hardness

QUOTA, FLOOR, PROTECTED, COVERAGE, RANDOM = range(5)
"""Codes of `prune.index.REASONS`."""


@dataclass(frozen=True)
class Candidates:
    """Samples to choose from, and what is known of them.

    Attributes
    ----------
    label : (n,) int
    classes : int
    scores : mapping of str to (n,) float
    weights : mapping of str to (c,) float
        Class weights under the quota's name ("lm", "fm-soft", ...), targets combined.
    eligible : (n,) bool, optional
        False for samples that must not be kept.
    always : (n,) bool, optional
        True for samples that must be kept.
    features : (n, d) float, optional
        For ranks that use them; may be memory-mapped.
    feature_rows : (m,) int64, optional
        The samples whose features these are, ascending; all when absent.
    counted : CountedVotes, optional
        For quota `evidence`, classes counting by the part of their images that passes the gate.
    ids : (n,) bytes, optional
        Draws and ties depend on the seed and these; on the row numbers when absent.
    names : list of str, optional
        Names of the classes; ties between classes depend on the seed and these, on the numbers when absent.
    """

    label: np.ndarray
    classes: int
    scores: Mapping[str, np.ndarray] = field(default_factory=dict)
    weights: Mapping[str, np.ndarray] = field(default_factory=dict)
    eligible: np.ndarray | None = None
    always: np.ndarray | None = None
    features: np.ndarray | None = None
    ids: np.ndarray | None = None
    names: list[str] | None = None
    feature_rows: np.ndarray | None = None
    counted: CountedVotes | None = None


@dataclass(frozen=True)
class Choice:
    """The chosen samples.

    Attributes
    ----------
    rows : (budget,) int64, ascending
    reason : (budget,) uint8
        Positions in `reason_names`.
    score : (budget,) float32
        The rank's score; NaN where the rank uses none.
    quotas : (c,) int64
    weight : (c,) float64
        Class weights behind the quotas, summing to 1.
    available : (c,) int64
        Eligible samples of the class.
    reason_names : tuple of str
        `prune.index.REASONS`; the parts of a mix follow them.
    """

    rows: np.ndarray
    reason: np.ndarray
    score: np.ndarray
    quotas: np.ndarray
    weight: np.ndarray
    available: np.ndarray
    reason_names: tuple[str, ...] = REASONS


def choose_samples(
    source: Candidates,
    method: Method,
    budget: int,
    *,
    floor: np.ndarray | None = None,
    protected: np.ndarray | None = None,
    cut: float = 0.1,
    complexity: float = COMPLEXITY,
    seed: int = 0,
    stages: list[Stage] | None = None,
) -> Choice:
    """Keep `budget` samples.

    Parameters
    ----------
    source : Candidates
    method : Method
    budget : int
    floor : (c,) int, optional
        The least that each class keeps (a smaller class is kept whole).
    protected : (c,) bool, optional
        Classes that are kept whole.
    cut : float
        Fraction of each class, its hardest samples, that CCS cuts.
    complexity : float
        c_D of DUAL's Beta draw.
    seed : int
        For random draws and ties.
    stages : list of Stage, optional
        Receives each order in which samples are taken.

    Raises
    ------
    InputError
        Floors, protected classes and samples exceed the budget, or a weight or score that the method needs is absent.
    """
    n, c = len(source.label), source.classes
    keys = sample_keys(seed, ids=source.ids, n=n)
    order = ranks.stable_order(for_purpose(keys, "ties"))  # from here on, the lower row wins ties
    label = source.label[order]
    eligible = np.ones(n, bool) if source.eligible is None else source.eligible[order]
    forced = np.zeros(n, bool) if source.always is None else source.always[order] & eligible
    sizes, taken = (np.bincount(label[mask], minlength=c) for mask in (eligible, forced))
    must = taken if protected is None else np.where(protected, sizes, taken)
    check_protected(int(must.sum()), budget)
    low = np.maximum(must, 0 if floor is None else np.minimum(floor, sizes))
    check_floors(sizes, budget, low)
    score, way = rank_parts(method.rank, source.scores)
    if method.quota == "threshold" and way in BY_QUOTA and way not in OVER_ALL:
        raise InputError(f"rank {method.rank!r} works inside classes: give a --quota other than threshold")

    inside = np.flatnonzero(eligible & ~forced)
    free = _Free(source, order[inside], label[inside], score, way, uniform(for_purpose(keys, way))[order[inside]])
    class_ties = for_purpose(name_keys(seed, source.names, c), "classes")
    weight = _weights(source, method.quota, sizes)
    if method.quota == "threshold":
        left, one = budget - int(taken.sum()), np.zeros_like(free.label)
        if way in OVER_ALL:
            # Picks of d2 do not depend on their number: an order of all samples also fills the floors.
            picked = left if way == "ccs" or not (low > taken).any() else len(inside) - 1
            key = _place(free, one, np.array([picked]), cut).astype(np.float64)
        else:
            key = _key(free, one, budget / n, complexity)
        quotas = taken + ranks.threshold_quotas(key, free.label, left, low - taken)
        plain = taken + ranks.threshold_quotas(key, free.label, left, must - taken) if (low > must).any() else quotas
        place = ranks.places(key, free.label)[0]
    else:
        quotas = _quotas(source, method, weight, sizes, budget, low, class_ties)
        plain = _quotas(source, method, weight, sizes, budget, must, class_ties) if (low > must).any() else quotas
        if way in BY_QUOTA:
            place = _place(free, free.label, quotas - taken, cut)
        else:
            place = ranks.places(_key(free, free.label, budget / n, complexity), free.label)[0]

    kept = forced.copy()
    kept[inside] = place < (quotas - taken)[free.label]
    if stages is not None:
        stages.append(Stage(f"{score}:{way}" if score else way, whole_places(n, free.rows, place), quotas - taken))
    reason = np.full(n, PROTECTED, np.uint8)
    drawn = {"random": RANDOM, "ccs": QUOTA}.get(way, COVERAGE if way in BY_QUOTA else QUOTA)
    reason[inside] = np.where(quotas < sizes, drawn, QUOTA)[free.label]  # a class that is kept whole is not drawn from
    # Kept because of the floor: what would be dropped without one.
    reason[inside] = np.where(place >= (plain - taken)[free.label], FLOOR, reason[inside])
    if protected is not None:
        reason[protected[label]] = PROTECTED
    if method.quota == "evidence":  # what votes cannot stand for goes to the best images of any class
        odds = source.scores.get("domain")
        rest = uniform(for_purpose(keys, "rest")) if odds is None else odds
        filled = fill_rest(kept, rest[order], budget, eligible)
        if stages is not None:
            others = np.flatnonzero(eligible & ~kept)
            best_first = -np.asarray(rest[order][others], np.float64)
            place = ranks.places(np.where(np.isnan(best_first), np.inf, best_first), np.zeros(len(others), np.int64))[0]
            by = "random" if odds is None else "domain:top"
            stages.append(Stage(by, whole_places(n, order[others], place), np.array([budget - int(kept.sum())])))
        reason[filled & ~kept] = RANDOM if odds is None else QUOTA
        kept = filled
        quotas = np.bincount(label[kept], minlength=c)
    found = np.flatnonzero(kept)
    found = found[np.argsort(order[found])]
    rows = order[found]
    shown = source.scores[score][rows] if score else np.full(len(rows), np.nan)
    return Choice(rows, reason[found], shown.astype(np.float32), quotas, weight, sizes)


def check_protected(must: int, budget: int) -> None:
    """Raise `InputError` when more samples must be kept than the budget has."""
    if must > budget:
        raise InputError(f"{must} samples are protected and the budget is {budget}: raise the keep")


@dataclass(frozen=True)
class _Free:
    """The samples that a rank chooses from, (m,), in the order that decides ties.

    Attributes
    ----------
    source : Candidates
    rows : (m,) int64
        Their rows in the source.
    label : (m,) int
    score, way : str
        Of the rank.
    draw : (m,) float64
        A uniform random number for each.
    """

    source: Candidates
    rows: np.ndarray
    label: np.ndarray
    score: str
    way: str
    draw: np.ndarray

    @property
    def values(self) -> np.ndarray:
        """Their scores."""
        return np.asarray(self.source.scores[self.score][self.rows])


def _key(free: _Free, groups: np.ndarray, keep: float, complexity: float) -> np.ndarray:
    """Sort keys of the ways that have one, smallest first."""
    if free.way == "random":
        return free.draw
    if free.way == "beta":
        confidence = np.asarray(free.source.scores["confidence"])[free.rows]
        return beta_key(free.values, confidence, keep, free.draw, complexity=complexity)
    if free.way == "middle":
        return ranks.middle_key(free.values, groups)
    return ranks.top_key(free.values) if free.way == "top" else ranks.bottom_key(free.values)


def _place(free: _Free, groups: np.ndarray, quotas: np.ndarray, cut: float) -> np.ndarray:
    """Order of taking inside each group, for the ways that depend on the quotas."""
    hard = np.asarray(hardness(free.score, free.values)) if free.score else None
    if free.way == "ccs":
        assert hard is not None
        return ccs_places(hard, groups, quotas, free.draw, cut=cut)
    from prune.methods.coverage import coverage_places

    if free.source.features is None:
        raise InputError(f"rank {free.way} uses the source's features: give them with --features")
    held = free.source.feature_rows
    return coverage_places(free.way, free.source.features, free.rows, groups, quotas, hard, held)


def _weights(source: Candidates, name: str, sizes: np.ndarray) -> np.ndarray:
    """Class weights behind a quota, (c,) float64, summing to 1."""
    if name in ("size", "threshold"):
        weight = sizes.astype(np.float64)
    elif name == "equal":
        weight = (sizes > 0).astype(np.float64)
    elif name == "evidence":
        if source.counted is None:
            raise InputError(missing(name))
        weight = source.counted.found()
    else:
        name = name.replace("-whole", "")
        if name not in source.weights:
            raise InputError(missing(name))
        weight = np.asarray(source.weights[name], np.float64)
    return weight / max(float(weight.sum()), np.finfo(float).tiny)


def missing(name: str) -> str:
    """Why class weights of this name are missing, in words."""
    if name.startswith("lm"):
        return (
            "LM needs targets, and a surrogate that knows the source's classes: `prune score` had no --targets, or "
            "this surrogate has other classes or none (use FM: --method dp4tl-fm, or --quota fm-soft)"
        )
    if name.startswith(("fm", "soft", "votes", "evidence")):
        return "class votes need targets: run `prune score` with --targets"
    return f"quota {name!r} needs --weights FILE"


def _quotas(
    source: Candidates,
    method: Method,
    weight: np.ndarray,
    sizes: np.ndarray,
    budget: int,
    low: np.ndarray,
    ties: np.ndarray,
) -> np.ndarray:
    """Quotas of the classes by their weights, (c,) int64, at least `low`."""
    if method.quota.endswith("-whole"):
        soft = source.weights.get(method.quota.replace("whole", "soft"), weight)
        return whole_classes(weight, soft, sizes, budget, low, method.trim, ties)
    if method.base > 0:
        low = quota(sizes, sizes, max(int(low.sum()), round(method.base * budget)), low, ties)
    if method.quota == "evidence":
        assert source.counted is not None
        return source.counted.quotas(sizes, budget, low, ties)
    return quota(weight, sizes, budget, low, ties)
