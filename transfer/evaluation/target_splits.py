"""A target's train and test splits: opened, checked against each other, and as features of one model.

A split is a beton, a directory of class folders, or `torchvision:NAME:ROOT:SPLIT`; the last two are first written to
OUT/data as betons. Features are computed once per model and target: evaluations share them by naming one directory.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np

from prune.data.beton_writing import need_two_classes, write_beton
from prune.data.dataset import Dataset, dataset_name, open_dataset
from prune.data.image_listing import list_images
from prune.index.manifest import Manifest, manifest_path
from prune.index.pruned_index import PrunedIndex
from prune.models.extraction_settings import ExtractionSettings
from prune.models.feature_extraction import extract_to_file
from prune.models.networks import TrainedModel
from prune.runs.files import InputError
from prune.scores.feature_files import Features, open_features

SMALL = 10_000
"""Images up to which `--loader auto` avoids FFCV, which compiles for about four seconds for each beton."""
SMALL_SIDE = 64
"""Side in pixels up to which images of a training run count as small."""


def open_splits(
    train: Path, test: Path, out: Path, check: Callable[[np.ndarray, np.ndarray], None] | None = None
) -> tuple[Dataset, Dataset]:
    """Open both splits; those that are not betons are written to OUT/data/NAME.train.beton and NAME.test.beton.

    Parameters
    ----------
    train, test, out : Path
    check : function, optional
        Gets the labels of both splits before anything is written, and raises `InputError` for labels that do not serve.

    Raises
    ------
    InputError
        No images there, different classes, the same images in both, or a single class: before anything is written.
    """
    if not _is_beton(train) or not _is_beton(test):
        train, test = _written(train, test, out, check)
        check = None
    first, second = open_dataset(train), open_dataset(test)
    if first.manifest.classes != second.manifest.classes:
        names = manifest_path(train)
        raise InputError(f"{test}: its class list is not that of {train}; write it with --classes {names}")
    if first.manifest.fingerprint == second.manifest.fingerprint:
        raise InputError(f"{test}: holds the same images as {train}; a test needs its own")
    if len(set(first.manifest.labels.tolist())) < 2:
        raise InputError(f"{train}: its images are of one class; at least two are needed")
    if check is not None:
        check(first.manifest.labels, second.manifest.labels)
    return first, second


def target_name(train: Path) -> str:
    """Name a target after its train split.

    Examples
    --------
    >>> places = ["pets.train.beton", "data/pets/train", "torchvision:Pets:data:train"]
    >>> [target_name(Path(place)) for place in places]
    ['pets', 'pets', 'pets']
    """
    text = str(train)
    if text.startswith("torchvision:"):
        return text.split(":")[1].lower()
    if _is_beton(train):
        return dataset_name(train).removesuffix(".train")
    return train.parent.name if train.name in ("train", "training") else train.name


def _is_beton(place: Path) -> bool:
    return place.suffix == ".beton" or any(place.glob("*.beton"))


def _written(
    train: Path, test: Path, out: Path, check: Callable[[np.ndarray, np.ndarray], None] | None
) -> tuple[Path, Path]:
    """Write both splits as betons below OUT; returns where they are."""
    if _is_beton(train) or _is_beton(test):
        raise InputError(f"{train} and {test}: give both as betons, or both as images")
    if (out / "config.json").exists() and not (out / "data").exists():
        raise InputError(f"{out}: was made from betons; give another --out, or remove it")
    training = list_images(str(train))
    need_two_classes(str(train), training)
    testing = list_images(str(test), training.classes)
    if check is not None:
        check(training.labels, testing.labels)
    name = target_name(train)
    places = out / "data" / f"{name}.train.beton", out / "data" / f"{name}.test.beton"
    write_beton(str(train), places[0], listing=training)
    write_beton(str(test), places[1], listing=testing, classes=training.classes)
    return places


def fingerprints(model: TrainedModel, train: Dataset, test: Dataset) -> dict[str, str]:
    """Fingerprints of what an evaluation reads: the model and both splits."""
    return {
        "model": model.fingerprint,
        "train": train.manifest.fingerprint,
        "test": test.manifest.fingerprint,
    }


def kept_rows(manifest: Manifest, index: Path | None) -> tuple[np.ndarray, str | None]:
    """Rows of the images that an index keeps, (n,) int64 ascending, and its fingerprint; all rows and None without one.

    Raises
    ------
    InputError
        The index keeps no image, or is of other images.
    """
    if index is None:
        return np.arange(len(manifest), dtype=np.int64), None
    kept = PrunedIndex.load(index)
    if not len(kept):
        raise InputError(f"{index}: keeps no image")
    return np.sort(kept.rows_in(manifest)).astype(np.int64), kept.fingerprint


def loader_for(
    asked: Literal["auto", "ffcv", "torch"], workers: int | None, images: int, side: int = 0
) -> tuple[Literal["ffcv", "torch"], int | None]:
    """Resolve `--loader auto`: torch for few small images, which are read before FFCV has compiled.

    Parameters
    ----------
    asked : {"auto", "ffcv", "torch"}
    workers : int, optional
        Decoding threads that were asked for.
    images : int
    side : int
        Side of the images in pixels, where images are decoded more than once.

    Returns
    -------
    loader : {"ffcv", "torch"}
    workers : int or None
        1 where torch was chosen: that is this process itself, and nothing is forked.
    """
    if asked != "auto":
        return asked, workers
    if images <= SMALL and side <= SMALL_SIDE:
        return "torch", workers or 1
    return "ffcv", workers


def split_features(
    model: TrainedModel,
    train: Dataset,
    test: Dataset,
    place: Path,
    loader: Literal["auto", "ffcv", "torch"],
    workers: int | None,
) -> tuple[Features, Features]:
    """Features of both splits in the directory `place`, computed where they are missing.

    One run at a time computes; others wait for it.

    Raises
    ------
    InputError
        Both betons have one name, or `place` holds features of other images or of another model.
    """
    if train.name == test.name:
        raise InputError(f"--train and --test are both named {train.name!r}; their features would overwrite each other")
    chosen, workers = loader_for(loader, workers, len(train) + len(test))
    settings = ExtractionSettings(loader=chosen, workers=workers)
    files = [place / f"{split.name}.features.npz" for split in (train, test)]
    place.mkdir(parents=True, exist_ok=True)
    with open(place / ".lock", "a") as lock:
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            fcntl.flock(lock, fcntl.LOCK_EX)
        for split, file in zip((train, test), files):
            extract_to_file(model, split, file, settings)
    first, second = (open_features(file) for file in files)
    return first, second
