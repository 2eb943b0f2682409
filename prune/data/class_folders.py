"""Lists a folder of class folders: which sub-folders are classes, and which files in them are images."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import numpy as np

from prune.data.listing import Listing
from prune.data.stored_images import SUFFIXES
from prune.runs.files import InputError


def list_class_folders(root: Path) -> Listing:
    if not root.exists():
        raise InputError(f"{root}: no such directory")
    if not root.is_dir():
        raise InputError(f"{root}: is not a directory; a folder with one folder per class is expected")
    classes = sorted((e.name for e in os.scandir(root) if e.is_dir() and not e.name.startswith(".")), key=os.fsencode)
    if not classes:
        raise InputError(f"{root}: holds no class folders; root/<class>/<image> is expected")
    if _are_splits(root, classes):
        raise InputError(
            f"{root}: holds {', '.join(classes)}, not classes: name one of them, as in {root / classes[0]}"
        )
    ids: list[str] = []
    labels: list[int] = []
    ignored = Counter(_suffix(e.name) for e in os.scandir(root) if e.is_file() and not e.name.startswith("."))
    for label, name in enumerate(classes):
        found = sorted(_files_below(root / name, name, ignored), key=os.fsencode)
        ids += found
        labels += [label] * len(found)
    order = sorted(range(len(ids)), key=lambda i: os.fsencode(ids[i]))  # "a b/" sorts before "a/", unlike "a b" and "a"
    ids = [ids[i] for i in order]
    return Listing(ids, np.array(labels, np.int32)[order], classes, lambda row: (root / ids[row]).read_bytes(), ignored)


def _are_splits(root: Path, folders: list[str]) -> bool:
    """Whether these folders are splits of a data set, each with class folders of its own, and not classes."""
    named = {folder.lower() for folder in folders} <= {"train", "training", "val", "valid", "validation", "test"}
    return named and all(any(e.is_dir() for e in os.scandir(root / folder)) for folder in folders)


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _files_below(folder: Path, prefix: str, ignored: Counter[str]) -> list[str]:
    found: list[str] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            name = f"{prefix}/{entry.name}"
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                found += _files_below(folder / entry.name, name, ignored)
            elif _suffix(entry.name) in SUFFIXES:
                found.append(name)
            else:
                ignored[_suffix(entry.name)] += 1
    return found
