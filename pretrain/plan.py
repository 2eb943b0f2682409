"""Open and check all inputs of a training run, before anything is written."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from pretrain import sampling_order
from pretrain.config import Config
from pretrain.recipe import Attack, Recipe
from pretrain.recipes import RECIPES
from pretrain.schedule import Budget
from prune.data.dataset import Dataset, open_dataset
from prune.runs.extras import need_modules
from prune.runs.files import InputError, at_least, need_file, positive
from prune.runs.identity import plain
from prune.runs.path_checks import need_directory
from prune.scores.folds import fold_numbers, parse_fold

SMALLEST = 8
_FITS_ANYWAY = frozenset({"img_size", "drop_rate", "drop_path_rate"})
"""Keyword arguments in which --init may differ: its weights still fit, all but a vision transformer's positions."""


@dataclass(frozen=True)
class TrainingPlan:
    """What a run trains on and how, with every flag taken into account.

    Attributes
    ----------
    source : Dataset
    rows : (n,) int64
        Ascending rows of the source.
    val : Dataset or None
    recipe : Recipe
    budget : Budget
    fingerprints : dict
        Of the inputs, under the names of the flags; None where a flag is absent.
    changed : dict or None
        With --allow-changed on another source: the provenance step that counts what is missing or differs.
    """

    source: Dataset
    rows: np.ndarray
    val: Dataset | None
    recipe: Recipe
    budget: Budget
    fingerprints: dict[str, Any]
    changed: dict[str, Any] | None = None


def check(config: Config) -> TrainingPlan:
    """Open and check all inputs.

    Raises
    ------
    InputError
        One line that names the wrong value and the way out.
    """
    need_directory(config.out)
    at_least(config, 1, "batch_size")
    recipe = adapted(
        config.recipe,
        batch_size=config.batch_size,
        resolution=config.resolution,
        infobatch=config.infobatch,
        adversarial=config.adversarial,
    )
    budget = _budget(config)
    if not 0 < config.sample <= 1:
        raise InputError(f"--sample {config.sample}: a share in (0, 1] is needed")
    at_least(config, 0, "seed")
    at_least(config, 1, "workers", "threads", "micro_batch")
    if config.checkpoint_minutes < 0:
        raise InputError(f"--checkpoint-minutes {config.checkpoint_minutes}: 0 or more is needed")
    if config.tracker != "none":
        need_modules(config.tracker)
    source = open_dataset(config.beton)
    classes = source.manifest.classes
    if len(classes) < 2 and recipe.method == "supervised":
        raise InputError(f"{config.beton}: has {len(classes)} class; training needs at least two")
    if config.allow_changed and config.index is None:
        raise InputError("--allow-changed: needs --index")
    rows, index, changed = np.arange(len(source), dtype=np.int64), None, None
    if config.index is not None:
        rows, index, changed = _indexed(config, source)
    if config.fold is not None:
        left_out, folds = parse_fold(config.fold)
        rows = rows[fold_numbers(source.manifest.ids[rows], folds) != left_out]
        if not len(rows):
            raise InputError(f"--fold {config.fold}: leaves no image to train on")
    rows = sampling_order.sample_rows(rows, config.sample, config.seed)
    sampling_order.global_batch(len(rows), recipe.batch, int(os.environ.get("WORLD_SIZE", "1")))
    val = _validation(config, classes)
    fingerprints = {
        "beton": source.manifest.fingerprint,
        "index": index,
        "val": val.manifest.fingerprint if val else None,
        "init": _initial(config, recipe),
    }
    return TrainingPlan(source, rows, val, recipe, budget or Budget(epochs=recipe.epochs), fingerprints, changed)


def _indexed(config: Config, source: Dataset) -> tuple[np.ndarray, str, dict[str, Any] | None]:
    """Rows of the index in the source, ascending, its fingerprint, and with --allow-changed what differs."""
    from prune.index.pruned_index import PrunedIndex

    assert config.index is not None
    loaded = PrunedIndex.load(config.index)
    if config.allow_changed and loaded.source != source.manifest.fingerprint:
        found = loaded.rebased(source.manifest, allow_changed=True)
        rows, changed = found.positions, found.provenance[-1]
    else:
        rows, changed = loaded.rows_in(source.manifest, allow_changed=False), None
    if not len(rows):
        raise InputError(f"{config.index}: keeps no sample: there is nothing to train on")
    return np.sort(rows).astype(np.int64), loaded.fingerprint, changed


def adapted(
    name: str,
    *,
    batch_size: int | None = None,
    resolution: int | None = None,
    infobatch: float | None = None,
    adversarial: Literal["recipe", "none", "fast", "free", "pgd"] = "recipe",
) -> Recipe:
    """Look up a recipe and apply the given changes; the learning rate is scaled with the batch.

    Raises
    ------
    InputError
        An unknown recipe, or a value that it cannot have.
    """
    if name not in RECIPES:
        raise InputError(f"--recipe {name}: no such recipe; the recipes are {', '.join(RECIPES)}")
    recipe = RECIPES[name]
    if batch_size is not None:
        recipe = replace(recipe, batch=batch_size, lr=recipe.lr * batch_size / recipe.batch)
    if resolution is not None:
        recipe = _resized(recipe, resolution)
    if infobatch is not None:
        if not 0 <= infobatch < 1:
            raise InputError(f"--infobatch {infobatch}: a share in [0, 1) is needed")
        recipe = replace(recipe, infobatch=infobatch)
    if adversarial == "none":
        recipe = replace(recipe, attack=None)
    elif adversarial != "recipe":
        recipe = replace(recipe, attack=replace(recipe.attack or Attack("fast"), kind=adversarial))
    if recipe.attack and recipe.method != "supervised":
        raise InputError(f"--adversarial: {recipe.method} uses no labels, which an attack needs")
    return recipe


def _resized(recipe: Recipe, side: int) -> Recipe:
    """Scale all of a recipe's resolutions; below 64 pixels the images do not grow during training."""
    if side < SMALLEST:
        raise InputError(f"--resolution {side}: at least {SMALLEST} pixels are needed")
    factor = side / recipe.resolution
    start = round(recipe.start_resolution * factor / 16) * 16 if side >= 64 else 0
    kwargs = {**recipe.kwargs, "img_size": side} if recipe.arch.startswith("vit") else recipe.kwargs
    return replace(
        recipe,
        resolution=side,
        start_resolution=start,
        evaluation=round(recipe.evaluation * factor),
        kwargs=kwargs,
    )


def _budget(config: Config) -> Budget | None:
    given = {k: v for k in ("epochs", "steps", "seconds") if (v := getattr(config, k)) is not None}
    if len(given) > 1:
        raise InputError(f"--{' and --'.join(given)}: give one budget")
    positive(config, *given)
    return Budget(**given) if given else None


def _validation(config: Config, classes: list[str]) -> Dataset | None:
    if config.val is None:
        return None
    val = open_dataset(config.val)
    if val.manifest.classes != classes:
        other = sorted(set(val.manifest.classes) ^ set(classes))
        what = f"for instance {other[0]!r} is not in both" if other else "in another order"
        raise InputError(f"{config.val}: its classes are not those of {config.beton} ({what})")
    return val


def _initial(config: Config, recipe: Recipe) -> str | None:
    """Check --init without building it; its fingerprint."""
    if config.init is None:
        return None
    from prune.models.model_spec import model_fingerprint, read_spec

    spec = read_spec(config.init)
    need_file(config.init / "model.safetensors", "the weights of --init")
    if spec.get("widths"):
        raise InputError(f"{config.init}: is a compressed model; give the one that it was made from")
    built = {k: v for k, v in (spec.get("kwargs") or {}).items() if k not in _FITS_ANYWAY}
    given = {"arch": spec.get("arch"), "stem": spec.get("stem"), **built}
    wanted = {"arch": recipe.arch, "stem": recipe.stem, **plain(recipe.kwargs)}
    for key in sorted(given.keys() | wanted.keys() - _FITS_ANYWAY):
        if given.get(key) != wanted.get(key):
            raise InputError(
                f"{config.init}: its {key} is {given.get(key)}, the recipe's is {wanted.get(key)}: give another recipe"
            )
    return model_fingerprint(config.init)
