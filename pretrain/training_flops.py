"""FLOPs of training on one image, counted by torch over the operators of the model."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count

from pretrain.recipe import Recipe

_IMAGES = 2


def _backwards(
    grad_shape: list[int],
    x_shape: list[int],
    w_shape: list[int],
    bias: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    transposed: bool,
    output_padding: Any,
    groups: int,
    output_mask: list[bool],
    out_shape: Any = None,
    **_: Any,
) -> int:
    """FLOPs of a convolution's gradients, each as many as its own; torch's own formula ignores groups."""
    return conv_flop_count(x_shape, w_shape, grad_shape, transposed) * (output_mask[0] + output_mask[1])


def per_image(network: nn.Module, recipe: Recipe, resolution: int) -> float:
    """FLOPs (2 for each multiply-add) of training on one image: forward and backward, attacks and views included.

    Counted on the meta device: nothing is computed and no state changes.
    """
    shadow = copy.deepcopy(network).to("meta").train()
    images = torch.empty(_IMAGES, 3, resolution, resolution, device="meta")
    counter = FlopCounterMode(display=False, custom_mapping={torch.ops.aten.convolution_backward: _backwards})
    with counter:
        shadow(images).sum().backward()
    whole = counter.get_total_flops() / _IMAGES
    if recipe.attack and recipe.attack.kind == "free":
        whole *= recipe.attack.steps  # the gradient of the images adds that of the first layer alone
    elif recipe.attack:
        # An attack's pass needs no gradient of the weights, which is a third of a training pass.
        whole *= 1 + (recipe.attack.steps if recipe.attack.kind == "pgd" else 1) * 2 / 3
    return whole * (2 if recipe.method == "simsiam" else 1)  # without the small projector
