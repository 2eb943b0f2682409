"""Fit a budget of bytes: which samples to keep, and at which JPEG quality each.

    prune budget runs/all.index.npz --curves runs/photos.curves.npz --bytes 2GB --out runs/2gb.index.npz
    prune budget runs/all.index.npz --curves runs/photos.curves.npz --ratio 0.1 --policy uniform --out runs/u.index.npz

adaptive chooses a quality for each sample; uniform one quality for all (the one of the greatest value, or --quality);
drop keeps original bytes alone. All three are one allocator (prune/byte_budget/allocation.py). `prune materialize`
writes the result, to the planned byte. Curves that were predicted in part need --source: what is chosen is then
encoded and counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from prune.runs.files import InputError, at_least, need_file, note
from prune.runs.identity import Location, Recorded, RunOption, identity
from prune.runs.outputs import claim_file, index_record

if TYPE_CHECKING:
    import numpy as np

    from prune.byte_budget.allocation import Plan
    from prune.index.pruned_index import PrunedIndex


@dataclass(frozen=True)
class Config:
    index: Location[Annotated[Path, tyro.conf.Positional]]
    """Index whose samples may be kept, NAME.index.npz."""
    curves: Location[Path]
    """Curves of the index's source, from `prune curves`."""
    out: Location[Path]
    """Index file to write."""
    bytes: Recorded[str | None] = None
    """Budget, as 2GB, 500MB, 1.5GiB or a number of bytes."""
    ratio: float | None = None
    """Budget as a fraction of the source's bytes."""
    policy: Literal["adaptive", "uniform", "drop"] = "adaptive"
    """A quality for each sample, one for all, or original bytes alone."""
    quality: int | None = None
    """Quality of the uniform policy (101 to 200: less 100, at half the resolution); the best when absent."""
    floor: float | None = None
    """The least that every class keeps: from 1 a number of samples, below 1 a fraction of the class's samples."""
    value: str | None = None
    """What a sample is worth: a score of --scores, or `index` for the index's own; by its rank. All alike if absent."""
    lowest: bool = False
    """The lowest scores are worth most."""
    scores: Location[Path | None] = None
    """scores.npz of `prune score`."""
    charge: Literal["mean", "own"] = "mean"
    """Feature error that counts as losing a sample: the mean over the set, or the sample's own distance from it."""
    source: Location[Path | None] = None
    """Beton of the source; needed where curves were predicted."""
    seed: int = 0
    """Decides between samples of equal value per byte."""
    json: RunOption[bool] = False
    """Print the numbers as JSON on standard output."""


def run(config: Config) -> Path:
    """Write the index; returns its path."""
    import numpy as np

    from prune.byte_budget import budget_inputs
    from prune.byte_budget.budget_report import numbers, show
    from prune.index.provenance import record
    from prune.index.pruned_index import PrunedIndex

    need_file(config.index, "an index of `prune select`")
    need_file(config.curves, "curves of `prune curves`")
    budget_inputs.check(config)
    at_least(config, 0, "seed")
    index = PrunedIndex.load(config.index)
    curves = budget_inputs.read_curves(config.curves, index)
    rows = index.positions
    budget = budget_inputs.budget_of(config.bytes, config.ratio, index.source_nbytes)
    weight, prints = budget_inputs.weights(config, index, curves)
    source = budget_inputs.exact_source(config, index, curves)
    inputs = {"index": index.fingerprint, "curves": curves.digest, **prints}
    step = record("budget", {**identity(config), "budget": budget}, inputs)
    with claim_file(config.out, index_record, config, {"step": "budget", "budget": budget, **inputs}) as done:
        if done:
            if config.json:
                show(numbers(PrunedIndex.load(config.out), index, budget, None), as_json=True)
            return config.out
        charge = curves.dropped[rows] if config.charge == "own" else np.float32(curves.dropped[rows].mean())
        task = _Task(config, index, curves.level, curves.nbytes[rows].copy(), budget)
        task.worth(curves.fmse[rows], charge, weight)
        plan, column = task.fitted(source)
        chosen = planned_index(index, plan, curves.level[column], task.nbytes[:, column], step)
        chosen.save(config.out)
        show(numbers(chosen, index, budget, plan), as_json=config.json)
        note(f"{config.out}: keeps {len(chosen)} of {len(index)} samples, {plan.nbytes:,} of {budget:,} bytes")
    return config.out


class _Task:
    """The allocator's inputs, and the policies as choices of columns."""

    def __init__(self, config: Config, index: PrunedIndex, level: np.ndarray, nbytes: np.ndarray, budget: int) -> None:
        import numpy as np

        from prune.byte_budget.budget_inputs import floors

        self.config, self.index, self.level, self.nbytes, self.budget = config, index, level, nbytes, budget
        self.floors = floors(config.floor, np.bincount(index.labels, minlength=len(index.classes)))
        self.order = np.random.default_rng(config.seed).permutation(len(index))

    def worth(self, fmse: np.ndarray, charge: Any, weight: np.ndarray | None) -> None:
        """Fix the value of every level."""
        from prune.byte_budget.allocation import values

        self.value = values(fmse, charge, weight)

    def plan(self) -> tuple[Plan, list[int]]:
        """The best plan of the policy, and the columns of the ladder that it was chosen from."""
        import numpy as np

        config = self.config
        if config.policy == "adaptive":
            sets = [list(range(len(self.level)))]
        elif config.policy == "drop":
            sets = [[0]]
        else:
            sets = [[i] for i in range(len(self.level)) if config.quality in (None, int(self.level[i]))]
        plans, refused = [], None
        for columns in sets:
            try:
                plans.append((self._allocate(columns), columns))
            except InputError as error:  # at this quality the floors do not fit; at another they may
                refused = error
        if not plans:
            raise refused or InputError(
                f"--quality {config.quality}: measured are {' '.join(map(str, np.unique(self.level)))}"
            )
        return max(plans, key=lambda found: found[0].value)

    def _allocate(self, columns: list[int]) -> Plan:
        from prune.byte_budget.allocation import allocate

        return allocate(
            self.nbytes[:, columns],
            self.value[:, columns],
            self.budget,
            labels=self.index.labels,
            floors=self.floors,
            order=self.order,
        )

    def fitted(self, source: Any) -> tuple[Plan, list[int]]:
        """`plan`, with the true bytes of what it chooses when `source` is given: encode, count, plan again."""
        from prune.byte_budget.budget_inputs import count_chosen

        for _ in range(20):
            plan, columns = self.plan()
            if source is None or not count_chosen(self, plan, columns, source):
                return plan, columns
        raise InputError(f"{self.config.curves}: the predicted bytes are too far from the true ones: raise --sample")


def planned_index(
    index: PrunedIndex, plan: Plan, level: np.ndarray, nbytes: np.ndarray, step: dict[str, Any]
) -> PrunedIndex:
    """The samples that the plan keeps, with their qualities and bytes; those kept for a floor say so."""
    from dataclasses import replace

    import numpy as np

    kept = np.flatnonzero(plan.level >= 0)
    at = plan.level[kept]
    reasons = index.reasons[kept].copy()
    if "floor" in index.reason_names:
        reasons[plan.forced[kept]] = index.reason_names.index("floor")
    return replace(
        index,
        ids=index.ids[kept],
        labels=index.labels[kept],
        scores=index.scores[kept],
        reasons=reasons,
        quality=level[at].astype(np.uint8),
        nbytes=nbytes[kept, at].astype(np.int32),
        positions=index.positions[kept],
        digests=index.digests[kept],
        provenance=[*index.provenance, step],
    ).checked()
