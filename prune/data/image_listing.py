"""Lists images to write to a beton, wherever people keep them: `list_images` names the kinds of inputs.

Each is a `Listing`: ids, labels, class names, and a function that reads the bytes of one image.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from prune.data.class_folders import list_class_folders
from prune.data.labelled_lists import LIST_SUFFIXES, list_of_labels
from prune.data.listing import AS_USUAL, Listing, Reading, check_class_names, check_labels, first_line
from prune.data.shard_paths import Shards, find_shards
from prune.data.stored_images import SUFFIXES
from prune.data.tar_source import list_tars
from prune.runs.extras import need_modules
from prune.runs.files import InputError, counted


def list_images(place: str, classes: Sequence[str] | None = None, reading: Reading = AS_USUAL) -> Listing:
    """List the images at `place`.

    Parameters
    ----------
    place : str
        A directory `root/<class>/...`, or one with a `metadata.csv` or `metadata.jsonl` of Hugging Face; a list of
        paths and classes (.csv, .tsv, .txt, .jsonl), also as `list:FILE:ROOT`; `torchvision:NAME:ROOT[:SPLIT]`
        (already on disk; nothing is downloaded); `.parquet` files with an image column and a label column, as Hugging
        Face stores them, or WebDataset `.tar` shards: a file, a folder, or a pattern (`train-*.parquet`,
        `train-{000..146}.tar`); a folder of `datasets`' `save_to_disk`; `hf://OWNER/NAME[/CONFIG][:SPLIT]`.
    classes : sequence of str, optional
        Class names in the order to use, for a test split whose labels must match its train split. Labels that are
        numbers without names are positions in it.
    reading : Reading
        How to read it where that is open.

    Raises
    ------
    InputError
        Nothing there, no images, class names that no file could hold, or a class that `classes` lacks.
    """
    is_list = place.startswith("list:") or (Path(place).suffix.lower() in LIST_SUFFIXES and not Path(place).is_dir())
    shards = None if is_list or place.startswith(("torchvision:", "hf://")) else find_shards(place)
    is_table = place.startswith("hf://") or (shards is not None and shards.kind != "tar")
    if is_table and (reading.root or reading.delimiter):
        raise InputError(f"{place}: --root and --delimiter are for lists of paths and classes")
    if not is_list and not is_table and reading.of_a_list:
        raise InputError(
            f"{place}: --root, --path-column, --label-column and --delimiter are for lists of paths and classes"
        )
    if place.startswith("torchvision:"):
        listing = _torchvision(place)
    elif is_list:
        listing = _list(place, reading)
    elif place.startswith("hf://"):
        listing = _hub(place, reading)
    elif shards is not None:
        listing = _of_shards(shards, place, reading)
    else:
        listing = _folder(Path(place), reading)
    if not listing.ids:
        raise InputError(f"{place}: holds no images (looked for {', '.join(sorted(SUFFIXES))} in class folders)")
    check_class_names(place, listing.classes)
    return listing if classes is None else _relabel(listing, list(classes), place)


def _list(place: str, reading: Reading) -> Listing:
    _, file, root = place.split(":", 2) if place.count(":") > 1 and place.startswith("list:") else ("", "", "")
    if not file:
        return list_of_labels(Path(place.removeprefix("list:")), reading)
    if reading.root is not None:
        raise InputError(f"--root {reading.root}: {place} names the folder of its images already")
    return list_of_labels(Path(file), replace(reading, root=Path(root)))


def _folder(root: Path, reading: Reading) -> Listing:
    """Class folders; the table beside the images where there are no two of them."""
    table = next((root / name for name in ("metadata.csv", "metadata.jsonl") if (root / name).is_file()), None)
    if table is not None and sum(entry.is_dir() and entry.name[0] != "." for entry in root.iterdir()) < 2:
        return list_of_labels(table, reading)
    return list_class_folders(root, reading)


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


def _of_shards(shards: Shards, place: str, reading: Reading) -> Listing:
    if shards.kind == "tar":
        return list_tars(shards, place)
    need_modules("pyarrow")
    if shards.kind == "parquet":
        from prune.data.parquet_source import list_parquet

        return list_parquet(shards, place, reading)
    from prune.data.arrow_source import list_saved

    return list_saved(shards, place, reading)


def _hub(place: str, reading: Reading) -> Listing:
    need_modules("datasets")
    from prune.data.arrow_source import list_hub

    return list_hub(place, reading)


def _relabel(listing: Listing, classes: list[str], place: str) -> Listing:
    place_of = {name: i for i, name in enumerate(classes)}
    missing = [name for name in listing.classes if name not in place_of]
    remarks = listing.remarks
    if missing and listing.numbered:
        numbers = [int(name) for name in listing.classes]
        if max(numbers) >= len(classes):
            counting = " (do they count from 1?)" if min(numbers) > 0 and max(numbers) == len(classes) else ""
            raise InputError(
                f"{place}: its classes are numbers from {min(numbers)} to {max(numbers)}, and the given class list has "
                f"positions 0 to {len(classes) - 1}{counting}"
            )
        place_of = dict(zip(listing.classes, numbers))
        remarks = (
            *remarks,
            f"its classes are numbers: positions in the given {counted(len(classes), 'class')}",
        )
    elif missing:
        raise InputError(
            f"{place}: {counted(len(missing), 'class')} not in the given class list (first {missing[0]!r}; the list "
            f"begins with {classes[0]!r})"
        )
    table = np.array([place_of[name] for name in listing.classes], np.int32)
    return replace(listing, labels=table[listing.labels], classes=classes, remarks=remarks)
