"""Adversarial images: changed within a small radius so that the model errs (Madry et al., arXiv 1706.06083, eq. 2.1).

Models that are trained on them transfer better (Salman et al., arXiv 2007.08489) but need several passes for each
image, which pruning makes affordable.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from pretrain.recipe import Attack
from prune.models.transfers import sent


def perturb(
    network: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    attack: Attack,
    strength: float,
    mean: torch.Tensor,
    std: torch.Tensor,
) -> torch.Tensor:
    """Search for images near `images` that have a large loss (the kinds "pgd" and "fast").

    Parameters
    ----------
    network : nn.Module
        The attack uses it in evaluation mode. Its own mode is restored, and its batch-norm statistics do not change.
    images : (b, 3, h, w) float32, normalised
    labels : (b,) int64
    attack : Attack
    strength : float in [0, 1]
        Share of the radius.
    mean, std : (1, 3, 1, 1)
        Of the normalisation, in grey levels.

    Returns
    -------
    (b, 3, h, w) float32
        Normalised, within the ball and within [0, 255] before normalisation.
    """
    radius = attack.epsilon * strength
    if radius == 0:
        return images
    pixels = images * std + mean
    linf = attack.norm == "linf"
    radius = radius if linf else radius * 255  # l2 radii are stated for images in [0, 1]
    steps = attack.steps if attack.kind == "pgd" else 1
    # Fast: 1.25 radii (Wong et al., section 4.3); PGD: steps that together may cross the ball.
    size = 1.25 * radius if attack.kind != "pgd" else 2.5 * radius / steps
    moved = _project(pixels + _start(pixels, radius, linf), pixels, radius, linf)
    training = network.training
    network.eval()
    try:
        for _ in range(steps):
            moved.requires_grad_(True)
            with torch.enable_grad():
                loss = functional.cross_entropy(network((moved - mean) / std).float(), labels, reduction="sum")
            (gradient,) = torch.autograd.grad(loss, moved)
            moved = _project(moved.detach() + size * _direction(gradient, linf), pixels, radius, linf)
    finally:
        network.train(training)
    return ((moved - mean) / std).contiguous(memory_format=torch.channels_last)


class FreeNoise:
    """The noise of "free" adversarial training (Shafahi et al., arXiv 1904.12843, algorithm 1).

    Each batch is replayed `steps` times. One backward pass gives the gradients of the weights and of the noise; the
    noise moves by the whole radius and is kept for the next replay and the next batch.

    Parameters
    ----------
    attack : Attack
    mean, std : (1, 3, 1, 1)
        Of the normalisation, in grey levels.
    """

    def __init__(self, attack: Attack, mean: torch.Tensor, std: torch.Tensor) -> None:
        self.attack, self.mean, self.std = attack, mean, std
        self.values = torch.zeros(0, device=mean.device)  # (b, 3, r, r) in grey levels, one for each slot of a batch

    def fit(self, shape: torch.Size) -> None:
        """Reset the noise to zeros when the shape of the batches changes."""
        if self.values.shape != shape:
            self.values = torch.zeros(shape, device=self.mean.device)

    def added(self, images: torch.Tensor, part: slice) -> tuple[torch.Tensor, torch.Tensor]:
        """Add the noise of the slots `part` to normalised images (b, 3, r, r); the sum, and the noise as a leaf."""
        noise = self.values[part].clone().requires_grad_(True)
        moved = (images * self.std + self.mean + noise).clamp(0, 255)
        return ((moved - self.mean) / self.std).contiguous(memory_format=torch.channels_last), noise

    @torch.no_grad()
    def move(self, noise: torch.Tensor, part: slice, strength: float) -> None:
        """Move the noise of the slots `part` along its gradient, within `strength` times the radius."""
        linf = self.attack.norm == "linf"
        radius = self.attack.epsilon * strength * (1 if linf else 255)
        assert noise.grad is not None
        gradient = noise.grad.nan_to_num(0.0, 0.0, 0.0)  # an overflow of fp16 gives no direction
        self.values[part] = _within(noise.detach() + radius * _direction(gradient, linf), radius, linf)


def _start(pixels: torch.Tensor, radius: float, linf: bool) -> torch.Tensor:
    noise = torch.empty_like(pixels).uniform_(-1, 1)
    if linf:
        return noise * radius
    return _direction(noise, linf) * radius * sent(torch.rand(len(pixels), 1, 1, 1), noise.device).to(noise.dtype)


def _direction(gradient: torch.Tensor, linf: bool) -> torch.Tensor:
    if linf:
        return gradient.sign()
    found: torch.Tensor = gradient / gradient.flatten(1).norm(dim=1).clamp_min(1e-12).view(-1, 1, 1, 1)
    return found


def _project(moved: torch.Tensor, pixels: torch.Tensor, radius: float, linf: bool) -> torch.Tensor:
    return (pixels + _within(moved - pixels, radius, linf)).clamp(0, 255)


def _within(move: torch.Tensor, radius: float, linf: bool) -> torch.Tensor:
    if linf:
        return move.clamp(-radius, radius)
    length = move.flatten(1).norm(dim=1).clamp_min(1e-12).view(-1, 1, 1, 1)
    found: torch.Tensor = move * (radius / length).clamp(max=1.0)
    return found
