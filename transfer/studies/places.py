"""Where the images of a study are: train and test splits of source and targets, checked before anything runs.

A place is a directory, a list of paths and classes (`list:FILE:FOLDER`), a torchvision data set by name
(`torchvision:NAME:ROOT`), or betons that exist already.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from prune.runs.files import InputError, counted, note

if TYPE_CHECKING:
    import numpy as np

    from prune.data.listing import Listing
    from prune.index.manifest import Manifest

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_TRAIN_NAMES = ("train", "training")
_TEST_NAMES = ("test", "testing", "val", "valid", "validation")
_SOLUTION = "LOC_val_solution.csv"
"""ILSVRC's list for its flat val/, as Kaggle packs it: beside it, or three folders up."""


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

    test/ (or val/) beside train/ measures pretraining as it goes and is never pruned. A split is a folder of class
    folders, a folder and a list of its classes (`val/` and `val.txt`), or a list alone (`val.csv`).
    """
    if place.startswith("torchvision:"):
        return _torchvision(place)
    if place.startswith(("list:", "hf://")) or place.endswith((".beton", ".parquet", ".tar", *_list_suffixes())):
        return Splits(place, None)
    root = Path(place)
    if any(root.glob("*.beton")):  # shards of `prune write --shard`
        return Splits(f"{place.rstrip('/')}/*.beton", None)
    if root.is_file():
        raise InputError(
            f"--source {place}: is a file that is not read as images: a directory, a list of paths and classes "
            f"({', '.join(_list_suffixes())}), and files .beton, .parquet and .tar are"
        )
    if not root.is_dir():
        raise InputError(f"--source {place}: no such directory")
    train = _split(root, _TRAIN_NAMES)
    if train is None:
        return Splits(place, None)
    test = _split(root, _TEST_NAMES)
    if test is None and (flat := _flat(root, _TEST_NAMES)):
        note(f"--source {place}: {flat}/ is not used: {_needs_list(root, flat)}")
    return Splits(train, test)


def target_splits(name: str, place: str) -> Splits:
    """Splits of a target: a directory with train/ and test/ (or val/), as of a source, or X of two betons.

    Where both exist, X means the directory and X.train.beton the betons.
    """
    if place.startswith("torchvision:"):
        return _torchvision(place)
    if betons := _betons(name, place):
        return betons
    root = Path(place)
    if root.is_file():
        raise InputError(
            f"--targets {name}={place}: is a file; a directory with train/ and test/ (or val/) is read, or X where "
            "X.train.beton and X.test.beton are"
        )
    if not root.is_dir():
        part = f"; the path is what follows the first '=', {place}" if "=" in place else ""
        raise InputError(f"--targets {name}={place}: no such directory{part}")
    train, test = _split(root, _TRAIN_NAMES), _split(root, _TEST_NAMES)
    if train is None or test is None:
        flat = _flat(root, _TRAIN_NAMES if train is None else _TEST_NAMES)
        raise InputError(
            f"--targets {name}={place}: train/ and test/ with one folder per class are expected inside"
            + (f"; {flat}/ holds images: {_needs_list(root, flat)}" if flat else "")
        )
    return Splits(train, test)


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
    if place.startswith("hf://"):
        return place
    if place.startswith("list:"):
        return ":".join(["list", *(moved(part, old, new) for part in place.split(":")[1:])])
    return os.path.relpath(os.path.realpath(old / place), os.path.realpath(new))


def counted_splits(name: str, splits: Splits, betons: tuple[str, str], out: Path) -> dict[str, int]:
    """Count the images of a data set of the study in `out`, and check its splits against each other.

    Parameters
    ----------
    name : str
        As the flag that names it, for messages.
    splits : Splits
        Relative to `out`.
    betons : pair of str
        Names of the betons that the study writes of them; one that exists is read in the place of its images.
    out : Path

    Returns
    -------
    dict
        Images of each split, by the beton's name.

    Raises
    ------
    InputError
        No images, one class only, a test split with classes that its train split lacks, or of the same images.
    """
    places = [_written_or(place, beton, out) for place, beton in zip((splits.train, splits.test), betons) if place]
    first = _listed(places[0])
    labels, classes = first.labels, first.classes
    sizes = {betons[0]: len(labels)}
    if len(present := set(labels.tolist())) < 2:
        only = classes[present.pop()]
        raise InputError(f"{name}: {places[0]} has images of one class, {only!r}; at least two are needed")
    if splits.test is None:
        return sizes
    try:
        second = _listed(places[1], classes)
    except InputError as error:
        raise InputError(f"{name}: {error}; the list is that of {places[0]}") from None
    if second.classes != classes:
        raise InputError(f"{name}: {places[1]} has another class list than {places[0]}; write it with --classes")
    if _same_images(first, second):
        raise InputError(f"{name}: {places[1]} holds the same images as {places[0]}; a test needs its own")
    have = set(labels.tolist())
    if unseen := [classes[label] for label in sorted(set(second.labels.tolist()) - have)]:
        many = counted(len(unseen), "class")
        note(f"{name}: {many} of the test split without an image to train on (first {unseen[0]!r})")
    return sizes | {betons[1]: len(second.labels)}


def labels_of(place: str) -> np.ndarray:
    """Labels of all images at `place`, (n,) int32; images are listed and not read.

    Raises
    ------
    InputError
        No images, or one class only.
    """
    found = _listed(place)
    if len(found.classes) < 2:
        raise InputError(f"{place}: holds one class, {found.classes[0]!r}; at least two are needed")
    return found.labels


def _written_or(place: str, beton: str, out: Path) -> str:
    written = out / "data" / f"{beton}.beton"
    return str(written) if written.exists() else moved(place, out, Path())


def _listed(place: str, classes: list[str] | None = None) -> Manifest | Listing:
    """The images at a place: the manifest of a beton, a listing of anything else."""
    if place.endswith(".beton"):
        from prune.data.dataset import open_dataset

        return open_dataset(Path(place)).manifest
    from prune.data.image_listing import list_images

    return list_images(place, classes)


def _same_images(first: Manifest | Listing, second: Manifest | Listing) -> bool:
    """Whether two betons, or two listings, hold the same images; listed files are read up to the first that differs."""
    from prune.index.manifest import Manifest

    if isinstance(first, Manifest) and isinstance(second, Manifest):
        return first.fingerprint == second.fingerprint
    if isinstance(first, Manifest) or isinstance(second, Manifest):
        return False
    if first.ids != second.ids or first.labels.tolist() != second.labels.tolist():
        return False
    try:
        return all(first.read(row) == second.read(row) for row in range(len(first.ids)))
    except OSError:
        return False  # what cannot be read is named when it is written


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


def _split(root: Path, names: tuple[str, ...]) -> str | None:
    """The first split of these names that `root` has, as a place to list; None where it has none."""
    for name in names:
        folder = root / name
        if _has_folders(folder) or any((folder / f"metadata{suffix}").is_file() for suffix in (".csv", ".jsonl")):
            return str(folder)
        if (listed := _list_for(root, name)) is not None:
            return listed
    return None


def _list_for(root: Path, name: str) -> str | None:
    """A list of the split's images as a place: `list:FILE:FOLDER`, the folder that of its first image."""
    from prune.data.labelled_lists import folder_of

    files = [root / f"{name}{suffix}" for suffix in _list_suffixes()]
    if name == "val":
        files = [root / _SOLUTION, *(parent / _SOLUTION for parent in root.absolute().parents[2:3]), *files]
    others = {p.name for p in root.iterdir() if p.is_dir() and p.name[0] != "."} - {*_TRAIN_NAMES, *_TEST_NAMES}
    folders = (root / name,) if len(others) > 1 else (root / name, root)  # class folders beside a list are the images
    for file in files:
        if file.is_file() and (folder := folder_of(file, folders)) is not None:
            return f"list:{file}:{folder}"
    return None


def _flat(root: Path, names: tuple[str, ...]) -> str | None:
    """The first folder of these names that holds files and no class folders."""
    return next((name for name in names if (root / name).is_dir() and any((root / name).iterdir())), None)


def _needs_list(root: Path, name: str) -> str:
    return f"it needs class folders, or a list {root / name}.csv with lines of path and class"


def _list_suffixes() -> tuple[str, ...]:
    from prune.data.labelled_lists import LIST_SUFFIXES

    return LIST_SUFFIXES


def _has_folders(root: Path) -> bool:
    return root.is_dir() and any(p.is_dir() and not p.name.startswith(".") for p in root.iterdir())
