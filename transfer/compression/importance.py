"""What a channel is worth: by gradients and activations on the target's images, by its weights, or by chance.

All three give one array for each group of `channel_pruning.groups`, larger for channels that should stay. Their scales
differ; channels are compared inside a group alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from transfer.compression.channel_pruning import Channels


def taylor(
    model: nn.Module, found: Sequence[Channels], batches: Iterable[tuple[torch.Tensor, torch.Tensor]]
) -> list[np.ndarray]:
    """First-order Taylor estimate of how much an image's loss changes when a channel becomes zero.

    | sum over positions of activation x gradient |, averaged over the images and summed over the layers that hold the
    channel. Molchanov et al., "Pruning Convolutional Neural Networks for Resource Efficient Inference", ICLR 2017,
    equation 8; no normalisation by layers, since channels are compared inside a group.

    Parameters
    ----------
    model : nn.Module
        In evaluation mode; its weights and gradients are left as they are.
    found : sequence of Channels
    batches : iterable of (images (b, 3, r, r) normalised, labels (b,))
        Every image counts the same: balance the classes beforehand.

    Returns
    -------
    list of (size,) float64
    """
    taps = sorted({name for group in found for name, _ in group.taps})
    sums: dict[str, torch.Tensor] = {}
    count = 0

    def watch(name: str) -> Callable[[nn.Module, object, torch.Tensor], torch.Tensor]:
        def hook(_: nn.Module, __: object, output: torch.Tensor) -> torch.Tensor:
            # Layers behind this one work in place: they get a copy, and the gradient is read there.
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
                images = images.clone().requires_grad_()  # gradients flow although no weight asks for one
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
    """Euclidean norm of all convolution and linear weights that fall with a channel (DepGraph, equation 5)."""
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
    """Draw importance at random: the control."""
    rng = np.random.default_rng((seed, 0xC4A2))
    return [rng.random(group.size) for group in found]
