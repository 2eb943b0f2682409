"""Finds the shards that a place names: parquet or tar files by folder, glob or braces, or a folder of `save_to_disk`.

Shards of several splits (train-00000-of-00002.parquet beside validation-...) are never mixed: the message names one.
"""

from __future__ import annotations

import fnmatch
import glob
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

from prune.data.stored_images import SUFFIXES
from prune.runs.files import InputError, note, read_json

Kind = Literal["parquet", "tar", "arrow"]
_KINDS: dict[str, Kind] = {".parquet": "parquet", ".tar": "tar"}
_NUMBERED = re.compile(r"(?P<split>.+?)[-_.](?P<shard>\d{3,})-of-(?P<count>\d{3,})", re.ASCII)
"""Shard names as `datasets` and the hub write them."""
_SPLIT = re.compile(
    r"(?:^|[^a-z])(train|training|val|valid|validation|dev|test|testing|eval|evaluation)(?![a-z])", re.ASCII
)
_COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")


@dataclass(frozen=True)
class Shards:
    """Files that are one source.

    Attributes
    ----------
    kind : {"parquet", "tar", "arrow"}
    files : list of Path
        In the order of their names.
    names : list of str
        Unique, the first part of every id: the file's name without its suffix, with folders where files share names.
    """

    kind: Kind
    files: list[Path]
    names: list[str]


def find_shards(place: str) -> Shards | None:
    """Find the shards at a place; None where it is a folder without shards, or nothing is there.

    Parameters
    ----------
    place : str
        A .parquet or .tar file; a folder of them, with sub-folders; a pattern such as `train-*.parquet` or
        `train-{000..146}.tar`; a folder of `datasets`' `save_to_disk`.

    Raises
    ------
    InputError
        Several splits or kinds of files, an incomplete set, a pattern without a match.
    """
    path = Path(place)
    if path.is_file():
        _refuse_compressed([path])
        kind = _KINDS.get(path.suffix.lower())
        return Shards(kind, [path], [path.stem]) if kind else None
    if path.is_dir():
        return _in_folder(path)
    if re.search(r"[*?\[{]", place) and place.endswith((*_KINDS, *_COMPRESSED)):
        return _by_pattern(place)
    if path.suffix.lower() in _KINDS:
        raise InputError(f"{place}: no such file")
    return None


def _in_folder(folder: Path) -> Shards | None:
    if (folder / "dataset_dict.json").is_file():
        splits = read_json(folder / "dataset_dict.json").get("splits") or ["train"]
        raise InputError(
            f"{folder}: holds the splits {', '.join(splits)}: name one of them, as in {folder / splits[0]}"
        )
    if (folder / "state.json").is_file() and (folder / "dataset_info.json").is_file():
        state = read_json(folder / "state.json")
        files = [folder / str(entry["filename"]) for entry in state.get("_data_files", [])]
        if lost := [file.name for file in files if not file.is_file()]:
            raise InputError(f"{folder}: {len(lost)} of its {len(files)} files are missing, first {lost[0]}")
        return Shards("arrow", files, [file.stem for file in files])
    if not (found := _files_below(folder)):
        return None
    groups = _by_split(found, folder)
    if len(groups) > 1:
        first = "train" if "train" in groups else min(groups)
        shown = ", ".join(sorted(name or "(without a name)" for name in groups))
        way = _pattern_of(groups[first], found)
        raise InputError(f"{folder}: holds the splits {shown}: name one of them, as in --images '{way}'")
    way = f"; to write these alone, give --images '{_pattern_of(found, found)}'"
    if lost_words := _incomplete(found):
        raise InputError(f"{folder}: {lost_words}{way}")
    return _shards(found, str(folder))


def _by_pattern(pattern: str) -> Shards:
    found: set[Path] = set()
    lost = []
    for part in _expanded(pattern):
        if re.search(r"[*?\[]", part):
            found |= {Path(name) for name in glob.glob(part, recursive=True) if os.path.isfile(name)}
        elif os.path.isfile(part):
            found.add(Path(part))
        else:
            lost.append(part)
    if lost:
        raise InputError(f"{pattern}: {len(lost)} of its files are missing, first {lost[0]}")
    if not found:
        raise InputError(f"{pattern}: no file matches")
    _refuse_compressed(sorted(found))
    files = sorted(found)
    if words := _incomplete(files):
        note(f"{pattern}: {words}")
    return _shards(files, pattern)


def _expanded(pattern: str) -> list[str]:
    if "{" not in pattern:
        return [pattern]
    from braceexpand import braceexpand

    try:
        return list(dict.fromkeys(braceexpand(pattern)))
    except ValueError as error:
        raise InputError(f"{pattern}: {error}") from None


def _files_below(folder: Path) -> list[Path]:
    """Shards in a folder and its sub-folders; none where a sub-folder holds images: then it is a folder of classes."""
    found: list[Path] = []
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        here = [name for name in sorted(names) if not name.startswith(".")]
        links = [path for name in folders if os.path.islink(path := os.path.join(place, name))]
        if any(_is_image(name) for link in links for _, _, inside in islice(os.walk(link), 1) for name in inside):
            return []
        if place != str(folder) and any(map(_is_image, here)):
            return []
        shards = [Path(place, name) for name in here if Path(name).suffix.lower() in _KINDS]
        found += [shard for shard in shards if shard.is_file()]  # reading a pipe would never end
    return found


def _is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in SUFFIXES


def _by_split(files: Sequence[Path], root: Path) -> dict[str, list[Path]]:
    groups: dict[str, list[Path]] = {}
    for file in files:
        groups.setdefault(_split_of(file.relative_to(root)), []).append(file)
    return groups


def _split_of(file: Path) -> str:
    """The split that a shard's name says it belongs to, or its nearest folder's; "" where none does."""
    if numbered := _NUMBERED.fullmatch(file.stem):
        return numbered["split"]
    for part in (file.stem, *reversed(file.parts[:-1])):
        if said := _SPLIT.findall(part.lower()):
            return str(said[-1])
    return ""


def _pattern_of(files: Sequence[Path], among: Sequence[Path]) -> str:
    """A glob that matches these files and no other ones of `among`; their first file where there is none."""
    folder = os.path.commonpath([file.parent for file in files])
    begin = os.path.commonprefix([file.name for file in files]) if len(files) > 1 else files[0].stem  # noqa: RUF071
    begin = begin if len(files) == 1 else begin.rstrip("0123456789")
    for middle in ("*", "**/*"):
        pattern = f"{folder}/{middle.removesuffix('*')}{begin}*{files[0].suffix}"
        if {file for file in among if _matches(file, pattern)} == set(files):
            return pattern
    return str(files[0])


def _matches(file: Path, pattern: str) -> bool:
    deep = "/**/" in pattern
    base, _, name = pattern.rpartition("/**/" if deep else "/")
    inside = file.is_relative_to(base) if deep else str(file.parent) == base
    return inside and fnmatch.fnmatchcase(file.name, name)


def _incomplete(files: Sequence[Path]) -> str:
    """Say how many shards of a numbered set (-00001-of-00002) are missing; "" where none is."""
    sets: dict[tuple[str, str, int], set[int]] = {}
    for file in files:
        if numbered := _NUMBERED.fullmatch(file.stem):
            key = str(file.parent), numbered["split"], int(numbered["count"])
            sets.setdefault(key, set()).add(int(numbered["shard"]))
    for (_, split, count), there in sets.items():
        if lost := sorted(set(range(count)) - there):
            return f"{len(lost)} of the {count} shards of {split} are missing, first number {lost[0]}"
    return ""


def _shards(files: list[Path], place: str) -> Shards:
    suffixes = sorted({file.suffix.lower() for file in files})
    if len(suffixes) > 1:
        raise InputError(f"{place}: holds {' and '.join(suffixes)} files: name one kind, as in '*{suffixes[0]}'")
    names = [file.stem for file in files]
    if len(set(names)) < len(names):
        root = os.path.commonpath([file.parent for file in files])
        names = [file.relative_to(root).with_suffix("").as_posix() for file in files]
    order = sorted(range(len(files)), key=lambda k: os.fsencode(f"{names[k]}/"))  # as the ids are sorted
    return Shards(_KINDS[suffixes[0]], [files[k] for k in order], [names[k] for k in order])


def _refuse_compressed(files: Sequence[Path]) -> None:
    if packed := [file for file in files if file.name.lower().endswith(_COMPRESSED)]:
        raise InputError(f"{packed[0]}: a compressed tar cannot be read at any place: unpack it to a plain .tar first")
