"""The named methods: each is a quota and a rank, as in its paper; any other pair can be combined.

A rank is `random`, `k-center`, `herding`, `facility-location`, or SCORE:WAY with a score of the scores file and a way
of `WAYS`. SCORE may list alternatives, as in `aum-probability/el2n:ccs`: the first that the scores file holds is used.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace

from prune.runs.files import InputError
from prune.scores.score_table import BY_NAME, way_out

QUOTAS = (
    "size",  # every class its share of the source
    "equal",  # every class the same
    "threshold",  # no quota: one threshold of the rank over all samples
    "lm",  # hard LM votes
    "lm-soft",  # soft LM votes
    "lm-whole",  # whole classes in order of hard LM votes
    "fm",  # hard FM votes
    "fm-soft",  # soft FM votes
    "fm-whole",  # whole classes in order of hard FM votes
    "soft",  # the mean of soft LM and FM votes, each sharpened to the breadth of the hard votes
    "soft-whole",  # whole classes in order of those
    "votes-whole",  # whole classes in order of hard LM votes, or FM votes where LM is not available
    "evidence",  # classes by what votes say beyond chance, up to ten times their votes; the rest by odds or at random
    "weights",  # the weights of --weights
)
WAYS = (
    "top",  # largest first
    "bottom",  # smallest first
    "middle",  # nearest the class's median rank first
    "ccs",  # without the hardest, evenly from strata of the score
    "beta",  # drawn by the score times a Beta density of the confidence that depends on the keep
    "d2",  # message passing on the k-NN graph of the class
)
PLAIN = ("random", "k-center", "herding", "facility-location")
"""Ranks without a score."""
UNSCORED = ("size", "equal", "weights")
"""Quotas that need no scores file."""
BY_QUOTA = ("ccs", "d2", "k-center", "herding", "facility-location")
"""Ways whose order of taking depends on how many samples are taken."""
OVER_ALL = ("ccs", "d2")
"""Those of them that can also run over all samples at once (quota `threshold`); the others compare all pairs."""


@dataclass(frozen=True)
class Method:
    """A quota, a rank and their settings.

    Attributes
    ----------
    quota, rank : str
    base : float
        Share of the budget that is first spread by size, as a floor for every class.
    trim : float
        Share of each class, the last by the rank, that quotas of whole classes skip as long as other classes have room.
    without_duplicates : bool
        Near-duplicates are dropped where the scores file names them, as far as the budget allows.
    paper : str
        Publication, with section or equation.
    """

    quota: str
    rank: str
    base: float = 0.0
    trim: float = 0.0
    without_duplicates: bool = False
    paper: str = field(default="", compare=False)


def _by_score(name: str, way: str) -> Method:
    """One threshold of a score over all samples, the paper's own use of most scores."""
    return Method("threshold", f"{name}:{way}", paper=BY_NAME[name].paper)


PRESETS = {
    "random": Method("size", "random", paper="the control: uniform within each class"),
    "class-random": Method("equal", "random", paper="the control: the same number of every class"),
    "dp4tl-lm": Method("lm-whole", "random", paper="Zhang et al. (DP4TL), NeurIPS 2023, section 4, label mapping"),
    "dp4tl-fm": Method("fm-whole", "random", paper="Zhang et al. (DP4TL), NeurIPS 2023, section 4, feature mapping"),
    "evidence": Method("evidence", "random", paper="whole classes as far as votes can be believed (ours)"),
    "el2n": _by_score("el2n", "top"),
    "el2n-early": _by_score("el2n-early", "top"),
    "grand": _by_score("grand", "top"),
    "entropy": _by_score("entropy", "top"),
    "margin": _by_score("margin", "bottom"),
    "least-confidence": _by_score("least-confidence", "top"),
    "forgetting": _by_score("forgetting", "top"),
    "aum": _by_score("aum", "bottom"),
    "tdds": _by_score("tdds", "top"),
    "dual": Method("threshold", "dual:beta", paper="Cho et al., ICML 2025, section 3.3"),
    "dyn-unc": _by_score("dyn-unc", "top"),
    "variance": _by_score("variance", "top"),
    "prototype": _by_score("prototype", "top"),
    "self-prototype": _by_score("self-prototype", "top"),
    "zcore": _by_score("zcore", "top"),
    "balance": Method("threshold", "balance:bottom", paper=BY_NAME["balance"].paper),
    "moderate": Method("size", "moderate:bottom", paper=BY_NAME["moderate"].paper),
    "affinity": _by_score("affinity", "top"),
    "ccs": Method("size", "aum-probability/el2n:ccs", paper="Zheng et al., ICLR 2023, algorithm 1, inside each class"),
    "ccs-global": Method(
        "threshold", "aum-probability/el2n:ccs", paper="Zheng et al., ICLR 2023, algorithm 1, as its code: over all"
    ),
    "d2": Method("size", "aum-probability/el2n:d2", paper="Maharana et al., ICLR 2024, section 3, inside each class"),
    "d2-global": Method(
        "threshold", "aum-probability/el2n:d2", paper="Maharana et al., ICLR 2024, section 3, as its code: over all"
    ),
    "k-center": Method("size", "k-center", paper="Sener and Savarese, ICLR 2018, algorithm 1, by class"),
    "herding": Method("size", "herding", paper="Welling, ICML 2009; Rebuffi et al., CVPR 2017, algorithm 4"),
    "facility-location": Method("size", "facility-location", paper="Mirzasoleiman et al. (CRAIG), ICML 2020, eq. 11"),
    "influence": _by_score("influence", "top"),
    "gate": Method("threshold", "domain:top", paper="density ratio: Sugiyama et al., 2012, chapter 4; see --gate"),
    "semdedup": Method("size", "random", without_duplicates=True, paper="Abbas et al., 2023"),
}
NAMES = (*PRESETS, "winnow")
BY_CLASS = tuple(
    name
    for name, one in PRESETS.items()
    if one.quota not in UNSCORED and one.rank == "random" and not one.without_duplicates
)
"""Methods that need votes of classes and no score of any image."""
EASIEST_BELOW = 0.6
"""Keep below which the easiest images of a source without targets come first; from there on, the hardest."""


def winnow(keep: float, *, votes: str = "evidence", dynamics: bool = False, hardness: str = "el2n/entropy") -> Method:
    """The project's own default for a keep.

    With targets: inside the gate, whole classes as far as the targets' votes can be believed, at random inside each;
    what votes cannot stand for goes to the images most like the targets (quota `evidence`). Without targets every class
    keeps its share, by difficulty. Near-duplicates are dropped as far as the budget allows.

    Chosen on a validation part of three targets' training images, over a mixed pool and over CIFAR-100, against fifteen
    rules with the same gate: tests/benchmarks/results/default-rule.md has the points that each brings.

    Parameters
    ----------
    keep : float
    votes : {"evidence", "votes-whole", ""}
        What the votes allow: "votes-whole" where votes by chance are unknown, "" without targets.
    dynamics : bool
        DUAL's score is available; it then draws the samples of a source without targets, since it adapts to the keep.
    hardness : str
        Score, or alternatives, that separates easy samples from hard ones.
    """
    if votes:
        return Method(votes, "random", without_duplicates=True)
    rank = "dual:beta" if dynamics else f"{hardness}:{'bottom' if keep < EASIEST_BELOW else 'top'}"
    return Method("size", rank, without_duplicates=True)


def method(name: str, keep: float, scores: Collection[str] = ("class/", "class/lm-chance/")) -> Method:
    """The method of this name, for a keep and the arrays of a scores file; `InputError` for an unknown name."""
    if name == "winnow":
        counted = any(array.startswith(("class/lm-chance/", "class/fm-chance/")) for array in scores)
        votes = "evidence" if counted else "votes-whole" if any(array.startswith("class/") for array in scores) else ""
        known = "sample/prototype" not in scores or {"sample/el2n", "sample/entropy"} & set(scores)
        hardness = "el2n/entropy" if known else "prototype"  # features without logits have no other score
        dynamics = {"sample/dual", "sample/confidence"} <= set(scores)
        return winnow(keep, votes=votes, dynamics=dynamics, hardness=hardness)
    if name not in PRESETS:
        raise InputError(f"no method {name!r}; there are {', '.join(NAMES)}")
    return PRESETS[name]


def changed(
    found: Method,
    quota: str | None = None,
    rank: str | None = None,
    base: float | None = None,
    trim: float | None = None,
) -> Method:
    """A method with what is given in place of its own; `InputError` for a quota or number that is none."""
    if quota is not None:
        if quota not in QUOTAS:
            raise InputError(f"no quota {quota!r}; there are {', '.join(QUOTAS)}")
        found = replace(found, quota=quota)
    if rank is not None:
        found = replace(found, rank=rank)
    if base is not None:
        if not 0 <= base <= 1:
            raise InputError(f"--base {base} is outside [0, 1]")
        found = replace(found, base=base)
    if trim is not None:
        if not 0 <= trim < 1:
            raise InputError(f"--trim {trim} is outside [0, 1)")
        found = replace(found, trim=trim)
    return found


def gate_of(name: str, scores: Collection[str]) -> str:
    """The gate of a named method, for the arrays of a scores file: "auto" or "open"."""
    return "auto" if name == "gate" or (name in ("winnow", "evidence") and "sample/domain" in scores) else "open"


def needs_features(rank: str) -> bool:
    """Whether a rank uses the source's features."""
    return rank.partition(":")[2] == "d2" or rank in PLAIN[1:]


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
    wanted = [*names.split("/"), *(["confidence"] if way == "beta" else [])]
    raise InputError(f"rank {rank!r}: {way_out(wanted)}; the scores file holds {', '.join(sorted(scores))}")


_COSTS = {
    "d2": "k-NN in each class",
    "k-center": "every image of a class with every kept one",
    "herding": "every image of a class with every other",
    "facility-location": "every image of a class with every other",
}
"""What the expensive ranks compare; all others sort."""


def cost(preset: Method) -> str:
    """What a method does beyond computing its score, in words."""
    way = preset.rank.rpartition(":")[2]
    return "k-NN over all" if way == "d2" and preset.quota == "threshold" else _COSTS.get(way, "sort")


def needs(preset: Method) -> str:
    """What a method needs, in words: "nothing", or inputs of its score, its votes and its rank."""
    scores = preset.rank.rpartition(":")[0]
    wanted = [" or ".join(dict.fromkeys(BY_NAME[name].needs for name in scores.split("/")))] if scores else []
    if preset.quota.startswith("lm"):
        wanted.append("LM votes")
    elif preset.quota.startswith("fm"):
        wanted.append("FM votes")
    elif preset.quota == "evidence":
        wanted.append("LM or FM votes")
    if needs_features(preset.rank):
        wanted.append("features")
    if preset.without_duplicates:
        wanted.append("near-duplicates")
    return ", ".join(wanted) or "nothing"


def described() -> str:
    """The named methods as lines of text, for `--help`: quota, rank, needs, cost, paper."""
    lines = []
    for name, preset in PRESETS.items():
        pair = f"{preset.quota} x {preset.rank}"
        lines.append(f"    {name:<17}  {pair}; needs {needs(preset)}; cost: {cost(preset)}; {preset.paper}")
    return "\n".join(
        [*lines, f"    {'winnow':<17}  the default: gate and evidence; by difficulty where there are no targets (ours)"]
    )
