"""From the flags of `transfer study` to a study: defaults, growth, places, sizes, and what can be checked at once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prune.runs.files import InputError, need_file, note
from transfer.studies.candidates import need_model, placed
from transfer.studies.cascade import OPEN, gate_setting
from transfer.studies.places import (
    Splits,
    counted_splits,
    labels_of,
    moved,
    parse_targets,
    source_splits,
    target_splits,
)
from transfer.studies.settings import Study, grown
from transfer.studies.study_checks import SETTINGS_FORMAT, read_settings
from transfer.verdicts.controls import EQUAL_TIME, RANDOM_EQUAL, RANDOM_EQUALS
from transfer.verdicts.keep_search import LADDER

DEFAULTS: dict[str, Any] = {
    "methods": ["full", "random", "dp4tl-lm", "winnow"],
    "keeps": [0.2, 0.5],
    "seeds": [0, 1, 2],
    "recipe": "rn50-16ep",
    "surrogate_recipe": "rn18-surrogate",
    "surrogate_sample": 0.25,
    "feature_sample": 1.0,
    "side": None,
    "floor": None,
    "epochs": None,
    "surrogate_epochs": None,
    "margin": 0.5,
    "loader": None,
    "evaluations": ["probe"],
    "gate": OPEN,
    "ladder": None,
    "full_lengths": [],
    "uses": 1,
    "compute": None,
    "surrogates": [],
    "init": None,
    "reuse": [],
}


def settings_of(out: Path, flags: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of the study in `out`, grown by a call's flags; those of the flags where there is no study yet.

    Parameters
    ----------
    out : Path
    flags : mapping
        Value by name, as the fields of the step's `Config`; None or empty for a flag that was not given.

    Returns
    -------
    dict
        As study.json stores them.
    """
    asked = _asked(out, flags)
    if (out / "study.json").exists():
        old = read_settings(out)
        asked["methods"] = _with_one_name(
            asked["methods"], EQUAL_TIME if EQUAL_TIME in old["methods"] else RANDOM_EQUAL
        )
        _keep_without_test(old, asked)
        merged = grown(out, old, asked)
        _check_places(out, old, merged)
        merged.setdefault("evaluations", DEFAULTS["evaluations"])  # an older study had no choice of them
        if late := [name for name in merged["targets"] if name not in old["targets"]]:
            note(f"{', '.join(late)}: evaluated, and does not guide the selection (guides: {', '.join(old['guides'])})")
        return merged
    asked["methods"] = _with_one_name(asked["methods"], RANDOM_EQUAL)
    if asked["ladder"] and not flags["keeps"]:
        asked["keeps"] = []
    if out.exists() and (not out.is_dir() or any(not p.name.startswith(".lock") for p in out.iterdir())):
        raise InputError(f"{out}: exists and is not a study; give another --out")
    for name in ("source", "targets"):
        if asked[name] is None:
            raise InputError(f"{out}: is not a study yet; --{name} is needed to begin one")
    settings: dict[str, Any] = {name: DEFAULTS.get(name) if value is None else value for name, value in asked.items()}
    settings["guides"] = settings["guides"] or list(settings["targets"])
    return {"format": SETTINGS_FORMAT, **settings}


def _keep_without_test(old: Mapping[str, Any], asked: dict[str, Any]) -> None:
    """A study of an older version did not see a source's test split in a list or under a longer name: it has none."""
    test = asked["source"] and asked["source"]["test"]
    unseen = test and (test.startswith("list:") or Path(test).name not in ("test", "val"))
    if unseen and old["source"]["test"] is None:
        asked["source"]["test"] = None


def _asked(out: Path, flags: Mapping[str, Any]) -> dict[str, Any]:
    """The flags as settings, with places relative to `out`; None for a flag that was not given."""
    here = Path()
    asked: dict[str, Any] = {name: flags[name] for name in DEFAULTS}
    lists = ("methods", "keeps", "seeds", "evaluations", "guides", "full_lengths", "surrogates")
    asked |= {name: list(flags[name]) or None for name in lists}
    asked["gate"] = gate_setting(flags["gate"])
    asked["ladder"] = _ladder(flags, out)
    asked["init"] = _model_place(flags["init"], out)
    asked["reuse"] = [_study_place(place, out) for place in flags["reuse"]] or None
    asked["surrogates"] = asked["surrogates"] and [placed(text, here, out) for text in asked["surrogates"]]
    asked["source"] = source_splits(flags["source"]).moved(here, out) if flags["source"] else None
    places = parse_targets(flags["targets"])
    for text in flags["surrogates"]:
        need_model(text, "surrogates")
    asked["targets"] = {n: target_splits(n, place).moved(here, out) for n, place in places.items()} or None
    return asked


def _with_one_name(methods: list[str] | None, name: str) -> list[str] | None:
    """The random control of equal compute under `name`, which is its older one in a study begun under that."""
    return methods and [name if method in RANDOM_EQUALS else method for method in methods]


def _model_place(place: Path | None, out: Path) -> str | None:
    """A model directory relative to the study's."""
    if place is None:
        return None
    need_file(place / "model.json", "a model of `pretrain` or `prune surrogate`")
    return moved(str(place), Path(), out)


def _study_place(place: Path, out: Path) -> str:
    """Another study's directory relative to the study's."""
    need_file(place / "plan.jsonl", "the plan of another study")
    if place.resolve() == out.resolve():
        raise InputError(f"--reuse {place}: is the study itself")
    return moved(str(place), Path(), out)


def _ladder(flags: Mapping[str, Any], out: Path) -> list[float] | None:
    """The keeps to search among, where a keep is searched: by --keep auto, or by --compute without --keeps."""
    if flags["keep"] and flags["compute"] is not None:
        raise InputError("--compute: searches the keep by itself; leave out --keep auto")
    if flags["ladder"] and not flags["keep"] and flags["compute"] is None:
        raise InputError("--ladder: is for --keep auto and --compute")
    is_new = not (out / "study.json").exists()
    if flags["keep"] or flags["ladder"] or (flags["compute"] is not None and not flags["keeps"] and is_new):
        return list(flags["ladder"]) or list(LADDER)
    return None


def _check_places(out: Path, old: dict[str, Any], new: dict[str, Any]) -> None:
    """Data may move; the images at the new place must be those that the study was made from."""
    way_out = "give another --out"
    places = [("--source", old["source"], new["source"], ("source", "source-val"), way_out)]
    for name, before in old["targets"].items():
        betons = (f"{name}.train", f"{name}.test")
        places.append((f"--targets {name}=...", before, new["targets"][name], betons, f"{way_out} or another name"))
    for flag, before, after, betons, way_out in places:
        for split, beton in zip(("train", "test"), betons):
            if before == after or not (found := _other_images(out, beton, before[split], after[split])):
                continue
            raise InputError(
                f"{flag}: {after[split]} does not hold what {out} was made from, {before[split]} ({found}); {way_out}"
            )


def _other_images(out: Path, beton: str, before: str | None, after: str | None) -> str:
    """How the images at `after` differ from those of a study's beton, once at `before`; '' where they are the same."""
    from prune.data.beton_writing import difference
    from prune.data.image_listing import list_images
    from prune.index.manifest import manifest_exists, manifest_path, open_manifest

    if before is None or after is None:
        return "" if before == after else "a test split was added or removed"
    here = Path()
    written, place = out / "data" / f"{beton}.beton", moved(after, out, here)
    if after.endswith(".beton"):
        known = Path(moved(before, out, here)) if before.endswith(".beton") else written
        there = manifest_exists(manifest_path(known))
        same = not there or open_manifest(known).fingerprint == open_manifest(Path(place)).fingerprint
        return "" if same else "other images"
    if before.endswith(".beton"):
        return "images cannot take the place of a beton"
    if not written.exists():
        return ""
    manifest = open_manifest(written)
    try:
        return difference(list_images(place, manifest.classes), manifest)
    except InputError as error:
        return str(error)


def study_of(settings: Mapping[str, Any]) -> Study:
    """The study that these settings describe; sizes are not counted yet."""
    from pretrain.recipes import RECIPES

    for flag, name in (("recipe", settings["recipe"]), ("surrogate-recipe", settings["surrogate_recipe"])):
        if name not in RECIPES:
            raise InputError(f"--{flag} {name}: no such recipe; there are {', '.join(RECIPES)}")
    if not 0 <= settings["margin"] < float("inf"):
        raise InputError(f"--margin {settings['margin']}: 0 points or more are needed")
    source = Splits(**settings["source"])
    targets = {name: Splits(**places) for name, places in settings["targets"].items()}
    settings = {**settings, "ladder": settings.get("ladder") or [], "gate": settings.get("gate", OPEN)}
    taken = {"format", "source", "targets", "margin"}
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in settings.items() if k not in taken}
    epochs = {name: recipe.epochs for name, recipe in RECIPES.items()}
    return Study(source=source, targets=targets, recipe_epochs=epochs, **values)


def counted_sizes(study: Study, out: Path) -> dict[str, int]:
    """Images of every beton of the study in `out`, by the beton's name; splits that do not fit are refused."""
    sizes = counted_splits("--source", study.source, ("source", "source-val"), out)
    for name, splits in study.targets.items():
        sizes |= counted_splits(f"--targets {name}", splits, (f"{name}.train", f"{name}.test"), out)
    return sizes


def check_floor(study: Study, out: Path) -> None:
    """Refuse a floor that `prune select` would refuse only after the surrogate is trained."""
    if study.floor is None or "winnow" not in study.methods:
        return
    import numpy as np

    from prune.methods.quota import budget_of, floors_of

    place = out / "data" / "source.beton"
    sizes = np.bincount(labels_of(str(place) if place.exists() else moved(study.source.train, out, Path())))
    needed = int(floors_of(study.floor, sizes).sum())
    for keep in (*study.keeps, *study.ladder):
        if needed > (budget := budget_of(keep, int(sizes.sum()))):
            raise InputError(f"--floor {study.floor:g} needs {needed} samples, and --keeps {keep:g} leaves {budget}")
