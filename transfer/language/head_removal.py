"""Remove whole attention heads and MLP channels from a decoder: find them, choose the least important, cut them out.

With grouped-query attention a key and value head goes with all query heads that read it. Heads are compared with one
another over all layers, channels likewise; every layer keeps at least one head and eight channels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import nn

from prune.runs.files import InputError

MULTIPLE = 8
"""Channels of a layer are a multiple of it where they were before: kernels compute fewer no faster."""


@dataclass(frozen=True)
class Parts:
    """The parts of one layer that can be removed one by one.

    Attributes
    ----------
    kind : {"heads", "channels"}
    name : str
        Linear layer that reads them.
    size : int
    width : int
        Inputs of that layer for one part.
    cost : int
        Parameters that go with one part.
    """

    kind: Literal["heads", "channels"]
    name: str
    size: int
    width: int
    cost: int

    @property
    def unit(self) -> str:
        """For the journal."""
        return self.kind


def is_gpt2(network: nn.Module) -> bool:
    """Whether the network is built like GPT-2; otherwise it is built like Llama."""
    return type(network).__name__.startswith("GPT2")


def layers_of(network: nn.Module) -> tuple[str, list[nn.Module]]:
    """The decoder's layers and the prefix of their names."""
    prefix = "transformer.h" if is_gpt2(network) else "model.layers"
    return prefix, list(cast(nn.ModuleList, network.get_submodule(prefix)))


def parts_of(network: nn.Module) -> list[Parts]:
    """All heads (or groups of heads) and channels, layer by layer: heads first, then channels."""
    prefix, layers = layers_of(network)
    found = []
    for place, layer in enumerate(layers):
        any_layer = cast(Any, layer)
        if is_gpt2(network):
            attention, mlp = any_layer.attn, any_layer.mlp
            wide, heads = attention.head_dim, attention.c_proj.weight.shape[0] // attention.head_dim
            out, hidden = attention.c_proj.weight.shape[1], attention.c_attn.weight.shape[0]
            inner = mlp.c_proj.weight.shape[0]
            found.append(Parts("heads", f"{prefix}.{place}.attn.c_proj", heads, wide, wide * (3 * hidden + 3 + out)))
            found.append(Parts("channels", f"{prefix}.{place}.mlp.c_proj", inner, 1, hidden + 1 + out))
            continue
        attention, mlp = any_layer.self_attn, any_layer.mlp
        dim, each = attention.head_dim, attention.num_key_value_groups
        groups = attention.k_proj.weight.shape[0] // dim
        hidden, out = attention.q_proj.weight.shape[1], attention.o_proj.weight.shape[0]
        biases = sum(getattr(attention, f"{n}_proj").bias is not None for n in "kv") * dim
        biases += (attention.q_proj.bias is not None) * dim * each
        cost = dim * (each * (hidden + out) + 2 * hidden) + biases
        found.append(Parts("heads", f"{prefix}.{place}.self_attn.o_proj", groups, dim * each, cost))
        inner, biases = mlp.down_proj.weight.shape[1], sum(p.bias is not None for p in (mlp.gate_proj, mlp.up_proj))
        found.append(Parts("channels", f"{prefix}.{place}.mlp.down_proj", inner, 1, 2 * hidden + out + biases))
    return found


def least_important(
    found: Sequence[Parts], values: Sequence[np.ndarray], ratio: float, kinds: Sequence[str]
) -> list[np.ndarray]:
    """Which parts stay when a share of each kind goes, the least important ones over all layers.

    Parameters
    ----------
    found : sequence of Parts
    values : sequence of (size,) float
        Importance; larger stays. Ties go to the earlier layer and part.
    ratio : float in [0, 1]
    kinds : sequence of str
        Kinds that lose parts.

    Returns
    -------
    list of (k,) int64, ascending
        For each of `found`. A layer never loses its last head or its last eight channels; of its channels so many stay
        that their number is a multiple of eight, if it was one.
    """
    stays = [np.arange(one.size) for one in found]
    for kind in kinds:
        chosen = [i for i, one in enumerate(found) if one.kind == kind]
        least = 1 if kind == "heads" else MULTIPLE
        owner = np.concatenate([np.full(found[i].size, i) for i in chosen])
        place = np.concatenate([np.arange(found[i].size) for i in chosen])
        order = np.argsort(np.concatenate([np.asarray(values[i], np.float64) for i in chosen]), kind="stable")
        left, budget = {i: found[i].size for i in chosen}, int(ratio * len(owner) + 1e-9)
        gone: dict[int, list[int]] = {i: [] for i in chosen}
        for k in order:
            if budget == 0:
                break
            if left[owner[k]] > least:
                left[owner[k]] -= 1
                budget -= 1
                gone[owner[k]].append(int(place[k]))
        for i in chosen:
            if kind == "channels" and found[i].size % MULTIPLE == 0:
                spare = len(gone[i]) % MULTIPLE
                gone[i] = gone[i][: len(gone[i]) - spare]  # the most important of them stay
            stays[i] = np.setdiff1d(stays[i], gone[i])
    return stays


def ratio_for(
    found: Sequence[Parts],
    values: Sequence[np.ndarray],
    ratio: float,
    kinds: Sequence[str],
    parameters: int,
    goal: float,
) -> float:
    """The smallest ratio that reaches `goal` parameters, or `ratio` where that is not enough."""

    def after(share: float) -> int:
        stays = least_important(found, values, share, kinds)
        return parameters - sum((one.size - len(s)) * one.cost for one, s in zip(found, stays))

    if after(ratio) >= goal:
        return ratio
    low, high = 0.0, ratio
    for _ in range(12):
        middle = (low + high) / 2
        low, high = (low, middle) if after(middle) <= goal * 1.005 else (middle, high)
    return high


def remove(network: nn.Module, found: Sequence[Parts], stays: Sequence[np.ndarray]) -> None:
    """Cut out all parts but those that stay, in place."""
    with torch.no_grad():
        for one, stay in zip(found, stays, strict=True):
            if len(stay) < one.size:
                _keep(network, one, torch.as_tensor(np.asarray(stay, np.int64)))


def _keep(network: nn.Module, one: Parts, stay: torch.Tensor) -> None:
    def spread(width: int) -> torch.Tensor:
        return (stay[:, None] * width + torch.arange(width)).flatten()

    owner = cast(Any, network.get_submodule(one.name.rpartition(".")[0]))
    if is_gpt2(network):
        if one.kind == "channels":
            _cut_gpt2(owner.c_fc, stay, dim=1)
            _cut_gpt2(owner.c_proj, stay, dim=0)
            return
        wide = one.size * one.width
        columns = torch.cat([spread(one.width) + at * wide for at in range(3)])
        _cut_gpt2(owner.c_attn, columns, dim=1)
        _cut_gpt2(owner.c_proj, spread(one.width), dim=0)
        owner.split_size, owner.num_heads = len(stay) * one.width, len(stay)
        return
    if one.kind == "channels":
        _cut(owner.gate_proj, stay, dim=0)
        _cut(owner.up_proj, stay, dim=0)
        _cut(owner.down_proj, stay, dim=1)
        return
    dim = owner.head_dim
    _cut(owner.q_proj, spread(one.width), dim=0)
    _cut(owner.k_proj, spread(dim), dim=0)
    _cut(owner.v_proj, spread(dim), dim=0)
    _cut(owner.o_proj, spread(one.width), dim=1)


def _cut(layer: nn.Linear, stay: torch.Tensor, dim: int) -> None:
    """Keep rows (dim 0) or columns (dim 1) of a linear layer."""
    layer.weight = nn.Parameter(layer.weight.index_select(dim, stay).contiguous())
    if dim == 0 and layer.bias is not None:
        layer.bias = nn.Parameter(layer.bias.index_select(0, stay))
    layer.out_features, layer.in_features = layer.weight.shape


def _cut_gpt2(layer: Any, stay: torch.Tensor, dim: int) -> None:
    """Keep inputs (dim 0) or outputs (dim 1) of a layer of GPT-2, whose weight is (inputs, outputs)."""
    layer.weight = nn.Parameter(layer.weight.index_select(dim, stay).contiguous())
    if dim == 1:
        layer.bias = nn.Parameter(layer.bias.index_select(0, stay))
        layer.nf = len(stay)
    else:
        layer.nx = len(stay)


def fit_widths(network: nn.Module, shapes: Mapping[str, Sequence[int]]) -> None:
    """Give a network at full width the widths of stored weights, in place; which parts stay does not matter.

    Raises
    ------
    InputError
        The weights have other names, or more heads or channels than the network.
    """
    found = parts_of(network)
    stays = []
    for one in found:
        shape = shapes.get(f"{one.name}.weight", ())
        wide = shape[0 if is_gpt2(network) else 1] if len(shape) == 2 else 0
        if wide % one.width or not 0 < wide <= one.size * one.width:
            raise InputError(f"{one.name}: {list(shape)} in the weights does not fit the network")
        stays.append(np.arange(wide // one.width))
    meta = next(network.parameters()).is_meta
    with torch.device("meta") if meta else torch.device("cpu"):
        remove(network, found, stays)
    for name, tensor in network.state_dict().items():
        if name in shapes and list(shapes[name]) != list(tensor.shape):
            raise InputError(f"{name}: {list(shapes[name])} in the weights, {list(tensor.shape)} in the network")
