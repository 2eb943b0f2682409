"""Importance of channels and single weights: by gradients on the target's images, by magnitude, or at random.

For channels all three criteria give one array for each group of `channel_pruning.groups`, with larger values for
channels that should stay. Their scales differ; channels are compared within a group only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from prune.models.networks import safe_memory_format
from transfer.compression import rewinding
from transfer.compression.channel_pruning import Channels
from transfer.evaluation.image_arrays import moved, normalised_batches


@dataclass(frozen=True)
class Importance:
    """The criterion of a compression, with the images that it needs.

    Attributes
    ----------
    criterion : {"data", "magnitude", "random"}
    images : (n, r, r, 3) uint8
        Balanced over the classes, never of the preservation set; empty where the criterion needs none.
    labels : (n,) int64
    spec : dict
        Content of the original's model.json: "mean" and "std" are read.
    seed : int
        Draws of a step depend on the seed and the step's number.
    device : torch.device, optional
        Where gradients are computed; where the network is when absent.
    """

    criterion: Literal["data", "magnitude", "random"]
    images: np.ndarray
    labels: np.ndarray
    spec: dict[str, Any]
    seed: int
    device: torch.device | None = None

    def of_channels(self, model: nn.Module, found: Sequence[Channels], step: int) -> list[np.ndarray]:
        """Importance of every channel of these groups, one (size,) float64 for each."""
        if self.criterion == "random":
            return chance(found, self.seed * 1000 + step)
        if self.criterion == "magnitude":
            return magnitude(model, found)
        with moved(model, self.device), safe_memory_format(model):
            return taylor(model, found, self._batches())

    def of_weights(self, model: nn.Module, names: list[str], step: int) -> dict[str, torch.Tensor]:
        """Importance of every single weight of these parameters, in their shapes."""
        if self.criterion == "data":
            with moved(model, self.device), safe_memory_format(model):
                scores = rewinding.saliency(model, names, self._batches())
            return {name: score.cpu() for name, score in scores.items()}
        weights = {name: model.get_parameter(name).detach() for name in names}
        if self.criterion == "magnitude":
            return {name: weight.abs() for name, weight in weights.items()}
        draw = torch.Generator().manual_seed(self.seed * 1000 + step)
        return {name: torch.rand(weight.shape, generator=draw) for name, weight in weights.items()}

    def _batches(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        return normalised_batches(self.images, self.labels, self.spec, device=self.device)


def taylor(
    model: nn.Module, found: Sequence[Channels], batches: Iterable[tuple[torch.Tensor, torch.Tensor]]
) -> list[np.ndarray]:
    """Estimate, to first order, how much an image's loss changes when a channel becomes zero.

    | sum over positions of activation x gradient |, averaged over the images and summed over the layers that hold the
    channel. Molchanov et al., "Pruning Convolutional Neural Networks for Resource Efficient Inference", ICLR 2017,
    equation 8; without normalisation by layers, since channels are compared within a group.

    Parameters
    ----------
    model : nn.Module
        In evaluation mode; its weights and gradients are not changed.
    found : sequence of Channels
    batches : iterable of (images (b, 3, r, r) normalised, labels (b,))
        Every image weighs the same: balance the classes beforehand.

    Returns
    -------
    list of (size,) float64
    """
    taps = sorted({name for group in found for name, _ in group.taps})
    sums: dict[str, torch.Tensor] = {}
    count = 0

    def watch(name: str) -> Callable[[nn.Module, object, torch.Tensor], torch.Tensor]:
        def hook(_: nn.Module, __: object, output: torch.Tensor) -> torch.Tensor:
            # The next layers work in place: they get a copy, on which the gradient is read.
            copy = output.clone()
            values = output.detach()

            def on_gradient(gradient: torch.Tensor) -> None:
                product = values * gradient
                # (b, c, h, w) of convolutions, (b, tokens, c) of linear layers
                by_image = product.flatten(2).sum(2) if product.ndim == 4 else product.flatten(1, -2).sum(1)
                total = by_image.abs().double().sum(0)
                sums[name] = sums[name] + total if name in sums else total

            copy.register_hook(on_gradient)
            return copy

        return hook

    hooks = [model.get_submodule(name).register_forward_hook(watch(name)) for name in taps]
    try:
        with torch.enable_grad():
            for images, labels in batches:
                images = images.clone().requires_grad_()  # gradients flow although no weight requires one
                loss = functional.cross_entropy(model(images).float(), labels, reduction="sum")
                torch.autograd.grad(loss, images)
                count += len(images)
    finally:
        for hook in hooks:
            hook.remove()
    if not count:
        raise ValueError("no images")
    parts = [torch.stack([sums[name][at : at + group.size] for name, at in group.taps]) for group in found]
    return [part.sum(0).cpu().numpy() / count for part in parts]


def magnitude(model: nn.Module, found: Sequence[Channels]) -> list[np.ndarray]:
    """Euclidean norm of all convolution and linear weights that are removed with a channel (DepGraph, equation 5)."""
    weights = {name: tensor.detach().double().cpu() for name, tensor in model.named_parameters() if tensor.ndim > 1}
    values = []
    for group in found:
        square = torch.zeros(group.size, dtype=torch.float64)
        for name, dim, at in group.tensors:
            if name in weights:
                part = weights[name].narrow(dim, at, group.size)
                square += part.square().transpose(0, dim).flatten(1).sum(1)
        values.append(square.sqrt().numpy())
    return values


def chance(found: Sequence[Channels], seed: int) -> list[np.ndarray]:
    """Draw importance at random, as a control."""
    rng = np.random.default_rng((seed, 0xC4A2))
    return [rng.random(group.size) for group in found]
