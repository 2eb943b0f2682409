"""Channel pruning: find channels that belong together, choose which of them stay, and build the narrow network.

Torch-Pruning's dependency graph (Fang et al., "DepGraph: Towards Any Structural Pruning", CVPR 2023) finds what is
removed with a channel: the rows of one layer, a norm's entries, the columns of the next layers. The narrow network is
then built from its recorded widths (`prune.models.pruned_widths`) and filled with the weights that stay: the network
that is tested is the one that can be loaded again.
"""

from __future__ import annotations

import itertools
import logging
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from prune.models import networks
from prune.models.pruned_widths import LAYERS, NORMS, is_attention, widths_of
from prune.runs.files import InputError
from transfer.compression import attention_heads
from transfer.compression.channels import Channels
from transfer.compression.protected_layers import is_protected


def groups(
    model: nn.Module, resolution: int, protect: Sequence[str] = (), heads: Literal["thin", "whole"] = "thin"
) -> list[Channels]:
    """Find all groups of channels of a network, in the order of its layers.

    The classifier's outputs stay. A grouped convolution loses whole groups of it, together with the channels that they
    read; a depthwise one loses single channels. Channels that a layer of `protect` computes or reads stay.

    Parameters
    ----------
    model : nn.Module
    resolution : int
        Side of an image in pixels.
    protect : sequence of str
        Names of layers.
    heads : {"thin", "whole"}
        Attention loses channels within its heads, equally many in every head, where query and key of a head lose the
        same channels, its values others; or whole heads, and those that stay keep their dimension.

    Raises
    ------
    InputError
        The network's channels cannot be traced, or none of them can be removed, or only those of protected layers, or
        its heads cannot be removed.
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
    parts = [part for group in traced if (part := _described(graph, group, names)) is not None]
    found = [one for some in _joined(parts) if (one := _as_channels(model, some)) is not None]
    kind = attention_heads.whole if heads == "whole" else attention_heads.thinned
    inside = [one for name, m in model.named_modules() if is_attention(m) for one in kind(name, m)]
    if heads == "whole" and not inside:
        name = type(model).__name__
        raise InputError(f"--kinds heads, both: {name} has no attention whose heads can be removed; name other kinds")
    found += inside
    if not found:
        raise InputError(f"{type(model).__name__} has no channels that can be removed")
    free_groups = _without_protected(model, found, protect)
    if not free_groups:
        raise InputError(
            f"--protect {' '.join(protect)}: no channel is left that a step may remove; protect fewer layers, or give "
            "--kinds int8"
        )
    if inside and not any(group.unit == "heads" for group in free_groups) and heads == "whole":
        raise InputError(f"--protect {' '.join(protect)}: no head is left that a step may remove; name other --kinds")
    return free_groups


def _without_protected(model: nn.Module, found: Sequence[Channels], protect: Sequence[str]) -> list[Channels]:
    """Groups of which no tensor is protected; all heads of an attention have the same width and stay together."""
    held = [
        f"{name}."
        for name, module in model.named_modules()
        if is_attention(module) and any(is_protected(f"{name}.{own}", protect) for own, _ in module.named_parameters())
    ]
    return [
        group
        for group in found
        if not any(is_protected(name, protect) for name, _, _ in group.tensors)
        and not any(f"{group.name}." == name for name in held)
        and not any(group.name.startswith((f"{name}query-key.", f"{name}value.")) for name in held)
    ]


def _bare(model: nn.Module) -> list[nn.Parameter]:
    """Parameters outside torch's own layers: embeddings of positions, tokens."""
    layers = (nn.Conv2d, nn.Linear, *NORMS)
    owned = {id(p) for m in model.modules() if isinstance(m, layers) for p in m.parameters(recurse=False)}
    return [p for p in model.parameters() if id(p) not in owned]


@dataclass(frozen=True)
class _Part:
    """A traced group: its tensors, the layers that compute it, and what is not as in a plain layer."""

    size: int
    tensors: tuple[tuple[str, int, int], ...]
    makers: tuple[str, ...]
    norms: tuple[str, ...]
    depthwise: frozenset[str]
    grouped: tuple[tuple[str, bool], ...]
    """Grouped convolutions that compute (True) or read (False) it."""


def _described(graph: Any, group: Any, names: Mapping[int, str]) -> _Part | None:
    """Turn a traced group into tensors and layers; None where its channels do not match one to one."""
    size = len(group[0].idxs)
    tensors: dict[tuple[str, int, int], None] = {}
    makers, norms, depthwise, grouped = [], [], [], []
    for dep, idxs in group:
        module = dep.target.module
        if id(module) not in names:  # an operator without weights
            continue
        name = names[id(module)]
        if list(idxs) != list(range(size)):
            return None
        out = graph.is_out_channel_pruning_fn(dep.handler)
        if isinstance(module, nn.Parameter):
            if module.shape[-1] != size:  # read by an operator that the tracer takes for one of single channels
                return None
            tensors[name, module.ndim - 1, 0] = None
        elif isinstance(module, LAYERS):
            own = set(module.state_dict())
            if not own <= {"weight", "bias"}:  # a layer that computes its weights from others
                return None
            groups_of = getattr(module, "groups", 1)
            if groups_of > 1:
                if module.in_channels != module.out_channels:
                    return None
                if groups_of == module.out_channels:
                    depthwise.append(name)
                else:
                    grouped.append((name, out))
            if out or groups_of == 1:
                tensors[f"{name}.weight", 0 if out else 1, 0] = None
            if out and "bias" in own:
                tensors[f"{name}.bias", 0, 0] = None
            makers += [name] if out else []
        elif isinstance(module, NORMS):
            tensors |= dict.fromkeys((f"{name}.{key}", 0, 0) for key, v in module.state_dict().items() if v.ndim)
            norms += [name] if isinstance(module, nn.modules.batchnorm._BatchNorm) else []
        else:
            return None
    return _Part(size, tuple(tensors), tuple(makers), tuple(norms), frozenset(depthwise), tuple(grouped))


def _joined(parts: Sequence[_Part]) -> list[list[_Part]]:
    """Put what a grouped convolution reads and what it computes together: its groups lose both."""
    sets: list[list[_Part]] = []
    for part in parts:
        layers = {name for name, _ in part.grouped}
        near = [some for some in sets if any(name in layers for one in some for name, _ in one.grouped)]
        sets = [some for some in sets if some not in near]
        sets.append([one for some in near for one in some] + [part])
    return sets


def _as_channels(model: nn.Module, parts: Sequence[_Part]) -> Channels | None:
    """One group of channels from parts that go together; None where they cannot be removed."""
    size, sides = parts[0].size, [side for part in parts for side in part.grouped]
    layers = dict.fromkeys(name for name, _ in sides)
    counts = {model.get_submodule(name).groups for name in layers}
    whole = all((name, out) in sides for name in layers for out in (False, True))
    if any(part.size != size for part in parts) or len(counts) > 1 or not whole:
        return None
    count: Any = counts.pop() if counts else size
    tensors = tuple(dict.fromkeys(tensor for part in parts for tensor in part.tensors))
    makers = list(dict.fromkeys(name for part in parts for name in part.makers))
    depthwise = {name for part in parts for name in part.depthwise}
    name = makers[0]
    if depthwise or layers:  # the graph may begin with any of them
        order = {name: number for number, (name, _) in enumerate(model.named_modules())}
        name = min((one for one in makers if one not in depthwise), key=order.__getitem__, default=name)
    single = len(makers) - len(depthwise & set(makers)) == 1 and "." in name
    # A removed channel is zero behind the batch norm, or behind the layers themselves where there is none.
    taps = tuple((tap, 0) for tap in dict.fromkeys(norm for part in parts for norm in part.norms) or makers)
    return Channels(
        name,
        count,
        tensors,
        taps,
        inner=single or _in_one_block(model, [name for name, _, _ in tensors]),
        width=size // count,
        unit="groups" if layers else "channels",
    )


def _in_one_block(model: nn.Module, tensors: Sequence[str]) -> bool:
    """Whether all of these parameters lie in one module that is neither the network nor a list of blocks."""
    shared = list(itertools.takewhile(lambda level: len(set(level)) == 1, zip(*(t.split(".")[:-1] for t in tensors))))
    block = model.get_submodule(".".join(level[0] for level in shared))
    return bool(shared) and not isinstance(block, (nn.Sequential, nn.ModuleList))


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


def kept_counts(found: Sequence[Channels], ratio: float, *, inner: bool = False) -> list[int]:
    """How many of every group stay when each loses a share `ratio`.

    Of groups that are ranked together a share of them all goes, and one stays in each; which of them lose more depends
    on the importance, and here the first do: of the same shape, they count alike.
    """
    counts = [kept_count(g.size, ratio) if g.inner or not inner else g.size for g in found]
    for members in _ranked_together(found):
        sizes = [found[k].size for k in members]
        lost = sum(sizes) - max(len(sizes), round(sum(sizes) * (1 - ratio)))
        for k, size in zip(members, sizes):
            counts[k] = max(1, size - lost)
            lost -= size - counts[k]
    return counts


def _ranked_together(found: Sequence[Channels]) -> list[list[int]]:
    sets: dict[str, list[int]] = {}
    for k, group in enumerate(found):
        if group.ranked_with:
            sets.setdefault(group.ranked_with, []).append(k)
    return list(sets.values())


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
        Ascending channels for each group. On ties the lower channel stays, and of groups that are ranked together that
        of the earlier group.
    """
    counts = kept_counts(found, ratio, inner=inner)
    orders = [np.argsort(-np.asarray(values, np.float64), kind="stable") for values in importance]
    for members in _ranked_together(found):
        others = sum(counts[k] for k in members) - len(members)  # the best of each stays
        rest = [(k, place) for k in members for place in range(1, found[k].size)]
        values = np.array([np.asarray(importance[k], np.float64)[orders[k][place]] for k, place in rest])
        best = np.argsort(-values, kind="stable")[:others]
        for k in members:
            counts[k] = 1 + sum(rest[one][0] == k for one in best)
    return [np.sort(order[:count]) for order, count in zip(orders, counts, strict=True)]


def without_channels(
    weights: Mapping[str, torch.Tensor], found: Sequence[Channels], stays: Sequence[np.ndarray]
) -> dict[str, torch.Tensor]:
    """State dict without the channels that are removed; the one given is not changed."""
    gone: dict[tuple[str, int], list[np.ndarray]] = {}
    for group, stay in zip(found, stays, strict=True):
        lost = group.positions(np.setdiff1d(np.arange(group.size), stay))
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
    heads = {name: int(m.num_heads) for name, m in model.named_modules() if is_attention(m)}
    heads |= {group.name: len(stay) for group, stay in zip(found, stays) if group.unit == "heads"}
    for name, count in heads.items():
        width: Any = model.get_submodule(name).head_dim
        left = weights[f"{name}.qkv.weight"].shape[0] // (3 * count)
        if left != width:  # products of query and key are divided by its root
            for key in ("weight", "bias"):
                if f"{name}.qkv.{key}" in weights:
                    weights[f"{name}.qkv.{key}"][: count * left] *= (left / width) ** 0.5
    dense = networks.build({**spec, "widths": None})
    narrow_spec = {**spec, "widths": widths_of(dense, weights, heads)}
    narrow = networks.build(narrow_spec)
    narrow.load_state_dict(weights)
    return narrow.eval(), narrow_spec


def ratio_for(model: nn.Module, found: Sequence[Channels], parameters: int, most: float, inner: bool) -> float:
    """Smallest ratio, in 256ths, that leaves at most `parameters` parameters, but no more than `most`."""
    shapes = {name: list(p.shape) for name, p in model.named_parameters()}

    def size(ratio: float) -> int:
        left = {name: list(shape) for name, shape in shapes.items()}
        for group, count in zip(found, kept_counts(found, ratio, inner=inner)):
            for name, dim, _ in group.tensors:
                if name in left:
                    left[name][dim] -= (group.size - count) * group.width
        return sum(int(np.prod(shape)) for shape in left.values())

    low, high = 0, int(256 * most)
    if size(high / 256) > parameters:
        return most
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if size(middle / 256) > parameters else (low, middle)
    return high / 256
