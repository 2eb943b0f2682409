"""Count the floating-point operations of one image of inference."""

from __future__ import annotations

import copy

import torch
from torch import nn


def forward_flops(network: nn.Module, resolution: int) -> float:
    """FLOPs of one image of inference (2 for each multiply-add), counted by torch without computing anything."""
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        copy.deepcopy(network).to("meta").eval()(torch.empty(1, 3, resolution, resolution, device="meta"))
    return float(counter.get_total_flops())


def multiply_adds(network: nn.Module, resolution: int) -> int:
    """Multiply-adds of one image of inference."""
    return round(forward_flops(network, resolution) / 2)
