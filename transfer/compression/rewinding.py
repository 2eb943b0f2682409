"""Lottery-ticket rewinding: remove single weights, set the others back to earlier values, and train again.

Frankle and Carbin, "The Lottery Ticket Hypothesis", ICLR 2019; rewinding to early weights: Frankle et al., "Linear Mode
Connectivity and the Lottery Ticket Hypothesis", ICML 2020. For comparison with channel pruning: the network keeps its
shape, so the file's size and the latency do not change.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import nn
from torch.nn import functional
from torch.utils.hooks import RemovableHandle

from prune.models.networks import classifier_of
from transfer.compression.protected_layers import is_protected

Weights = Mapping[str, torch.Tensor]


def prunable(model: nn.Module, protect: Sequence[str] = ()) -> list[str]:
    """Names of the weights of convolutions and linear layers, without the classifier and the layers of `protect`."""
    last = {id(p) for p in classifier_of(model).parameters()}
    owners = {name: m for name, m in model.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))}
    names = [f"{name}.weight" for name, m in owners.items() if id(m.weight) not in last]
    return [name for name in names if not is_protected(name, protect)]


def saliency(
    model: nn.Module, names: Iterable[str], batches: Iterable[tuple[torch.Tensor, torch.Tensor]]
) -> dict[str, torch.Tensor]:
    """| weight x gradient of the loss | over the target's images, for every single weight of these parameters."""
    names = list(names)
    weights = [model.get_parameter(name) for name in names]
    totals = [torch.zeros_like(w) for w in weights]
    with torch.enable_grad():
        for images, labels in batches:
            loss = functional.cross_entropy(model(images).float(), labels, reduction="sum")
            for total, gradient in zip(totals, torch.autograd.grad(loss, weights)):
                total += gradient
    return {name: (w.detach() * total).abs() for name, w, total in zip(names, weights, totals)}


def masks(weights: Weights, scores: Weights, share: float) -> dict[str, torch.Tensor]:
    """Mark the weights that stay: of all that are not zero yet, over all layers, the `share` of lowest score goes.

    Parameters
    ----------
    weights, scores : mapping of str to Tensor
        With the same names and shapes.
    share : float in [0, 1)

    Returns
    -------
    dict of str to bool Tensor
        On ties the earlier layer and the lower position goes first.
    """
    names = list(scores)
    live = torch.cat([weights[name].flatten() != 0 for name in names])
    flat = torch.cat([scores[name].flatten().double() for name in names]).masked_fill(~live, float("inf"))
    gone = torch.argsort(flat, stable=True)[: int(share * int(live.sum()))]
    live[gone] = False
    parts = live.split([weights[name].numel() for name in names])
    return {name: part.view_as(weights[name]) for name, part in zip(names, parts)}


def rewound(start: Weights, masked: Weights) -> dict[str, torch.Tensor]:
    """State dict of the network at the point of rewinding, with zeros where weights were removed."""
    return {
        name: tensor.detach().clone() * masked[name].to(tensor) if name in masked else tensor.detach().clone()
        for name, tensor in start.items()
    }


def apply_masks(model: nn.Module, masked: Weights) -> None:
    """Set the weights that the masks remove to zero, in place."""
    with torch.no_grad():
        for name, mask in masked.items():
            weight = model.get_parameter(name)
            weight.mul_(mask.to(weight.device))


def mask_before_forward(model: nn.Module, masked: Weights) -> RemovableHandle:
    """Apply the masks before every forward pass from now on; returns the handle that ends it.

    Not after every step: a checkpoint may fall between a step and a hook behind it, and a resumed run must continue
    identically.
    """
    near = dict(masked)

    def before(*_: object) -> None:
        # Copies to the network's device at the first call only.
        near.update({name: mask.to(model.get_parameter(name).device) for name, mask in near.items()})
        apply_masks(model, near)

    return model.register_forward_pre_hook(before)
