"""What a study compares: source, targets, methods, keeps and seeds; which combinations can run, and how it grows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prune.methods.presets import BY_CLASS, NAMES
from prune.runs.files import InputError, positive
from transfer.studies.cascade import OPEN
from transfer.studies.evaluations import DEFAULT, check_evaluation, features_maker
from transfer.studies.places import Splits
from transfer.verdicts.controls import (
    CONTROLS,
    EQUALS,
    FULL_EQUAL,
    FULL_LENGTH,
    OFFERED,
    RANDOM_EQUALS,
    WITHOUT_SURROGATE,
    needs_surrogate,
)

GROWING = ("targets", "methods", "keeps", "seeds", "evaluations", "full_lengths", "reuse")
"""Settings that a later call may extend; all others must stay."""
FREE = ("margin",)
"""Settings that change the verdicts and not the results."""
UNRECORDED = {"gate": OPEN, "uses": 1, "compute": None, "surrogates": [], "init": None, "feature_sample": 1.0}
"""Settings that an older study does not record, and what they were."""


@dataclass(frozen=True)
class Study:
    """The settings that decide a plan.

    Attributes
    ----------
    source : Splits
        Places relative to the study's directory, like those of the targets.
    targets : dict of str to Splits
    guides : tuple of str
        Targets whose train split guides the selection; the others are evaluated only.
    sizes : dict of str to int
        Images by beton name (`source`, `source-val`, `NAME.train`, `NAME.test`), for the estimate of cost.
    floor : float or None
        Least of every class for `winnow`; published methods run as published.
    ladder : tuple of float
        Keeps among which `--keep auto` and `--compute` search; empty otherwise.
    gate : str
        "open", "auto", or the share of the source that the surrogates see and the methods choose from.
    full_lengths : tuple of float
        Lengths at which all data are trained as well, as shares of the full length; 1 is `full` itself.
    uses : int
        For how many uses of an index the controls of equal compute share the cost of its preparation.
    compute : float or None
        Total compute of one use of every pruned and random run, as a share of one full pretraining; with None every run
        trains for the same number of epochs.
    init : str or None
        Model directory whose weights every backbone starts from.
    surrogates : tuple of str
        Surrogates to choose among (`candidates`); with none the surrogate is that of the settings.
    surrogate : str or None
        The one that was chosen.
    surrogate_model : (str, str) or None
        A timm model as surrogate, and its file of weights or ""; with None the surrogate is trained.
    reuse : tuple of str
        Directories of other studies, whose outputs are taken over where the same commands made them (`reuse`).
    feature_sample : float
        Share of the source that a surrogate passes over.
    epochs, surrogate_epochs : float or None
        With None those of the recipe hold, which `recipe_epochs` lists for the estimate.
    """

    source: Splits
    targets: Mapping[str, Splits]
    guides: tuple[str, ...]
    methods: tuple[str, ...]
    keeps: tuple[float, ...]
    seeds: tuple[int, ...]
    recipe: str
    surrogate_recipe: str
    surrogate_sample: float
    side: int | None
    floor: float | None = None
    epochs: float | None = None
    surrogate_epochs: float | None = None
    feature_sample: float = 1.0
    loader: str | None = None
    evaluations: tuple[str, ...] = DEFAULT
    gate: str = OPEN
    ladder: tuple[float, ...] = ()
    sizes: Mapping[str, int] = field(default_factory=dict)
    recipe_epochs: Mapping[str, float] = field(default_factory=dict)
    full_lengths: tuple[float, ...] = ()
    uses: int = 1
    compute: float | None = None
    init: str | None = None
    surrogates: tuple[str, ...] = ()
    surrogate: str | None = None
    surrogate_model: tuple[str, str] | None = None
    reuse: tuple[str, ...] = ()

    @property
    def prunes(self) -> bool:
        """Whether any method is more than a control."""
        return bool(set(self.methods) - set(CONTROLS))

    @property
    def trains_surrogates(self) -> bool:
        """Whether any method needs a surrogate."""
        return any(map(needs_surrogate, self.methods))

    @property
    def gated(self) -> bool:
        """Whether a gate decides what the surrogates see and the methods choose from."""
        return self.prunes and self.gate != OPEN

    @property
    def compares_thumbnails(self) -> bool:
        """Whether thumbnails tell what looks like the targets: for the gate, or for a method without a surrogate."""
        return self.gated or bool(set(WITHOUT_SURROGATE) & set(self.methods)) or "none" in self.surrogates


def run_name(method: str, keep: float, seed: int) -> str:
    """`winnow-k0.2-s0`, or `full-s0`; `full-length0.25-s0` for all data at a quarter of the length."""
    if method == FULL_LENGTH:
        return f"{method}{keep:g}-s{seed}"
    return f"full-s{seed}" if method == "full" else f"{method}-k{keep:g}-s{seed}"


def runs_of(study: Study) -> list[tuple[str, float, int]]:
    """All (method, keep, seed) whose backbone the study trains; full data has keep 1, once per seed.

    All data at another length have that length in the place of the keep.
    """
    conditions = [(m, keep) for m in study.methods for keep in ((1.0,) if m == "full" else study.keeps)]
    lengths = dict.fromkeys([*study.full_lengths, *([study.compute] if study.compute else [])])
    conditions += [(FULL_LENGTH, length) for length in lengths if length != 1]
    return [(method, keep, seed) for method, keep in conditions for seed in study.seeds]


def grown(place: Path, old: Mapping[str, Any], asked: Mapping[str, Any]) -> dict[str, Any]:
    """Merge the settings of a call into those of an existing study.

    Parameters
    ----------
    place : Path
        The study, for the message.
    old : mapping
        Its settings, from study.json.
    asked : mapping
        Settings of the call; None for those that it does not name.

    Returns
    -------
    dict
        The old lists with what is new appended. A target that comes later is evaluated and does not guide: the
        existing selections were made without it.

    Raises
    ------
    InputError
        A setting that cannot grow differs.
    """
    merged = dict(old)
    for name, value in asked.items():
        if value is None:
            continue
        if name == "targets":
            merged[name] = {**old[name], **value}
        elif name in GROWING:
            before = old.get(name, DEFAULT if name == "evaluations" else [])  # an older study lacks some
            merged[name] = [*before, *(v for v in value if v not in before)]
        elif name in FREE or (name == "ladder" and not old.get(name)) or name == "source":
            merged[name] = value
        elif (before := old.get(name, UNRECORDED.get(name))) != value:
            raise InputError(
                f"{place} was made with other settings ({name}: {before!r} -> {value!r}): give another --out, or "
                "remove it"
            )
    return merged


def check_study(study: Study) -> None:
    """Raise `InputError` for a combination of settings that cannot run."""
    if not study.targets:
        raise InputError("--targets: at least one is needed, as name=DIR")
    for name, values in (("methods", study.methods), ("seeds", study.seeds), ("evaluations", study.evaluations)):
        if not values:
            raise InputError(f"--{name}: at least one is needed")
        if len(set(values)) != len(values):
            raise InputError(f"--{name} {' '.join(map(str, values))}: one is named twice")
    for evaluation in study.evaluations:
        check_evaluation(evaluation)
    for method in study.methods:
        if method not in (*OFFERED, *RANDOM_EQUALS, *NAMES):
            raise InputError(f"--methods {method}: there are {', '.join(dict.fromkeys((*OFFERED, *NAMES)))}")
    if not study.keeps and not study.ladder and set(study.methods) != {"full"}:
        raise InputError("--keeps: at least one is needed")
    if study.ladder:
        _check_search(study)
    if len({f"{keep:g}" for keep in study.keeps}) != len(study.keeps):
        raise InputError(f"--keeps {' '.join(map(str, study.keeps))}: two are the same to six digits")
    if negative := [seed for seed in study.seeds if seed < 0]:
        raise InputError(f"--seeds {negative[0]}: 0 or more is needed")
    positive(study, "epochs", "surrogate_epochs")
    if study.side is not None and not 1 <= study.side <= 65535:
        raise InputError(f"--side {study.side}: 1 to 65535 pixels are possible")
    for keep in study.keeps:
        if not 0 < keep <= 1:
            raise InputError(f"--keeps {keep}: a fraction in (0, 1] is needed")
    if not 0 < study.surrogate_sample <= 1:
        raise InputError(f"--surrogate-sample {study.surrogate_sample}: a fraction in (0, 1] is needed")
    _check_feature_sample(study)
    _check_equal_compute(study)
    _check_compute(study)
    if unknown := [name for name in study.guides if name not in study.targets]:
        raise InputError(f"--guides {unknown[0]}: is not one of the targets ({', '.join(study.targets)})")
    _check_file_names(study)
    if not study.guides and study.prunes:
        raise InputError("--guides: at least one target must guide the selection")


def _check_feature_sample(study: Study) -> None:
    if not 0 < study.feature_sample <= 1:
        raise InputError(f"--feature-sample {study.feature_sample}: a fraction in (0, 1] is needed")
    if study.feature_sample == 1:
        return
    for method in filter(needs_surrogate, study.methods):
        if method not in BY_CLASS:
            raise InputError(
                f"--feature-sample {study.feature_sample:g}: {method} needs the features of every image; only "
                f"{', '.join(BY_CLASS)} choose by votes of classes alone"
            )


def _check_equal_compute(study: Study) -> None:
    for method in (one for one in study.methods if one in EQUALS):
        if method in RANDOM_EQUALS and "random" not in study.methods:
            raise InputError(f"--methods {method}: needs random beside it, whose training it prolongs")
        if method == FULL_EQUAL and "full" not in study.methods:
            raise InputError(f"--methods {method}: needs full beside it, whose training it shortens")
        if not study.prunes:
            raise InputError(f"--methods {method}: needs a pruning method, whose cost decides its length")
    if study.uses < 1:
        raise InputError(f"--uses {study.uses}: 1 or more is needed")
    if study.full_lengths and "full" not in study.methods:
        raise InputError("--full-lengths: needs full among --methods, of whose length they are shares")
    for length in study.full_lengths:
        if not 0 < length <= 10:
            raise InputError(f"--full-lengths {length}: a share of the full length is needed, above 0 and at most 10")
    if len({f"{length:g}" for length in study.full_lengths}) != len(study.full_lengths):
        raise InputError(f"--full-lengths {' '.join(map(str, study.full_lengths))}: two are the same to six digits")


def _check_compute(study: Study) -> None:
    if study.compute is None:
        return
    if not 0 < study.compute <= 1:
        raise InputError(f"--compute {study.compute}: a share of one full pretraining is needed, in (0, 1]")
    if "full" not in study.methods or not study.prunes:
        raise InputError("--compute: needs full and a pruning method among --methods")
    if study.ladder and features_maker(study.evaluations) is None:
        raise InputError("--compute: searches by a probe's features; add probe to --evaluations, or give --keeps")
    if equal := [one for one in study.methods if one in EQUALS]:
        raise InputError(f"--methods {equal[0]}: with --compute all runs but full have the same compute; leave it out")


def _check_search(study: Study) -> None:
    for keep in study.ladder:
        if not 0 < keep < 1:
            raise InputError(f"--ladder {keep}: a fraction in (0, 1) is needed")
    if len({f"{keep:g}" for keep in study.ladder}) != len(study.ladder):
        raise InputError(f"--ladder {' '.join(map(str, study.ladder))}: two are the same to six digits")
    if "full" not in study.methods or not study.prunes:
        raise InputError("--keep auto: needs full and a pruning method among --methods, to compare them")
    if len(study.seeds) < 2 and study.compute is None:
        raise InputError("--keep auto: needs two seeds at least; with one every verdict is undecided")


def _check_file_names(study: Study) -> None:
    """Features are named after their beton: two betons of one file name would overwrite each other's."""
    from prune.data.dataset import dataset_name

    place = study.source.train
    stems = [f"{dataset_name(Path(place))}.beton" if place.endswith(".beton") else "source.beton"]
    stems += [Path(splits.train).name for splits in study.targets.values() if splits.train.endswith(".beton")]
    stems += [f"{name}.train.beton" for name, splits in study.targets.items() if not splits.train.endswith(".beton")]
    if len(set(stems)) != len(stems):
        raise InputError(
            "--source and --targets: two betons have the same file name; their features would overwrite each other"
        )
