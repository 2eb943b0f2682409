"""One step that shrinks a network: which channels or single weights go, the network without them, and its recovery."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from prune.models import networks
from transfer.compression import channel_pruning, rewinding
from transfer.compression.channels import Channels
from transfer.compression.importance import Importance
from transfer.compression.journal import Trial
from transfer.compression.recovery_training import Recovery
from transfer.compression.removed_parts import removed_channels, removed_weights

Shrunk = tuple[nn.Module, dict[str, Any], dict[str, Any]]
"""A network, its description (model.json), and what was done, for the journal."""


def shrink(
    trial: Trial,
    model: nn.Module,
    spec: dict[str, Any],
    scratch: Path,
    *,
    goal: float,
    importance: Importance,
    recovery: Recovery,
    heads: Literal["thin", "whole"] = "thin",
) -> Shrunk:
    """Remove channels, heads or single weights from a network and train it again.

    Parameters
    ----------
    trial : Trial
    model, spec : nn.Module, dict
        The network of the step `trial.base`.
    scratch : Path
        Directory of this step.
    goal : float
        Number of parameters at which shrinking ends; no step goes below it.
    importance, recovery : Importance, Recovery
    heads : {"thin", "whole"}
        See `heads_of`.
    """
    assert trial.ratio is not None
    if trial.kind == "rewind":
        return _rewind(trial, model, spec, scratch, goal, importance, recovery)
    found = channel_pruning.groups(model, int(spec["resolution"]), recovery.protect, heads)
    found = [group for group in found if _may_go(group, trial.kind)]
    inner = trial.kind in ("inner", "both")
    ratio = channel_pruning.ratio_for(model, found, int(goal), trial.ratio, inner)
    values, rises = importance.by_class(model, found, trial.step)
    stays = channel_pruning.most_important(found, values, ratio, inner=inner)
    lost = {g.name: g.size - len(s) for g, s in zip(found, stays) if len(s) < g.size}
    what: dict[str, Any] = {"ratio": ratio, "importance": importance.criterion, "layers": lost}
    what["removed"] = removed_channels(found, stays, values, rises, spec["classes"])
    if not lost:
        return model, spec, what
    model, spec = channel_pruning.prune_channels(model, spec, found, stays)
    return recovery.train(model, spec, trial.step, scratch, last=parameters(model) <= goal), spec, what


def heads_of(kinds: Collection[str]) -> Literal["thin", "whole"]:
    """What attention loses in a run of these kinds: whole heads where a kind removes them, else channels in each.

    Never both: a head would be left with fewer channels than the others' kernels like, and its number would change.
    """
    return "whole" if {"heads", "both"} & set(kinds) else "thin"


def _may_go(group: Channels, kind: str) -> bool:
    """Whether steps of this kind remove from a group; heads are left to those that are named after them."""
    return kind == "both" or (group.unit == "heads") == (kind == "heads")


def _rewind(
    trial: Trial,
    model: nn.Module,
    spec: dict[str, Any],
    scratch: Path,
    goal: float,
    importance: Importance,
    recovery: Recovery,
) -> Shrunk:
    """Remove single weights, set the others back to the original's, and train from there."""
    assert trial.ratio is not None
    names = rewinding.prunable(model, recovery.protect)
    weights = {name: model.get_parameter(name).detach() for name in names}
    live = sum(int(torch.count_nonzero(weight)) for weight in weights.values())
    ratio = min(trial.ratio, (parameters(model) - goal) / live)
    scores = importance.of_weights(model, names, trial.step)
    masks = rewinding.masks(weights, scores, ratio)
    left = int(sum(mask.sum() for mask in masks.values()))
    what: dict[str, Any] = {"ratio": ratio, "importance": importance.criterion, "weights": left}
    what["removed"] = removed_weights(weights, scores, masks)
    model = networks.build(spec)
    model.load_state_dict(rewinding.rewound(recovery.original.state_dict(), masks))
    handle = rewinding.mask_before_forward(model, masks)
    model = recovery.train(model, spec, trial.step, scratch, last=parameters(model) <= goal * 1.005)
    handle.remove()
    rewinding.apply_masks(model, masks)
    return model, spec, what


def parameters(model: nn.Module) -> int:
    """Parameters that are not zero."""
    return sum(int(torch.count_nonzero(p)) for p in model.parameters())
