"""Fit a budget of bytes: which samples to keep, and at which JPEG quality each.

    prune budget runs/all.index.npz --curves runs/photos.curves.npz --bytes 2GB --out runs/2gb.index.npz
    prune budget runs/all.index.npz --curves runs/photos.curves.npz --ratio 0.1 --policy uniform --out runs/u.index.npz

adaptive chooses a quality for each sample; uniform one quality for all (the one of the greatest value, or --quality);
drop keeps or drops samples at their original bytes. All three are one allocator (prune/byte_budget/allocation.py).
`prune materialize` writes the result, whose images take the planned bytes exactly. The beton also has a header, a
record for each image, and whole pages of at least 2 MiB: the plan leaves room for them, so that the file exceeds the
budget by 1 % or two pages at most. Curves that were predicted in part need --source: the step then encodes what it
chooses and counts the true bytes.
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

    from prune.byte_budget.allocation import Allocation
    from prune.byte_budget.budget_inputs import Curves
    from prune.data.dataset import Dataset
    from prune.data.jpeg_tables import JpegTables
    from prune.index.pruned_index import PrunedIndex


_PAGES = 2 << 21
"""Bytes by which the file of a small budget may exceed it: one page for the header, one that is filled in part."""


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
    """A quality for each sample, one for all, or original bytes only."""
    quality: int | None = None
    """Quality of the uniform policy (101 to 200: less 100, at half the resolution); the best when absent."""
    floor: float | None = None
    """The least that every class keeps: from 1 a number of samples, below 1 a fraction of the class's samples."""
    value: str | None = None
    """What a sample is worth, by the rank of its score: a score of --scores, or `index` for the index's own.
    All are worth the same when absent."""
    lowest: bool = False
    """The lowest scores are worth most."""
    scores: Location[Path | None] = None
    """scores.npz of `prune score`."""
    charge: Literal["mean", "own"] = "mean"
    """Feature error that counts as losing a sample: the mean over the set, or the sample's own distance from it."""
    source: Location[Path | None] = None
    """Beton of the source; needed where curves were predicted."""
    tables: Location[Path | None] = None
    """JPEG tables that the curves were measured with; needed with --source."""
    seed: int = 0
    """Decides which of several samples with equal value per byte comes first."""
    json: RunOption[bool] = False
    """Print the numbers as JSON on standard output."""


def run(config: Config) -> Path:
    """Write the index; returns its path."""
    _check(config)
    import numpy as np

    from prune.byte_budget import budget_inputs
    from prune.byte_budget.budget_report import numbers, show
    from prune.data.beton import best_page, beton_bytes
    from prune.index.provenance import record
    from prune.index.pruned_index import PrunedIndex

    index = PrunedIndex.load(config.index)
    curves = budget_inputs.read_curves(config.curves, index)
    budget = budget_inputs.budget_of(config.bytes, config.ratio, index.source_nbytes)
    inputs, score = {"index": index.fingerprint, "curves": curves.digest}, None
    if config.value == "index":
        score = np.asarray(index.scores, np.float64)
    elif config.scores is not None and config.value is not None:
        score, inputs["value"] = budget_inputs.read_score(config.scores, config.value, index, config.curves, curves)
    source = None
    if not curves.measured[index.positions].all():
        if config.source is None:
            raise InputError(f"{config.curves}: measured in part: give --source, so that what is chosen can be counted")
        source = budget_inputs.open_source(config.source, index)
    tables = None
    if source is not None or config.tables is not None:
        tables = budget_inputs.fitted_tables(config.tables, curves.tables, config.curves)
    inputs |= {} if curves.tables is None else {"tables": curves.tables}
    step = record("budget", {**identity(config), "budget": budget}, inputs)
    with claim_file(config.out, index_record, config, {"step": "budget", "budget": budget, **inputs}) as done:
        if done:
            if config.json:
                show(numbers(PrunedIndex.load(config.out), index, budget, None), as_json=True)
            return config.out
        left = budget
        while True:
            allocation, level, nbytes = _allocated(config, index, curves, score, left, source, tables)
            chosen = budgeted_index(index, allocation, level, nbytes, step)
            file = beton_bytes(chosen.nbytes, best_page(chosen.nbytes)) if len(chosen) else 0
            over = file - budget - max(budget // 100, _PAGES)
            if over <= 0 or not len(chosen):
                break
            left -= over
        chosen.save(config.out)
        show(numbers(chosen, index, budget, allocation), as_json=config.json)
        kept = f"keeps {len(chosen)} of {len(index)} samples, {allocation.nbytes:,} of {budget:,} bytes"
        note(f"{config.out}: {kept}, a beton of {file:,} bytes")
    return config.out


def _check(config: Config) -> None:
    """Refuse settings that contradict each other, before anything is read."""
    import numpy as np

    from prune.methods.quota import floors_of

    need_file(config.index, "an index of `prune select`")
    need_file(config.curves, "curves of `prune curves`")
    if (config.bytes is None) == (config.ratio is None):
        raise InputError("give either --bytes or --ratio")
    if config.ratio is not None and not 0 < config.ratio <= 1:
        raise InputError(f"--ratio {config.ratio} is outside (0, 1]")
    if config.quality is not None and config.policy != "uniform":
        raise InputError("--quality is for --policy uniform")
    if config.scores is None and config.value not in (None, "index"):
        raise InputError(f"--value {config.value}: give --scores, the file that holds this score")
    if config.value is None and config.scores is not None:
        raise InputError("--scores: name the score with --value")
    at_least(config, 0, "seed")
    try:
        floors_of(config.floor or 0.0, np.zeros(0, np.int64))
    except InputError as error:
        raise InputError(f"--{error}") from None


def _allocated(
    config: Config,
    index: PrunedIndex,
    curves: Curves,
    score: np.ndarray | None,
    budget: int,
    source: Dataset | None,
    tables: JpegTables | None,
) -> tuple[Allocation, np.ndarray, np.ndarray]:
    """The allocation, and levels and bytes of the columns that it counts in."""
    import numpy as np

    from prune.byte_budget.allocation import values
    from prune.byte_budget.budget_inputs import floors, true_bytes, weights
    from prune.byte_budget.budget_policy import StorageOptions, allocate_by_policy, allocate_by_true_bytes

    rows = index.positions
    weight = None if score is None else weights(score, lowest=config.lowest)
    dropped = np.asarray(curves.dropped[rows], np.float32)
    charge = dropped if config.charge == "own" else dropped.mean(keepdims=True)
    options = StorageOptions(
        level=curves.level,
        nbytes=curves.nbytes[rows],
        value=values(curves.fmse[rows], charge, weight),
        labels=index.labels,
        floors=floors(config.floor, np.bincount(index.labels, minlength=len(index.classes))),
        order=np.random.default_rng(config.seed).permutation(len(index)),
    )
    if source is None:
        allocation, columns = allocate_by_policy(options, budget, config.policy, config.quality)
        return allocation, curves.level[columns], options.nbytes[:, columns]
    known = np.repeat(curves.measured[rows][:, None], len(curves.level), axis=1)
    allocation, columns, nbytes = allocate_by_true_bytes(
        options,
        budget,
        config.policy,
        config.quality,
        known,
        lambda chosen, levels: true_bytes(source, rows[chosen], levels, tables),
    )
    return allocation, curves.level[columns], nbytes[:, columns]


def budgeted_index(
    index: PrunedIndex, allocation: Allocation, level: np.ndarray, nbytes: np.ndarray, step: dict[str, Any]
) -> PrunedIndex:
    """The samples that are kept, with their qualities and bytes; those kept for a floor have that as their reason."""
    from dataclasses import replace

    import numpy as np

    kept = np.flatnonzero(allocation.level >= 0)
    at = allocation.level[kept]
    reasons = index.reasons[kept].copy()
    if "floor" in index.reason_names:
        reasons[allocation.forced[kept]] = index.reason_names.index("floor")
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
