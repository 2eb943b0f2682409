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
from transfer.compression.channels import Channels
from transfer.evaluation.image_arrays import moved, normalised_batches


@dataclass(frozen=True)
class Importance:
    """The criterion of a compression, with the images that it needs.

    Attributes
    ----------
    criterion : {"data", "magnitude", "random"}
    images : (n, r, r, 3) uint8
        Balanced over the classes, never of the preservation set. Where there are none, "data" cannot be used, and
        nothing is known about the classes that a channel serves.
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
        return self.by_class(model, found, step)[0]

    def by_class(
        self, model: nn.Module, found: Sequence[Channels], step: int
    ) -> tuple[list[np.ndarray], list[np.ndarray] | None]:
        """Importance of every channel, and how much each class's loss rises without it.

        Returns
        -------
        importance : list of (size,) float64
            One for each group.
        rises : list of (c, size) float64, or None
            From `taylor_by_class`, whatever the criterion is; None where there are no images.
        """
        values, rises = None, None
        if len(self.images):
            with moved(model, self.device), safe_memory_format(model):
                values, rises = taylor_by_class(model, found, self._batches(), len(self.spec["classes"]))
        if self.criterion == "random":
            return chance(found, self.seed * 1000 + step), rises
        if self.criterion == "magnitude":
            return magnitude(model, found), rises
        if values is None:
            raise ValueError("no images")
        return values, rises

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
    return taylor_by_class(model, found, batches, 0)[0]


def taylor_by_class(
    model: nn.Module, found: Sequence[Channels], batches: Iterable[tuple[torch.Tensor, torch.Tensor]], classes: int
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The importance of `taylor`, and to first order how much the loss of each class's images rises without a channel.

    The rise of an image's loss is minus the sum over positions of activation x gradient: the same product as in
    equation 8, with its sign, so that a channel that speaks against a class has a negative rise there.

    Parameters
    ----------
    model, found, batches
        As in `taylor`.
    classes : int
        Labels are below it; 0: nothing is found for classes.

    Returns
    -------
    importance : list of (size,) float64
    rises : list of (classes, size) float64
        Mean over the images of a class; 0 for a class without images.
    """
    taps = sorted({name for group in found for name, _ in group.taps})
    sums: dict[str, torch.Tensor] = {}
    rises: dict[str, torch.Tensor] = {}
    known: list[torch.Tensor] = []  # of the batch at work: which image is of which class, (classes, b)
    count, images_of = 0, torch.zeros(classes, dtype=torch.float64)

    def watch(name: str) -> Callable[[nn.Module, object, torch.Tensor], torch.Tensor]:
        def hook(layer: nn.Module, _: object, output: torch.Tensor) -> torch.Tensor:
            # The next layers work in place: they get a copy, on which the gradient is read.
            copy = output.clone()
            values = output.detach()

            def on_gradient(gradient: torch.Tensor) -> None:
                product = values * gradient
                # (b, c, h, w) of convolutions and their norms; (b, tokens, c), (b, h, w, c) or (b, c) of linear layers
                if isinstance(layer, nn.Linear):
                    by_image = product.reshape(len(product), -1, product.shape[-1]).sum(1)
                else:
                    by_image = product.reshape(*product.shape[:2], -1).sum(2)
                total = by_image.abs().double().sum(0)
                sums[name] = sums[name] + total if name in sums else total
                if classes:
                    rise = -(known[-1].to(by_image.device) @ by_image.double())
                    rises[name] = rises[name] + rise if name in rises else rise

            copy.register_hook(on_gradient)
            return copy

        return hook

    hooks = [model.get_submodule(name).register_forward_hook(watch(name)) for name in taps]
    try:
        with torch.enable_grad():
            for images, labels in batches:
                if classes:
                    known[:] = [functional.one_hot(labels.long(), classes).T.double()]
                    images_of += known[-1].sum(1).cpu()
                images = images.clone().requires_grad_()  # gradients flow although no weight requires one
                loss = functional.cross_entropy(model(images).float(), labels, reduction="sum")
                torch.autograd.grad(loss, images)
                count += len(images)
    finally:
        for hook in hooks:
            hook.remove()
    if not count:
        raise ValueError("no images")
    importance = [_at_taps(sums, group).cpu().numpy() / count for group in found]
    each = images_of.clamp_min(1).numpy()[:, None]
    by_class = [_at_taps(rises, group).cpu().numpy() / each for group in found if classes]
    return importance, by_class


def _at_taps(products: dict[str, torch.Tensor], group: Channels) -> torch.Tensor:
    """Sum a group's products (..., channels of a layer) over its taps and the positions of each member: (..., size)."""
    count = group.size * group.width
    total = torch.stack([products[name][..., at : at + count] for name, at in group.taps]).sum(0)
    return total.reshape(*total.shape[:-1], group.size, group.width).sum(-1)


def magnitude(model: nn.Module, found: Sequence[Channels]) -> list[np.ndarray]:
    """Euclidean norm of all convolution and linear weights that are removed with a channel (DepGraph, equation 5)."""
    weights = {name: tensor.detach().double().cpu() for name, tensor in model.named_parameters() if tensor.ndim > 1}
    values = []
    for group in found:
        square = torch.zeros(group.size, dtype=torch.float64)
        for name, dim, at in group.tensors:
            if name in weights:
                part = weights[name].narrow(dim, at, group.size * group.width)
                square += part.square().transpose(0, dim).reshape(group.size, -1).sum(1)
        values.append(square.sqrt().numpy())
    return values


def chance(found: Sequence[Channels], seed: int) -> list[np.ndarray]:
    """Draw importance at random, as a control."""
    rng = np.random.default_rng((seed, 0xC4A2))
    return [rng.random(group.size) for group in found]
