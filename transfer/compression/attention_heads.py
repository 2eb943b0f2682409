"""Channels inside attention: thinner heads, equally thin in one attention, or fewer heads of the same dimension."""

from __future__ import annotations

from typing import Any

from torch import nn

from transfer.compression.channels import Channels


def thinned(name: str, attention: Any) -> list[Channels]:
    """Channels within the heads: query and key of a head lose the same ones, its values others.

    None where a norm or a gate works on them, which would be of another width.
    """
    heads, width = attention.num_heads, attention.head_dim
    if not _is_plain(attention) or any(not _is_nothing(getattr(attention, part, None)) for part in _EXTRA):
        return []
    found = []
    for head in range(heads):
        query, key, value = (part * heads * width + head * width for part in range(3))
        for kind, places in (("query-key", (query, key)), ("value", (value,))):
            tensors = [(f"{name}.qkv.{own}", 0, at) for own in _own(attention.qkv) for at in places]
            tensors += [(f"{name}.proj.weight", 1, head * width)] if kind == "value" else []
            taps = tuple((f"{name}.qkv", at) for at in places)
            found.append(Channels(f"{name}.{kind}.{head}", width, tuple(tensors), taps, inner=True))
    return found


def whole(name: str, attention: Any) -> list[Channels]:
    """The heads of an attention, each removed whole: its query, key and value, and what the projection reads of it.

    Heads of the same shape, those of other blocks included, are ranked together (Fang et al., "Isomorphic Pruning for
    Vision Models", ECCV 2024), so that a block of little use may lose most of its heads; one always stays.

    The importance of a head is the sum over its query, key and value channels and the projection's inputs. The last
    two have the same product of activation and gradient, since the projection's input is linear in the values: the
    values' tap counts twice.
    """
    heads, width = attention.num_heads, attention.head_dim
    if not _is_plain(attention) or not isinstance(getattr(attention, "norm", None), nn.LayerNorm | nn.Identity | None):
        return []
    query, key, value = (part * heads * width for part in range(3))
    tensors = [(f"{name}.qkv.{own}", 0, at) for own in _own(attention.qkv) for at in (query, key, value)]
    tensors += [(f"{name}.proj.weight", 1, 0)]
    for part in ("norm", "gate"):  # over the channels of all heads
        tensors += [(f"{name}.{part}.{own}", 0, 0) for own in _own(getattr(attention, part, None))]
    taps = tuple((f"{name}.qkv", at) for at in (query, key, value, value))
    shape = f"{width} {attention.qkv.in_features} {attention.proj.out_features}"
    return [
        Channels(name, heads, tuple(tensors), taps, inner=True, width=width, unit="heads", ranked_with=f"heads {shape}")
    ]


_EXTRA = ("q_norm", "k_norm", "norm", "gate")
"""Parts of timm's attention beside its two linear layers; absent or without weights in most networks."""


def _is_plain(attention: Any) -> bool:
    """Whether nothing else has weights in an attention: no table of positions, no bias beside the layers."""
    if not isinstance(attention.qkv, nn.Linear) or not isinstance(attention.proj, nn.Linear):
        return False
    if attention.qkv.out_features != 3 * attention.num_heads * attention.head_dim:
        return False
    known = {f"{part}.{own}" for part in ("qkv", "proj", *_EXTRA) for own in _own(getattr(attention, part, None))}
    return known == set(attention.state_dict())


def _own(layer: nn.Module | None) -> list[str]:
    return [] if layer is None else list(layer.state_dict())


def _is_nothing(layer: nn.Module | None) -> bool:
    return layer is None or isinstance(layer, nn.Identity)
