"""Arms of the benchmark of mixed pools: which images are drawn, and every way to spend compute that is compared."""

from __future__ import annotations

from dataclasses import dataclass

POOL = {"cifar100": 200, "digits": 1500, "hwdb100": 150, "glyphs": 300}
"""Images a class that the drawn pool takes of each set."""
POOLS = {"drawn": POOL, "whole": dict.fromkeys(POOL, 10**6), "cifar100": {"cifar100": 10**6}}
"""Images a class of each set by the name of the pool; all where there are fewer."""
TARGETS = ("cifar10", "flowers5", "gtsrb")
EPOCHS = 4.0
"""Epochs of 100 % of the pretraining."""
LADDER = (0.15, 0.22, 0.38, 0.75, 1.0, 1.12)
"""Lengths of the training on all data, as shares of 100 %, each with a whole schedule."""


@dataclass(frozen=True)
class Arm:
    """One way to spend compute: what is kept, by which scores, and for how many passes.

    Attributes
    ----------
    says : str
        The arm in words.
    keep : float
        Share of the pool.
    passes : float
        Epochs over what is kept, as a multiple of `EPOCHS`.
    select : tuple of str
        Flags of `prune select`; none: all data.
    scores : str
        Which scores file: "" (none), "pool" (a surrogate of a tenth of the pool), "gate" (thumbnails alone), or
        "cascade", "middle" and "cheap" (a surrogate of what passed the gate, at 10, 5 and 2.5 % of the pretraining);
        with "-votes" behind it the surrogate passes over a tenth of the images, for class votes alone.
    """

    says: str
    keep: float
    passes: float
    select: tuple[str, ...] = ()
    scores: str = ""


_OLD = ("--quota", "votes-whole", "--rank", "el2n/entropy:bottom", "--trim", "0.25")
_INSIDE = ("--gate", "auto", "--method", "random")
_LM = ("--gate", "auto", "--method", "dp4tl-lm")
_OLD_GATED = ("--gate", "auto", *_OLD)
_EVIDENCE = ("--method", "evidence")
_WINNOW = ("--method", "winnow")
ARMS = {
    **{f"full-{share:g}": Arm("all data", 1.0, share) for share in LADDER},
    "random-0.25": Arm("random", 0.25, 1, ("--method", "random")),
    "dp4tl-lm-0.25": Arm("`dp4tl-lm`, no gate", 0.25, 1, ("--method", "dp4tl-lm"), "pool"),
    "whole-classes-0.25": Arm("whole classes by votes, easiest three quarters, no gate", 0.25, 1, _OLD, "pool"),
    "gate-0.25": Arm("gate, random inside", 0.25, 1, _INSIDE, "gate"),
    "gate-0.15": Arm("gate, random inside", 0.15, 1, _INSIDE, "gate"),
    "gate-0.15x3": Arm("gate, random inside", 0.15, 3, _INSIDE, "gate"),
    "whole-gated-0.25": Arm("gate, whole classes by votes, easiest three quarters", 0.25, 1, _OLD_GATED, "cascade"),
    "whole-gated-0.15": Arm("gate, whole classes by votes, easiest three quarters", 0.15, 1, _OLD_GATED, "cascade"),
    "whole-gated-0.15x3": Arm("gate, whole classes by votes, easiest three quarters", 0.15, 3, _OLD_GATED, "cascade"),
    "lm-0.15": Arm("gate, `dp4tl-lm` inside", 0.15, 1, _LM, "cascade"),
    "lm-0.15x3": Arm("gate, `dp4tl-lm` inside", 0.15, 3, _LM, "cascade"),
    "lm-0.1": Arm("gate, `dp4tl-lm` inside", 0.1, 1, _LM, "cascade"),
    "lm-0.1x3": Arm("gate, `dp4tl-lm` inside", 0.1, 3, _LM, "cascade"),
    "lm-cheap-0.15": Arm("gate, `dp4tl-lm` inside, surrogate of 2.5 %", 0.15, 1, _LM, "cheap"),
    "fm-0.15": Arm("gate, `dp4tl-fm` inside", 0.15, 1, ("--gate", "auto", "--method", "dp4tl-fm"), "cascade"),
    "evidence-0.05": Arm("`evidence`", 0.05, 1, _EVIDENCE, "cascade"),
    "evidence-0.1": Arm("`evidence`", 0.1, 1, _EVIDENCE, "cascade"),
    "evidence-0.1x3": Arm("`evidence`", 0.1, 3, _EVIDENCE, "cascade"),
    "evidence-0.15": Arm("`evidence`", 0.15, 1, _EVIDENCE, "cascade"),
    "evidence-0.15x3": Arm("`evidence`", 0.15, 3, _EVIDENCE, "cascade"),
    "evidence-0.25": Arm("`evidence`", 0.25, 1, _EVIDENCE, "cascade"),
    "evidence-0.15x2": Arm("`evidence`", 0.15, 2, _EVIDENCE, "cascade"),
    "evidence-cheap-0.15x2": Arm("`evidence`, surrogate of 2.5 %", 0.15, 2, _EVIDENCE, "cheap"),
    "evidence-cheap-0.1x2": Arm("`evidence`, surrogate of 2.5 %", 0.1, 2, _EVIDENCE, "cheap"),
    "evidence-cheap-0.1": Arm("`evidence`, surrogate of 2.5 %", 0.1, 1, _EVIDENCE, "cheap"),
    "evidence-cheap-0.15": Arm("`evidence`, surrogate of 2.5 %", 0.15, 1, _EVIDENCE, "cheap"),
    "winnow-0.05": Arm("`winnow`", 0.05, 1, _WINNOW, "cascade"),
    "winnow-0.1": Arm("`winnow`", 0.1, 1, _WINNOW, "cascade"),
    "winnow-0.1x3": Arm("`winnow`", 0.1, 3, _WINNOW, "cascade"),
    "winnow-0.15": Arm("`winnow`", 0.15, 1, _WINNOW, "cascade"),
    "winnow-0.15x3": Arm("`winnow`", 0.15, 3, _WINNOW, "cascade"),
    "winnow-cheap-0.05": Arm("`winnow`, surrogate of 2.5 %", 0.05, 1, _WINNOW, "cheap"),
    "winnow-cheap-0.1": Arm("`winnow`, surrogate of 2.5 %", 0.1, 1, _WINNOW, "cheap"),
    "winnow-cheap-0.1x2": Arm("`winnow`, surrogate of 2.5 %", 0.1, 2, _WINNOW, "cheap"),
    "winnow-cheap-0.1x3": Arm("`winnow`, surrogate of 2.5 %", 0.1, 3, _WINNOW, "cheap"),
    "gate-0.1": Arm("gate, random inside", 0.1, 1, _INSIDE, "gate"),
    "gate-0.1x2": Arm("gate, random inside", 0.1, 2, _INSIDE, "gate"),
    "gate-0.15x2": Arm("gate, random inside", 0.15, 2, _INSIDE, "gate"),
    "gate-0.12": Arm("gate, random inside", 0.12, 1, _INSIDE, "gate"),
    "gate-0.2": Arm("gate, random inside", 0.2, 1, _INSIDE, "gate"),
    "gate-0.07x3": Arm("gate, random inside", 0.07, 3, _INSIDE, "gate"),
    "gate-0.25x2": Arm("gate, random inside", 0.25, 2, _INSIDE, "gate"),
    "gate-0.1x3": Arm("gate, random inside", 0.1, 3, _INSIDE, "gate"),
    "influence-0.15": Arm("gate, `influence` inside", 0.15, 1, ("--gate", "auto", "--method", "influence"), "cascade"),
    "domain-0.15": Arm("highest domain odds", 0.15, 1, ("--method", "gate"), "gate"),
    "domain-0.5": Arm("highest domain odds", 0.5, 1, ("--method", "gate"), "gate"),
    "domain-0.1x3": Arm("highest domain odds", 0.1, 3, ("--method", "gate"), "gate"),
    "domain-0.25": Arm("highest domain odds", 0.25, 1, ("--method", "gate"), "gate"),
    "domain-0.15x2": Arm("highest domain odds", 0.15, 2, ("--method", "gate"), "gate"),
    "mix-0.15": Arm(
        "gate, half by `dp4tl-lm`, half random", 0.15, 1, ("--gate", "auto", "--mix", "lm:0.5,random:0.5"), "cascade"
    ),
    "random-0.15": Arm("random", 0.15, 1, ("--method", "random")),
}
SURROGATES = {"pool": 0.1, "cascade": 0.1, "middle": 0.05, "cheap": 0.025}
"""Training of each kind of surrogate, as a share of 100 % of the pretraining."""
for _kind, _says in {"cascade": "", "middle": ", surrogate of 5 %", "cheap": ", surrogate of 2.5 %"}.items():
    for _keep in (0.1, 0.12, 0.15):
        _name = f"evidence-votes-{_kind}-{_keep:g}".replace("-cascade", "")
        ARMS[_name] = Arm(f"`evidence`{_says}, features of a tenth", _keep, 1, _EVIDENCE, f"{_kind}-votes")
