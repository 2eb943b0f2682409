"""Quantisation-aware training: the network is trained with the rounding of int8.

Used where post-training quantisation loses too much accuracy. The training is any call of
`pretrain.training_loop.train` (recovery after a step, for instance) inside `with fake_quantised(network):`. Afterwards
the weights are plain fp32 weights again, trained for rounding, and quantised like any others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.utils import parametrize

from prune.runs.files import InputError
from transfer.compression.quantization import BITS

_TINY = 1e-8


class _Rounded(nn.Module):
    """Round weights to int8: symmetric, one scale for each output channel.

    A batch norm behind the layer scales whole output channels, which does not change this rounding, so it need not be
    folded into the weights first.
    """

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        top = 2 ** (BITS - 1)
        largest = weight.detach().abs().flatten(1).amax(1).clamp_min(_TINY)
        zero = torch.zeros_like(largest, dtype=torch.int32)
        return torch.fake_quantize_per_channel_affine(weight, largest / top, zero, 0, -top, top)


def round_input(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    """Round activations to uint8 with the range of this batch, so that there is no state to checkpoint."""
    x = inputs[0]
    low, high = (v.clamp(max=0) if i == 0 else v.clamp(min=0) for i, v in enumerate(torch.aminmax(x.detach())))
    scale = ((high - low) / 255).clamp_min(_TINY).float()
    zero = torch.round(-low / scale).clamp(0, 255).to(torch.int32)
    return torch.fake_quantize_per_tensor_affine(x, scale, zero, 0, 255), *inputs[1:]


@contextmanager
def fake_quantised(network: nn.Module, keep_float: Sequence[str] = ()) -> Iterator[nn.Module]:
    """Round weights and inputs of all convolutions and linear layers inside the block; gradients ignore the rounding.

    Parameters
    ----------
    network : nn.Module
        Its parameters stay the same objects; inside the block they have different names.
    keep_float : sequence of str
        Layers that are not rounded.

    Raises
    ------
    InputError
        The network has no such layer.

    Notes
    -----
    Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference"
    (2018), section 3; Bengio et al. (2013) for the straight-through gradient.
    """
    layers = {name: m for name, m in network.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))}
    if unknown := [name for name in keep_float if name not in layers]:
        raise InputError(f"no layer {unknown[0]!r}; there are {', '.join(layers)}")
    chosen = [layer for name, layer in layers.items() if name not in keep_float]
    hooks = []
    try:
        for layer in chosen:
            parametrize.register_parametrization(layer, "weight", _Rounded())
            hooks.append(layer.register_forward_pre_hook(round_input))
        yield network
    finally:
        for hook in hooks:
            hook.remove()
        for layer in chosen:
            if parametrize.is_parametrized(layer, "weight"):
                parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False)
                if "bias" in layer._parameters:  # back behind the weight: optimisers rely on the order
                    layer._parameters["bias"] = layer._parameters.pop("bias")
