"""Choose the samples to keep: class quotas first, then the best of each class.

    prune select --scores runs/scores.npz --method winnow --keep 0.2 --out runs/winnow-20.index.npz
    prune select --scores runs/scores.npz --keep 0.1 0.2 0.5 --out "runs/winnow-{keep}.index.npz"
    prune select --scores runs/scores.npz --mix lm:0.7,random:0.3 --keep 0.2 --out runs/mix-20.index.npz

A method is a quota and a rank; --quota and --rank combine any two. The number of samples kept is keep times the size of
the source, rounded to the nearest whole number (0.5 up), exactly.

With several keeps, a smaller index is part of a larger one for whole classes by votes and for quota threshold with top
or bottom, and apart from the rounding of quotas for other ranks. It is not for ranks that depend on the keep (ccs and
beta, so dual), for quota evidence, so winnow with targets, and for mixes.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from prune.methods import presets
from prune.runs.files import InputError, at_least, note
from prune.runs.identity import Location, Recorded, RunOption, identity
from prune.runs.outputs import claim_file, index_record
from prune.runs.path_checks import Written, note_suffix

if TYPE_CHECKING:
    from prune.methods.choose import Choice
    from prune.methods.decision import Decision
    from prune.methods.gate_scores import OpenGate
    from prune.methods.mixing import Part
    from prune.methods.selection_inputs import Constraints, SelectionInputs

__doc__ = f"{__doc__}\nMethods, as quota x rank:\n\n{presets.described()}\n"


@dataclass(frozen=True)
class Config:
    out: Location[Path]
    """Index file to write (NAME.index.npz); `{keep}` in the name stands for the keep."""
    scores: Location[Path | None] = None
    """scores.npz of `prune score`. A random draw by size or by class needs only --manifest."""
    method: str = "winnow"
    """A named method; --quota and --rank replace its parts."""
    mix: str | None = None
    """Instead of a method, NAME:SHARE,...: methods (or lm, fm, domain) that fill parts of the budget in turn."""
    keep: Recorded[tuple[float, ...]] = ()
    """Fraction of the source to keep, in (0, 1]; several write an index each."""
    budget: int | None = None
    """Number of samples to keep, instead of --keep."""
    quota: str | None = None
    """size, equal, threshold, weights (with --weights), lm, fm or soft; lm-soft, fm-soft; lm-, fm-, soft- or
    votes-whole; evidence (votes as far as they go beyond chance)."""
    rank: str | None = None
    """random, k-center, herding, facility-location, or SCORE:WAY; ways: top, bottom, middle, ccs, beta, d2."""
    gate: str | None = None
    """What may be kept at all, before quota and rank: auto (the share of the source that looks like the targets), open
    (everything), or SCORE:SHARE such as domain:0.35; that of winnow and evidence is auto where the scores file has
    domain scores."""
    base: float | None = None
    """Share of the budget that is spread by size before class weights count, in [0, 1]; 0 when absent."""
    trim: float | None = None
    """Share of each class, the last by the rank, that quotas of whole classes skip as long as other classes have room,
    in [0, 1); 0 when absent."""
    floor: float | None = None
    """The least that every class keeps: from 1 a number of samples, below 1 a fraction of the class."""
    groups: Location[Path | None] = None
    """CSV file with the columns id and one or more groups (camera, site, ...), for --floor-groups."""
    floor_groups: int | None = None
    """The least that every group of --groups keeps, of a smaller one all."""
    targets: tuple[str, ...] = ()
    """Targets whose votes count; all targets of the scores file when none is named."""
    combine: Literal["mean", "max", "min"] = "mean"
    """How the votes of several targets become one weight per class."""
    weights: Location[Path | None] = None
    """JSON file {class name: weight} for --quota weights."""
    protect: tuple[str, ...] = ()
    """Classes that are kept whole."""
    always: Location[Path | None] = None
    """Text file of ids, one per line: samples that are kept whatever their score. A line that begins with `# ` is a
    comment."""
    never: Location[Path | None] = None
    """Text file of ids, one per line: samples that are not kept."""
    like: Location[Path | None] = None
    """An earlier index, of this source or of an earlier state of it: its samples are kept where the quotas allow it, so
    that as little as possible changes."""
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
    report: Location[Written[Path | None]] = None
    """Also write the table of classes as CSV."""
    json: RunOption[bool] = False
    """Print the table of classes as JSON on standard output."""
    dry_run: RunOption[bool] = False
    """Print what would be kept and write nothing."""

    def __post_init__(self) -> None:
        if not isinstance(self.keep, tuple):  # one keep may be given as a number
            object.__setattr__(self, "keep", () if self.keep is None else (float(self.keep),))


def run(config: Config) -> Path:
    """Write an index for each keep; returns the path of the last."""
    _check(config)
    from prune.index.pruned_index import PrunedIndex
    from prune.methods import selection_inputs
    from prune.methods.decision import gate_of, rules_of
    from prune.methods.selection_report import class_table, print_json, print_table, write_report

    given = selection_inputs.open_inputs(config.scores, config.manifest)
    gate = gate_of(rules_of(config), given.arrays, given.meta)
    constraints, lists = selection_inputs.read_constraints(given, config.never, config.always, config.weights)
    wanted = [_planned(config, keep, given, gate, lists) for keep in config.keep or (None,)]
    choices: list[Decision | None] = []
    tables = {}
    with ExitStack() as claims:
        claimed = [not config.dry_run and claims.enter_context(_claim(config, one)) for one in wanted]
        for one, done in zip(wanted, claimed):  # all of them before the first is written: a mistake leaves nothing
            idle = done and not (config.json or config.report)
            choices.append(None if idle else _decision(config, given, constraints, one, gate))
        for one, done, decision in zip(wanted, claimed, choices):
            if decision is None:
                continue
            choice, copies = decision.choice, _needed_copies(config, given, constraints, one, gate, decision)
            tables[one.name] = class_table(choice, given.label, given.classes)
            _warn(config, one, given, choice)
            if config.dry_run:
                note(f"{one.budget} of {len(given.manifest)} samples would be kept; nothing is written")
                if not config.json:
                    print_table(tables[one.name])
                _tell_copies(one, given, copies)
            elif not done:
                PrunedIndex.from_rows(
                    given.manifest,
                    choice.rows,
                    score=choice.score,
                    reason=choice.reason,
                    reason_names=choice.reason_names,
                    provenance=[one.step | ({"near_duplicates": copies} if copies else {})],
                ).save(one.out)
                _tell(config, one, given, gate)
                _tell_copies(one, given, copies)
            if one.report is not None:
                write_report(tables[one.name], one.report)
    if config.json:
        print_json(tables)
    return wanted[-1].out


@dataclass(frozen=True)
class _Selection:
    """What one index keeps and where it goes: its keep as a name and a number, budget, methods, and provenance."""

    name: str
    keep: float | None
    budget: int
    parts: list[Part]
    out: Path
    report: Path | None
    inputs: dict[str, Any]
    step: dict[str, Any]


def _check(config: Config) -> None:
    """Refuse settings that contradict each other, before anything is read."""
    from prune.methods.quota import budget_of

    for keep in config.keep:
        budget_of(keep, 1)
    at_least(config, 1, "budget")
    presets.changed(presets.method(config.method, 1.0), config.quota, config.rank, config.base, config.trim)
    if not 0 <= config.cut < 1:
        raise InputError(f"--cut {config.cut} is outside [0, 1)")
    if not config.complexity > 0:
        raise InputError(f"--complexity {config.complexity} must be above 0")
    if config.like is not None and config.floor_groups is not None:
        raise InputError("--like and --floor-groups: give one, earlier samples could take the places of a group's")
    at_least(config, 0, "seed")
    at_least(config, 1, "floor_groups")
    if (config.groups is None) != (config.floor_groups is None):
        raise InputError("--groups and --floor-groups go together: a CSV file with id and group, and a number")
    alone = {"method": "winnow", "quota": None, "rank": None, "base": None, "trim": None}
    for name, default in alone.items():
        if config.mix is not None and getattr(config, name) != default:
            raise InputError(f"--mix names its methods itself: give no --{name}")
    keeps = " ".join(map(_written, config.keep))
    if len(set(map(_written, config.keep))) < len(config.keep):
        raise InputError(f"--keep {keeps}: one is named twice")
    for flag, place in (("out", config.out), ("report", config.report)):
        if place is None:
            continue
        if len(config.keep) > 1 and "{keep}" not in str(place):
            raise InputError(
                f"--{flag} {place}: several keeps need a file each; put {{keep}} into the name, as in "
                f"{_with_keep(place)}"
            )
        if not config.keep and "{keep}" in str(place):
            raise InputError(f"--{flag} {place}: {{keep}} stands for a keep, and no --keep is given")


def _with_keep(place: Path) -> str:
    """A path with {keep} before its suffixes: runs/pets.index.npz to runs/pets-{keep}.index.npz."""
    end = ".index.npz" if place.name.endswith(".index.npz") else place.suffix
    return str(place.with_name(f"{place.name.removesuffix(end)}-{{keep}}{end}"))


def _written(keep: float) -> str:
    """A keep in digits, as in the name of a file."""
    return f"{keep:.12g}"


def _planned(
    config: Config, keep: float | None, given: SelectionInputs, gate: OpenGate, lists: Mapping[str, Any]
) -> _Selection:
    """The selection for one keep."""
    from prune.index.index_file import read_meta
    from prune.index.provenance import record
    from prune.methods import selection_inputs

    n = len(given.manifest)
    budget = _budget(config, keep, n, gate.width)
    parts = _parts(config, budget / n if keep is None else keep, given)
    inputs = {**given.fingerprints, **lists}
    if config.groups is not None:
        inputs["groups"] = selection_inputs.file_fingerprint(config.groups)
    if config.like is not None:
        inputs["like"] = str(read_meta(config.like)["fingerprint"])
    if any(presets.needs_features(part.method.rank) for part in parts):
        inputs["features"] = selection_inputs.features_fingerprint(config.scores, given, config.features)
    settings = [
        {"quota": m.quota, "rank": m.rank, "base": m.base, "trim": m.trim} for m in (part.method for part in parts)
    ]
    facts: dict[str, Any] = {"method": settings[0]}
    if config.mix is not None:
        shares = [{"part": part.name, "share": float(part.share)} for part in parts]
        facts = {"parts": [share | setting for share, setting in zip(shares, settings)]}
    if gate.width < 1:
        facts["gate"] = {"score": gate.score, "width": gate.width}
    step = record("select", {**identity(config), "keep": keep}, inputs, **facts)
    name = "" if keep is None else _written(keep)
    report = None if config.report is None else _placed(config.report, name)
    return _Selection(name, keep, budget, parts, _placed(config.out, name), report, inputs, step)


def _placed(path: Path, name: str) -> Path:
    """The path for one keep."""
    return Path(str(path).replace("{keep}", name))


def _claim(config: Config, one: _Selection) -> AbstractContextManager[bool]:
    return claim_file(one.out, index_record, config, {"step": "select", "keep": one.keep, **one.inputs})


def _tell(config: Config, one: _Selection, given: SelectionInputs, gate: OpenGate) -> None:
    """Print what was written, and how far it depends on the seed of k-means."""
    methods = [part.method for part in one.parts]
    how = f"mix {config.mix}" if config.mix else f"{methods[0].quota} x {methods[0].rank}"
    through = f", gate {gate.score} open to {gate.width:.1%}" if gate.width < 1 else ""
    note(f"{one.out}: keeps {one.budget} of {len(given.manifest)} samples ({how}{through})")
    note_suffix(one.out, ".index.npz")
    for name, value in given.meta.get("seed_agreement", {}).items():
        if name == "clusters" or any(method.rank.startswith(f"{name}:") for method in methods):
            note(f"decided by k-means, of which two seeds agree at {value:.2f}: another seed keeps other samples")


def _warn(config: Config, one: _Selection, given: SelectionInputs, choice: Choice) -> None:
    """Print where votes mean nothing, and where the kept images part from them."""
    import numpy as np

    from prune.methods.decision import rules_of, votes_of

    for name in dict.fromkeys(part.method.rank.partition(":")[0] for part in one.parts):
        score = given.arrays.get(f"sample/{name}")
        unknown = 0 if score is None else int(np.isnan(np.asarray(score)[choice.rows]).sum())
        if unknown:
            note(f"{one.out.name}: {unknown} of {len(choice.rows)} kept samples have no {name}, and follow all others")
    if config.method == "winnow" and config.quota is None and one.parts[0].method.quota == "votes-whole":
        note(
            "the scores file has no votes by chance, so votes are taken at their word: run `prune score` again for them"
        )
    if [part.method.quota for part in one.parts] != ["evidence"]:
        return
    counted = votes_of(given.pool, rules_of(config))
    kept = np.bincount(given.label[choice.rows], minlength=len(given.classes))
    for line in counted.told(kept, given.classes) if counted else ():
        note(line)


def _needed_copies(
    config: Config,
    given: SelectionInputs,
    constraints: Constraints,
    one: _Selection,
    gate: OpenGate,
    decision: Decision,
) -> dict[str, int]:
    """How many near-duplicates are kept since the budget needs them, and the largest budget that keeps none; or {}."""
    from prune.methods.decision import largest_without_copies, rules_of

    if not len(rows := decision.kept_copies()):
        return {}
    most = largest_without_copies(given.pool, rules_of(config), one.parts, one.budget, gate, constraints)
    return {"kept": len(rows), "none_up_to": most}


def _tell_copies(one: _Selection, given: SelectionInputs, copies: Mapping[str, int]) -> None:
    from prune.index.index_summary import copies_sentence

    if copies:
        note(f"{one.out}: {copies_sentence(copies, len(given.manifest))}")


def _decision(
    config: Config, given: SelectionInputs, constraints: Constraints, one: _Selection, gate: OpenGate
) -> Decision:
    """What a selection keeps, under the constraints of the config."""
    from dataclasses import replace

    from prune.methods.decision import decide, rules_of
    from prune.methods.group_floors import read_groups
    from prune.methods.selection_inputs import features_of

    needed = any(presets.needs_features(part.method.rank) for part in one.parts)
    features = features_of(config.scores, given, config.features) if needed else None
    groups = None if config.groups is None else read_groups(config.groups, given.manifest.ids)
    decision = decide(
        given.pool,
        rules_of(config),
        one.parts,
        one.budget,
        gate,
        constraints,
        features=features.features if features is not None else None,
        feature_rows=features.rows if features is not None and features.partial else None,
        groups=groups,
    )
    if config.like is None:
        return decision
    from prune.methods.continuity import rows_like, stay_close

    scores = {name[7:]: values for name, values in given.arrays.items() if name.startswith("sample/")}
    like = rows_like(config.like, given.manifest.ids)
    near = stay_close(decision, like, given.pool.label, one.parts[0].method.rank, scores)
    return replace(decision, choice=near)


def _budget(config: Config, keep: float | None, n: int, width: float) -> int:
    from prune.methods.quota import budget_of

    if config.method == "gate" and keep is None and config.budget is None:
        return budget_of(width, n)  # everything that passes
    if (keep is None) == (config.budget is None):
        raise InputError("give either --keep or --budget")
    if keep is not None:
        return budget_of(keep, n)
    if not 1 <= int(config.budget or 0) <= n:
        raise InputError(f"--budget {config.budget} is outside 1 to {n}, the size of the source")
    return int(config.budget or 0)


def _parts(config: Config, keep: float, given: SelectionInputs) -> list[Part]:
    """Methods that fill the budget; `InputError` when one needs a scores file and there is none."""
    from prune.methods.decision import parts_of, rules_of

    found = parts_of(rules_of(config), keep, given.arrays)
    for method in (part.method for part in found):
        if config.scores is None and not (method.quota in presets.UNSCORED and method.rank in presets.PLAIN):
            raise InputError(f"{method.quota} x {method.rank} needs --scores (from `prune score`)")
    return found
