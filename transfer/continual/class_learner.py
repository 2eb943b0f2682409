"""A network that learns new classes: a growing head, replay in the loop of `pretrain`, and two classifiers.

Rebuffi, Kolesnikov, Sperl and Lampert, "iCaRL: Incremental Classifier and Representation Learning", CVPR 2017.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from pretrain import optimisation, sampling_order, training_loop
from pretrain.distributed import Ranks
from pretrain.hooks import Hooks, Progress
from pretrain.optimisation import Loss
from pretrain.recipe import Recipe
from pretrain.schedule import Budget
from pretrain.training_run import warm_start
from prune.models import networks
from prune.models.networks import MEAN, STD, classifier_of, features_and_logits, normalise
from prune.scores.clusters import unit
from transfer.continual.incremental_setting import HEADS
from transfer.continual.memory_loader import LabelledImages

TEMPERATURE = 2.0


def specification(recipe_name: str, recipe: Recipe, classes: list[str], side: int) -> dict[str, Any]:
    """The content of model.json, from which the network is built again."""
    return {
        "arch": recipe.arch,
        "kwargs": dict(recipe.kwargs),
        "stem": recipe.stem,
        "classes": classes,
        "resolution": side,
        "mean": list(MEAN),
        "std": list(STD),
        "recipe": recipe_name,
        "index": None,
        "source": None,
    }


def new_network(spec: dict[str, Any], init: Path | None, seed: int, ranks: Ranks) -> nn.Module:
    """Build a network with weights drawn from `seed`, except those of the model directory `init` that fit."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = networks.build(spec).to(ranks.device)
    if init is not None:
        warm_start(network, init, spec["classes"])
    return network


def saved_network(directory: Path, ranks: Ranks) -> nn.Module:
    """Load a network that an earlier task or round saved."""
    return networks.load_model(directory)[0].to(ranks.device)


def seed_of(seed: int, *parts: int) -> int:
    """Derive the seed of one part of a run from the run's seed and the part's numbers."""
    return int(np.random.SeedSequence((seed, *parts)).generate_state(1, np.uint32)[0])


def grow_head(network: nn.Module, classes: int, seed: int) -> None:
    """Give the head `classes` outputs in place; existing outputs keep their weights, new ones are drawn from `seed`."""
    old: Any = classifier_of(network)
    have = old.out_features
    if classes == have:
        return
    device = old.weight.device
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network.reset_classifier(classes)  # type: ignore[operator]
    network.to(device)
    new = network.get_classifier()  # type: ignore[operator]
    with torch.no_grad():
        new.weight[:have] = old.weight
        if new.bias is not None:
            new.bias[:have] = old.bias


def learn(
    network: nn.Module,
    pool: LabelledImages,
    recipe: Recipe,
    ranks: Ranks,
    budget: Budget,
    seed: int,
    *,
    teacher: nn.Module | None = None,
    distillation: float = 0.0,
    checkpoints: Path | None = None,
    checkpoint_seconds: float = 600.0,
    hooks: Hooks | None = None,
) -> Progress:
    """Train on new images and exemplars together, starting from the network's weights.

    Parameters
    ----------
    network : nn.Module
        Its head has an output for every label of the pool.
    pool : LabelledImages
    teacher : nn.Module, optional
        The network before this task; `distillation` is then the weight of its predictions in the loss.
    checkpoints : Path, optional
        Of this call only.
    """
    loss = None
    if teacher is not None and distillation:
        loss = with_distillation(optimisation.classification(recipe, seed, ranks.rank), teacher, distillation)
    size = sampling_order.rank_batch(
        sampling_order.global_batch(len(pool), recipe.batch, ranks.world), ranks.rank, ranks.world
    )
    return training_loop.train(
        network,
        pool.batches(recipe, seed, size),
        np.arange(len(pool), dtype=np.int64),
        recipe,
        ranks,
        budget=budget,
        mean=MEAN,
        std=STD,
        seed=seed,
        loss=loss,
        checkpoints=checkpoints,
        checkpoint_seconds=checkpoint_seconds,
        hooks=hooks,
    )


def with_distillation(loss: Loss, teacher: nn.Module, weight: float) -> Loss:
    """Add the cross entropy between the teacher's and the student's softened predictions on the teacher's classes.

    Li and Hoiem, "Learning without Forgetting", ECCV 2016, equations 2 to 4, with temperature 2.
    """
    teacher = copy.deepcopy(teacher).eval().requires_grad_(False)

    def both(
        model: nn.Module, images: torch.Tensor, labels: torch.Tensor, step: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        losses, logits = loss(model, images, labels, step)
        with torch.no_grad():
            wanted = (teacher(images).float() / TEMPERATURE).softmax(1)
        found = functional.log_softmax(logits[:, : wanted.shape[1]] / TEMPERATURE, 1)
        return losses - weight * TEMPERATURE**2 * (wanted * found).sum(1), logits

    return both


@torch.inference_mode()
def outputs(network: nn.Module, images: np.ndarray, ranks: Ranks, batch: int = 256) -> tuple[np.ndarray, np.ndarray]:
    """Features (n, d) and logits (n, c), float32, of (n, side, side, 3) uint8 images, in evaluation mode."""
    training = network.training
    network.eval()
    features, logits = [], []
    for first in range(0, len(images), batch):
        part = torch.from_numpy(images[first : first + batch]).permute(0, 3, 1, 2).to(ranks.device)
        with ranks.autocast():
            one, two = features_and_logits(network, normalise(part, MEAN, STD))
        features.append(one.float().cpu().numpy())
        logits.append(two.float().cpu().numpy())
    network.train(training)
    if not features:
        head: Any = network.get_classifier()  # type: ignore[operator]
        return np.zeros((0, head.in_features), np.float32), np.zeros((0, head.out_features), np.float32)
    return np.concatenate(features), np.concatenate(logits)


def class_means(features: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """Mean of each class's features, (classes, d) float32: features are scaled to length 1, and so are the means.

    iCaRL, section 2.1. NaN for a class without exemplars.
    """
    found = np.full((classes, features.shape[1]), np.nan, np.float32)
    points = unit(np.asarray(features, np.float32))
    for label in np.unique(labels):
        mean = points[labels == label].mean(axis=0)
        found[label] = mean / max(float(np.linalg.norm(mean)), 1e-12)
    return found


def nearest_mean(features: np.ndarray, means: np.ndarray) -> np.ndarray:
    """Class whose mean is nearest to each feature (iCaRL, algorithm 1), (n,) int64; on ties the lower class."""
    cosine = unit(np.asarray(features, np.float32)) @ np.nan_to_num(means).T
    cosine[:, np.isnan(means).any(axis=1)] = -np.inf
    found: np.ndarray = cosine.argmax(axis=1)
    return found


def predictions(network: nn.Module, images: np.ndarray, means: np.ndarray, ranks: Ranks) -> dict[str, np.ndarray]:
    """Classes that each of `HEADS` predicts for (n, side, side, 3) uint8 images, (n,) int64."""
    features, logits = outputs(network, images, ranks)
    return dict(zip(HEADS, (logits.argmax(axis=1), nearest_mean(features, means))))
