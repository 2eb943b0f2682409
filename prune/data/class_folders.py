"""Lists a folder of class folders: which sub-folders are classes, and which files in them are images.

Nothing in a folder can hang or mislead a listing without a word: splits are no classes, what is no regular file is left
alone, a folder is read once however many links lead to it, and what torchvision's ImageFolder would list otherwise is
counted in `Listing.remarks`.
"""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from prune.data.listing import AS_USUAL, Listing, Reading, read_regular, shown_bytes
from prune.data.stored_images import SUFFIXES
from prune.runs.files import InputError, counted

SPLITS = frozenset(
    {"train", "training", "trainval", "val", "valid", "validation", "dev", "eval", "test", "testing", "extra"}
    | {"holdout", "unlabeled", "unlabelled"}
)
"""Names of folders, in lower case, that are splits of a data set where folders of images are in them."""
TOOLS = frozenset(
    {"@eaDir", "#recycle", "#snapshot", "$RECYCLE.BIN", "System Volume Information", "__MACOSX", "__pycache__"}
    | {"lost+found"}
)
"""Folders that file servers and programs make beside images, with copies and thumbnails in them."""
_OF_IMAGE_FOLDER = frozenset({".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp"})
"""`torchvision.datasets.folder.IMG_EXTENSIONS`."""
_SHOWN = 3
_PLURAL = {
    "hidden folder": "hidden folders",
    "hidden file": "hidden files",
    "folder of tools": "folders of tools",
    "link to a folder that was read before": "links to folders that were read before",
    "pipe, socket or device": "pipes, sockets and devices",
}
"""Why something in a folder is left out, and the same for several."""


@dataclass
class _Found:
    """What a walk meets apart from images: files by suffix, and names of what is left out, by the reason."""

    ignored: Counter[str] = field(default_factory=Counter)
    left_out: dict[str, list[str]] = field(default_factory=dict)

    def leave_out(self, reason: str, name: str) -> None:
        self.left_out.setdefault(reason, []).append(name)


def list_class_folders(root: Path, reading: Reading = AS_USUAL) -> Listing:
    """List the images of `root/<class>/...`.

    Parameters
    ----------
    root : Path
    reading : Reading
        With `nested`, folders inside a class folder belong to its class whatever they are called.

    Returns
    -------
    Listing
        Ids in the order of their bytes; classes in the order of theirs.

    Raises
    ------
    InputError
        No such folder, no class folders, or splits in the place of classes.
    """
    if not root.exists():
        raise InputError(f"{root}: no such directory")
    if not root.is_dir():
        raise InputError(f"{root}: is not a directory; a folder with one folder per class is expected")
    found = _Found()
    classes, loose = _class_folders(root, found)
    if not classes:
        raise InputError(f"{root}: {_without_classes(loose)}")
    ids_of = {name: _images_below(root, name, found) for name in classes}
    remarks = [] if reading.nested else _check_levels(root, ids_of)
    names = sorted((one for ids in ids_of.values() for one in ids), key=os.fsencode)  # "a b/" is before "a/"
    place = {name: label for label, name in enumerate(classes)}
    labels = np.array([place[name.split("/", 1)[0]] for name in names], np.int32)
    remarks += _differences_from_image_folder(names, found)
    return Listing(names, labels, classes, lambda row: read_regular(root / names[row]), found.ignored, tuple(remarks))


def _class_folders(root: Path, found: _Found) -> tuple[list[str], int]:
    """Class folders in the order of their names' bytes, and the number of images that lie beside them."""
    classes, loose = [], 0
    for entry in _sorted_entries(root):
        kind = kind_of(entry)
        if kind == "folder":
            if not _left_out(entry.name, entry.name, found):
                classes.append(entry.name)
        elif not entry.name.startswith("."):
            found.ignored[_suffix(entry.name)] += 1
            loose += _suffix(entry.name) in SUFFIXES
    return classes, loose


def _without_classes(loose: int) -> str:
    if not loose:
        return "holds no class folders; root/<class>/<image> is expected"
    return (
        f"holds no class folders, and {counted(loose, 'image')} in no class; root/<class>/<image> is expected, or a "
        "list of paths and classes: give that for the folder, as in list:LABELS.csv:FOLDER"
    )


def _left_out(name: str, path: str, found: _Found) -> bool:
    """Whether a folder is hidden or a tool's, and so no part of the images; it is counted."""
    if name in TOOLS:
        found.leave_out("folder of tools", path)
    elif name.startswith("."):
        found.leave_out("hidden folder", path)
    return name in TOOLS or name.startswith(".")


def _images_below(root: Path, name: str, found: _Found) -> list[str]:
    """Ids of the images in a class folder. Its own folders are read before those that links lead to, each once."""
    ids: list[str] = []
    seen = {_identity(root)}
    own, linked = deque([name]), deque[str]()
    while own or linked:
        folder = own.popleft() if own else linked.popleft()
        if (which := _identity(root / folder)) in seen:
            found.leave_out("link to a folder that was read before", folder)
            continue
        seen.add(which)
        for entry in _sorted_entries(root / folder):
            path, kind = f"{folder}/{entry.name}", kind_of(entry)
            if kind == "folder":
                if not _left_out(entry.name, path, found):
                    (linked if entry.is_symlink() else own).append(path)
            elif _suffix(entry.name) not in SUFFIXES:
                if not entry.name.startswith("."):
                    found.ignored[_suffix(entry.name)] += 1
            elif entry.name.startswith("."):
                found.leave_out("hidden file", path)
            elif kind == "other":
                found.leave_out("pipe, socket or device", path)
            else:  # a link to nowhere is an image that cannot be read, and is named as that when images are read
                ids.append(path)
    return ids


def kind_of(entry: os.DirEntry[str]) -> Literal["file", "folder", "other", "nowhere"]:
    """What a name stands for, links followed; "nowhere" for a link whose end is missing or leads in a circle."""
    try:
        if entry.is_dir():
            return "folder"
        if entry.is_file():
            return "file"
        return "other" if os.path.exists(entry.path) else "nowhere"
    except OSError:
        return "nowhere"


def _sorted_entries(folder: Path) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return sorted(entries, key=lambda entry: os.fsencode(entry.name))


def _identity(folder: Path) -> tuple[int, int]:
    state = os.stat(folder)
    return state.st_dev, state.st_ino


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _check_levels(root: Path, ids_of: Mapping[str, Sequence[str]]) -> list[str]:
    """Refuse folders that hold splits and not classes; remarks on classes whose images lie a level deeper."""
    inner: dict[str, list[str]] = {}  # of the folders whose images lie in folders inside: these folders
    flat = []
    for name, ids in ids_of.items():
        deeper = [one for one in ids if one.count("/") > 1]
        if 2 * len(deeper) > len(ids) and (len(deeper) == len(ids) or name.lower() in SPLITS):
            inner[name] = sorted({one.split("/", 2)[1] for one in deeper}, key=os.fsencode)
        elif ids and name.lower() in SPLITS:
            flat.append(name)
    if splits := [name for name in inner if name.lower() in SPLITS]:
        raise InputError(_named_splits(root, splits, flat, inner))
    shared = Counter(folder for folders in inner.values() for folder in folders)
    twice = sum(count > 1 for count in shared.values())
    if len(inner) > 1 and 2 * twice >= len(shared):
        names, common = list(inner), min(f for f, count in shared.items() if count > 1)
        raise InputError(
            f"{root}: {_some(names)} hold the same folders ({common!r} and others), as splits or domains of one "
            f"data set do: name one of them, as in {root / names[0]}; where they are classes, give --nested"
        )
    if not inner:
        return []
    first = next(iter(inner))
    return [
        f"in {len(inner)} of {counted(len(ids_of), 'class')} all images lie in folders inside, as in "
        f"{first}/{inner[first][0]}/: they are of the class {first!r}; where these folders are the classes, give "
        f"{root / first}"
    ]


def _named_splits(root: Path, splits: list[str], flat: list[str], inner: Mapping[str, Sequence[str]]) -> str:
    first = min(splits, key=lambda name: not name.lower().startswith("train"))
    text = (
        f"{root}: holds {_some(splits)}, not classes: name one of them, as in {root / first} (its classes are "
        f"{_some(inner[first])})"
    )
    if flat:
        text += f"; {flat[0]} has no class folders: give a list of its classes, as in list:LABELS.csv:{root / flat[0]}"
    return f"{text}; where {splits[0]!r} is a class, give --nested"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def _differences_from_image_folder(ids: Sequence[str], found: _Found) -> list[str]:
    """What torchvision's ImageFolder would list and this listing does not, and the other way round, as remarks."""
    remarks = []
    if found.left_out:
        parts = ", ".join(
            f"{counted(len(names), reason, _PLURAL[reason])} (first {shown_bytes(min(names))})"
            for reason, names in found.left_out.items()
        )
        remarks.append(f"left out, where torchvision's ImageFolder would look for images: {parts}")
    more = Counter(suffix for one in ids if (suffix := _suffix(one)) not in _OF_IMAGE_FOLDER)
    if more:
        kinds = ", ".join(f"{count} {suffix}" for suffix, count in more.most_common())
        remarks.append(f"listed, though torchvision's ImageFolder leaves them out by their names: {kinds}")
    return remarks
