"""Lists of samples as other projects publish them (rows, masks, ids or digests), and the rows of a source they name."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from prune.data.datacomp_uids import is_datacomp, rows_of_uids, uids_of
from prune.data.text_lists import read_id_lines, read_table
from prune.index.manifest import Manifest
from prune.index.matching import as_ids, checked_rows, find, first_repeat, path_hint, shown
from prune.runs.files import InputError, counted, note, read_json, unguarded

Kind = Literal["rows", "ids", "digests", "uids"]
_NUMBER = re.compile(rb"[+-]?[0-9]{1,18}")
_DIGEST = re.compile(rb"[0-9a-fA-F]{16}")
_BEHIND = re.compile(rb"\s+(?:#.*)?$", re.DOTALL)
"""What people write behind an id: spaces, and a comment."""
_COLUMNS: dict[str, Kind] = {
    "id": "ids",
    "path": "ids",
    "file": "ids",
    "filename": "ids",
    "file_name": "ids",
    "digest": "digests",
    "row": "rows",
    "position": "rows",
    "index": "rows",
}


@dataclass(frozen=True)
class Given:
    """A list as it was given.

    Attributes
    ----------
    path : Path
        The file, for messages.
    kind : str
        "rows", "ids", "digests" or "uids".
    values : (m,) int64, bytes, uint64, or pairs of uint64
        In the list's order, repetitions included.
    mask : int, optional
        Length of the mask in which the rows were marked: it must equal the number of images in whose order they count.
    """

    path: Path
    kind: Kind
    values: np.ndarray
    mask: int | None = None


def read_list(path: Path, kind: Kind | None = None) -> Given:
    """Read a list of samples.

    Parameters
    ----------
    path : Path
        .npy: whole numbers (rows), booleans (a mask over the rows), strings (ids) or pairs of halves (uids of
        DataComp). .csv, .tsv or .jsonl with a header: the first of the columns id, path, file, filename, digest, row,
        position, index that exists. .indices, .pt, .pth: a tensor or list of rows saved by torch. .json: a list of rows
        or ids, or an object that holds one as "indices", as `prune export` writes it. Anything else: text, one row, id
        or digest (16 hexadecimal digits) a line.
    kind : str, optional
        What the list holds, where its form leaves that open (ids that look like numbers).

    Raises
    ------
    InputError
        Not readable as such, or empty.
    """
    suffix = path.suffix.lower()
    if suffix == ".npy":
        given = _numpy(path, kind)
    elif suffix in (".indices", ".pt", ".pth"):
        given = _torch(path)
    elif suffix == ".npz":
        raise InputError(f"{path}: an archive of arrays; an index needs no import, and of others give the one .npy")
    elif suffix == ".json":
        given = _json(path, kind)
    elif suffix in (".csv", ".tsv", ".jsonl"):
        given = _csv(path, kind)
    else:
        given = _of_lines(path, _lines(path), kind)
    if kind is not None and given.kind != kind:
        raise InputError(f"{path}: holds {given.kind}, not {kind}")
    if not len(given.values):
        raise InputError(f"{path}: lists no samples")
    return given


def read_ids(path: Path) -> np.ndarray:
    """Read a listing of paths, one a line (or a .npy of strings), in its order: (n,) bytes."""
    return read_list(path, "ids").values


def without_comments(ids: np.ndarray, known: np.ndarray, path: Path) -> np.ndarray:
    """Ids whose line ends with spaces or a comment, without these; a line says how many.

    Parameters
    ----------
    ids : (m,) bytes
        As they were listed.
    known : (n,) bytes
        An id that is among these is never changed, and none becomes another than one of these.
    path : Path
        The list, for the line.

    Returns
    -------
    (m,) bytes
    """
    lost = np.flatnonzero(find(ids, known)[0] < 0)
    plain = [_BEHIND.sub(b"", name) for name in ids[lost].tolist()]
    changed = np.array([b != a for a, b in zip(ids[lost].tolist(), plain, strict=True)], bool)
    if not changed.any():
        return ids
    lost, names = lost[changed], np.array([b for b, one in zip(plain, changed, strict=True) if one], np.bytes_)
    there = find(names, known)[0] >= 0
    if not there.any():
        return ids
    found = ids.tolist()
    for at, name in zip(lost[there].tolist(), names[there].tolist(), strict=True):
        found[at] = name
    note(f"{path}: {counted(int(there.sum()), 'id')} read without the spaces or the comment behind it")
    return np.array(found, np.bytes_)


def _numpy(path: Path, kind: Kind | None) -> Given:
    try:
        array = np.load(path, allow_pickle=False)
    except Exception as error:  # a damaged header reaches any line of NumPy's parser
        raise InputError(f"{path}: not a plain .npy array ({type(error).__name__}: {error})") from None
    return _of_array(path, array, kind)


def _json(path: Path, kind: Kind | None) -> Given:
    listed = read_json(path)
    listed = listed.get("indices") if isinstance(listed, dict) else listed
    if not isinstance(listed, list) or {type(value) for value in listed} not in ({int}, {str}):
        raise InputError(f"{path}: a list of rows or of ids is expected, or an object that holds one as 'indices'")
    return _of_array(path, np.array(listed), kind)


def _of_array(path: Path, array: np.ndarray, kind: Kind | None) -> Given:
    if is_datacomp(array):
        return Given(path, "uids", array)
    if array.ndim != 1:
        raise InputError(f"{path}: an array of the shape {array.shape}; a list of samples has one dimension")
    if array.dtype.kind == "b":
        return Given(path, "rows", np.flatnonzero(array), len(array))
    if array.dtype.kind in "iu":
        if kind == "digests":
            return Given(path, "digests", array.astype(np.uint64))
        if len(array) and array.dtype == np.uint64 and int(array.max()) >= 1 << 62:
            raise InputError(f"{path}: numbers beyond any row; give --kind digests if they are digests")
        return Given(path, "rows", array.astype(np.int64))
    if array.dtype.kind == "S":
        return Given(path, "ids", array)
    if array.dtype.kind == "U":
        return Given(path, "ids", np.char.encode(array, "utf-8"))
    raise InputError(f"{path}: an array of {array.dtype}; whole numbers, booleans or strings are expected")


def _torch(path: Path) -> Given:
    import torch

    try:
        value = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch's readers fail in many ways on what is not theirs
        reason = str(error).split("\n")[0][:200]
        raise InputError(f"{path}: torch cannot read it safely ({type(error).__name__}: {reason})") from None
    if isinstance(value, (list, tuple)) and all(isinstance(v, int) and not isinstance(v, bool) for v in value):
        value = torch.tensor(value, dtype=torch.int64)
    if not isinstance(value, torch.Tensor):
        raise InputError(f"{path}: holds a {type(value).__name__}; a tensor or list of rows is expected")
    if value.is_floating_point() or value.is_complex():
        raise InputError(f"{path}: a tensor of {value.dtype}; whole numbers or booleans are expected")
    return _of_array(path, value.numpy(), None)


def _lines(path: Path) -> list[bytes]:
    return [line.encode("utf-8", "surrogateescape") for line in read_id_lines(path)]


def _csv(path: Path, kind: Kind | None) -> Given:
    table = read_table(path, tuple(_COLUMNS))
    columns = {name.lower(): place for place, name in reversed(list(enumerate(table.header or [])))}
    column = next((n for n, k in _COLUMNS.items() if n in columns and kind in (None, k)), None)
    if column is None:
        raise InputError(f"{path}: no column of {', '.join(_COLUMNS)}; found {', '.join(columns) or 'none'}")
    values = [row[columns[column]] for row in table.rows]
    values = [unguarded(value) for value in values]  # our own tables for people guard what looks like a formula
    return _of_lines(path, [value.encode("utf-8", "surrogateescape") for value in values], _COLUMNS[column])


def _of_lines(path: Path, lines: list[bytes], kind: Kind | None) -> Given:
    if kind is None:
        if all(_NUMBER.fullmatch(line.strip()) for line in lines):
            kind = "rows"
        else:
            kind = "digests" if all(_DIGEST.fullmatch(line.strip()) for line in lines) else "ids"
    if kind == "ids":
        return Given(path, "ids", np.array(lines, np.bytes_) if lines else np.zeros(0, "S1"))
    pattern, base = (_NUMBER, 10) if kind == "rows" else (_DIGEST, 16)
    wrong = [line for line in lines if not pattern.fullmatch(line.strip())]
    if wrong:
        raise InputError(f"{path}: {counted(len(wrong), 'line')} without a {kind[:-1]} (first: {wrong[0][:80]!r})")
    return Given(path, kind, np.array([int(line, base) for line in lines], np.int64 if kind == "rows" else np.uint64))


def listed_rows(
    given: Given,
    manifest: Manifest,
    *,
    listing: np.ndarray | None = None,
    root: str | None = None,
    separator: str | None = None,
    uids: Path | None = None,
    allow_changed: bool | None = False,
) -> tuple[np.ndarray, int]:
    """Find the samples of a list in a source.

    Parameters
    ----------
    given : Given
    manifest : Manifest
        Of the source.
    listing : (m,) bytes, optional
        Ids in whose order rows count; the manifest's when absent.
    root : str, optional
        Folder that the ids of the list (or of the listing) begin with; it is removed.
    separator : str, optional
        What lies between the parts of these ids, where that is not `/`.
    uids : Path, optional
        Table of the uids of the source's images; for a list of uids alone.
    allow_changed : bool
        Ignore listed samples that the source lacks, unless it lacks all. None: refuse them, as the caller has no flag
        --allow-changed that the error could name.

    Returns
    -------
    rows : (k,) int64
        Ascending.
    missing : int
        How many listed samples the source lacks.

    Raises
    ------
    InputError
        Repeated, missing or impossible entries: their number and the first.
    """
    if given.kind == "rows":
        n = len(manifest) if listing is None else len(listing)
        if given.mask not in (None, n):
            raise InputError(
                f"{given.path}: a mask of {given.mask} entries for {n} images; one entry for each is needed, "
                "in the manifest's order or in that of --listing"
            )
        rows = checked_rows(np.sort(given.values), n)
        if listing is None:
            return rows, 0
        return _by_id(given, plain_ids(listing, root, separator)[rows], manifest, allow_changed)
    if listing is not None:
        raise InputError(f"--listing is for lists of rows; {given.path} holds {given.kind}")
    if given.kind == "uids":
        known = uids_of(np.asarray(manifest.ids), uids)
        return rows_of_uids(given.values, known, given.path, allow_changed=bool(allow_changed))
    if given.kind == "ids":
        return _by_id(given, plain_ids(given.values, root, separator), manifest, allow_changed)
    return _by_digest(given, manifest, allow_changed)


def plain_ids(ids: np.ndarray, root: str | None, separator: str | None) -> np.ndarray:
    """The ids that paths, (n,) bytes, stand for; `InputError` for one that does not begin with `root`."""
    if root is None and separator is None:
        return ids
    try:
        return as_ids(ids.tolist(), root, separator)
    except ValueError as error:
        raise InputError(f"--root {root}: {error}") from None


def _by_id(given: Given, ids: np.ndarray, manifest: Manifest, allow_changed: bool | None) -> tuple[np.ndarray, int]:
    if (repeat := first_repeat(ids)) is not None:
        raise InputError(
            f"{given.path}: {counted(repeat[0], 'id is', 'ids are')} repeated (first: {shown(ids[repeat[1]])}); "
            "list each once"
        )
    rows, twice = find(ids, np.asarray(manifest.ids))
    if twice.any():
        raise InputError(f"{given.path}: the source lists {int(twice.sum())} of the ids more than once")
    lost = np.flatnonzero(rows < 0)
    if len(lost) and (plain := without_comments(ids, np.asarray(manifest.ids), given.path)) is not ids:
        return _by_id(given, plain, manifest, allow_changed)
    if len(lost) and (not allow_changed or len(lost) == len(rows)):
        way_out = path_hint(ids[lost], np.asarray(manifest.ids), flags=allow_changed is not None)
        way_out = way_out or _way_out(allow_changed)
        raise InputError(
            f"{given.path}: {len(lost)} of {len(ids)} samples are not in the source (first: {shown(ids[lost[0]])}; "
            f"the source's first: {shown(manifest.ids[0])}); {way_out}"
        )
    return np.sort(rows[rows >= 0]), len(lost)


def _way_out(allow_changed: bool | None) -> str:
    return "take them out of the list" if allow_changed is None else "--allow-changed ignores them"


def _by_digest(given: Given, manifest: Manifest, allow_changed: bool | None) -> tuple[np.ndarray, int]:
    digests = given.values
    if len(again := np.flatnonzero(np.diff(np.sort(digests)) == 0)):
        raise InputError(
            f"{given.path}: {counted(len(again), 'digest is', 'digests are')} repeated "
            f"(first: {np.sort(digests)[again[0]]:016x}); list each once"
        )
    listed = np.isin(manifest.digests, digests)  # all images with these bytes
    lost = digests[~np.isin(digests, manifest.digests)]
    if len(lost) and (not allow_changed or not listed.any()):
        raise InputError(
            f"{given.path}: {len(lost)} of {len(digests)} digests are not in the source (first: {lost[0]:016x}); "
            f"{_way_out(allow_changed)}"
        )
    return np.flatnonzero(listed), len(lost)
