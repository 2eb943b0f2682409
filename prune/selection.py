"""Choose the samples to keep: class quotas first, then the best of each class.

    python -m prune select --scores runs/scores.npz --method winnow --keep 0.2 --out runs/winnow-20.index.npz

A method is a quota and a rank; --quota and --rank combine any two. The number of samples kept is keep times the size of
the source, rounded to the nearest whole number (0.5 up), exactly.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from prune.methods import presets
from prune.runs.files import InputError, at_least, note
from prune.runs.identity import Location, RunOption, identity
from prune.runs.outputs import claim_file, index_record

if TYPE_CHECKING:
    from prune.methods.choose import Choice
    from prune.methods.gate_scores import OpenGate
    from prune.methods.presets import Method
    from prune.methods.selection_inputs import Constraints, SelectionInputs

__doc__ = f"{__doc__}\nMethods, as quota x rank:\n\n{presets.described()}\n"


@dataclass(frozen=True)
class Config:
    out: Location[Path]
    """Index file to write (NAME.index.npz)."""
    scores: Location[Path | None] = None
    """scores.npz of `prune score`. A random draw by size or by class needs only --manifest."""
    method: str = "winnow"
    """A named method; --quota and --rank replace its parts."""
    keep: float | None = None
    """Fraction of the source to keep, in (0, 1]."""
    budget: int | None = None
    """Number of samples to keep, instead of --keep."""
    quota: str | None = None
    """size, equal, threshold, weights (with --weights), lm, fm or soft; lm-soft, fm-soft; lm-, fm-, soft- or
    votes-whole."""
    rank: str | None = None
    """random, k-center, herding, facility-location, or SCORE:WAY; ways: top, bottom, middle, ccs, beta, d2."""
    gate: str | None = None
    """What may be kept at all, before quota and rank: auto (the share of the source that looks like the targets), open
    (everything), or SCORE:SHARE such as domain:0.35; winnow's is auto where the scores file has domain scores."""
    base: float | None = None
    """Share of the budget that is spread by size before class weights count, in [0, 1]; winnow's is 0.1 at a
    keep of 0.6 and more."""
    trim: float | None = None
    """Share of each class, the last by the rank, that quotas of whole classes skip as long as other classes have room,
    in [0, 1); winnow's is 0.25 below a keep of 0.6."""
    floor: float | None = None
    """The least that every class keeps: from 1 a number of samples, below 1 a fraction of the class."""
    targets: tuple[str, ...] = ()
    """Targets whose votes count; all targets of the scores file when none is named."""
    combine: Literal["mean", "max", "min"] = "mean"
    """How the votes of several targets become one weight per class."""
    weights: Location[Path | None] = None
    """JSON file {class name: weight} for --quota weights."""
    protect: tuple[str, ...] = ()
    """Classes that are kept whole."""
    always: Location[Path | None] = None
    """Text file of ids, one per line: samples that are kept whatever their score."""
    never: Location[Path | None] = None
    """Text file of ids, one per line: samples that are not kept."""
    drop_duplicates: bool = False
    """Keep no near-duplicates."""
    drop_leaks: bool = False
    """Keep no image that nearly duplicates a target's test image."""
    drop_suspects: bool = False
    """Keep no image whose label looks wrong."""
    cut: float = 0.1
    """Fraction of the hardest samples of a class that ccs cuts."""
    complexity: float = 4.0
    """c_D of dual's draw: the larger it is, the stronger the pruning must be for easy samples to be drawn."""
    manifest: Location[Path | None] = None
    """The source's manifest, when it is not at the path in the scores file."""
    features: Location[Path | None] = None
    """The source's features, for ranks that use them, when they are not at the path in the scores file."""
    seed: int = 0
    """Seed of random draws, and of what decides between equal samples and classes."""
    report: Location[Path | None] = None
    """Also write the table of classes as CSV."""
    json: RunOption[bool] = False
    """Print the table of classes as JSON on standard output."""
    dry_run: RunOption[bool] = False
    """Print what would be kept and write nothing."""


def run(config: Config) -> Path:
    """Write the index; returns its path."""
    from prune.index.provenance import record
    from prune.index.pruned_index import PrunedIndex
    from prune.methods import selection_inputs
    from prune.methods.gate_scores import chosen_gate
    from prune.methods.selection_report import class_table, print_table, write_report

    if not 0 <= config.cut < 1:
        raise InputError(f"--cut {config.cut} is outside [0, 1)")
    if not config.complexity > 0:
        raise InputError(f"--complexity {config.complexity} must be above 0")
    at_least(config, 0, "seed")
    given = selection_inputs.open_inputs(config.scores, config.manifest)
    n = len(given.manifest)
    gate = chosen_gate(config.gate or presets.gate_of(config.method, given.arrays), given.arrays, given.meta)
    budget = _budget(config, n, gate.width)
    method = _method(config, budget / n if config.keep is None else config.keep, given)
    constraints, lists = selection_inputs.read_constraints(given, config.never, config.always, config.weights)
    inputs = {**given.fingerprints, **lists}
    if presets.needs_features(method.rank):
        inputs["features"] = selection_inputs.features_fingerprint(config.scores, given, config.features)
    facts: dict[str, Any] = {
        "method": {"quota": method.quota, "rank": method.rank, "base": method.base, "trim": method.trim}
    }
    if gate.width < 1:
        facts["gate"] = {"score": gate.score, "width": gate.width}
    step = record("select", identity(config), inputs, **facts)
    if config.dry_run:
        rows = class_table(_choice(config, given, constraints, method, budget, gate), given.label, given.classes)
        note(f"{budget} of {n} samples would be kept; nothing is written")
        if not config.json:
            print_table(rows)
        write_report(rows, config.report, config.json)
        return config.out
    with claim_file(config.out, index_record, config, {"step": "select", **inputs}) as done:
        if done and not (config.json or config.report):
            return config.out
        choice = _choice(config, given, constraints, method, budget, gate)
        if not done:
            columns = {"score": choice.score, "reason": choice.reason}
            PrunedIndex.from_rows(given.manifest, choice.rows, **columns, provenance=[step]).save(config.out)
            through = f", gate {gate.score} open to {gate.width:.1%}" if gate.width < 1 else ""
            note(f"{config.out}: keeps {budget} of {n} samples ({method.quota} x {method.rank}{through})")
            for name, value in given.meta.get("seed_agreement", {}).items():
                if name == "clusters" or method.rank.startswith(f"{name}:"):
                    note(
                        f"decided by k-means, of which two seeds agree at {value:.2f}: another seed keeps other samples"
                    )
    write_report(class_table(choice, given.label, given.classes), config.report, config.json)
    return config.out


def _choice(
    config: Config, given: SelectionInputs, constraints: Constraints, method: Method, budget: int, gate: OpenGate
) -> Choice:
    """Samples that a method keeps, under the constraints of the config."""
    import numpy as np

    from prune.methods import eligibility
    from prune.methods import selection_inputs as inputs_of
    from prune.methods.choose import Candidates, choose_samples
    from prune.methods.gate_scores import let_through
    from prune.scores.sample_keys import for_purpose, sample_keys

    arrays, label, count = given.arrays, given.label, len(given.classes)
    weights = inputs_of.class_weights(arrays, given.meta.get("targets", []), config.targets, config.combine)
    if constraints.weights is not None:
        weights["weights"] = constraints.weights
    protected = inputs_of.protected_classes(config.protect, given.classes)
    floor = inputs_of.class_floors(config.floor, np.bincount(label, minlength=count), budget)
    gone = eligibility.dropped(arrays, len(label), leaks=config.drop_leaks, suspects=config.drop_suspects)
    eligible = eligibility.eligible(len(label), constraints.never, gone, constraints.always)
    ties = for_purpose(sample_keys(config.seed, ids=given.manifest.ids), "ties")
    if gate.width < 1:
        low = np.zeros(count, np.int64) if floor is None else floor
        eligible &= let_through(gate, eligible, label, low, budget, protected, constraints.always, ties)
    if config.drop_duplicates:
        eligible &= ~eligibility.surplus_copies(eligibility.originals(arrays), eligible, constraints.always, ties)
    elif method.without_duplicates and "duplicate_of" in arrays:
        copies = eligibility.surplus_copies(np.asarray(arrays["duplicate_of"]), eligible, constraints.always, ties)
        low = np.zeros(count, np.int64) if floor is None else floor
        eligible &= ~eligibility.removable_copies(copies, eligible, label, budget, low, protected, ties)
    needed = presets.needs_features(method.rank)
    features = inputs_of.features_of(config.scores, given, config.features) if needed else None
    source = Candidates(
        label,
        count,
        {name[7:]: values for name, values in arrays.items() if name.startswith("sample/")},
        weights,
        eligible,
        constraints.always,
        features.features if features is not None else None,
        given.manifest.ids,
        given.classes,
        features.rows if features is not None and features.partial else None,
    )
    return choose_samples(
        source,
        method,
        budget,
        floor=floor,
        protected=protected,
        cut=config.cut,
        complexity=config.complexity,
        seed=config.seed,
    )


def _budget(config: Config, n: int, width: float) -> int:
    from prune.methods.quota import budget_of

    if config.method == "gate" and config.keep is None and config.budget is None:
        return budget_of(width, n)  # everything that passes
    if (config.keep is None) == (config.budget is None):
        raise InputError("give either --keep or --budget")
    if config.keep is not None:
        return budget_of(config.keep, n)
    if not 1 <= int(config.budget or 0) <= n:
        raise InputError(f"--budget {config.budget} is outside 1 to {n}, the size of the source")
    return int(config.budget or 0)


def _method(config: Config, keep: float, given: SelectionInputs) -> Method:
    from dataclasses import replace

    found = presets.method(config.method, keep, given.arrays)
    if config.quota is not None:
        if config.quota not in presets.QUOTAS:
            raise InputError(f"no quota {config.quota!r}; there are {', '.join(presets.QUOTAS)}")
        found = replace(found, quota=config.quota)
    if config.rank is not None:
        found = replace(found, rank=config.rank)
    if config.base is not None:
        if not 0 <= config.base <= 1:
            raise InputError(f"--base {config.base} is outside [0, 1]")
        found = replace(found, base=config.base)
    if config.trim is not None:
        if not 0 <= config.trim < 1:
            raise InputError(f"--trim {config.trim} is outside [0, 1)")
        found = replace(found, trim=config.trim)
    if config.scores is None and not (found.quota in presets.UNSCORED and found.rank in presets.PLAIN):
        raise InputError(f"{found.quota} x {found.rank} needs --scores (from `prune score`)")
    return found
