"""From a study's command line to its settings: defaults, growth, places and sizes, and what can be checked at once."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from prune.runs.files import InputError, note, read_json
from transfer.studies.places import Parts, count, labels_of, moved, parse_targets, source_parts, target_parts
from transfer.studies.settings import Study, grown
from transfer.verdicts.keep_search import LADDER

if TYPE_CHECKING:
    from transfer.study import Config

FORMAT = "winnow-study-settings/1"
DEFAULTS: dict[str, Any] = {
    "methods": ["full", "random", "dp4tl-lm", "winnow"],
    "keeps": [0.2, 0.5],
    "seeds": [0, 1, 2],
    "recipe": "rn50-16ep",
    "surrogate_recipe": "rn18-surrogate",
    "surrogate_sample": 0.25,
    "side": None,
    "floor": None,
    "epochs": None,
    "surrogate_epochs": None,
    "margin": 0.5,
    "loader": None,
    "evaluations": ["probe"],
    "ladder": None,
}


def settings_of(config: Config) -> dict[str, Any]:
    """The settings that hold: those of the study that is there, grown by those of the call, or the call's alone."""
    here = Path()
    asked: dict[str, Any] = {name: getattr(config, name) for name in DEFAULTS}
    asked |= {name: list(getattr(config, name)) or None for name in ("methods", "keeps", "seeds", "evaluations")}
    asked["ladder"] = _ladder(config)
    asked["source"] = source_parts(config.source).moved(here, config.out) if config.source else None
    places = parse_targets(config.targets)
    asked["targets"] = {n: target_parts(n, place).moved(here, config.out) for n, place in places.items()} or None
    asked["guides"] = list(config.guides) or None
    if (config.out / "study.json").exists():
        old = read_json(config.out / "study.json")
        if old.get("format") != FORMAT:
            raise InputError(f"{config.out / 'study.json'}: is not a study's settings file")
        merged = grown(config.out, old, asked)
        _check_places(config.out, old, merged)
        merged.setdefault("evaluations", DEFAULTS["evaluations"])  # of a study from before there were others
        if late := [name for name in merged["targets"] if name not in old["targets"]]:
            note(f"{', '.join(late)}: evaluated, and does not guide the selection (guides: {', '.join(old['guides'])})")
        return merged
    if asked["ladder"] and not config.keeps:
        asked["keeps"] = []
    if config.out.exists() and (not config.out.is_dir() or any(p.name != ".lock" for p in config.out.iterdir())):
        raise InputError(f"{config.out}: is there already and is not a study; give another --out")
    for name in ("source", "targets"):
        if asked[name] is None:
            raise InputError(f"{config.out}: holds no study yet; --{name} is needed to begin one")
    settings: dict[str, Any] = {name: DEFAULTS.get(name) if value is None else value for name, value in asked.items()}
    settings["guides"] = settings["guides"] or list(settings["targets"])
    return {"format": FORMAT, **settings}


def _check_places(out: Path, old: dict[str, Any], new: dict[str, Any]) -> None:
    """Data may move; what lies at the new place must be what the study was made from."""
    way_out = "give another --out"
    places = [("--source", old["source"], new["source"], ("source", "source-val"), way_out)]
    for name, before in old["targets"].items():
        betons = (f"{name}.train", f"{name}.test")
        places.append((f"--targets {name}=...", before, new["targets"][name], betons, f"{way_out} or another name"))
    for flag, before, after, betons, way_out in places:
        for half, beton in zip(("train", "test"), betons):
            if before == after or not (found := _other_images(out, beton, before[half], after[half])):
                continue
            raise InputError(
                f"{flag}: {after[half]} does not hold what {out} was made from, {before[half]} ({found}); {way_out}"
            )


def _other_images(out: Path, beton: str, before: str | None, after: str | None) -> str:
    """How the images at `after` differ from those of a study's beton, once at `before`; '' where they are the same."""
    from prune.data.image_listing import list_images
    from prune.index.manifest import open_manifest
    from prune.write import difference

    if before is None or after is None:
        return "" if before == after else "a test part came or went"
    here = Path()
    written, place = out / "data" / f"{beton}.beton", moved(after, out, here)
    if after.endswith(".beton"):
        known = Path(moved(before, out, here)) if before.endswith(".beton") else written
        same = not known.exists() or open_manifest(known).fingerprint == open_manifest(Path(place)).fingerprint
        return "" if same else "other images"
    if before.endswith(".beton"):
        return "images and betons do not stand for each other"
    if not written.exists():
        return ""
    manifest = open_manifest(written)
    try:
        return difference(list_images(place, manifest.classes), manifest)
    except InputError as error:
        return str(error)


def _ladder(config: Config) -> list[float] | None:
    if config.keep is None:
        if config.ladder:
            raise InputError("--ladder: serves --keep auto alone")
        return None
    return list(config.ladder) or list(LADDER)


def study_of(settings: dict[str, Any], out: Path) -> Study:
    """Settings as the plan takes them, with sizes counted and recipes looked up."""
    from pretrain.recipes import RECIPES

    for flag, name in (("recipe", settings["recipe"]), ("surrogate-recipe", settings["surrogate_recipe"])):
        if name not in RECIPES:
            raise InputError(f"--{flag} {name}: no such recipe; there are {', '.join(RECIPES)}")
    source, targets = Parts(**settings["source"]), {n: Parts(**p) for n, p in settings["targets"].items()}
    places = {"source": source.train, "source-val": source.test}
    for name, parts in targets.items():
        places |= {f"{name}.train": parts.train, f"{name}.test": parts.test}
    sizes = {name: count(place, name, out) for name, place in places.items() if place is not None}
    taken = {"format", "source", "targets", "margin"}
    if not 0 <= settings["margin"] < float("inf"):
        raise InputError(f"--margin {settings['margin']}: 0 points or more are needed")
    settings = {**settings, "ladder": settings.get("ladder") or []}
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in settings.items() if k not in taken}
    epochs = {name: recipe.epochs for name, recipe in RECIPES.items()}
    return Study(source=source, targets=targets, sizes=sizes, recipe_epochs=epochs, **values)


def check_floor(study: Study, out: Path) -> None:
    """See at once what `prune select` would only say after the surrogate is trained."""
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
