"""Lists a data set from a file of paths and classes: CSV, TSV, JSON Lines or text, as people keep them beside images.

ILSVRC's `LOC_val_solution.csv` and `val.txt` for a flat val/, `metadata.csv` of Hugging Face's imagefolder, and tables
of one's own. A path is relative to a folder and may lack its suffix; every image has one class.
"""

from __future__ import annotations

import os
import re
import stat
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from prune.data.listing import Listing, Reading, read_regular, shown_bytes
from prune.data.stored_images import SUFFIXES
from prune.data.text_lists import TABLES, Table, read_lines, read_table
from prune.runs.files import InputError, counted

LIST_SUFFIXES = (".csv", ".tsv", ".txt", ".jsonl")
_PATHS = (
    "file_name", "filename", "file_path", "filepath", "path", "file", "image_path", "image_file", "image", "img",
    "imageid", "image_id", "image_name", "id",
)  # fmt: skip
_CLASSES = ("label", "labels", "class", "class_name", "classname", "category", "synset", "wnid", "target", "fine_label")
_BOXES = "predictionstring"
"""Column of `LOC_val_solution.csv`: a class and four numbers for each box in the image."""


def list_of_labels(file: Path, reading: Reading) -> Listing:
    """List the images that a file of paths and classes names.

    Parameters
    ----------
    file : Path
    reading : Reading
        `root`: the folder that paths are relative to (the file's own when absent); `path_column` and `label_column`:
        names or, from 1, numbers of the columns; `delimiter`.

    Returns
    -------
    Listing
        Ids are the paths relative to the root, in the order of their bytes. Classes in the order of their bytes, or of
        their numbers.

    Raises
    ------
    InputError
        No such columns, no file under the root, a path outside it, or an image without or with several classes.
    """
    root = file.parent if reading.root is None else reading.root
    if not root.is_dir():
        raise InputError(f"--root {root}: no such directory; the paths of {file} are relative to it")
    named = [name.lower() for name in (reading.path_column, reading.label_column) if name and not name.isdigit()]
    table = read_table(file, (*_PATHS, *_CLASSES, _BOXES, *named), reading.delimiter)
    if not table.rows:
        raise InputError(f"{file}: lists no images; a line has the path of an image and its class")
    at, by, remarks = _columns(file, table, reading)
    if table.header is None and len(table.rows) > 1 and [_is_image(row[at]) for row in table.rows[:2]] == [False, True]:
        table = Table(table.rows[0], table.rows[1:])  # a header of words that are not known here
    boxes = table.header is not None and table.header[by].lower() == _BOXES
    names = [_class_of(file, number, row, by, boxes) for number, row in enumerate(table.rows, 1)]
    class_of, repeated = _one_class_each(file, _ids(file, root, [row[at].strip() for row in table.rows]), names)
    if repeated:
        remarks.append(f"{counted(repeated, 'line')} repeated, and read once")
    numbered = all(re.fullmatch(r"[0-9]{1,9}", name) for name in names)
    _check_meaning(file, names, numbered)
    classes = sorted(set(names), key=(lambda name: (int(name), name)) if numbered else os.fsencode)
    ids, left_out, missing = _on_disk(file, root, class_of)
    if left_out:
        remarks.append(
            f"left out {counted(len(left_out), 'name')} of no regular file (first {shown_bytes(left_out[0])})"
        )
    if missing:
        remarks.append(f"{counted(len(missing), 'image')} not found in {root} (first {shown_bytes(missing[0])})")
    place = {name: label for label, name in enumerate(classes)}
    labels = np.array([place[class_of[one]] for one in ids], np.int32)
    return Listing(
        ids, labels, classes, lambda row: read_regular(root / ids[row]), remarks=tuple(remarks), numbered=numbered
    )


def paths_and_classes(file: Path) -> tuple[list[str], list[str] | None]:
    """The paths of a list as they are written, and their classes where it has them, for comparison with other lists.

    Raises
    ------
    InputError
        No text, or a table without a column of paths.
    """
    if file.suffix.lower() not in TABLES:
        return read_lines(file), None
    table = read_table(file, (*_PATHS, *_CLASSES, _BOXES))
    if not table.rows:
        raise InputError(f"{file}: lists no images; a line has the path of an image and its class")
    if table.header is None or len(table.header) == 1:
        at, by = 0, 1 if len(table.rows[0]) == 2 else None
    else:
        at, by, _ = _columns(file, table, Reading())
    return [row[at].strip() for row in table.rows], None if by is None else [row[by].strip() for row in table.rows]


def folder_of(file: Path, folders: Sequence[Path]) -> Path | None:
    """The first of these folders that holds the first image of a list; None where none does, or it is no such list."""
    try:
        table = read_table(file, (*_PATHS, *_CLASSES, _BOXES))
        if not table.rows:
            return None
        at, _, _ = _columns(file, table, Reading())
    except InputError:
        return None
    for folder in folders:
        one = _ids(file, folder, [table.rows[-1][at].strip()])[0]
        if os.path.exists(folder / _with_suffix(file, folder, one, {})):
            return folder
    return None


def _is_image(path: str) -> bool:
    return os.path.splitext(path.strip())[1].lower() in SUFFIXES


def _columns(file: Path, table: Table, reading: Reading) -> tuple[int, int, list[str]]:
    """Positions of the columns of paths and classes, and a remark that names them where the user did not."""
    width = len(table.rows[0])
    at = _given(file, table, width, "--path-column", reading.path_column)
    by = _given(file, table, width, "--label-column", reading.label_column)
    if table.header is None:
        if width < 2:
            raise InputError(f"{file}: {table.rows[0][0]!r} is a path without a class; a path and a class are expected")
        if width > 2 and by is None:
            raise InputError(
                f"{file}: has {width} columns without names: say which holds the class, as in --label-column 2"
            )
        return at or 0, 1 if by is None else by, []
    names = [name.lower() for name in table.header]
    at = next((names.index(name) for name in _PATHS if name in names), None) if at is None else at
    if at is None:
        raise InputError(f"{file}: which column holds the paths? {_of(table)}; give --path-column NAME")
    if by is None:
        found = [names.index(name) for name in (*_CLASSES, _BOXES) if name in names and names.index(name) != at]
        found = found or [k for k in range(len(names)) if k != at]
        if len(found) != 1:
            raise InputError(f"{file}: which column holds the classes? {_of(table)}; give --label-column NAME")
        by = found[0]
    return at, by, [f"paths from column {table.header[at]!r}, classes from column {table.header[by]!r}"]


def _given(file: Path, table: Table, width: int, flag: str, column: str | None) -> int | None:
    if column is None:
        return None
    if table.header is not None and column in table.header:
        return table.header.index(column)
    if column.isdigit() and 1 <= int(column) <= width:
        return int(column) - 1
    raise InputError(f"{flag} {column}: {file} has no such column; {_of(table)}")


def _of(table: Table) -> str:
    return f"there are {', '.join(table.header)}" if table.header else f"there are 1 to {len(table.rows[0])}"


def _class_of(file: Path, number: int, row: Sequence[str], by: int, boxes: bool) -> str:
    text = row[by].strip()
    if not text or text.lower() in ("nan", "null", "none", "[]"):
        raise InputError(
            f"{file}: image {number} ({row[0][:80]!r}) has no class; one class an image is supported: name one, or "
            "leave the line out"
        )
    several = sorted(set(text.split()[::5])) if boxes else _several(text)
    if several and len(several) > 1:
        raise InputError(
            f"{file}: image {number} has several classes ({', '.join(several[:3])}); one class an image is supported"
        )
    return several[0] if several else text


def _several(text: str) -> list[str]:
    """The entries of a cell that holds a list, as `["a", "b"]`; a cell with one word is its own class."""
    if not (text.startswith("[") and text.endswith("]")):
        return []
    return [part.strip().strip("'\"") for part in text[1:-1].split(",")]


def _one_class_each(file: Path, ids: Sequence[str], names: Sequence[str]) -> tuple[dict[str, str], int]:
    """Class of every id, and how many lines were repeated."""
    class_of: dict[str, str] = {}
    for one, name in zip(ids, names):
        if class_of.setdefault(one, name) != name:
            raise InputError(
                f"{file}: {shown_bytes(one)} has several classes ({class_of[one]!r} and {name!r}); one class an image "
                "is supported"
            )
    return class_of, len(ids) - len(class_of)


def _check_meaning(file: Path, names: Sequence[str], numbered: bool) -> None:
    """Refuse a column that cannot be one of classes: a running number, or combinations of classes."""
    kinds = Counter(names)
    if (
        numbered
        and len(names) > 2
        and [int(name) for name in names]
        in (
            list(range(len(names))),
            list(range(1, len(names) + 1)),
        )
    ):
        raise InputError(f"{file}: the second value of each line is a running number and not a class (1, 2, 3, ...)")
    for mark in ";|":
        parts = {part.strip() for name in kinds if mark in name for part in name.split(mark)}
        if parts & kinds.keys():
            both = next(name for name in kinds if mark in name)
            raise InputError(f"{file}: {both!r} are several classes; one class an image is supported")


def _ids(file: Path, root: Path, paths: Sequence[str]) -> list[str]:
    """Paths relative to the root, `/` between parts."""
    ids = []
    for number, path in enumerate(paths, 1):
        name = path
        if "\\" in name and not os.path.exists(root / name):
            name = name.replace("\\", "/")
        if name.startswith("/"):
            if not PurePosixPath(name).is_relative_to(root.absolute().as_posix()):
                raise InputError(f"{file}: {path!r} is not in {root}; give --root the folder that paths begin with")
            name = PurePosixPath(name).relative_to(root.absolute().as_posix()).as_posix()
        parts = PurePosixPath(name).parts
        if not parts:
            raise InputError(
                f"{file}: image {number} of the list has a class and no path: write its path, or remove the line"
            )
        if ".." in parts:
            raise InputError(f"{file}: {path!r} leads out of {root}; give --root the folder that holds all images")
        ids.append("/".join(parts))
    return ids


def _on_disk(file: Path, root: Path, ids: dict[str, str]) -> tuple[list[str], list[str], list[str]]:
    """Ids to read in order, paths of no regular file, and ids of missing files; `ids` gets the suffixes they lack."""
    left_out, missing = [], []
    stems: dict[Path, dict[str, list[str]]] = {}
    for one in list(ids):
        name = one if os.path.lexists(root / one) else _with_suffix(file, root, one, stems)
        if name != one and ids.setdefault(name, ids[one]) != ids.pop(one):
            raise InputError(f"{file}: {shown_bytes(name)} has several classes; one class an image is supported")
        try:
            if not stat.S_ISREG(os.stat(root / name).st_mode):
                left_out.append(name)
        except OSError:
            missing.append(name)
    if len(missing) == len(ids):
        raise InputError(
            f"{file}: none of its {counted(len(ids), 'image')} is in {root} ({_way_out(file, root, missing[0])})"
        )
    gone = set(left_out)
    return sorted((one for one in ids if one not in gone), key=os.fsencode), left_out, missing


def _with_suffix(file: Path, root: Path, one: str, stems: dict[Path, dict[str, list[str]]]) -> str:
    """The id with the suffix of the image of this name, where it has none in the list."""
    if _is_image(one):
        return one
    folder, name = (root / one).parent, one.rsplit("/", 1)[-1]
    if folder not in stems:
        stems[folder] = {}
        for image in sorted(os.listdir(folder)) if folder.is_dir() else []:
            if os.path.splitext(image)[1].lower() in SUFFIXES:
                stems[folder].setdefault(os.path.splitext(image)[0], []).append(image)
    found = stems[folder].get(name, [])
    if len(found) > 1:
        raise InputError(f"{file}: {one!r} may be {' or '.join(found)}: the list must name the suffix")
    return one.removesuffix(name) + found[0] if found else one


def _way_out(file: Path, root: Path, one: str) -> str:
    """Which --root would be right, where the folders about tell."""
    first = f"first {shown_bytes(one)}"
    near = [*root.absolute().parents][:3] + sorted(Path(e.path) for e in os.scandir(root) if e.is_dir())
    if (better := next((folder for folder in near if os.path.exists(folder / one)), None)) is not None:
        return f"{first}, which is in {better}: give --root {better}, or list:{file}:{better}"
    shorter = (k for k in range(1, one.count("/") + 1) if os.path.exists(root / one.split("/", k)[k]))
    if (short := next(shorter, None)) is not None:
        above = root.absolute()
        for part in reversed(one.split("/")[:short]):
            if above.name != part:
                return f"{first}; {root} has {one.split('/', short)[short]!r}: the list needs paths relative to it"
            above = above.parent
        return f"{first}, which is in {above}: give --root {above}, or list:{file}:{above}"
    return f"{first}; give --root FOLDER, in which the paths begin, or list:{file}:FOLDER"
