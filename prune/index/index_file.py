"""The index file, `winnow-index/1`: its members, its checksum, and every reason to refuse a file.

`prune/README.md` describes the same for readers in other languages.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .matching import first_repeat, shown
from .npz import open_meta, open_with_text, save_arrays
from .whole_files import InputError, counted, need_file

FORMAT = "winnow-index/1"
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


def write(path: Path, columns: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> None:
    """Write an index file, atomically; equal content gives equal bytes.

    Parameters
    ----------
    path : Path
    columns : mapping of str to (k,) array
        The names of `COLUMNS`.
    meta : mapping
        JSON-serialisable, with "format".
    """
    ids = columns["id"]
    width = max(1, int(np.char.str_len(ids).max(initial=1)))  # from the content alone: equal content, equal bytes
    ready = {name: np.ascontiguousarray(columns[name], dtype=COLUMNS[name]) for name in COLUMNS if name != "id"}
    ready = {"id": np.ascontiguousarray(ids, dtype=f"S{width}"), **ready}
    save_arrays(path, {**ready, "checksum": _checksum(_text(meta), ready)}, meta)


def read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read and verify an index file; one pass over the file.

    Returns
    -------
    columns : dict of str to (k,) array
        The names of `COLUMNS`; further columns are covered by the checksum and not returned.
    meta : dict

    Raises
    ------
    InputError
        One line: no such file, not an index, a newer format, damaged, or content that `check` refuses.
    """
    path = _an_index(path)
    arrays, text = open_with_text(path, FORMAT, mapped=False)
    meta = json.loads(text)
    stored = arrays.pop("checksum", None)
    if stored is None or stored.dtype != np.uint8 or not np.array_equal(stored, _checksum(text, arrays)):
        raise InputError(f"{path}: damaged: the checksum does not match the content; fetch or make the index again")
    for name, kind in COLUMNS.items():
        column = arrays.get(name)
        if (
            column is None
            or column.ndim != 1
            or not (column.dtype.kind == "S" if kind == "S" else column.dtype == kind)
        ):
            raise InputError(f"{path}: not a valid index: column {name!r} is missing or of another type or shape")
    try:
        check(arrays, meta)
    except InputError as error:
        raise InputError(f"{path}: not a valid index: {error}") from None
    return {name: arrays[name] for name in COLUMNS}, meta


def read_meta(path: Path) -> dict[str, Any]:
    """Read the meta of an index file alone, provenance included: cheap, and the columns are not verified.

    Raises
    ------
    InputError
        No such file, not an index, newer, or a meta that is damaged or that no index can have.
    """
    path = _an_index(path)
    meta = open_meta(path, FORMAT)
    try:
        _check_meta(meta)
    except InputError as error:
        raise InputError(f"{path}: not a valid index: {error}") from None
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
    order = np.argsort(digests, kind="stable")
    ordered = digests[order]
    tied = np.zeros(len(order), bool)
    tied[1:] = ordered[1:] == ordered[:-1]
    tied[:-1] |= tied[1:]
    if tied.any():  # images with equal bytes: the id decides
        rows = order[tied]
        order[tied] = rows[np.lexsort((ids[rows], digests[rows]))]
    sha = hashlib.sha256(source.encode())
    for begin in range(0, len(order), _ROWS):
        rows = order[begin : begin + _ROWS]
        sha.update(digests[rows].astype("<u8").tobytes())
        sha.update(columns["label"][rows].astype("<i4").tobytes())
        sha.update(columns["quality"][rows].astype("|u1").tobytes())
        part = ids[rows]
        sha.update(np.char.str_len(part).astype("<i4").tobytes())
        sha.update(b"".join(part.tolist()))
    return sha.hexdigest()[:32]


def check(columns: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> None:
    """Raise for content that is impossible for an index.

    Raises
    ------
    InputError
        One line with the number of offending samples and the first.
    """
    _check_meta(meta)
    kept, source = len(columns["id"]), meta["source"]
    if any(len(columns[name]) != kept for name in COLUMNS) or meta["kept"] != kept:
        raise InputError("the columns differ in length from one another or from the meta's count")
    if kept > source["samples"]:
        raise InputError(f"keeps {kept} samples of a source with {source['samples']}")
    _refuse(columns, np.char.str_len(columns["id"]) == 0, "an empty id", "id")
    labels, classes = columns["label"], len(meta["classes"])
    _refuse(columns, (labels < 0) | (labels >= classes), f"a label outside [0, {classes})", "label")
    _refuse(columns, columns["reason"] >= len(meta["reasons"]), "a reason without a name", "reason")
    _refuse(columns, columns["quality"] > 200, "a quality above 200", "quality")
    _refuse(columns, columns["nbytes"] < 0, "a negative size", "nbytes")
    rows = columns["position"]
    _refuse(columns, (rows < -1) | (rows >= source["samples"]), f"a row outside [0, {source['samples']})", "position")
    known = rows[rows >= 0]
    if len(known) > 1 and not np.all(known[1:] > known[:-1]):
        known = np.sort(known)
        if len(again := np.flatnonzero(known[1:] == known[:-1])):
            raise InputError(f"{len(again)} repeated rows (first: row {known[again[0]]})")
    if (repeat := first_repeat(columns["id"])) is not None:
        raise InputError(f"{repeat[0]} repeated ids (first: {shown(columns['id'][repeat[1]])})")
    if not np.array_equal(np.bincount(labels, minlength=classes), meta["class_kept"]):
        raise InputError("the labels do not add up to the counts per class")
    if any(kept > total for kept, total in zip(meta["class_kept"], meta["class_total"])):
        raise InputError("a class keeps more samples than it has")


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
