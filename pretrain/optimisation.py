"""Optimisers, averaged weights and losses of a recipe."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from pretrain.recipe import Recipe

Loss = Callable[[nn.Module, torch.Tensor, torch.Tensor, int], tuple[torch.Tensor, torch.Tensor]]
"""(model, images (b, 3, r, r) normalised, labels (b,), step) -> losses (b,) float32 and logits (b, c)."""


def build(network: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """SGD with Nesterov momentum or AdamW; vectors, and what the network exempts, do not decay.

    Vectors are norms and biases; timm's networks name the rest, such as class tokens, in `no_weight_decay()`.
    """
    exempt = _exempt(network)
    trained = [(name, p) for name, p in network.named_parameters() if p.requires_grad]
    free = [p.ndim <= 1 or name in exempt for name, p in trained]
    groups = [
        {"params": [p for (_, p), f in zip(trained, free) if not f], "weight_decay": recipe.weight_decay},
        {"params": [p for (_, p), f in zip(trained, free) if f], "weight_decay": 0.0},
    ]
    if recipe.optimiser == "sgd":
        return torch.optim.SGD(groups, lr=recipe.lr, momentum=recipe.momentum, nesterov=True, fused=True)
    return torch.optim.AdamW(groups, lr=recipe.lr, betas=recipe.betas, fused=True)


def _exempt(network: nn.Module) -> set[str]:
    """Names of the parameters that timm's networks exempt from decay, wherever such a network is within `network`."""
    found: set[str] = set()
    for prefix, module in network.named_modules():
        if callable(names := getattr(module, "no_weight_decay", None)):
            found |= {f"{prefix}.{name}" if prefix else name for name in names()}
    return found


def match_layout(optimiser: torch.optim.Optimizer) -> None:
    """Give the optimiser's state the memory layout of its parameters: fused steps read both in order of memory."""
    for parameter, state in optimiser.state.items():
        for name, value in state.items():
            if isinstance(value, torch.Tensor) and value.shape == parameter.shape:
                state[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def classification(recipe: Recipe, seed: int, rank: int) -> Loss:
    """Cross entropy with label smoothing, on mixtures of images if the recipe has them.

    A step draws mixup (arXiv 1710.09412) or CutMix (arXiv 1905.04899), each with probability one half when both are
    set, and mixes the batch with itself reversed. The draw depends on (seed, step, rank) alone.
    """

    def loss(
        model: nn.Module, images: torch.Tensor, labels: torch.Tensor, step: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        share = 1.0
        if recipe.mixup or recipe.cutmix:
            draw = np.random.default_rng((seed, step, rank, 0x313))
            images, share = mixed(images, recipe.mixup, recipe.cutmix, draw)
        logits = model(images).float()
        losses = functional.cross_entropy(logits, labels, reduction="none", label_smoothing=recipe.smoothing)
        if share < 1.0:
            other = functional.cross_entropy(logits, labels.flip(0), reduction="none", label_smoothing=recipe.smoothing)
            losses = share * losses + (1 - share) * other
        return losses, logits

    return loss


def mixed(images: torch.Tensor, mixup: float, cutmix: float, draw: np.random.Generator) -> tuple[torch.Tensor, float]:
    """Mix a batch with itself reversed.

    Parameters
    ----------
    images : (b, 3, h, w)
    mixup, cutmix : float
        Beta parameters; 0 switches the kind off.
    draw : Generator

    Returns
    -------
    images : (b, 3, h, w)
    share : float
        Weight of each image in its mixture.
    """
    pasting = cutmix > 0 and (mixup == 0 or draw.random() < 0.5)
    share = float(draw.beta(cutmix, cutmix) if pasting else draw.beta(mixup, mixup))
    if not pasting:
        return images * share + images.flip(0) * (1 - share), share
    h, w = images.shape[2:]
    box_h, box_w = int(h * (1 - share) ** 0.5), int(w * (1 - share) ** 0.5)
    y, x = int(draw.integers(0, h)), int(draw.integers(0, w))
    top, bottom = max(0, y - box_h // 2), min(h, y + box_h // 2)
    left, right = max(0, x - box_w // 2), min(w, x + box_w // 2)
    images = images.clone()
    images[:, :, top:bottom, left:right] = images.flip(0)[:, :, top:bottom, left:right]
    return images, 1 - (bottom - top) * (right - left) / (h * w)


class Average:
    """Exponential moving average of the parameters, with the decay rising from 0.1: min(decay, (1 + t) / (10 + t))."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.values = [p.detach().clone() for p in network.parameters()]

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Move towards the network's parameters after `step` steps (0 for the first)."""
        weight = 1 - min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.values, [p.detach() for p in network.parameters()], weight)


@contextmanager
@torch.no_grad()
def swapped(places: list[torch.Tensor], values: list[torch.Tensor]) -> Iterator[None]:
    """Put `values` into the tensors `places` within the block; their own values are restored bit for bit."""
    before = [p.detach().clone() for p in places]
    for place, value in zip(places, values):
        place.copy_(value)
    try:
        yield
    finally:
        for place, value in zip(places, before):
            place.copy_(value)


def statistics(network: nn.Module) -> list[torch.Tensor]:
    """Floating-point buffers: batch norm's running means and variances, in the network's order."""
    return [b for b in network.buffers() if b.is_floating_point()]
