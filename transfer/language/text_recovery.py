"""Recovery of a language model: the short training after a step, on windows of text, in the loop of `pretrain`.

The loop takes windows of tokens for images of one row, and a loss that reads them as tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from pretrain import training_loop
from pretrain.distributed import Ranks
from pretrain.hooks import Batches, Hooks
from pretrain.optimisation import Loss
from pretrain.progress_bar import bar
from pretrain.recipe import Recipe
from pretrain.schedule import Budget
from prune.data.batches import Batch
from transfer.language.text_importance import window_losses

_TEMPERATURE = 2.0


def text_recipe(rate: float, batch: int) -> Recipe:
    """AdamW as decoders are trained by it: decay 0.01, second moments over 20 steps, gradients of norm 1 at most."""
    return Recipe(
        cost="",
        expect="",
        arch="",
        epochs=1.0,
        batch=batch,
        lr=rate,
        resolution=1,
        optimiser="adamw",
        weight_decay=0.01,
        betas=(0.9, 0.95),
        warmup=0.1,
        clip=1.0,
        crop="none",
    )


def token_batches(windows: np.ndarray, batch: int) -> Batches:
    """Windows (w, t) as the training loop takes images: (b, 1, 1, t) tokens, their last token as the label."""
    tokens = torch.from_numpy(np.ascontiguousarray(windows))

    def batches(rows: np.ndarray, epoch: int, resolution: int) -> Iterator[Batch]:
        for at in range(0, len(rows), batch):
            part = torch.from_numpy(np.ascontiguousarray(rows[at : at + batch]))
            yield tokens[part][:, None, None], tokens[part][:, -1], part

    return batches


def text_loss(original: nn.Module, weight: float) -> Loss:
    """Mean loss of a window's tokens, mixed with the divergence from the original's predictions (Hinton et al., 2015).

    Parameters
    ----------
    original : nn.Module
        In evaluation mode, on the device of the training.
    weight : float in [0, 1]
        Of the divergence, at temperature 2.
    """

    def loss(
        model: nn.Module, images: torch.Tensor, labels: torch.Tensor, step: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        tokens = images[:, 0, 0].long()  # the loop's normalisation by mean 0 and deviation 1 changes no number
        losses, logits = window_losses(model, tokens)
        if weight > 0:
            with torch.no_grad():
                wanted = functional.softmax(window_losses(original, tokens)[1][:, :-1] / _TEMPERATURE, 2)
            found = functional.log_softmax(logits[:, :-1] / _TEMPERATURE, 2)
            apart = functional.kl_div(found, wanted, reduction="none").sum(2).mean(1) * _TEMPERATURE**2
            losses = (1 - weight) * losses + weight * apart
        return losses, logits[:, -2]

    return loss


@dataclass(frozen=True)
class TextRecovery:
    """How every step of a compression is trained afterwards.

    Attributes
    ----------
    windows : (w, t) int64
        Text to train on; nothing that is held out.
    ranks : Ranks
    original : nn.Module
        Its predictions are distilled into the compressed network.
    steps : int
        Optimiser steps; 0: no training.
    rate : float
        Peak learning rate.
    batch : int
        Windows of a step.
    distil : float in [0, 1]
    seed : int
    checkpoint_seconds : float
    """

    windows: np.ndarray
    ranks: Ranks
    original: nn.Module
    steps: int
    rate: float
    batch: int
    distil: float
    seed: int
    checkpoint_seconds: float

    def train(self, network: nn.Module, step: int, scratch: Path) -> nn.Module:
        """Train a network in place, from a checkpoint in `scratch` where there is one; it ends in evaluation mode."""
        seed = self.seed * 1000 + step
        torch.manual_seed(seed)
        if not self.steps:
            return network.eval()
        device = self.ranks.device
        batch = min(self.batch, len(self.windows))
        original, network = self.original.to(device), network.to(device)
        with bar(f"step {step}", "windows") as on_step:
            training_loop.train(
                network,
                token_batches(self.windows, batch),
                np.arange(len(self.windows)),
                text_recipe(self.rate, batch),
                self.ranks,
                budget=Budget(steps=self.steps),
                mean=[0.0, 0.0, 0.0],
                std=[1.0, 1.0, 1.0],
                seed=seed,
                loss=text_loss(original, self.distil),
                checkpoints=scratch / "checkpoint",
                checkpoint_seconds=self.checkpoint_seconds,
                hooks=Hooks(on_step=on_step),
            )
        return network.to("cpu").eval()
