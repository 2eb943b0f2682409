"""k nearest neighbours: how well do a model's frozen features separate a target's classes, without any training?

    python -m transfer knn --model runs/backbone --train pets.train.beton --test pets.test.beton --out runs/knn-pets

Every test image gets the class that most of its nearest training images vote for, votes weighted by their cosine.
Features are stored in OUT/features, or in --features, where other evaluations find them. Writes OUT/result.json and
OUT/predictions.npz. The test images choose neither the number of neighbours nor the weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from prune.models.model_spec import need_model
from prune.runs.compute_device import DeviceFlag, current, using
from prune.runs.files import InputError, at_least
from prune.runs.identity import Location, OnceUnrecorded, RunOption
from prune.runs.outputs import claim, finish
from prune.runs.path_checks import Written


@dataclass(frozen=True)
class Config:
    model: Location[Path]
    """Model directory of `pretrain`."""
    train: Location[Path]
    """Target's training images: `X.beton`, a directory of class folders, or torchvision:NAME:ROOT:SPLIT."""
    test: Location[Path]
    """Target's test images, as --train; a beton must be written with the training images' class list."""
    out: Location[Path]
    """Run directory."""
    k: int = 20
    """Neighbours that vote."""
    temperature: float = 0.07
    """A neighbour's vote weighs exp(cosine / temperature)."""
    features: Location[Written[Path | None]] = None
    """Directory of features shared by evaluations of this model; OUT/features when absent."""
    loader: OnceUnrecorded[Literal["auto", "ffcv", "torch"]] = "auto"
    """Image loader; torch works without FFCV. auto: torch for small targets, read before FFCV has compiled."""
    workers: RunOption[int | None] = None
    """Decoding threads; this process's share of the cores when absent."""
    device: RunOption[DeviceFlag] = "auto"
    """auto: the GPU, where there is one; a job that was given a GPU and cannot use it is refused."""


LOWEST_TEMPERATURE = 1e-30  # a single-precision number that cosines can be divided by


def run(config: Config) -> None:
    """Classify, or return at once when the run is done."""
    with using(config.device):
        _run(config)


def _run(config: Config) -> None:
    at_least(config, 1, "k", "workers")
    if not LOWEST_TEMPERATURE <= config.temperature < float("inf"):
        raise InputError(f"--temperature {config.temperature}: a number of at least {LOWEST_TEMPERATURE:g} is needed")
    need_model(config.model)
    import time

    import numpy as np

    from prune.models.evaluation_view import passes
    from prune.models.forward_flops import forward_flops
    from prune.models.networks import open_model
    from transfer.evaluation import evaluation_result
    from transfer.evaluation.nearest_neighbours import classify
    from transfer.evaluation.target_splits import fingerprints, open_splits, split_features, target_name

    model = open_model(config.model)
    train, test = open_splits(config.train, config.test, config.out)
    inputs = fingerprints(model, train, test)
    with claim(config.out, config, inputs) as done:
        if done:
            return evaluation_result.note_up_to_date(config.out)
        begin = time.perf_counter()
        place = config.features or config.out / "features"
        training, testing = split_features(model, train, test, place, config.loader, config.workers)
        predicted, confidence = classify(
            np.asarray(training.features),
            np.asarray(training.label),
            np.asarray(testing.features),
            classes=len(testing.classes),
            k=config.k,
            temperature=config.temperature,
            device=current(),
        )
        label, classes = np.asarray(testing.label), testing.classes
        samples = len(train) + len(test)
        result = evaluation_result.write_result(
            config.out,
            "knn",
            target_name(config.train),
            evaluation_result.save_predictions(config.out, label, predicted, confidence, classes),
            inputs,
            n_train=len(train),
            samples=samples,
            flops=samples * passes(model.spec) * forward_flops(model.network, model.spec["resolution"]),
            seconds=time.perf_counter() - begin,
            k=config.k,
            temperature=config.temperature,
        )
        finish(config.out, seconds=result["seconds"], samples=samples, inputs=inputs)
        evaluation_result.note_result(config.out, result)
