"""The table of all sample scores: where each one's input comes from, which end is the hard one, and who published it.

Adding a score takes one function and one row here. `prune score` computes it, `prune select` ranks by it, and help and
docs list it. The function receives what its parameters name: the arrays of its source (see the module where it is
defined), or other scores of that source computed before it (`el2n` for the score `el2n`, `-` written as `_`). A score
whose function requires something that is not there is skipped: `domain` and `influence`, which give one score for each
target beside that of all, are computed by `prune.score` itself.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np

Source = Literal["logits", "dynamics", "features", "targets"]


@dataclass(frozen=True)
class Score:
    """One row of the table.

    Attributes
    ----------
    name : str
    source : str
        Where the input comes from: logits of the source, training dynamics, features of the source, or features of the
        source and of the targets.
    function : str
        MODULE.FUNCTION inside `prune.scores`.
    hard : {"high", "low"} or None
        Which end of the score is the hard (or uncertain) one; None when neither is.
    paper : str
        Publication, with section or equation.
    also : str
        Value of `prune score --also` that requests the score; empty: it is computed whenever its input exists.
    average : {"rank", "mean"}
        How the scores of several surrogates are averaged.
    labels : bool
        The score compares logits with labels, so that the surrogate must know the source's classes.
    """

    name: str
    source: Source
    function: str
    hard: Literal["high", "low"] | None
    paper: str
    also: str = ""
    average: Literal["rank", "mean"] = "rank"
    labels: bool = False

    @property
    def needs(self) -> str:
        """What must be computed before the score can be, in words."""
        inputs = {"logits": "logits", "dynamics": "dynamics", "features": "features", "targets": "features of targets"}
        return inputs[self.source] + (" of the source's classes" if self.labels else "")


SCORES = (
    Score("entropy", "logits", "difficulty.entropy", "high", "Settles, Active Learning Literature Survey, 2009, 3.1"),
    Score("margin", "logits", "difficulty.margin", "low", "Scheffer et al., IDA 2001"),
    Score("least-confidence", "logits", "difficulty.least_confidence", "high", "Lewis and Gale, SIGIR 1994"),
    Score(
        "el2n",
        "logits",
        "difficulty.el2n",
        "high",
        "Paul et al., NeurIPS 2021, definition 2.2",
        average="mean",  # an expectation over trainings, like the next
        labels=True,
    ),
    Score(
        "grand",
        "logits",
        "difficulty.grand",
        "high",
        "Paul et al., NeurIPS 2021, definition 2.1, last layer",
        average="mean",
        labels=True,
    ),
    Score(
        "suspicion",
        "logits",
        "label_errors.suspicion",
        "high",
        "Northcutt et al., JAIR 2021, section 3: self-confidence over class thresholds; ranks wrong labels",
        average="mean",
        also="suspects",
        labels=True,
    ),
    Score("forgetting", "dynamics", "training_dynamics.forgetting", "high", "Toneva et al., ICLR 2019, section 3"),
    Score("aum", "dynamics", "training_dynamics.aum", "low", "Pleiss et al., NeurIPS 2020, equation 2"),
    Score(
        "aum-probability",
        "dynamics",
        "training_dynamics.aum_probability",
        "low",
        "Zheng et al. (CCS), ICLR 2023, code: area under the margin of probabilities",
    ),
    Score(
        "el2n-early",
        "dynamics",
        "training_dynamics.el2n_early",
        "high",
        "Paul et al., NeurIPS 2021, section 2",
        average="mean",
    ),
    Score(
        "confidence",
        "dynamics",
        "training_dynamics.confidence",
        "low",
        "Swayamdipta et al., EMNLP 2020, section 2",
        average="mean",  # DUAL's Beta density takes probabilities, not ranks
    ),
    Score("variance", "dynamics", "training_dynamics.variance", "high", "Swayamdipta et al., EMNLP 2020, section 2"),
    Score("dyn-unc", "dynamics", "training_dynamics.dyn_unc", "high", "He et al., CVPR 2024 workshops, section 3.2"),
    Score("dual", "dynamics", "training_dynamics.dual", "high", "Cho et al., ICML 2025, section 3"),
    Score("tdds", "dynamics", "training_dynamics.tdds", "high", "Zhang et al., CVPR 2024, section 3"),
    Score(
        "prototype",
        "features",
        "geometry.prototype",
        "high",
        "as self-prototype, with the class's mean feature",
        also="prototype",
    ),
    Score("moderate", "features", "geometry.moderate", None, "Xia et al., ICLR 2023, section 3, by class", "prototype"),
    Score(
        "self-prototype",
        "features",
        "geometry.self_prototype",
        "high",
        "Sorscher et al., NeurIPS 2022, section 5",
        also="self-prototype",
    ),
    Score(
        "zcore",
        "features",
        "zcore.zcore",
        None,
        "Griffin et al. (ZCore), arXiv 2411.15349, algorithm 1",
        also="zcore",
    ),
    Score(
        "balance",
        "features",
        "hierarchical_kmeans.balance",
        None,
        "Vo et al., TMLR 2024, arXiv 2405.15613, sections 3.2 to 3.4: turns of hierarchical clusters",
        also="balance",
    ),
    Score("affinity", "targets", "geometry.affinity", None, "cosine to the nearest target image (ours)", "affinity"),
    Score(
        "domain",
        "targets",
        "domain.domain_scores",
        None,
        "density ratio: Sugiyama et al., 2012, chapter 4; `--gate` uses it",
        also="domain",
    ),
    Score(
        "influence",
        "targets",
        "influence.influence",
        None,
        "Xia et al. (LESS), ICML 2024, section 4; Pruthi et al. (TracIn), NeurIPS 2020, last layer",
        also="influence",
        labels=True,
    ),
)
BY_NAME = {row.name: row for row in SCORES}
ALSO = tuple(dict.fromkeys(row.also for row in SCORES if row.also))
"""Values of `prune score --also` that request scores."""


def names(source: Source) -> tuple[str, ...]:
    """Names of the scores whose input is `source`."""
    return tuple(row.name for row in SCORES if row.source == source)


def compute(source: Source, given: Mapping[str, Any], also: Collection[str] = ()) -> dict[str, np.ndarray]:
    """Compute the scores of one source.

    Parameters
    ----------
    source : str
    given : mapping
        What is there, under the parameters' names; None counts as absent.
    also : collection of str
        The values of `--also`; rows with another one are skipped.

    Returns
    -------
    dict of str to (n,) float32
        In the table's order.
    """
    there = {key: value for key, value in given.items() if value is not None}
    found: dict[str, np.ndarray] = {}
    for row in SCORES:
        if row.source != source or (row.also and row.also not in also):
            continue
        function, takes = _function(row.function)
        if all(key in there for key, required in takes.items() if required):
            found[row.name] = function(**{key: there[key] for key in takes if key in there})
            there[row.name.replace("-", "_")] = found[row.name]
    return found


@cache
def _function(place: str) -> tuple[Callable[..., np.ndarray], dict[str, bool]]:
    """The function at MODULE.FUNCTION, and whether each of its parameters is required."""
    module, name = place.split(".")
    function = getattr(importlib.import_module(f"prune.scores.{module}"), name)
    takes = inspect.signature(function).parameters.values()
    return function, {one.name: one.default is inspect.Parameter.empty for one in takes}


def hardness(name: str, values: np.ndarray) -> np.ndarray:
    """Change the sign of a score whose low end is the hard one; scores without a hard end stay as they are."""
    return -values if name in BY_NAME and BY_NAME[name].hard == "low" else values


def way_out(wanted: Collection[str]) -> str:
    """How to get the scores of these names, in words."""
    rows = [BY_NAME[name] for name in wanted if name in BY_NAME]
    if any(row.source == "dynamics" for row in rows):
        return "needs training dynamics (`pretrain --dynamics`, then `prune score --dynamics`)"
    return f"there is no {' or '.join(wanted)} (see `prune score --also`)"


def described() -> str:
    """The table as lines of text, for `--help`: name, hard end, the flag that requests it, paper."""
    lines = []
    for row in SCORES:
        flag = {"dynamics": "--dynamics"}.get(row.source, f"--also {row.also}" if row.also else "always")
        hard = f"{row.hard} is hard" if row.hard else "no hard end"
        lines.append(f"    {row.name:<16}  {hard}, {flag}: {row.paper}")
    return "\n".join(lines)
