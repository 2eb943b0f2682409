"""Inputs of `transfer incremental` and `transfer stream`, checked: the recipe, the classes, the model to start from."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pretrain import plan
from pretrain.recipe import Recipe
from prune.models.model_spec import model_fingerprint
from prune.runs.files import InputError, need_file


def learning_recipe(name: str, *, batch_size: int | None, resolution: int | None) -> tuple[Recipe, int]:
    """Look up a recipe of `pretrain` and take the flags into account; returns it and the side of the images.

    Raises
    ------
    InputError
        There is no such recipe, or it is not a supervised one without mixtures of images.
    """
    recipe = plan.adapted(name, batch_size=batch_size, resolution=resolution)
    if recipe.method != "supervised" or recipe.mixup or recipe.cutmix:
        raise InputError(f"--recipe {name}: a supervised recipe without mixup and CutMix is needed")
    return recipe, recipe.evaluation or recipe.resolution


def need_same_classes(train: np.ndarray, test: np.ndarray, tasks: int) -> None:
    """Check that every class has images in both splits, and that there is a class for each task.

    Parameters
    ----------
    train, test : (n,) int, (m,) int
        Labels.
    tasks : int

    Raises
    ------
    InputError
        A class has images in one split only, or there are fewer classes than tasks.
    """
    here, there = np.unique(train), np.unique(test)
    if len(lacking := np.setxor1d(here, there)):
        raise InputError(f"--test: class number {lacking[0]} has images in one of --train and --test, not in both")
    if tasks > len(here):
        raise InputError(f"--tasks {tasks}: there are {len(here)} classes, and each task needs one")


def initial_fingerprint(init: Path | None) -> str | None:
    """Fingerprint of the model to start from; None without one."""
    if init is None:
        return None
    need_file(init / "model.json", "a model directory of `pretrain`")
    return model_fingerprint(init)
