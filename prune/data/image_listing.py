"""Lists images to write to a beton: a folder of class folders, a torchvision data set by name, or a parquet file.

Each is a `Listing`: ids, labels, class names, and a function that reads the bytes of one image.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from prune.data.class_folders import list_class_folders
from prune.data.listing import Listing, check_labels, first_line
from prune.data.stored_images import SUFFIXES
from prune.runs.files import InputError


def list_images(place: str, classes: Sequence[str] | None = None) -> Listing:
    """List the images at `place`.

    Parameters
    ----------
    place : str
        A directory `root/<class>/...`, `torchvision:NAME:ROOT[:SPLIT]` (already on disk; nothing is downloaded), or a
        `.parquet` file with an image column and a label column, as Hugging Face stores them.
    classes : sequence of str, optional
        Class names in the order to use, for a test split whose labels must match its train split.

    Raises
    ------
    InputError
        Nothing there, no images, or a class that `classes` lacks.
    """
    if place.startswith("torchvision:"):
        listing = _torchvision(place)
    elif place.endswith(".parquet"):
        listing = _parquet(Path(place))
    else:
        listing = list_class_folders(Path(place))
    if not listing.ids:
        raise InputError(f"{place}: holds no images (looked for {', '.join(sorted(SUFFIXES))} in class folders)")
    return listing if classes is None else _relabel(listing, list(classes), place)


def _torchvision(place: str) -> Listing:
    import inspect

    import torchvision

    _, name, root, split = [*place.split(":"), "train"][:4] if place.count(":") >= 2 else ("", "", "", "")
    if name not in torchvision.datasets.__all__:
        raise InputError(f"{place}: no such data set; torchvision:NAME:ROOT[:SPLIT] is expected")
    maker = getattr(torchvision.datasets, name)
    accepts = inspect.signature(maker).parameters
    chosen: dict[str, Any] = {}
    if "split" in accepts:
        chosen["split"] = split
    elif "train" in accepts:
        chosen["train"] = split == "train"
    if "download" in accepts:
        chosen["download"] = False
    many = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    needed = {key for key, value in accepts.items() if value.default is value.empty and value.kind not in many}
    if "root" not in accepts or needed - {"root", *chosen}:
        raise InputError(f"{place}: {name} is not a set of labelled images that can be opened with a folder alone")
    try:
        data = maker(root, **chosen)
        labels = _labels(data)
    except Exception as error:  # data sets raise all kinds of errors for missing or damaged files
        raise InputError(f"{place}: {first_line(error)} (it must be on disk already)") from None
    classes = [str(c) for c in getattr(data, "classes", range(int(labels.max(initial=-1)) + 1))]
    check_labels(place, labels, classes)
    width = len(str(len(data) - 1))

    def read(row: int) -> bytes:
        buffer = io.BytesIO()
        data[row][0].save(buffer, "PNG", compress_level=0)
        return buffer.getvalue()

    return Listing([f"{split}/{i:0{width}d}" for i in range(len(data))], labels, classes, read)


def _labels(data: Any) -> np.ndarray:
    """Labels of a torchvision data set, (n,) int32: a list, array or tensor of them, or one by one."""
    for name in ("targets", "_labels", "labels"):
        found = getattr(data, name, None)
        if found is not None and np.ndim(found) == 1:
            return np.array(found, np.int32)
    return np.array([data[i][1] for i in range(len(data))], np.int32)


def _parquet(path: Path) -> Listing:
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    import pyarrow.parquet as parquet

    try:
        table = parquet.read_table(path)
    except Exception as error:  # pyarrow raises all kinds of errors for a damaged file
        raise InputError(f"{path}: damaged, or not a parquet file ({first_line(error)})") from None
    image = next((n for n in ("image", "img", "jpg", "png") if n in table.column_names), None)
    label = next((n for n in ("label", "labels", "fine_label", "cls") if n in table.column_names), None)
    if image is None or label is None:
        raise InputError(f"{path}: columns image and label are expected; found {', '.join(table.column_names)}")
    column = table[image]
    try:
        labels = np.array(table[label].to_pylist(), np.int32)
    except (TypeError, ValueError, OverflowError):
        raise InputError(f"{path}: column {label} must hold a whole number for every image") from None
    most = int(labels.max(initial=-1))
    classes = [f"{i:0{len(str(most))}d}" for i in range(most + 1)]
    check_labels(path, labels, classes)
    width = len(str(len(labels) - 1))

    def read(row: int) -> bytes:
        cell = column[row].as_py()
        return (cell.get("bytes") if isinstance(cell, dict) else cell) or b""

    return Listing([f"{path.stem}/{i:0{width}d}" for i in range(len(labels))], labels, classes, read)


def _relabel(listing: Listing, classes: list[str], place: str) -> Listing:
    place_of = {name: i for i, name in enumerate(classes)}
    missing = [name for name in listing.classes if name not in place_of]
    if missing:
        raise InputError(f"{place}: {len(missing)} classes are not in the given class list, first {missing[0]!r}")
    table = np.array([place_of[name] for name in listing.classes], np.int32)
    return Listing(listing.ids, table[listing.labels], classes, listing.read, listing.ignored)
