"""Channel pruning: find channels that belong together, choose which of them stay, and build the narrow network.

Torch-Pruning's dependency graph (Fang et al., "DepGraph: Towards Any Structural Pruning", CVPR 2023) finds what is
removed with a channel: the rows of one layer, a norm's entries, the columns of the next layers. The narrow network is
then built from its recorded widths (`prune.models.pruned_widths`) and filled with the weights that stay: the network
that is tested is the one that can be loaded again.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from prune.models import networks
from prune.models.pruned_widths import is_attention, widths_of
from prune.runs.files import InputError
from transfer.compression.protected_layers import is_protected


@dataclass(frozen=True)
class Channels:
    """Channels that can only be removed from all of their layers at once.

    Attributes
    ----------
    name : str
        The layer that computes them.
    size : int
    tensors : tuple of (str, int, int)
        Parameter or buffer, dimension, and the position of channel 0 in it.
    taps : tuple of (str, int)
        Layers whose output contains the channels, and the position of channel 0: their importance is measured there.
    inner : bool
        A single layer inside a block computes them: the residual stream is not changed.
    """

    name: str
    size: int
    tensors: tuple[tuple[str, int, int], ...]
    taps: tuple[tuple[str, int], ...]
    inner: bool


def groups(model: nn.Module, resolution: int, protect: Sequence[str] = ()) -> list[Channels]:
    """Find all groups of channels of a network, in the order of its layers.

    The classifier's outputs stay. Attention loses channels within its heads, equally many in every head; query and key
    of a head lose the same channels, its values others. Channels that a layer of `protect` computes or reads stay.

    Raises
    ------
    InputError
        The network's channels cannot be traced, or none of them can be removed, or only those of protected layers.
    """
    import torch_pruning

    names = {id(m): name for name, m in model.named_modules()}
    names |= {id(p): name for name, p in model.named_parameters()}
    ignored = [networks.classifier_of(model)] + [m.qkv for m in model.modules() if is_attention(m)]
    example = torch.zeros(1, 3, resolution, resolution)
    free = [(p, p.ndim - 1) for p in _bare(model)]
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), torch.enable_grad():
            warnings.simplefilter("ignore")
            graph = torch_pruning.DependencyGraph().build_dependency(model, example, unwrapped_parameters=free)
            traced = list(graph.get_all_groups(ignored_layers=ignored, root_module_types=[nn.Conv2d, nn.Linear]))
    except Exception as error:  # the tracer raises whatever an operator that it does not know leads it to
        raise InputError(f"the channels of {type(model).__name__} cannot be traced ({error})") from None
    finally:
        logging.disable(level)
    found = [one for group in traced if (one := _described(graph, group, names)) is not None]
    found += [one for name, m in model.named_modules() if is_attention(m) for one in _heads(name, m)]
    if not found:
        raise InputError(f"{type(model).__name__} has no channels that can be removed")
    free_groups = _without_protected(model, found, protect)
    if not free_groups:
        raise InputError(
            f"--protect {' '.join(protect)}: no channel is left that a step may remove; protect fewer layers, or give "
            "--kinds int8"
        )
    return free_groups


def _without_protected(model: nn.Module, found: Sequence[Channels], protect: Sequence[str]) -> list[Channels]:
    """Groups of which no tensor is protected; all heads of an attention have the same width and stay together."""
    whole = [
        f"{name}."
        for name, module in model.named_modules()
        if is_attention(module) and any(is_protected(f"{name}.{own}", protect) for own, _ in module.named_parameters())
    ]
    return [
        group
        for group in found
        if not any(is_protected(name, protect) for name, _, _ in group.tensors)
        and not any(group.name.startswith((f"{name}query-key.", f"{name}value.")) for name in whole)
    ]


def _bare(model: nn.Module) -> list[nn.Parameter]:
    """Parameters outside torch's own layers: embeddings of positions, tokens."""
    layers = (nn.Conv2d, nn.Linear, nn.LayerNorm, nn.modules.batchnorm._BatchNorm)
    owned = {id(p) for m in model.modules() if isinstance(m, layers) for p in m.parameters(recurse=False)}
    return [p for p in model.parameters() if id(p) not in owned]


def _described(graph: Any, group: Any, names: Mapping[int, str]) -> Channels | None:
    """Turn a traced group into tensors and taps; None where its channels do not match one to one."""
    size = len(group[0].idxs)
    tensors: dict[tuple[str, int, int], None] = {}
    makers, norms = [], []
    for dep, idxs in group:
        module = dep.target.module
        if id(module) not in names:  # an operator without weights
            continue
        name = names[id(module)]
        if list(idxs) != list(range(size)) or (isinstance(module, nn.Conv2d) and module.groups > 1):
            return None
        out = graph.is_out_channel_pruning_fn(dep.handler)
        if isinstance(module, nn.Parameter):
            tensors[name, module.ndim - 1, 0] = None
        elif isinstance(module, (nn.Conv2d, nn.Linear)):
            tensors[f"{name}.weight", 0 if out else 1, 0] = None
            if out and module.bias is not None:
                tensors[f"{name}.bias", 0, 0] = None
            makers += [name] if out else []
        else:
            tensors |= dict.fromkeys((f"{name}.{key}", 0, 0) for key, v in module.state_dict().items() if v.ndim)
            norms += [name] if isinstance(module, nn.modules.batchnorm._BatchNorm) else []
    # A removed channel is zero behind the batch norm, or behind the layers themselves where there is none.
    taps = tuple((name, 0) for name in dict.fromkeys(norms or makers))
    return Channels(makers[0], size, tuple(tensors), taps, inner=len(makers) == 1 and "." in makers[0])


def _heads(name: str, attention: Any) -> list[Channels]:
    heads, width = attention.num_heads, attention.head_dim
    biased = attention.qkv.bias is not None
    if isinstance(attention.q_norm, nn.LayerNorm) or isinstance(getattr(attention, "norm", None), nn.LayerNorm):
        return []
    found = []
    for head in range(heads):
        query, key, value = (part * heads * width + head * width for part in range(3))
        for kind, places in (("query-key", (query, key)), ("value", (value,))):
            tensors = [(f"{name}.qkv.{w}", 0, at) for w in ("weight", "bias")[: 1 + biased] for at in places]
            tensors += [(f"{name}.proj.weight", 1, head * width)] if kind == "value" else []
            taps = tuple((f"{name}.qkv", at) for at in places)
            found.append(Channels(f"{name}.{kind}.{head}", width, tuple(tensors), taps, inner=True))
    return found


def kept_count(size: int, ratio: float) -> int:
    """How many of `size` channels stay when a share `ratio` is removed; wide layers keep multiples of 4 or 8.

    Vector units process 4, 8 or more numbers at once, and runtimes pad incomplete blocks.

    Examples
    --------
    >>> [kept_count(*pair) for pair in ((64, 0.3), (32, 0.3), (16, 0.2), (10, 0.3), (2, 0.9))]
    [48, 24, 12, 7, 1]
    """
    unit = 8 if size >= 32 else 4 if size >= 16 else 1
    return min(size, max(unit, unit * round(size * (1 - ratio) / unit)))


def most_important(
    found: Sequence[Channels], importance: Sequence[np.ndarray], ratio: float, *, inner: bool = False
) -> list[np.ndarray]:
    """Choose the channels that stay: the most important ones of every group, which loses a share `ratio`.

    Their number does not depend on the importance, so criteria are compared at equal sizes.

    Parameters
    ----------
    found : sequence of Channels
    importance : sequence of (size,) float
        One array for each group.
    ratio : float in (0, 1)
    inner : bool
        Do not change the residual stream.

    Returns
    -------
    list of (k,) int64
        Ascending channels for each group. On ties the lower channel stays.
    """
    stays = []
    for group, values in zip(found, importance, strict=True):
        count = kept_count(group.size, ratio) if group.inner or not inner else group.size
        stays.append(np.sort(np.argsort(-np.asarray(values, np.float64), kind="stable")[:count]))
    return stays


def without_channels(
    weights: Mapping[str, torch.Tensor], found: Sequence[Channels], stays: Sequence[np.ndarray]
) -> dict[str, torch.Tensor]:
    """State dict without the channels that are removed; the one given is not changed."""
    gone: dict[tuple[str, int], list[np.ndarray]] = {}
    for group, stay in zip(found, stays, strict=True):
        lost = np.setdiff1d(np.arange(group.size), stay)
        for name, dim, at in group.tensors:
            gone.setdefault((name, dim), []).append(lost + at)
    left = dict(weights)
    for (name, dim), places in gone.items():
        rest = np.setdiff1d(np.arange(left[name].shape[dim]), np.concatenate(places))
        left[name] = left[name].index_select(dim, torch.from_numpy(rest))
    return {name: tensor.detach().clone() for name, tensor in left.items()}


def prune_channels(
    model: nn.Module, spec: Mapping[str, Any], found: Sequence[Channels], stays: Sequence[np.ndarray]
) -> tuple[nn.Module, dict[str, Any]]:
    """Build the narrow network.

    Returns
    -------
    model : nn.Module
        In evaluation mode, on the CPU; the one given is not changed.
    spec : dict
        Including its widths.
    """
    weights = without_channels({k: v.detach().cpu() for k, v in model.state_dict().items()}, found, stays)
    for name, module in model.named_modules():
        if is_attention(module):
            # Products of query and key are divided by the root of the head's width, which has changed.
            width: int = module.head_dim
            heads: int = module.num_heads
            left = weights[f"{name}.qkv.weight"].shape[0] // (3 * heads)
            for key in ("weight", "bias"):
                if f"{name}.qkv.{key}" in weights:
                    weights[f"{name}.qkv.{key}"][: heads * left] *= (left / width) ** 0.5
    dense = networks.build({**spec, "widths": None})
    narrow_spec = {**spec, "widths": widths_of(dense, weights)}
    narrow = networks.build(narrow_spec)
    narrow.load_state_dict(weights)
    return narrow.eval(), narrow_spec


def ratio_for(model: nn.Module, found: Sequence[Channels], parameters: int, most: float, inner: bool) -> float:
    """Smallest ratio, in 256ths, that leaves at most `parameters` parameters, but no more than `most`."""
    shapes = {name: list(p.shape) for name, p in model.named_parameters()}

    def size(ratio: float) -> int:
        left = {name: list(shape) for name, shape in shapes.items()}
        for group in found:
            lost = group.size - kept_count(group.size, ratio) if group.inner or not inner else 0
            for name, dim, _ in group.tensors:
                if name in left:
                    left[name][dim] -= lost
        return sum(int(np.prod(shape)) for shape in left.values())

    low, high = 0, int(256 * most)
    if size(high / 256) > parameters:
        return most
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if size(middle / 256) > parameters else (low, middle)
    return high / 256
