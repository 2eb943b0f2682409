"""Subset files of DataComp: a .npy of sample uids, each 128 bits as two 64-bit halves, sorted (Gadre et al., 2023).

A uid is written as 32 hexadecimal digits; the first 16 are the upper half. The source's images have them in their names
(`shard/139e4a9b22a614771f06c700a8ebe150`), or a table gives them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from prune.data.text_lists import read_table
from prune.index.matching import find, first_repeat, shown
from prune.runs.files import InputError, counted

UID = np.dtype("u8,u8")
"""What the file holds: upper and lower half."""
_HEX = re.compile(rb"[0-9a-fA-F]{32}")
_IDS = ("id", "path", "key", "file", "filename", "file_name")


def packed(uids: Sequence[bytes]) -> np.ndarray:
    """Turn uids of 32 hexadecimal digits into a DataComp array, (n,) of two uint64, sorted.

    Examples
    --------
    >>> packed([b"139e4a9b22a614771f06c700a8ebe150", b"00000000000000010000000000000002"]).tolist()
    [(1, 2), (1413649363202610295, 2235693070683988304)]
    """
    halves = np.frombuffer(bytes.fromhex(b"".join(uids).decode()), ">u8").astype("<u8")
    return np.sort(halves.view(UID))


def unpacked(array: np.ndarray) -> np.ndarray:
    """Turn a DataComp array, (n,) of two uint64, into uids (n,) bytes of 32 hexadecimal digits."""
    halves = np.stack([array["f0"], array["f1"]], axis=1).astype(">u8")
    text = halves.tobytes().hex().encode()
    return np.frombuffer(text, "S32") if len(array) else np.zeros(0, "S32")


def is_datacomp(array: np.ndarray) -> bool:
    """Whether an array is one of pairs of 64-bit halves."""
    kinds = [array.dtype[name].kind for name in array.dtype.names or ()]
    return array.ndim == 1 and array.dtype.names == ("f0", "f1") and kinds == ["u", "u"]


def uids_of(ids: np.ndarray, table: Path | None = None) -> np.ndarray:
    """Uids of images, (n,) bytes of 32 hexadecimal digits in lower case.

    Parameters
    ----------
    ids : (n,) bytes
        Ids in the manifest's order.
    table : Path, optional
        A table with columns of ids and `uid`. When absent, a uid is the last part of an id without its suffix.

    Raises
    ------
    InputError
        An image without a uid, or two with the same.
    """
    if table is None:
        names = [os.path.splitext(bytes(name).rsplit(b"/", 1)[-1])[0] for name in ids]
        way_out = "its name is none; give --uids TABLE with columns id and uid"
    else:
        names = _of_table(ids, table)
        way_out = f"{table} has none for it"
    wrong = [row for row, name in enumerate(names) if not _HEX.fullmatch(name)]
    if wrong:
        first = f"first {shown(ids[wrong[0]])}: {way_out}"
        raise InputError(
            f"{len(wrong)} of {counted(len(ids), 'image')} without a uid of 32 hexadecimal digits ({first})"
        )
    uids = np.array([name.lower() for name in names], "S32")
    if (again := first_repeat(uids)) is not None:
        raise InputError(f"{counted(again[0], 'image')} with the uid of another (first: {shown(uids[again[1]])})")
    return uids


def _of_table(ids: np.ndarray, file: Path) -> list[bytes]:
    table = read_table(file, (*_IDS, "uid"))
    columns = {name.lower(): place for place, name in enumerate(table.header or [])}
    key = next((columns[name] for name in _IDS if name in columns), None)
    if key is None or "uid" not in columns:
        raise InputError(f"--uids {file}: columns id and uid are expected; found {', '.join(columns) or 'no header'}")
    uid_of = {row[key].encode("utf-8", "surrogateescape"): row[columns["uid"]].strip().encode() for row in table.rows}
    return [uid_of.get(bytes(name), b"") for name in ids]


def rows_of_uids(listed: np.ndarray, uids: np.ndarray, path: Path, *, allow_changed: bool) -> tuple[np.ndarray, int]:
    """Rows of the images whose uids a subset file lists.

    Parameters
    ----------
    listed : (m,) of two uint64
    uids : (n,) bytes
        Of the source's images, in its order.
    path : Path
        The file, for messages.
    allow_changed : bool
        Ignore uids that the source lacks, unless it lacks all.

    Returns
    -------
    rows : (k,) int64
        Ascending.
    missing : int
        How many listed uids the source lacks.
    """
    wanted = unpacked(listed)
    if (again := first_repeat(wanted)) is not None:
        raise InputError(f"{path}: {counted(again[0], 'uid')} repeated (first: {shown(wanted[again[1]])})")
    rows, _ = find(wanted, uids)
    lost = np.flatnonzero(rows < 0)
    if len(lost) and (not allow_changed or len(lost) == len(rows)):
        raise InputError(
            f"{path}: {len(lost)} of {counted(len(rows), 'uid')} are not in the source "
            f"(first: {shown(wanted[lost[0]])}); --allow-changed ignores them"
        )
    return np.sort(rows[rows >= 0]), len(lost)
