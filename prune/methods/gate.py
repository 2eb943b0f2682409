"""The gate: how much of the source may be kept at all, by the odds that an image looks like the targets.

    width = gate_width(scores.source["domain"], scores.targets["domain"], scores.weights["domain"]).width
    eligible &= hold_open(passes(scores.source["domain"], width), ...)

`prune.scores.domain` computes the odds. The gate comes before quota and rank; floors, protected classes and samples of
`--always` pass it whatever their odds (`hold_open`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from prune.methods.quota import budget_of
from prune.methods.rank import places
from prune.runs.files import InputError
from prune.scores.domain import area_under_curve

RARE = 10.0
"""Images are of another domain where the targets' density is less than a tenth of the source's: strong evidence on
the scale of Jeffreys ("Theory of Probability", 1961, appendix B)."""
OPEN_FROM = 0.75
"""A gate that shuts out less than a quarter cuts the tail of one domain, not another domain, and saves little."""
COVERED = 0.5
"""Share of the target that the source must cover for the odds to say which part of the source is like it."""
LOST = 0.05
"""Largest share of the target that may lie in the part that is shut out."""


@dataclass(frozen=True)
class Gate:
    """The width of a gate, and how sure it is.

    Attributes
    ----------
    width : float
        Share of the source that passes, in (0, 1]; 1 when the gate stays open.
    odds : float
        Least log-odds that pass; -inf when the gate stays open.
    reason : {"shut", "alike", "nothing alike", "uncertain"}
        "shut": a part of the source is of another domain. "alike": too little of it is. "nothing alike": most of the
        target looks like no part of the source, so the odds do not tell which part helps. "uncertain": too many target
        images lie in the part that would be shut out.
    narrow, wide : float
        Widths had half or twice the evidence been required; close together where the source falls into two groups.
    area, error : float
        Area under the curve of target against source, from held-out odds, and its standard error: 0.5 where they
        cannot be told apart.
    covered : float
        Share of the target where its density is less than `RARE` times that of the source's images that would pass.
    lost : float
        Share of the target below `odds`, that is, in the part that is (or would be) shut out.
    """

    width: float
    odds: float
    reason: Literal["shut", "alike", "nothing alike", "uncertain"]
    narrow: float
    wide: float
    area: float
    error: float
    covered: float
    lost: float


def gate_width(source: np.ndarray, target: np.ndarray, weight: np.ndarray | None = None) -> Gate:
    """Choose how much of the source passes, from held-out log-odds of looking like the target.

    What passes is every image whose log-odds are at least -log 10. The log-odds are log p(x | target) - log p(x |
    source), so a shut-out image is one of a kind that is ten times rarer in the target than in the source. Whatever the
    distributions, at most a tenth of the shut-out share of the source is then lost of the target (the target's density
    there is below a tenth of the source's). As many images as that pass as the source holds of the targets' domain: no
    share has to be given, and it does not depend on how often the targets' domain occurs.

    This is positive-unlabelled learning with the target as the positive sample (Elkan and Noto, KDD 2008), but not the
    usual estimate of the mixture proportion (Blanchard et al., JMLR 2010; Garg et al., NeurIPS 2021). That estimate is
    the least ratio of the source's to the target's density, the largest share of the source that could consist of the
    target's own images; for CIFAR-100 against CIFAR-10 it is a third, though all of it is of use. The gate asks
    which images cannot be the target's instead, and the target's held-out images serve as the "spies" of Liu et al.
    (ICML 2002) that show how many of its own it would shut out (`Gate.lost`).

    The gate stays open (width 1) where it would shut out less than a quarter; where at least half of the target is of a
    kind that is ten times rarer even among the images that would pass, so that nothing in the source is alike; and
    where more than 5 % of the target would be shut out.

    Parameters
    ----------
    source : (n,) float
        Held-out log-odds of the source's images, both classes counting the same; NaN (no features) does not pass.
    target : (m,) float
        Held-out log-odds of the target's images.
    weight : (m,) float, optional
        What each target image counts for; all the same when absent.

    Examples
    --------
    A third of the source lies where the target does, the rest where the target is a hundred times rarer:

    >>> source = np.repeat([1.0, -4.6], [100, 200])
    >>> round(gate_width(source, np.full(50, 1.0)).width, 3)
    0.333
    """
    if not np.isfinite(source).any() or not np.isfinite(target).any():
        raise InputError("the gate needs the odds of at least one source image and one target image")
    weight = np.ones(len(target)) if weight is None else np.asarray(weight, np.float64)
    weight = np.where(np.isnan(target), 0.0, weight) / weight[~np.isnan(target)].sum()
    limit = float(np.log(RARE))
    width, narrow, wide = (float((source >= -limit + shift).mean()) for shift in (0.0, np.log(2), -np.log(2)))
    # Where a w-th of the source passes, its density among what passes is 1 / w times that in the source.
    covered = float(weight[target < limit - np.log(width)].sum()) if width > 0 else 0.0
    lost = float(weight[target < -limit].sum())
    reason: Literal["shut", "alike", "nothing alike", "uncertain"] = "shut"
    if covered < COVERED:
        reason = "nothing alike"
    elif width > OPEN_FROM:
        reason = "alike"
    elif lost > LOST:
        reason = "uncertain"
    area, error = area_under_curve(source, target, weight)
    shut = reason == "shut"
    return Gate(width if shut else 1.0, -limit if shut else -np.inf, reason, narrow, wide, area, error, covered, lost)


def describe(gate: Gate, name: str = "the targets") -> str:
    """The gate in one line, for a note or a report."""
    sure = f"area under the curve {gate.area:.3f} ± {2 * gate.error:.3f}"
    if gate.reason == "shut":
        return (
            f"gate: {gate.width:.1%} of the source look like {name} ({gate.narrow:.1%} to {gate.wide:.1%} at half or "
            f"twice the odds); {gate.lost:.1%} of {name} look like what is shut out; {sure}"
        )
    why = {
        "alike": f"less than {1 - OPEN_FROM:.0%} of the source are of another domain than {name}",
        "nothing alike": f"nothing in the source looks like {1 - gate.covered:.0%} of {name}",
        "uncertain": f"{gate.lost:.1%} of {name} look like what would be shut out",
    }
    return f"gate: stays open, since {why[gate.reason]}; {sure}"


def passes(odds: np.ndarray, width: float, keys: np.ndarray | None = None) -> np.ndarray:
    """Mark the `width` of the source with the highest odds, (n,) bool.

    Parameters
    ----------
    odds : (n,) float
        NaN (an image without features) passes only an open gate.
    width : float
        In (0, 1]; 1 is an open gate.
    keys : (n,) number, optional
        Of `prune.scores.sample_keys`; the smallest wins a tie. Row numbers when absent.

    Examples
    --------
    >>> passes(np.array([-3.0, 0.5, np.nan, 0.1]), 0.5)
    array([False,  True, False,  True])
    """
    n = len(odds)
    if width >= 1:
        return np.ones(n, bool)
    odds = np.asarray(odds, np.float64)
    count = min(budget_of(width, n), int((~np.isnan(odds)).sum()))
    if not count:
        return np.zeros(n, bool)
    last = -np.partition(-odds, count - 1)[count - 1]  # the lowest odds that pass; NaN comes behind all
    found: np.ndarray = odds > last
    equal = np.flatnonzero(odds == last)
    order = np.arange(len(equal)) if keys is None else np.argsort(keys[equal], kind="stable")
    found[equal[order[: count - int(found.sum())]]] = True
    return found


def hold_open(
    passing: np.ndarray,
    odds: np.ndarray,
    label: np.ndarray,
    floor: np.ndarray,
    whole: np.ndarray | None = None,
    always: np.ndarray | None = None,
    keys: np.ndarray | None = None,
) -> np.ndarray:
    """Let through what the user asked for, whatever the gate says, (n,) bool.

    Parameters
    ----------
    passing : (n,) bool
        Of `passes`.
    odds : (n,) float
    label : (n,) int in [0, c)
    floor : (c,) int
        The least that each class must be able to keep: the images with the best odds pass until there are as many.
    whole : (c,) bool, optional
        Classes that are kept whole.
    always : (n,) bool, optional
        Samples that are kept.
    keys : (n,) number, optional
        The smallest wins a tie; row numbers when absent.

    Examples
    --------
    Class 1 was shut out; a floor of 1 brings back its better image.

    >>> hold_open(np.array([True, False, False]), np.array([2.0, -3.0, -2.0]), np.array([0, 1, 1]), np.array([1, 1]))
    array([ True, False,  True])
    """
    found = passing.copy()
    if whole is not None:
        found |= whole[label]
    if always is not None:
        found |= always
    need = np.asarray(floor) - np.bincount(label[found], minlength=len(floor))
    rows = np.flatnonzero(~found & (need > 0)[label])  # of classes of which too few pass
    if len(rows):
        value = np.asarray(odds)[rows]
        value = np.where(np.isnan(value), np.inf, -value)  # NaN last: only where a floor needs it
        rows = rows[np.lexsort((rows if keys is None else keys[rows], value))]
        found[rows[places(np.arange(len(rows)), label[rows])[0] < need[label[rows]]]] = True
    return found
