"""The two halves of a target as the evaluations take them: opened, checked, and as features of one backbone.

A half is a beton, a directory of class folders, or `torchvision:NAME:ROOT:SPLIT`; the last two are written to
OUT/data as betons first. Features are computed once per backbone and target and shared by the evaluations that name
the same directory.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from prune.data.dataset import Dataset, open_dataset
from prune.index.manifest import Manifest
from prune.index.npz import save_arrays
from prune.index.pruned_index import PrunedIndex
from prune.runs.files import InputError
from prune.scores.feature_files import Features, open_features
from transfer.evaluation.metrics import calibration_error, per_class

FORMAT = "winnow-predictions/1"
SMALL = 10_000
"""Images up to which `--loader auto` does without FFCV: it compiles for about four seconds for each beton."""


def open_pair(train: Path, test: Path, out: Path) -> tuple[Dataset, Dataset]:
    """Open both halves; images that are no beton yet become OUT/data/NAME.train.beton and NAME.test.beton.

    Raises
    ------
    InputError
        Nothing there, other classes, the same images twice, or one class alone: before anything is written.
    """
    if not _is_beton(train) or not _is_beton(test):
        train, test = _written(train, test, out)
    first, second = open_dataset(train), open_dataset(test)
    if first.manifest.classes != second.manifest.classes:
        from prune.index.manifest import manifest_path

        names = manifest_path(train)
        raise InputError(f"{test}: its class list is not that of {train}; write it with --classes {names}")
    if first.manifest.fingerprint == second.manifest.fingerprint:
        raise InputError(f"{test}: holds the same images as {train}; a test needs its own")
    if len(set(first.manifest.labels.tolist())) < 2:
        raise InputError(f"{train}: its images are of one class; at least two are needed")
    return first, second


def name_of(train: Path) -> str:
    """`pets` for `pets.train.beton`, `data/pets/train` and `torchvision:Pets:data:train`."""
    text = str(train)
    if text.startswith("torchvision:"):
        return text.split(":")[1].lower()
    if _is_beton(train):
        return train.name.removesuffix(".beton").removesuffix(".train")
    return train.parent.name if train.name in ("train", "training") else train.name


def _is_beton(place: Path) -> bool:
    return place.suffix == ".beton"


def _written(train: Path, test: Path, out: Path) -> tuple[Path, Path]:
    from prune import write
    from prune.data.image_listing import list_images
    from prune.index.manifest import manifest_path

    if _is_beton(train) or _is_beton(test):
        raise InputError(f"{train} and {test}: give both as betons, or both as images")
    if (out / "config.json").exists() and not (out / "data").exists():
        raise InputError(f"{out}: was made from betons; give another --out, or remove it")
    classes = list_images(str(train)).classes
    if len(classes) < 2:
        raise InputError(f"{train}: its images are of one class; at least two are needed")
    list_images(str(test), classes)
    name = name_of(train)
    places = out / "data" / f"{name}.train.beton", out / "data" / f"{name}.test.beton"
    write.run(write.Config(images=str(train), out=places[0]))
    write.run(write.Config(images=str(test), out=places[1], classes=manifest_path(places[0])))
    return places


def fingerprints(model: Path, train: Dataset, test: Dataset) -> dict[str, str]:
    """What an evaluation was made from: fingerprints of the model directory and of both halves."""
    from prune.models import networks

    return {
        "model": networks.fingerprint(model),
        "train": train.manifest.fingerprint,
        "test": test.manifest.fingerprint,
    }


def kept_rows(manifest: Manifest, index: Path | None) -> tuple[np.ndarray, str | None]:
    """Rows of the images that an index keeps, (n,) int64 ascending, and its fingerprint; all rows and None without one.

    Raises
    ------
    InputError
        It keeps no image, or is of other images.
    """
    if index is None:
        return np.arange(len(manifest), dtype=np.int64), None
    kept = PrunedIndex.load(index)
    if not len(kept):
        raise InputError(f"{index}: keeps no image")
    return np.sort(kept.rows_in(manifest)).astype(np.int64), kept.fingerprint


def pair_features(
    model: Path, train: Dataset, test: Dataset, place: Path, loader: str, workers: int | None
) -> tuple[Features, Features]:
    """Features of both halves under `place`, computed unless they are there; one process at a time computes."""
    import fcntl

    from prune import features

    betons = (train.beton.path, test.beton.path)
    if loader == "auto":
        # One worker of the torch loader is this process itself: nothing is forked.
        small = len(train) + len(test) <= SMALL
        loader, workers = ("torch", workers or 1) if small else ("ffcv", workers)
    place.mkdir(parents=True, exist_ok=True)
    with open(place / ".lock", "a") as lock:
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            fcntl.flock(lock, fcntl.LOCK_EX)
        features.run(features.Config(model=model, betons=betons, out=place, loader=loader, workers=workers))  # type: ignore[arg-type]
    first, second = (open_features(place / f"{source.name}.features.npz") for source in (train, test))
    return first, second


def judge(label: np.ndarray, predicted: np.ndarray, confidence: np.ndarray, classes: list[str]) -> dict[str, Any]:
    """What result.json says of predictions: top-1, mean over classes, by class, calibration.

    Parameters
    ----------
    label, predicted : (n,) int
    confidence : (n,) float
        Probability of the predicted class.
    classes : list of str
    """
    right = predicted == label
    accuracies = per_class(label, predicted, len(classes))
    return {
        "metric": "top1",
        "value": float(right.mean()),
        "mean_per_class": float(np.nanmean(accuracies)),
        # None for a class without test images.
        "per_class": [None if value != value else float(value) for value in accuracies],
        "classes": classes,
        "ece": calibration_error(confidence, right),
        "n": len(label),
    }


def save_predictions(
    out: Path, label: np.ndarray, predicted: np.ndarray, confidence: np.ndarray, classes: list[str]
) -> dict[str, Any]:
    """Write OUT/predictions.npz, in the rows of the test beton; returns what `judge` says."""
    label, predicted, confidence = label.astype(np.int32), predicted.astype(np.int32), confidence.astype(np.float32)
    arrays = {"label": label, "predicted": predicted, "confidence": confidence}
    save_arrays(out / "predictions.npz", arrays, {"format": FORMAT, "classes": classes})
    return judge(label, predicted, confidence, classes)


def forward_flops(network: Any, resolution: int) -> float:
    """FLOPs (2 for each multiply-add) of one image of inference, counted by torch on the meta device."""
    import copy

    import torch
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        copy.deepcopy(network).to("meta").eval()(torch.empty(1, 3, resolution, resolution, device="meta"))
    return float(counter.get_total_flops())


def multiply_adds(network: Any, resolution: int) -> int:
    """Multiply-adds of one image of inference."""
    return round(forward_flops(network, resolution) / 2)
