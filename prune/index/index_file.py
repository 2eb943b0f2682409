"""The index file, `winnow-index/1` and `/2`: its members, its checksum, and every reason to refuse a file.

`prune/README.md` describes the same for readers in other languages.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .matching import ascending, first_repeat, shown
from .npz import open_meta, open_with_text, save_arrays
from .packed_ids import LARGE, MEMBERS, PackedIds, lengths, pack
from .whole_files import InputError, counted, need_file

FORMAT, PACKED = "winnow-index/1", "winnow-index/2"
"""Formats of a file with ids as an array, and with packed ids (`prune.index.packed_ids`), as large ones have."""
MEANING = "The samples listed here are the ones to KEEP; leave out all others."  # part of the format
COLUMNS = {
    "id": "S",
    "label": "<i4",
    "score": "<f4",
    "reason": "|u1",
    "quality": "|u1",
    "nbytes": "<i4",
    "position": "<i8",
    "digest": "<u8",
}
"""Members of the file besides `meta` and `checksum`, with their NumPy types ("S": bytes of a fixed width)."""
FIELDS = {
    "id": "ids",
    "label": "labels",
    "score": "scores",
    "reason": "reasons",
    "quality": "quality",
    "nbytes": "nbytes",
    "position": "positions",
    "digest": "digests",
}
"""Column of the file to field of `PrunedIndex`."""
_ROWS = 1 << 20
_HELD = 3 << 29
"""Bytes of packed ids that are unpacked at a time, for the fingerprint."""


def format_of(kept: int) -> str:
    """Format in which an index of so many samples is stored, unless another one is asked for."""
    return PACKED if kept > LARGE else FORMAT


def write(path: Path, columns: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> None:
    """Write an index file, atomically; equal content gives equal bytes.

    Parameters
    ----------
    path : Path
    columns : mapping of str to (k,) array
        The names of `COLUMNS`; ids may be packed.
    meta : mapping
        JSON-serialisable, with "format", which decides how the ids are stored.
    """
    ids = columns["id"]
    ready = {name: np.ascontiguousarray(columns[name], dtype=COLUMNS[name]) for name in COLUMNS if name != "id"}
    if meta["format"] == PACKED:
        ready |= (ids if isinstance(ids, PackedIds) else pack([ids])).members
    else:
        width = max(1, int(lengths(ids).max(initial=1)))  # from the content alone: equal content, equal bytes
        ready = {"id": np.ascontiguousarray(ids, dtype=f"S{width}"), **ready}
    save_arrays(path, {**ready, "checksum": _checksum(_text(meta), ready)}, meta)


def read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read and verify an index file; one pass over the file.

    Returns
    -------
    columns : dict of str to (k,) array
        The names of `COLUMNS`; further columns are covered by the checksum and not returned. Ids are packed where
        there are more than `LARGE`.
    meta : dict

    Raises
    ------
    InputError
        One line: no such file, not an index, a newer format, damaged, or content that `check` refuses.
    """
    columns, meta = open_columns(path, mapped=False, verify=True)
    if isinstance(ids := columns["id"], PackedIds) and len(ids) <= LARGE:
        if (needed := ids.dtype.itemsize * len(ids)) > max(1 << 26, 100 * Path(path).stat().st_size):
            raise InputError(
                f"{path}: made to fill the memory: its ids would take {needed / 1e6:,.1f} MB as an array; "
                "PrunedIndex.open reads them in blocks"
            )
        columns["id"] = np.asarray(ids)
    return columns, meta


def open_columns(path: Path, *, mapped: bool, verify: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """Open an index file: as `read`, with ids packed where they are stored so.

    Parameters
    ----------
    path : Path
    mapped : bool
        Map the columns instead of reading them.
    verify : bool
        Compare the checksum and check the content, which reads the whole file; without it only the meta and the
        columns' types and lengths are checked.
    """
    path = _an_index(path)
    arrays, text = open_with_text(path, PACKED, mapped=mapped)
    meta = json.loads(text)
    stored = arrays.pop("checksum", None)
    if stored is None or stored.dtype != np.uint8 or stored.shape != (32,):
        raise InputError(f"{path}: damaged: the checksum is missing; fetch or make the index again")
    if verify and not np.array_equal(stored, _checksum(text, arrays)):
        raise InputError(f"{path}: damaged: the checksum does not match the content; fetch or make the index again")
    try:
        columns = _columns_of(arrays, packed=meta["format"] == PACKED)
        if verify:
            check(columns, meta)
        else:
            _check_meta(meta)
            _check_lengths(columns, meta)
    except InputError as error:
        raise InputError(f"{path}: not a valid index: {error}; fetch or make the index again") from None
    return columns, meta


def _columns_of(arrays: Mapping[str, np.ndarray], packed: bool) -> dict[str, Any]:
    """The columns under the names of `COLUMNS`; `InputError` when one is missing or of another type."""
    wanted = {name: kind for name, kind in COLUMNS.items() if name != "id" or not packed} | (MEMBERS if packed else {})
    for name, kind in wanted.items():
        column = arrays.get(name)
        if (
            column is None
            or column.ndim != 1
            or not (column.dtype.kind == "S" if kind == "S" else column.dtype == kind)
        ):
            raise InputError(f"column {name!r} is missing or of another type or shape")
    columns: dict[str, Any] = {name: arrays[name] for name in COLUMNS if name != "id"}
    return {"id": PackedIds(*(arrays[name] for name in MEMBERS)) if packed else arrays["id"], **columns}


def read_meta(path: Path) -> dict[str, Any]:
    """Read the meta of an index file alone, provenance included: cheap, and the columns are not verified.

    Raises
    ------
    InputError
        No such file, not an index, newer, or a meta that is damaged or that no index can have.
    """
    path = _an_index(path)
    meta = open_meta(path, PACKED)
    try:
        _check_meta(meta)
    except InputError as error:
        raise InputError(f"{path}: not a valid index: {error}; fetch or make the index again") from None
    return meta


def _an_index(path: Path) -> Path:
    """Return the path; `InputError` when nothing is there, or a directory or a bare array."""
    path = need_file(path, "an index file")
    with open(path, "rb") as file:
        if file.read(6) == b"\x93NUMPY":
            raise InputError(f"{path}: a bare array identifies neither its source nor what to keep: use prune import")
    return path


def _text(meta: Mapping[str, Any]) -> bytes:
    """The bytes that `save_arrays` stores for `meta`."""
    return json.dumps(meta, sort_keys=True, allow_nan=False, ensure_ascii=False).encode()


def _checksum(text: bytes, columns: Mapping[str, np.ndarray]) -> np.ndarray:
    """SHA-256 over the meta's bytes and every column: name, type, length, bytes; columns by name. (32,) uint8."""
    sha = hashlib.sha256(f"meta:{len(text)}\n".encode() + text)
    for name in sorted(columns):
        column = np.ascontiguousarray(columns[name])
        sha.update(f"\n{name}:{column.dtype.str}:{','.join(map(str, column.shape))}\n".encode())
        sha.update(column.reshape(-1).view(np.uint8).data if column.size else b"")
    return np.frombuffer(sha.digest(), np.uint8)


def fingerprint(source: str, columns: Mapping[str, np.ndarray]) -> str:
    """Fingerprint of a selection: what is kept and at which quality, whatever the order, the scores and the reasons.

    SHA-256 over the source's fingerprint and, for every sample in the order of (digest, id): the digest, the label,
    the quality, the length of the id, the id.

    Returns
    -------
    str
        32 hexadecimal digits.
    """
    ids, digests = columns["id"], columns["digest"]
    order = _by_digest(ids, digests)
    sha = hashlib.sha256(source.encode())
    # Packed ids are unpacked in whole blocks, each of which holds ids of all digests: many rows are taken at a time.
    step, places = _ROWS, None
    if isinstance(ids, PackedIds):
        step *= max(1, _HELD // ids.dtype.itemsize // _ROWS)
        places = np.empty_like(order)
        places[order] = np.arange(len(order), dtype=order.dtype)
    for start in range(0, len(order), step):
        end = min(start + step, len(order))
        held = ids[order[start:end]] if places is None else ids.placed(places, start, end)
        for begin in range(start, end, _ROWS):
            rows = order[begin : min(begin + _ROWS, end)]
            sha.update(digests[rows].astype("<u8").tobytes())
            sha.update(columns["label"][rows].astype("<i4").tobytes())
            sha.update(columns["quality"][rows].astype("|u1").tobytes())
            part = held[begin - start : begin - start + len(rows)]
            sha.update(np.char.str_len(part).astype("<i4").tobytes())
            sha.update(b"".join(part.tolist()))
    return sha.hexdigest()[:32]


def _by_digest(ids: np.ndarray, digests: np.ndarray) -> np.ndarray:
    """Rows in the order of (digest, id), (k,) int, in as little memory as they fit into."""
    order: np.ndarray = np.argsort(digests)
    order = order.astype(np.uint32) if len(order) < 1 << 32 else order
    tied = np.zeros(len(order), bool)
    for begin in range(0, len(order), _ROWS):
        part = digests[order[begin : begin + _ROWS + 1]]
        same = part[1:] == part[:-1]
        tied[begin : begin + len(same)] |= same
        tied[begin + 1 : begin + 1 + len(same)] |= same
    if tied.any():  # images with equal bytes: the id decides
        rows = order[tied]
        order[tied] = rows[np.lexsort((ids[rows], digests[rows]))]
    return order


def check(columns: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> None:
    """Raise for content that is impossible for an index.

    Raises
    ------
    InputError
        One line with the number of offending samples and the first.
    """
    _check_meta(meta)
    _check_lengths(columns, meta)
    source = meta["source"]
    _refuse(columns, lengths(columns["id"]) == 0, "an empty id", "id")
    labels, classes = columns["label"], len(meta["classes"])
    _refuse(columns, (labels < 0) | (labels >= classes), f"a label outside [0, {classes})", "label")
    _refuse(columns, columns["reason"] >= len(meta["reasons"]), "a reason without a name", "reason")
    _refuse(columns, columns["quality"] > 200, "a quality above 200", "quality")
    _refuse(columns, columns["nbytes"] < 0, "a negative size", "nbytes")
    rows = columns["position"]
    _refuse(columns, (rows < -1) | (rows >= source["samples"]), f"a row outside [0, {source['samples']})", "position")
    if not ascending(rows):
        known = np.sort(rows[rows >= 0])
        if len(again := np.flatnonzero(known[1:] == known[:-1])):
            raise InputError(f"{len(again)} repeated rows (first: row {known[again[0]]})")
    if (repeat := first_repeat(columns["id"])) is not None:
        raise InputError(f"{repeat[0]} repeated ids (first: {shown(columns['id'][repeat[1]])})")
    if not np.array_equal(class_counts(labels, classes), meta["class_kept"]):
        raise InputError("the labels do not add up to the counts per class")
    if any(kept > total for kept, total in zip(meta["class_kept"], meta["class_total"])):
        raise InputError("a class keeps more samples than it has")


def _check_lengths(columns: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> None:
    kept, source = len(columns["id"]), meta["source"]
    if any(len(columns[name]) != kept for name in COLUMNS) or meta["kept"] != kept:
        raise InputError("the columns differ in length from one another or from the meta's count")
    if kept > source["samples"]:
        raise InputError(f"keeps {kept} samples of a source with {source['samples']}")


def _refuse(columns: Mapping[str, np.ndarray], bad: np.ndarray, what: str, name: str) -> None:
    if bad.any():
        row = int(np.argmax(bad))
        value = columns[name][row]
        raise InputError(
            f"{counted(int(bad.sum()), 'sample has', 'samples have')} {what} "
            f"(first: {shown(columns['id'][row])}, {value!s})"
        )


def _check_meta(meta: Mapping[str, Any]) -> None:
    def strings(value: Any) -> bool:
        return isinstance(value, list) and all(isinstance(v, str) for v in value)

    def whole(value: Any) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and value >= 0

    source, classes = meta.get("source"), meta.get("classes")
    wanted = {
        "source": isinstance(source, dict)
        and isinstance(source.get("fingerprint"), str)
        and all(whole(source.get(key)) for key in ("samples", "nbytes")),
        "kept": whole(meta.get("kept")),
        "fingerprint": isinstance(meta.get("fingerprint"), str),
        "classes": strings(classes),
        "reasons": strings(meta.get("reasons")),
        "provenance": isinstance(meta.get("provenance"), list)
        and all(isinstance(entry, dict) for entry in meta["provenance"]),
    }
    for name in ("class_kept", "class_total"):
        counts = meta.get(name)
        wanted[name] = (
            isinstance(counts, list)
            and all(map(whole, counts))
            and isinstance(classes, list)
            and len(counts) == len(classes)
        )
    if wrong := [name for name, fine in wanted.items() if not fine]:
        raise InputError(f"the meta's {', '.join(wrong)} {'is' if len(wrong) == 1 else 'are'} missing or malformed")


def class_counts(labels: np.ndarray, classes: int) -> np.ndarray:
    """Samples of each class, (classes,) int64; in blocks, since `np.bincount` makes a wider copy of its argument."""
    found = np.zeros(classes, np.int64)
    for begin in range(0, len(labels), _ROWS):
        found += np.bincount(labels[begin : begin + _ROWS], minlength=classes)
    return found


def column_of(name: str, rows: np.ndarray, given: Any, default: Any) -> np.ndarray:
    """A column of an index in the type of the file, (k,), `default` where none is given."""
    column = np.asarray(given if given is not None else np.broadcast_to(default, rows.shape))
    if column.shape != rows.shape:
        raise InputError(f"column {name!r} has the shape {column.shape}; {rows.shape} is expected")
    stored = column.astype(COLUMNS[name])
    if name != "score" and (changed := np.flatnonzero(stored != column)).size:
        raise InputError(f"column {name!r}: {column[changed[0]]} is no value that it can hold ({COLUMNS[name]})")
    return stored
