"""Where the images of a study are: train and test splits of source and targets, checked before anything runs.

A place is a directory, a torchvision data set by name (`torchvision:NAME:ROOT`), or betons that exist already.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from prune.runs.files import InputError

if TYPE_CHECKING:
    import numpy as np

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_TEST_NAMES = ("test", "val")


@dataclass(frozen=True)
class Splits:
    """Train and test split of a data set, as `prune write --images` takes them; `test` is None where there is none."""

    train: str
    test: str | None

    def moved(self, old: Path, new: Path) -> dict[str, str | None]:
        """Both places, relative to `new` instead of `old`, as study.json stores them."""
        return {
            "train": moved(self.train, old, new),
            "test": None if self.test is None else moved(self.test, old, new),
        }


def parse_targets(texts: tuple[str, ...] | list[str]) -> dict[str, str]:
    """Turn `name=PLACE` (or a directory, named like its last part) into {name: place}, in order.

    Raises
    ------
    InputError
        A name that cannot be part of a file name, is taken twice, or is `source`.
    """
    found: dict[str, str] = {}
    for text in texts:
        name, equals, place = text.partition("=")
        if not equals:
            name, place = Path(text).name, text
        if not _NAME.fullmatch(name) or not place:
            raise InputError(f"--targets {text}: name=DIR is expected, the name of letters, digits, '_', '.' and '-'")
        if name == "source" or name.startswith("source-"):
            raise InputError(f"--targets {text}: the name {name!r} is taken by the source; choose another")
        if name in found:
            raise InputError(f"--targets: {name!r} is named twice")
        found[name] = place
    return found


def source_splits(place: str) -> Splits:
    """Splits of a source: a directory with a train/ of class folders has splits; any other is all train.

    test/ (or val/) beside train/ measures pretraining as it goes and is never pruned.
    """
    if place.startswith("torchvision:"):
        return _torchvision(place)
    if place.endswith((".beton", ".parquet")):
        return Splits(place, None)
    root = Path(place)
    if not root.is_dir():
        raise InputError(f"--source {place}: no such directory")
    if not _has_folders(root / "train"):
        return Splits(place, None)
    return Splits(str(root / "train"), next((str(root / n) for n in _TEST_NAMES if _has_folders(root / n)), None))


def target_splits(name: str, place: str) -> Splits:
    """Splits of a target: a directory with train/ and test/ (or val/) of class folders, or X of two betons.

    Where both exist, X means the directory and X.train.beton the betons.
    """
    if place.startswith("torchvision:"):
        return _torchvision(place)
    if betons := _betons(name, place):
        return betons
    root = Path(place)
    if not root.is_dir():
        raise InputError(f"--targets {name}={place}: no such directory")
    test = next((root / n for n in _TEST_NAMES if _has_folders(root / n)), None)
    if not _has_folders(root / "train") or test is None:
        raise InputError(f"--targets {name}={place}: train/ and test/ with one folder per class are expected inside")
    return Splits(str(root / "train"), str(test))


def moved(place: str, old: Path, new: Path) -> str:
    """Rewrite a place given relative to the directory `old` as one relative to `new`; links are followed.

    Examples
    --------
    >>> moved("photos/train", Path("/data"), Path("/data/runs/study"))
    '../../photos/train'
    """
    if place.startswith("torchvision:"):
        kind, name, root, *split = place.split(":")
        return ":".join([kind, name, moved(root, old, new), *split])
    return os.path.relpath(os.path.realpath(old / place), os.path.realpath(new))


def count_images(place: str, name: str, out: Path) -> int:
    """Images of the beton `name` of the study in `out`, or the images at `place` where it is not written yet.

    Raises
    ------
    InputError
        Neither exists, or `place` has no images, or one class only.
    """
    written = out / "data" / f"{name}.beton"
    return len(labels_of(str(written) if written.exists() else moved(place, out, Path())))


def labels_of(place: str) -> np.ndarray:
    """Labels of all images at `place`, (n,) int32; images are listed and not read.

    Raises
    ------
    InputError
        No images, or one class only.
    """
    if place.endswith(".beton"):
        from prune.data.dataset import open_dataset

        manifest = open_dataset(Path(place)).manifest
        labels, classes = manifest.labels, manifest.classes
    else:
        from prune.data.image_listing import list_images

        listing = list_images(place)
        labels, classes = listing.labels, listing.classes
    if len(classes) < 2:
        raise InputError(f"{place}: holds one class, {classes[0]!r}; at least two are needed")
    return labels


def _torchvision(place: str) -> Splits:
    if place.count(":") != 2:
        raise InputError(f"{place}: torchvision:NAME:ROOT is expected, without a split")
    return Splits(f"{place}:train", f"{place}:test")


def _betons(name: str, place: str) -> Splits | None:
    """The betons of a target that exist already; None for any other place."""
    stem = place.removesuffix(".beton").removesuffix(".train")
    train, test = (f"{stem}.{split}.beton" for split in ("train", "test"))
    if place.endswith(".beton") or (Path(train).is_file() and not Path(place).is_dir()):
        for beton in (train, test):
            if not Path(beton).is_file():
                raise InputError(
                    f"--targets {name}={place}: no such file: {beton}; a target is X.train.beton and X.test.beton"
                )
        return Splits(train, test)
    return None


def _has_folders(root: Path) -> bool:
    return root.is_dir() and any(p.is_dir() and not p.name.startswith(".") for p in root.iterdir())
