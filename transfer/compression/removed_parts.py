"""What a step removed and why, for the journal: channels with importance and rank, and the classes they served.

A step's entry has "removed" in its "what": one mapping per layer. Entries of older versions lack it. Heads, and groups
of a convolution, are recorded like channels, with a "unit" that says so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    import torch

_NAMED = 3  # classes of a layer
_UNITS = ("channels", "heads", "groups")


class Removable(Protocol):
    """A group of channels or heads of one layer."""

    @property
    def name(self) -> str:
        """Layer."""

    @property
    def size(self) -> int:
        """How many there are."""

    @property
    def unit(self) -> str:
        """What they are: "channels", "heads" or "groups"."""


def removed_channels(
    found: Sequence[Removable],
    stays: Sequence[np.ndarray],
    importance: Sequence[np.ndarray],
    rises: Sequence[np.ndarray] | None,
    classes: Sequence[str],
) -> list[dict[str, Any]]:
    """Describe the channels that a step removed from each group.

    Parameters
    ----------
    found : sequence of Removable
    stays : sequence of (k,) int
        Channels that stay.
    importance : sequence of (size,) float
    rises : sequence of (c, size) float, or None
        How much each class's loss rises without a channel; see `importance.taylor_by_class`.
    classes : sequence of str

    Returns
    -------
    list of dict
        For each group that lost channels: "layer"; "of", its size before; "channels", their positions in the network
        that the step began with, the least important first; "unit" where they are heads, or groups of a convolution;
        "importance" and "rank" of each, 1 for the most important of the layer; "serves", the class whose loss rises
        most without it, and "rise", by how much (None where no class's loss rises); "classes", the three whose loss
        rises most without all of them, the largest first.
    """
    described = []
    for number, (group, stay) in enumerate(zip(found, stays, strict=True)):
        order = np.argsort(-np.asarray(importance[number], np.float64), kind="stable")
        gone = order[~np.isin(order, stay)][::-1]
        if not len(gone):
            continue
        rank = np.empty(group.size, np.int64)
        rank[order] = np.arange(1, group.size + 1)
        one: dict[str, Any] = {
            "layer": group.name,
            "of": group.size,
            "channels": gone.tolist(),
            "importance": [_short(value) for value in np.asarray(importance[number])[gone]],
            "rank": rank[gone].tolist(),
        }
        if (unit := getattr(group, "unit", _UNITS[0])) != _UNITS[0]:
            one["unit"] = unit
        if rises is not None:
            part = np.nan_to_num(rises[number][:, gone])
            best = part.argmax(0)
            top = [float(part[c, k]) for k, c in enumerate(best)]
            one["serves"] = [classes[c] if rise > 0 else None for c, rise in zip(best, top)]
            one["rise"] = [_short(rise) if rise > 0 else None for rise in top]
            whole = part.sum(1)
            first = np.argsort(-whole, kind="stable")[:_NAMED]
            one["classes"] = {classes[c]: _short(whole[c]) for c in first if whole[c] > 0}
        described.append(one)
    return described


def removed_weights(
    weights: Mapping[str, torch.Tensor], scores: Mapping[str, torch.Tensor], masks: Mapping[str, torch.Tensor]
) -> list[dict[str, Any]]:
    """Describe how many single weights a step removed from each layer, and the largest importance among them.

    Returns
    -------
    list of dict
        For each layer that lost weights: "layer", "of" (weights that were not zero before), "weights" (removed) and
        "importance" (the largest of a removed weight).
    """
    described = []
    for name, mask in masks.items():
        live = weights[name] != 0
        gone = live & ~mask
        if count := int(gone.sum()):
            most = _short(float(scores[name][gone].max()))
            layer = name.removesuffix(".weight")
            described.append({"layer": layer, "of": int(live.sum()), "weights": count, "importance": most})
    return described


def _short(value: float) -> float | None:
    """Four significant digits; None where the value is not finite, since JSON has no such number."""
    return float(f"{value:.4g}") if math.isfinite(value) else None


def is_sound(removed: Any) -> bool:
    """Whether "removed" of an entry has the values that a step writes; pages and `transfer explain` print them."""
    return isinstance(removed, list) and all(isinstance(one, dict) and _is_layer(one) for one in removed)


def _is_layer(one: dict[str, Any]) -> bool:
    if not isinstance(one.get("layer"), str) or type(one.get("of")) is not int:
        return False
    if "weights" in one:
        return type(one["weights"]) is int and _is_number(one.get("importance"))
    if one.get("unit", _UNITS[0]) not in _UNITS:
        return False
    columns = [one.get(key) for key in ("channels", "importance", "rank")]
    if "classes" in one:
        columns += [one.get("serves"), one.get("rise")]
    if not all(isinstance(column, list) and len(column) == len(columns[0] or ()) for column in columns):
        return False
    return (
        all(type(n) is int and 0 <= n < one["of"] for n in one["channels"])
        and all(type(n) is int and 1 <= n <= one["of"] for n in one["rank"])
        and all(_is_number(n) for n in (*one["importance"], *one.get("rise", ())))
        and all(isinstance(name, str | None) for name in one.get("serves", ()))
        and isinstance(one.get("classes", {}), dict)
        and all(_is_number(n) for n in one.get("classes", {}).values())
    )


def _is_number(value: Any) -> bool:
    return value is None or (type(value) in (int, float) and math.isfinite(value))


def layer_texts(one: Mapping[str, Any]) -> list[str]:
    """One layer in words: its name, what it lost, importance and ranks of that, the classes that it served most.

    Examples
    --------
    >>> layer_texts({"layer": "conv1", "of": 8, "channels": [2, 5], "importance": [0.1, 0.25], "rank": [8, 7],
    ...              "serves": ["newt", None], "rise": [0.1, None], "classes": {"newt": 0.08}})
    ['conv1', '2 of 8', '0.1 to 0.25', '8 to 7', 'newt +0.08']
    """
    if "weights" in one:
        return [one["layer"], f"{one['weights']} of {one['of']} weights", f"up to {one['importance']}", "", ""]
    ends = [f"{one[key][0]} to {one[key][-1]}" if one[key] else "" for key in ("importance", "rank")]
    served = ", ".join(f"{name} +{rise}" for name, rise in one.get("classes", {}).items())
    unit = f" {one['unit']}" if "unit" in one else ""
    return [one["layer"], f"{len(one['channels'])} of {one['of']}{unit}", *ends, served]


def unit_of(one: Mapping[str, Any]) -> str:
    """What a layer lost, one of them: "channel", "head" or "group"."""
    return str(one.get("unit", _UNITS[0])).removesuffix("s")


def in_original(entries: Sequence[Mapping[str, Any]], step: int, layer: str) -> list[int] | None:
    """Positions in the original of the channels that a step removed from a layer.

    None where they are not channels, or where an earlier step was recorded by an older version.
    """
    path = [entries[step]]
    while path[-1]["step"] and path[-1]["base"]:
        path.append(entries[path[-1]["base"]])
    left: list[int] | None = None
    gone: list[int] = []
    for entry in reversed(path):
        if entry["kind"] in ("int8", "int4"):
            continue
        for one in entry["what"].get("removed", ()):
            if one["layer"] != layer:
                continue
            if "channels" not in one:
                return None
            left = list(range(one["of"])) if left is None else [k for k in left if k not in set(gone)]
            if len(left) != one["of"]:
                return None
            gone = [left[k] for k in one["channels"]]
        if "removed" not in entry["what"]:
            return None
    return gone
