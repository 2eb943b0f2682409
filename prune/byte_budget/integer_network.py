"""Small convolutional networks in whole numbers: the same result on one thread or many, here and elsewhere.

Weights are int8, activations whole numbers, sums are taken in float64, where whole numbers below 2^53 are exact in any
order; scaling and rounding treat each value alone. So an encoded image decodes to the same pixels everywhere: Ballé,
Johnston and Minnen, "Integer networks for data compression with latent-variable models" (ICLR 2019).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch.nn import functional

Shape = Literal["down", "same", "up"]
LARGEST = 2**15 - 1
"""Activations are clipped to this; with int8 weights and 2^13 terms, sums stay below 2^36."""


@dataclass(frozen=True)
class Layer:
    """One convolution.

    Attributes
    ----------
    weight : (out, in, k, k) int8
    scale, bias : (out,) float64
        The output is floor(sum * scale + bias + 0.5).
    shape : {"down", "same", "up"}
        "down" halves the sides; "up" doubles them: four channels become the pixels of a square.
    positive : bool
        Values below 0 become 0.
    """

    weight: torch.Tensor
    scale: torch.Tensor
    bias: torch.Tensor
    shape: Shape
    positive: bool


def run_exactly(layers: Sequence[Layer], values: torch.Tensor) -> torch.Tensor:
    """Apply the layers to whole numbers (b, c, h, w) float64; whole numbers in float64 come out."""
    with torch.inference_mode():
        for layer in layers:
            stride = 2 if layer.shape == "down" else 1
            # Each operation of its own: a fused multiply and add would round otherwise.
            values = padded(values, layer.weight.shape[2], stride)
            values = functional.conv2d(values, layer.weight.double(), stride=stride)
            values = values.mul(layer.scale[:, None, None])
            values = values.add(layer.bias[:, None, None])
            values = values.add(0.5).floor()
            values = values.clamp(0 if layer.positive else -LARGEST, LARGEST)
            if layer.shape == "up":
                values = functional.pixel_shuffle(values, 2)
    return values


def padded(values: torch.Tensor, side: int, stride: int) -> torch.Tensor:
    """Zeros around (b, c, h, w), so that a convolution of `side` gives h / stride, w / stride."""
    before = (side - stride + 1) // 2
    after = side - stride - before
    return functional.pad(values, (before, after, before, after))


def int8_weight(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Round weights to int8 values, one step for each output channel: values (still float) and steps (out,)."""
    step = weight.abs().amax((1, 2, 3)).clamp_min(1e-8) / 127
    return (weight / step[:, None, None, None]).round(), step
