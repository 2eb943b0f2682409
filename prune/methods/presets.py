"""The named methods: each is a quota and a rank, as design and papers have them; any other pair can be asked for.

A rank is `random`, `k-center`, `herding`, `facility-location`, or SCORE:WAY with a score of the scores file and a way
of `WAYS`. SCORE may list alternatives, `aum/el2n:ccs`: the first that the scores file holds serves.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from prune.runs.files import InputError

QUOTAS = (
    "size",  # every class its share of the source
    "equal",  # every class the same
    "threshold",  # no quota: one threshold of the rank over all samples
    "lm",  # hard LM votes
    "lm-soft",  # soft LM votes
    "lm-whole",  # whole classes in order of LM votes
    "fm",  # hard FM votes
    "fm-soft",  # soft FM votes
    "fm-whole",  # whole classes in order of FM votes
    "soft",  # the mean of soft LM and FM votes, each sharpened to the breadth of the hard votes
    "soft-whole",  # whole classes in order of those
    "votes-whole",  # whole classes in order of hard LM votes, or FM votes where LM cannot be had
    "weights",  # the weights of --weights
)
WAYS = (
    "top",  # largest first
    "bottom",  # smallest first
    "middle",  # nearest the class's median rank first
    "ccs",  # the hardest cut, then evenly from strata of the score
    "beta",  # drawn by score and a Beta density of the confidence that suits the keep
    "d2",  # message passing on the k-NN graph of the class
)
PLAIN = ("random", "k-center", "herding", "facility-location")
"""Ranks without a score."""
UNSCORED = ("size", "equal", "weights")
"""Quotas that need no scores file."""
BY_CLASS = ("ccs", "d2", "k-center", "herding", "facility-location")
"""Ways that need the quotas first: they do not go with one threshold over all."""
LOW_IS_HARD = frozenset({"margin", "aum", "confidence", "affinity"})
"""Scores whose small end is the hard one; of all others the large end is."""


@dataclass(frozen=True)
class Method:
    """A quota, a rank and what goes with them.

    Attributes
    ----------
    quota, rank : str
    base : float
        Share of the budget that is first spread by size, as a floor for every class.
    trim : float
        Share of each class, the last by the rank, without which quotas of whole classes count it as full.
    without_duplicates : bool
        Near-duplicates are left out where the scores file names them, as far as the budget allows.
    """

    quota: str
    rank: str
    base: float = 0.0
    trim: float = 0.0
    without_duplicates: bool = False


PRESETS = {
    "random": Method("size", "random"),
    "class-random": Method("equal", "random"),
    "dp4tl-lm": Method("lm-whole", "random"),
    "dp4tl-fm": Method("fm-whole", "random"),
    "el2n": Method("threshold", "el2n:top"),
    "el2n-early": Method("threshold", "el2n-early:top"),
    "grand": Method("threshold", "grand:top"),
    "entropy": Method("threshold", "entropy:top"),
    "margin": Method("threshold", "margin:bottom"),
    "least-confidence": Method("threshold", "least-confidence:top"),
    "forgetting": Method("threshold", "forgetting:top"),
    "aum": Method("threshold", "aum:bottom"),
    "tdds": Method("threshold", "tdds:top"),
    "dual": Method("threshold", "dual:beta"),
    "dyn-unc": Method("threshold", "dyn-unc:top"),
    "variance": Method("threshold", "variance:top"),
    "prototype": Method("threshold", "prototype:top"),
    "self-prototype": Method("threshold", "self-prototype:top"),
    "moderate": Method("size", "moderate:bottom"),
    "affinity": Method("threshold", "affinity:top"),
    "ccs": Method("size", "aum/el2n:ccs"),
    "d2": Method("size", "aum/el2n:d2"),
    "k-center": Method("size", "k-center"),
    "herding": Method("size", "herding"),
    "facility-location": Method("size", "facility-location"),
    "semdedup": Method("size", "random", without_duplicates=True),
}
NAMES = (*PRESETS, "winnow")
HARDEST_FIRST_FROM = 0.6
"""Keep from which `winnow` takes the hardest samples of a class first; below it, the easiest."""
TRIM = 0.25
"""Share of a class, its hardest, that `winnow` leaves out under strong pruning as long as others have room."""
SPREAD_BY_SIZE = 0.1
"""Share of `winnow`'s budget that is spread by size under mild pruning, so that every class keeps a part."""


def winnow(keep: float, *, guided: bool = True, dynamics: bool = False, hardness: str = "el2n/entropy") -> Method:
    """The project's own default for a keep.

    Strong pruning: whole classes in the order of the targets' votes, each without its hardest quarter, so that the
    budget reaches a third more classes than whole ones would. Mild pruning: the votes share out the budget softly, a
    tenth of it by size, and the hardest samples of a class come first (Sorscher et al., NeurIPS 2022, section 2; Zheng
    et al., ICLR 2023). Near-duplicates are left out at any keep.

    Chosen on a validation part of three targets' training images (20,000 images of CIFAR-100 to cifar10, flowers5 and
    gtsrb, two seeds). Points above random on their mean, at keeps 0.1, 0.2 and 0.5: whole classes without the hardest
    quarter 4.1, 2.7, 2.8; without the hardest half 2.2, 2.9, 1.7; whole classes (dp4tl-lm) 2.5, 3.1, 2.9; soft votes
    with the easiest first 3.0, 2.9, 1.4; by size with the easiest first 0.9, 2.0, 1.6. The hard end is the papers'.

    Parameters
    ----------
    keep : float
    guided : bool
        Targets have voted. Without them every class keeps its share of the source.
    dynamics : bool
        DUAL's score is there, which then draws the samples of a source without targets: it adapts to the keep itself.
    hardness : str
        Score, or alternatives, that tells easy samples from hard ones.
    """
    mild = keep >= HARDEST_FIRST_FROM
    if not guided:
        rank = "dual:beta" if dynamics else f"{hardness}:{'top' if mild else 'bottom'}"
        return Method("size", rank, without_duplicates=True)
    if mild:
        return Method("soft", f"{hardness}:top", SPREAD_BY_SIZE, without_duplicates=True)
    return Method("votes-whole", f"{hardness}:bottom", trim=TRIM, without_duplicates=True)


def method(name: str, keep: float, scores: Collection[str] = ("class/",)) -> Method:
    """Look up a method by its name, for a keep and the arrays of a scores file; `InputError` for an unknown one."""
    if name == "winnow":
        guided = any(array.startswith("class/") for array in scores)
        known = "sample/prototype" not in scores or {"sample/el2n", "sample/entropy"} & set(scores)
        hardness = "el2n/entropy" if known else "prototype"  # what features without logits can tell
        dynamics = {"sample/dual", "sample/confidence"} <= set(scores)
        return winnow(keep, guided=guided, dynamics=dynamics, hardness=hardness)
    if name not in PRESETS:
        raise InputError(f"no method {name!r}; there are {', '.join(NAMES)}")
    return PRESETS[name]


def rank_parts(rank: str, scores: Collection[str]) -> tuple[str, str]:
    """Split a rank into score and way: `el2n:top` to ("el2n", "top"), `random` to ("", "random").

    Raises
    ------
    InputError
        Unknown way, or no such score in the scores file.
    """
    if rank in PLAIN:
        return "", rank
    names, _, way = rank.partition(":")
    if way not in WAYS:
        raise InputError(f"rank {rank!r}: give {', '.join(PLAIN)}, or SCORE:WAY with WAY one of {', '.join(WAYS)}")
    for name in names.split("/"):
        if name in scores and (way != "beta" or "confidence" in scores):
            return name, way
    raise InputError(f"rank {rank!r}: {_lacking(names, way)}; the scores file holds {', '.join(sorted(scores))}")


def _lacking(names: str, way: str) -> str:
    from prune.scores import training_dynamics

    if way == "beta" or set(names.split("/")) & set(training_dynamics.HARDER_WHEN):
        return "needs training dynamics (`pretrain --dynamics`, then `prune score --dynamics`)"
    return f"there is no {' or '.join(names.split('/'))} (see `prune score --also`)"
