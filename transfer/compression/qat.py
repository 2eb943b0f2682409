"""Quantisation-aware training: the network learns with the rounding that int8 will bring.

Used where post-training quantisation loses too much. The training is any call of `pretrain.training_loop.train`
(recovery after a step, for instance) inside `with fake_quantised(network):`; afterwards the weights are plain
fp32 ones again, trained to stand rounding, and `quantization.quantize_static` makes the int8 file of them as of any
others.
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
    """Weights as int8 can hold them: symmetric, one scale for each output channel.

    A batch norm that follows scales whole output channels, which changes nothing in this rounding, so it need not be
    folded into the weights first.
    """

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        top = 2 ** (BITS - 1)
        largest = weight.detach().abs().flatten(1).amax(1).clamp_min(_TINY)
        zero = torch.zeros_like(largest, dtype=torch.int32)
        return torch.fake_quantize_per_channel_affine(weight, largest / top, zero, 0, -top, top)


def round_input(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    """Activations as uint8 can hold them, with the range of this batch: no state that a checkpoint would need."""
    x = inputs[0]
    low, high = (v.clamp(max=0) if i == 0 else v.clamp(min=0) for i, v in enumerate(torch.aminmax(x.detach())))
    scale = ((high - low) / 255).clamp_min(_TINY).float()
    zero = torch.round(-low / scale).clamp(0, 255).to(torch.int32)
    return torch.fake_quantize_per_tensor_affine(x, scale, zero, 0, 255), *inputs[1:]


@contextmanager
def fake_quantised(network: nn.Module, keep_float: Sequence[str] = ()) -> Iterator[nn.Module]:
    """Round weights and inputs of every convolution and linear layer inside the block; gradients pass straight through.

    Parameters
    ----------
    network : nn.Module
        Its parameters stay the same objects; inside the block they have other names.
    keep_float : sequence of str
        Layers that are left alone.

    Raises
    ------
    InputError
        A layer that the network does not have.

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
                if "bias" in layer._parameters:  # back to its place after the weight: optimisers go by the order
                    layer._parameters["bias"] = layer._parameters.pop("bias")
