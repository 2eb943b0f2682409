"""Linear probe: how well does a linear classifier on a model's frozen features separate a target's classes?

    python -m transfer probe --model runs/backbone --train pets.train.beton --test pets.test.beton --out runs/probe-pets
    python -m transfer probe --model runs/backbone --train pets/train --test pets/test --shots 5 --out runs/pets-5

The features of both splits are computed once and stored in OUT/features, or in --features, where other evaluations
find them. A multinomial logistic regression is then fitted to standardised features by L-BFGS. Its regularisation is
chosen on a fifth of the training images; test images are predicted once. With --shots the classifier is trained on that
many images of each class, drawn from the seed. Writes OUT/result.json and OUT/predictions.npz. Seconds for a few
thousand images of 32 px on one core.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from prune.models.model_spec import need_model
from prune.runs.compute_device import DeviceFlag, current, using
from prune.runs.files import at_least
from prune.runs.identity import Location, OnceUnrecorded, RunOption
from prune.runs.outputs import claim, finish
from prune.runs.path_checks import Written

if TYPE_CHECKING:
    import numpy as np

    from prune.scores.feature_files import Features


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
    shots: int | None = None
    """Train on this many images of each class."""
    features: Location[Written[Path | None]] = None
    """Directory of features shared by evaluations of this model; OUT/features when absent."""
    seed: int = 0
    """Draws the validation part of the training images, or the images of --shots."""
    loader: OnceUnrecorded[Literal["auto", "ffcv", "torch"]] = "auto"
    """Image loader; torch works without FFCV. auto: torch for small targets, read before FFCV has compiled."""
    workers: RunOption[int | None] = None
    """Decoding threads; this process's share of the cores when absent."""
    device: RunOption[DeviceFlag] = "auto"
    """auto: the GPU, where there is one; a job that was given a GPU and cannot use it is refused."""


def run(config: Config) -> None:
    """Probe, or return at once when the run is done."""
    with using(config.device):
        _run(config)


def _run(config: Config) -> None:
    at_least(config, 1, "shots", "workers")
    at_least(config, 0, "seed")
    need_model(config.model)
    import time

    import numpy as np

    from prune.models.evaluation_view import passes
    from prune.models.forward_flops import forward_flops
    from prune.models.networks import open_model
    from transfer.evaluation import evaluation_result
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
        predicted, confidence, settings = _predict(config, training, np.asarray(testing.features))
        label, classes = np.asarray(testing.label), testing.classes
        samples = len(train) + len(test)
        result = evaluation_result.write_result(
            config.out,
            "probe" if config.shots is None else "few-shot",
            target_name(config.train),
            evaluation_result.save_predictions(config.out, label, predicted, confidence, classes),
            inputs,
            samples=samples,
            flops=samples * passes(model.spec) * forward_flops(model.network, model.spec["resolution"]),
            seconds=time.perf_counter() - begin,
            **settings,
        )
        finish(config.out, seconds=result["seconds"], samples=samples, inputs=inputs)
        evaluation_result.note_result(config.out, result)


def _predict(config: Config, training: Features, test: np.ndarray) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """Fit the classifier and predict the test features; returns classes, their probabilities, and facts of the fit."""
    import numpy as np

    from transfer.evaluation import logistic

    x, y = np.asarray(training.features), np.asarray(training.label)
    if config.shots is not None:
        rows = logistic.draw_shots(y, config.shots, config.seed)
        classifier, strength = logistic.train_few_shot(x[rows], y[rows]), logistic.FEW_SHOT_STRENGTH
        found = classifier.predict(logistic.unit_length(test))
        return *found, {"n_train": len(rows), "regularisation": strength, "shots": config.shots}
    classifier, strength = logistic.train_linear(x, y, seed=config.seed, device=current())
    return *classifier.predict(test), {"n_train": len(y), "regularisation": strength}
