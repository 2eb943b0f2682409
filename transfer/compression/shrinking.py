"""One step that shrinks a network: what is worth keeping, the narrow or sparse network, and its recovery."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from pretrain.recipes import RECIPES
from prune.models import networks
from transfer.compression import channel_pruning, importance, recovery_training, rewinding
from transfer.compression.journal import Trial

if TYPE_CHECKING:
    from pretrain.recipe import Recipe
    from transfer.compression.compression_loop import Job


def shrunk(
    job: Job, trial: Trial, model: nn.Module, spec: dict[str, Any], scratch: Path
) -> tuple[nn.Module, dict[str, Any], dict[str, Any]]:
    """The network after one step that shrinks it, trained again; and what was done, for the journal."""
    config, ratio = job.config, trial.ratio
    assert ratio is not None
    goal = config.size * parameters(job.model)
    if trial.kind == "rewind":
        return _rewound(job, trial, model, spec, scratch, goal)
    found, inner = channel_pruning.groups(model, int(spec["resolution"])), trial.kind == "inner"
    ratio = channel_pruning.ratio_for(model, found, int(goal), ratio, inner)
    stays = channel_pruning.choose(found, _importance(job, trial, model, found), ratio, inner=inner)
    lost = {g.name: g.size - len(s) for g, s in zip(found, stays) if len(s) < g.size}
    what = {"ratio": ratio, "importance": config.importance, "layers": lost}
    if not lost:
        return model, spec, what
    model, spec = channel_pruning.prune(model, spec, found, stays)
    return recovered(job, trial, model, spec, scratch, last=parameters(model) <= goal), spec, what


def _rewound(
    job: Job, trial: Trial, model: nn.Module, spec: dict[str, Any], scratch: Path, goal: float
) -> tuple[nn.Module, dict[str, Any], dict[str, Any]]:
    """Single weights go, the others return to the original's, and training starts from there."""
    assert trial.ratio is not None
    names = rewinding.prunable(model)
    weights = {name: model.get_parameter(name).detach() for name in names}
    live = sum(int(torch.count_nonzero(weight)) for weight in weights.values())
    ratio = min(trial.ratio, (parameters(model) - goal) / live)
    masked = rewinding.masks(weights, _weight_scores(job, trial, model, names), ratio)
    left = int(sum(mask.sum() for mask in masked.values()))
    what = {"ratio": ratio, "importance": job.config.importance, "weights": left}
    model = networks.build(spec)
    model.load_state_dict(rewinding.rewound(job.model.state_dict(), masked))
    handle = rewinding.held(model, masked)
    model = recovered(job, trial, model, spec, scratch, last=parameters(model) <= goal * 1.005)
    handle.remove()
    rewinding.hold(model, masked)
    return model, spec, what


def _importance(job: Job, trial: Trial, model: nn.Module, found: list[Any]) -> list[np.ndarray]:
    if job.config.importance == "random":
        return importance.chance(found, job.config.seed * 1000 + trial.step)
    if job.config.importance == "magnitude":
        return importance.magnitude(model, found)
    with networks.safe_memory_format(model):
        return importance.taylor(model, found, _batches(job))


def _weight_scores(job: Job, trial: Trial, model: nn.Module, names: list[str]) -> dict[str, torch.Tensor]:
    if job.config.importance == "data":
        with networks.safe_memory_format(model):
            return rewinding.saliency(model, names, _batches(job))
    weights = {name: model.get_parameter(name).detach() for name in names}
    if job.config.importance == "magnitude":
        return {name: weight.abs() for name, weight in weights.items()}
    draw = torch.Generator().manual_seed(job.config.seed * 1000 + trial.step)
    return {name: torch.rand(weight.shape, generator=draw) for name, weight in weights.items()}


def _batches(job: Job) -> Any:
    labels = np.asarray(job.source.manifest.labels)[job.rows]
    rows = recovery_training.balanced(job.rows, labels, job.config.importance_images, job.config.seed)
    return recovery_training.normalised(*recovery_training.images_of(job.loader, rows), job.spec)


def recipe_of(job: Job, epochs: float) -> Recipe:
    """Recipe of the recovery; without recovery only its batch counts."""
    config = job.config
    if not (config.recovery_epochs or config.last_epochs):
        return replace(next(iter(RECIPES.values())), epochs=0.0, batch=64)
    return recovery_training.recipe_for(
        job.spec, job.model, config.recipe, epochs, config.learning_rate, config.batch_size
    )


def recovered(
    job: Job, trial: Trial, model: nn.Module, spec: dict[str, Any], scratch: Path, *, last: bool
) -> nn.Module:
    """Train for the epochs that the config gives a step; `last`: one that reaches the size."""
    config = job.config
    epochs = config.last_epochs if last and config.last_epochs is not None else config.recovery_epochs
    recipe, seed = recipe_of(job, epochs), config.seed * 1000 + trial.step
    torch.manual_seed(seed)
    teacher = job.model.to(job.ranks.device)
    return recovery_training.recover(
        model,
        job.loader,
        job.rows,
        recipe,
        job.ranks,
        spec,
        seed=seed,
        loss=recovery_training.distilled(teacher, recipe, config.distil, seed),
        checkpoints=scratch / "checkpoint",
        checkpoint_seconds=60 * config.checkpoint_minutes,
        name=f"step {trial.step}",
    )


def parameters(model: nn.Module) -> int:
    """Parameters that are not zero."""
    return sum(int(torch.count_nonzero(p)) for p in model.parameters())
