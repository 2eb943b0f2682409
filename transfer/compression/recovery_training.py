"""Recovery: the short training after a step of compression, in the loop of `pretrain`."""

from __future__ import annotations

from dataclasses import dataclass, replace
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
from prune.runs.files import InputError
from transfer.compression.protected_layers import frozen
from transfer.evaluation import finetune_recipes

_TEMPERATURE = 2.0
_TUNED = "finetune-"  # the prefix of the recipes' names of `transfer finetune`


def recovery_recipe(
    spec: dict[str, Any], model: nn.Module, name: str | None, epochs: float, lr: float | None, batch: int | None
) -> Recipe:
    """Recipe of the recovery: the one that the model was trained with, at a lower learning rate.

    A fifth of its learning rate unless `lr` is given (all of it for fine-tuning by AdamW, whose rate is low already),
    its crops and weight decay, without mixup, CutMix and growing images.

    Raises
    ------
    InputError
        There is no such recipe, or a value is impossible.
    """
    wanted = name or str(spec.get("recipe"))
    tuned = wanted.removeprefix(_TUNED)
    if tuned != wanted and tuned in finetune_recipes.RECIPES:
        known = finetune_recipes.for_network(tuned, spec, batch_norm=finetune_recipes.has_batch_norm(model))
    elif wanted in RECIPES:
        known = RECIPES[wanted]
    else:
        there = ", ".join((*RECIPES, *(_TUNED + size for size in finetune_recipes.RECIPES)))
        whose = "" if name else "the model was trained by "
        raise InputError(f"--recipe: {whose}{wanted!r}, which is not a recipe here; there are {there}")
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


def distillation_loss(original: nn.Module, recipe: Recipe, weight: float, seed: int) -> Loss:
    """Cross entropy mixed with the divergence from the original's predictions (Hinton et al., 2015), temperature 2.

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


@dataclass(frozen=True)
class Recovery:
    """How every step of a compression is trained afterwards.

    Attributes
    ----------
    loader : Loader
        Of the target's training images.
    rows : (n,) int64
        Rows to train on, without the preservation set.
    ranks : Ranks
    original : nn.Module
        Its predictions are distilled into the compressed network.
    recipe, last_recipe : Recipe
        Of every step, and of the step that reaches the size; 0 epochs: no training.
    distil : float in [0, 1]
        Weight of the distillation in the loss.
    seed : int
    checkpoint_seconds : float
    protect : tuple of str
        Layers whose weights no step may change.
    """

    loader: Loader
    rows: np.ndarray
    ranks: Ranks
    original: nn.Module
    recipe: Recipe
    last_recipe: Recipe
    distil: float
    seed: int
    checkpoint_seconds: float
    protect: tuple[str, ...] = ()

    def train(self, network: nn.Module, spec: dict[str, Any], step: int, scratch: Path, *, last: bool) -> nn.Module:
        """Train a network in place, from a checkpoint in `scratch` where there is one.

        Parameters
        ----------
        network : nn.Module
        spec : dict
            Content of its model.json.
        step : int
            Number of the compression's step.
        scratch : Path
            Directory of the step; checkpoints go there.
        last : bool
            Whether this step reaches the size.

        Returns
        -------
        nn.Module
            The network on the CPU, in evaluation mode.
        """
        recipe, seed = self.last_recipe if last else self.recipe, self.seed * 1000 + step
        torch.manual_seed(seed)
        original = self.original.to(self.ranks.device)
        if recipe.epochs > 0:
            network = network.to(self.ranks.device)
            with frozen(network, self.protect), bar(f"step {step}") as on_step:
                training_loop.train(
                    network,
                    augmented(self.loader, recipe, seed),
                    self.rows,
                    recipe,
                    self.ranks,
                    budget=Budget(epochs=recipe.epochs),
                    mean=spec["mean"],
                    std=spec["std"],
                    seed=seed,
                    loss=distillation_loss(original, recipe, self.distil, seed),
                    checkpoints=scratch / "checkpoint",
                    checkpoint_seconds=self.checkpoint_seconds,
                    hooks=Hooks(on_step=on_step),
                )
        return network.to("cpu").eval()
