"""Short training after a step of compression, in the one training loop; the images that guard and importance see."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from pretrain import optimisation, training_loop
from pretrain.distributed import Ranks
from pretrain.hooks import Hooks
from pretrain.optimisation import Loss
from pretrain.progress_bar import bar
from pretrain.recipe import Recipe
from pretrain.recipes import RECIPES
from pretrain.schedule import Budget
from pretrain.training_run import augmented
from prune.data.batches import Loader
from prune.models import networks
from prune.runs.files import InputError
from transfer.evaluation import finetune_recipes

_TEMPERATURE = 2.0
_TUNED = "finetune-"  # what `transfer finetune` puts before its recipes' names


def recipe_for(
    spec: dict[str, Any], model: nn.Module, name: str | None, epochs: float, lr: float | None, batch: int | None
) -> Recipe:
    """Recipe of the recovery: the one that the model was trained with, gentler.

    A fifth of its learning rate unless `lr` is given (all of it for AdamW's fine-tuning, which is low already), its
    crops and decay, no mixtures and no growing images.

    Raises
    ------
    InputError
        The recipe is not known, or a value is impossible.
    """
    wanted = name or str(spec.get("recipe"))
    tuned = wanted.removeprefix(_TUNED)
    if tuned != wanted and tuned in finetune_recipes.RECIPES:
        known = finetune_recipes.adapted(tuned, spec, batch_norm=finetune_recipes.has_batch_norm(model))
    elif wanted in RECIPES:
        known = RECIPES[wanted]
    else:
        there = ", ".join((*RECIPES, *(_TUNED + size for size in finetune_recipes.RECIPES)))
        whose = "" if name else "the model was trained by "
        raise InputError(f"--recipe: {whose}{wanted!r}, which is no recipe of ours; there are {there}")
    gentle = 1.0 if tuned != wanted and known.optimiser == "adamw" else 0.2
    peak = known.lr * gentle * (batch or known.batch) / known.batch if lr is None else lr
    if not peak > 0 or (batch is not None and batch < 1):
        raise InputError(f"--learning-rate {peak} --batch-size {batch}: positive numbers are needed")
    found: Recipe = replace(
        known,
        epochs=epochs,
        lr=peak,
        batch=batch or known.batch,
        resolution=int(spec["resolution"]),
        start_resolution=0,
        warmup=min(known.warmup, 0.1 * epochs),
        mixup=0.0,
        cutmix=0.0,
        ema=0.0,
        attack=None,
        infobatch=0.0,
        method="supervised",
        compile=False,
    )
    return found


def distilled(original: nn.Module, recipe: Recipe, weight: float, seed: int) -> Loss:
    """Cross entropy mixed with the divergence from the original's answers (Hinton et al., 2015), at temperature 2.

    Parameters
    ----------
    original : nn.Module
        In evaluation mode, on the device of the training.
    recipe : Recipe
    weight : float in [0, 1]
        Of the divergence.
    seed : int
    """
    plain = optimisation.classification(recipe, seed, 0)

    def loss(
        model: nn.Module, images: torch.Tensor, labels: torch.Tensor, step: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        losses, logits = plain(model, images, labels, step)
        with torch.no_grad():
            wanted = functional.softmax(original(images).float() / _TEMPERATURE, 1)
        found = functional.log_softmax(logits / _TEMPERATURE, 1)
        apart = functional.kl_div(found, wanted, reduction="none").sum(1) * _TEMPERATURE**2
        return (1 - weight) * losses + weight * apart, logits

    return loss if weight > 0 else plain


def recover(
    network: nn.Module,
    loader: Loader,
    rows: np.ndarray,
    recipe: Recipe,
    ranks: Ranks,
    spec: dict[str, Any],
    *,
    seed: int,
    loss: Loss,
    checkpoints: Path,
    checkpoint_seconds: float,
    name: str,
) -> nn.Module:
    """Train for `recipe.epochs`, from a checkpoint if there is one; afterwards on the CPU, in evaluation mode."""
    if recipe.epochs > 0:
        network = network.to(ranks.device)
        with bar(name) as on_step:
            training_loop.train(
                network,
                augmented(loader, recipe, seed),
                rows,
                recipe,
                ranks,
                budget=Budget(epochs=recipe.epochs),
                mean=spec["mean"],
                std=spec["std"],
                seed=seed,
                loss=loss,
                checkpoints=checkpoints,
                checkpoint_seconds=checkpoint_seconds,
                hooks=Hooks(on_step=on_step),
            )
    return network.to("cpu").eval()


def images_of(loader: Loader, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Central squares of the images at `rows`, (n, r, r, 3) uint8, and their labels, (n,) int64."""
    images, labels = [], []
    with closing(loader.epoch(rows)) as batches:  # type: ignore[type-var]
        for part, label, _ in batches:
            images.append(part.permute(0, 2, 3, 1).numpy().copy())
            labels.append(label.numpy().copy())
    return np.concatenate(images), np.concatenate(labels)


def balanced(rows: np.ndarray, labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """About `count` of `rows`, from every class as many as far as it has them: (k,) int64, ascending.

    Parameters
    ----------
    rows, labels : (n,) int
        Rows and their labels.
    count : int
    seed : int
    """
    classes = np.unique(labels)
    each, rng = -(-count // len(classes)), np.random.default_rng((seed, 0xBA1A))
    return np.sort(np.concatenate([rng.permutation(rows[labels == c])[:each] for c in classes]))


def normalised(
    images: np.ndarray, labels: np.ndarray, spec: dict[str, Any], size: int = 64
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield batches of images (b, 3, r, r) as the network takes them, and their labels."""
    for i in range(0, len(images), size):
        part = torch.from_numpy(np.ascontiguousarray(images[i : i + size])).permute(0, 3, 1, 2)
        yield networks.normalise(part, spec["mean"], spec["std"]), torch.from_numpy(labels[i : i + size])


def predictor(model: nn.Module, spec: dict[str, Any]) -> Callable[[np.ndarray], np.ndarray]:
    """A torch network as a function from images (n, r, r, 3) uint8 to logits (n, c) float32."""

    def predict(images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            blank = np.zeros(len(images), np.int64)
            return np.concatenate([model(x).float().numpy() for x, _ in normalised(images, blank, spec, 256)])

    return predict
