"""Networks with pruned channels: record the widths of their layers, and cut a dense network down to recorded widths.

`model.json` holds them under "widths": the name of a layer, or of a parameter outside all layers, and its sizes.

    {"layer1.0.conv1": [48, 64], "layer1.0.bn1": [48], "blocks.0.attn": [3, 24], "pos_embed": [1, 65, 80]}

A convolution or linear layer has [out, in], a norm [channels], attention [heads, channels a head], a parameter its
shape. A convolution of several groups has [out, in of each group], and what it lost are whole groups; a depthwise one
has [out, 1]. Layers as wide as in the dense network are not listed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from prune.runs.files import InputError

LAYERS = (nn.Conv2d, nn.Linear)
NORMS = (_BatchNorm, nn.LayerNorm)
"""Layers that can be narrowed."""


def is_attention(module: nn.Module) -> bool:
    """Whether a module is attention as in timm's vision transformers: one layer for query, key and value."""
    return all(hasattr(module, name) for name in ("qkv", "proj", "num_heads", "head_dim"))


def widths_of(
    dense: nn.Module, weights: Mapping[str, torch.Tensor], heads: Mapping[str, int] | None = None
) -> dict[str, list[int]]:
    """Find the widths of a narrow network.

    Parameters
    ----------
    dense : nn.Module
        The network as `networks.build` builds it without widths.
    weights : mapping of str to Tensor
        State dict of the narrow network.
    heads : mapping of str to int, optional
        How many heads an attention has in the narrow network, where they are not those of the dense one: the weights
        do not show it.
    """
    found: dict[str, list[int]] = {}
    known = set()
    for name, module in dense.named_modules():
        if isinstance(module, (*LAYERS, *NORMS)):
            known |= {f"{name}.{key}" for key in module.state_dict()}
            if not isinstance(module.weight, torch.Tensor):
                continue
            dims = 2 if isinstance(module, LAYERS) else 1
            sizes = list(weights[f"{name}.weight"].shape[:dims])
            if sizes != list(module.weight.shape[:dims]):
                found[name] = sizes
        elif is_attention(module):
            count = (heads or {}).get(name, int(module.num_heads))
            width = weights[f"{name}.qkv.weight"].shape[0] // (3 * count)
            if [count, width] != [module.num_heads, module.head_dim]:
                found[name] = [count, width]
    for name, tensor in dense.named_parameters():
        if name not in known and tensor.shape != weights[name].shape:
            found[name] = list(weights[name].shape)
    return found


def narrow(dense: nn.Module, widths: Mapping[str, Sequence[int]]) -> nn.Module:
    """Cut a dense network down to these widths, in place; the first channels stay.

    Raises
    ------
    InputError
        The network has no such layer, or the layer cannot have that width.
    """
    if not isinstance(widths, Mapping):
        raise InputError(f"widths: {type(widths).__name__} instead of a mapping of layers to sizes")
    modules, parameters = dict(dense.named_modules()), dict(dense.named_parameters())
    for name, sizes in widths.items():
        if not isinstance(sizes, (list, tuple)) or not all(type(n) is int and n > 0 for n in sizes):
            raise InputError(f"widths: {name}: {sizes!r} is not a list of positive whole numbers")
        if name in modules:
            _narrow_layer(name, modules[name], sizes)
        elif name in parameters:
            _need_fit(name, sizes, list(parameters[name].shape))
            owner, _, own = name.rpartition(".")
            setattr(modules[owner], own, _first(parameters[name], sizes))
        else:
            raise InputError(f"widths: the network has no {name!r}")
    return dense


def _narrow_layer(name: str, module: Any, sizes: Sequence[int]) -> None:
    if isinstance(module, nn.Conv2d):
        _need_fit(name, sizes, list(module.weight.shape[:2]))
        made = module.out_channels // module.groups
        groups = 1 if module.groups == 1 or sizes[0] < made else sizes[0] // made
        if groups > 1 and list(sizes) != [groups * made, module.weight.shape[1]]:
            raise InputError(f"widths: {name}: {list(sizes)} is no whole number of the convolution's groups")
        module.out_channels, module.in_channels, module.groups = sizes[0], groups * sizes[1], groups
    elif isinstance(module, nn.Linear):
        _need_fit(name, sizes, [module.out_features, module.in_features])
        module.out_features, module.in_features = sizes
    elif isinstance(module, _BatchNorm):
        _need_fit(name, sizes, [module.num_features])
        module.num_features = sizes[0]
        for key, buffer in list(module.named_buffers(recurse=False)):
            if buffer.ndim:
                module.register_buffer(key, buffer[: sizes[0]].clone())
    elif isinstance(module, nn.LayerNorm):
        _need_fit(name, sizes, list(module.normalized_shape))
        module.normalized_shape = tuple(sizes)
    elif is_attention(module):
        _need_fit(name, sizes, [module.num_heads, module.head_dim])
        module.num_heads, module.head_dim = sizes
        module.attn_dim, module.scale = sizes[0] * sizes[1], sizes[1] ** -0.5
        return
    else:
        raise InputError(f"widths: {name!r} is a {type(module).__name__}, which cannot be narrowed")
    for key, parameter in list(module.named_parameters(recurse=False)):
        setattr(module, key, _first(parameter, sizes if parameter.ndim > 1 else sizes[:1]))


def _first(parameter: nn.Parameter, sizes: Sequence[int]) -> nn.Parameter:
    return nn.Parameter(parameter.detach()[tuple(slice(n) for n in sizes)].clone(), parameter.requires_grad)


def _need_fit(name: str, sizes: Sequence[int], dense: Sequence[int]) -> None:
    if len(sizes) != len(dense) or any(n > most for n, most in zip(sizes, dense)):
        raise InputError(f"widths: {name}: {list(sizes)} does not fit the dense network's {list(dense)}")
