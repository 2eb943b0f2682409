"""Find samples by name or by digest in another listing: sorted 64-bit keys, then the names themselves.

Functions on arrays. 14 million names take seconds where a dictionary of Python strings would take gigabytes. A hash
only proposes a match; the bytes of the names decide, so two names that share a hash cost time and never a wrong row.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import numpy as np

from .packed_ids import PackedIds
from .whole_files import InputError, counted

_ROWS = 1 << 16  # rows hashed or compared at a time: the work arrays stay in the cache
_SOUGHT = 1 << 20  # names that are looked up at a time


def as_ids(
    listing: Iterable[Any], root: str | os.PathLike[str] | None = None, separator: str | None = None
) -> np.ndarray:
    """Turn a listing of paths into the form in which an index stores them.

    Parameters
    ----------
    listing : (n,) str, bytes or path-like; a NumPy array or any iterable
    root : path, optional
        Folder that the paths begin with; it is removed.
    separator : str, optional
        What lies between the parts of the paths, where that is not this system's separator: a backslash in a listing
        made on Windows.

    Returns
    -------
    (n,) bytes
        UTF-8, `/` between parts.

    Raises
    ------
    ValueError
        A path does not begin with `root`.
    TypeError
        An element is not a path.
    """
    if root is None and separator is None:
        if isinstance(listing, np.ndarray) and listing.dtype.kind == "S":
            return listing.reshape(-1)
        if isinstance(listing, PackedIds):
            return listing  # type: ignore[return-value]  # read like an array
    if isinstance(listing, (str, bytes)):
        raise TypeError("a listing is a sequence of paths; a single one was given")
    names = [_encoded(path, separator) for path in listing]
    if root is not None:
        start = _encoded(root, separator).rstrip(b"/") + b"/"
        for name in names:
            if not name.startswith(start):
                raise ValueError(f"{name.decode('utf-8', 'replace')!r} does not begin with {start.decode()!r}")
        names = [name[len(start) :].lstrip(b"/") for name in names]
    return np.array(names, dtype=np.bytes_) if names else np.zeros(0, "S1")


def _encoded(path: Any, separator: str | None = None) -> bytes:
    path = path if isinstance(path, (str, bytes)) else os.fspath(path)
    name = path.encode("utf-8", "surrogateescape") if isinstance(path, str) else bytes(path)
    separator = separator or os.sep
    return name if separator == "/" else name.replace(separator.encode(), b"/")


def path_hint(listing: np.ndarray, ids: np.ndarray, *, flags: bool) -> str:
    """Which `root` and `separator` would turn names of a listing into ids; "" where none would.

    Parameters
    ----------
    listing, ids : (n,) and (k,) bytes
        The first 1,000 names of the listing are tried.
    flags : bool
        Name them as flags of a command and not as arguments of a function.

    Examples
    --------
    >>> path_hint(np.array([b"im/cat/1.jpg"]), np.array([b"cat/1.jpg"]), flags=True)
    "give --root 'im'"
    """
    some = np.asarray(listing[:1000]).tolist()
    for separator in ("/", "\\"):
        names = [name.replace(separator.encode(), b"/") for name in some]
        for depth in range(max((name.count(b"/") for name in names), default=0) + 1):
            shorter = [(name.split(b"/", depth), name) for name in names if name.count(b"/") >= depth]
            rows, _ = find(np.array([parts[depth] for parts, _ in shorter], np.bytes_), ids)
            if not (rows >= 0).any() or (separator == "/" and not depth):
                continue
            root = b"/".join(shorter[int(np.argmax(rows >= 0))][0][:depth]).decode("utf-8", "backslashreplace")
            given = {"root": (root or "/") if depth else "", "separator": separator if separator != "/" else ""}
            words = (f"--{key} {value!r}" if flags else f"{key}={value!r}" for key, value in given.items() if value)
            return f"give {(' ' if flags else ', ').join(words)}"
    return ""


def hashes(ids: np.ndarray, seed: int = 0) -> np.ndarray:
    """Hash names to 64 bits; the width of the column does not matter.

    Parameters
    ----------
    ids : (n,) bytes
    seed : int
        Another seed gives unrelated values.

    Returns
    -------
    (n,) uint64
    """
    width = max(1, -(-ids.dtype.itemsize // 8))
    out = np.empty(len(ids), np.uint64)
    start = np.uint64((seed * 0x9E3779B97F4A7C15 + 0x243F6A8885A308D3) % (1 << 64))
    for begin in range(0, len(ids), _ROWS):
        part = np.asarray(ids[begin : begin + _ROWS]).astype(f"S{8 * width}")
        words = part.view("<u8").reshape(len(part), width)
        state = np.full(len(part), start, np.uint64)
        for column in range(width):
            word = np.ascontiguousarray(words[:, column])
            state = np.where(word == 0, state, mixed(state ^ word))  # only padding is zero
        out[begin : begin + len(part)] = mixed(state)
    return out


def mixed(values: np.ndarray | np.uint64) -> Any:
    """Mix the bits of (n,) uint64, or of one, so that each output bit depends on all.

    The last step of SplitMix64 (Steele, Lea and Flood 2014): a bijection of 64-bit integers that leaves no pattern.
    """
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def find(wanted: np.ndarray, listing: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find every wanted name in a listing.

    Parameters
    ----------
    wanted : (k,) bytes
    listing : (n,) bytes
        In any order.

    Returns
    -------
    rows : (k,) int64
        Row of each wanted name in the listing, the lowest one when it is listed repeatedly; -1 when it is not listed.
    repeated : (k,) bool
        The name is listed more than once.
    """
    rows = np.full(len(wanted), -1, np.int64)
    repeated = np.zeros(len(wanted), bool)
    if not len(wanted) or not len(listing) or _merge(wanted, listing, rows):
        return rows, repeated
    rows[:] = -1
    listing = np.asarray(listing)
    keys = hashes(listing)
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    order = order.astype(np.uint32) if len(order) < 1 << 32 else order
    for begin in range(0, len(wanted), _SOUGHT):
        part = slice(begin, begin + _SOUGHT)
        _look_up(wanted[part], listing, keys, order, rows[part], repeated[part])
    return rows, repeated


def _merge(wanted: np.ndarray, listing: np.ndarray, rows: np.ndarray) -> bool:
    """Find names where both columns are sorted, reading each once; False, and nothing found, where they are not.

    Sources are sorted by id, and so are the indices made of them: no hash and no sorting of 100 million numbers.
    """
    if wanted[0] > wanted[len(wanted) - 1] or listing[0] > listing[len(listing) - 1]:
        return False
    held, end = listing[:0], 0  # the part of the listing, ending before row `end`, that may hold the next names
    last = None
    for begin in range(0, len(wanted), _ROWS):
        part = wanted[begin : begin + _ROWS]
        if np.any(part[1:] < part[:-1]) or (last is not None and part[0] < last):
            return False
        last = part[-1]
        held = held[np.searchsorted(held, part[0]) :]
        while end < len(listing) and (not len(held) or held[-1] < last):
            more = listing[end : end + _ROWS]
            if np.any(more[1:] <= more[:-1]) or (len(held) and more[0] <= held[-1]):
                return False
            held, end = np.concatenate([held, more]), end + len(more)
        at = np.searchsorted(held, part)
        there = at < len(held)
        there[there] = held[at[there]] == part[there]
        rows[begin : begin + len(part)] = np.where(there, at + (end - len(held)), -1)
    while end < len(listing):  # a name that was found must not come again
        more = listing[end : end + _ROWS]
        if np.any(more[1:] <= more[:-1]) or (len(held) and more[0] <= held[-1]):
            return False
        held, end = more, end + len(more)
    return True


def _look_up(
    wanted: np.ndarray,
    listing: np.ndarray,
    keys: np.ndarray,
    order: np.ndarray,
    rows: np.ndarray,
    repeated: np.ndarray,
) -> None:
    """`find` by sorted hashes of the listing and the rows that they belong to; fills `rows` and `repeated`."""
    sought = hashes(wanted)
    turn = np.argsort(sought, kind="stable")  # in ascending order, searchsorted walks through the cache
    sought = sought[turn]
    first = np.searchsorted(keys, sought, side="left")
    count = np.searchsorted(keys, sought, side="right") - first
    step = 0
    while len(turn):  # nearly all are done after one round
        alive = (count > step) & ~repeated[turn]
        turn, first, count = turn[alive], first[alive], count[alive]
        candidate = order[first + step]
        same = listing[candidate] == wanted[turn]
        repeated[turn[same & (rows[turn] >= 0)]] = True
        new = same & (rows[turn] < 0)
        rows[turn[new]] = candidate[new]
        step += 1


def same_names(ids: np.ndarray, listing: np.ndarray, rows: np.ndarray) -> bool:
    """Whether the rows of a listing, (k,) int, hold the names `ids`, (k,) bytes, in their order."""
    parts = (slice(begin, begin + _ROWS) for begin in range(0, len(ids), _ROWS))
    return len(ids) == len(rows) and all(np.array_equal(listing[rows[part]], ids[part]) for part in parts)


def ascending(ids: np.ndarray) -> bool:
    """Whether each of the names, (n,) bytes, or of the numbers comes after the one before it; read in blocks."""
    parts = (ids[max(0, begin - 1) : begin + _ROWS] for begin in range(0, len(ids), _ROWS))
    return all(bool(np.all(part[:-1] < part[1:])) for part in parts)


def first_repeat(ids: np.ndarray) -> tuple[int, int] | None:
    """Count the rows of `ids` that repeat an earlier name, and find the first of them.

    Returns
    -------
    (count, row) or None
        How many rows repeat an earlier one, and the lowest of them; None when all are different.
    """
    if ascending(ids):
        return None
    keys = hashes(ids)
    keys.sort()
    if not np.any(keys[1:] == keys[:-1]):
        return None
    ids = np.asarray(ids)
    _, kept = np.unique(ids, return_index=True)  # the first row of each name
    extra = np.ones(len(ids), bool)
    extra[kept] = False
    return (int(extra.sum()), int(np.argmax(extra))) if extra.any() else None


def rows_of_ids(wanted: np.ndarray, listing: np.ndarray, *, flags: bool = False) -> np.ndarray:
    """Row of each wanted name in a listing that has each of them exactly once: (k,) int64.

    With `flags`, a message names flags of a command and not arguments of a function.

    Raises
    ------
    InputError
        Names that the listing lacks or has more than once: their number and the first.
    """
    rows, repeated = find(wanted, listing)
    if (lost := np.flatnonzero(rows < 0)).size:
        hint = f"the listing begins with {shown(listing[0])}" if len(listing) else "the listing is empty"
        if better := path_hint(listing, wanted, flags=flags):
            hint += f": {better}"
        raise InputError(
            f"{len(lost)} of {len(wanted)} kept samples are missing from the listing "
            f"(first: {shown(wanted[lost[0]])}); {hint}"
        )
    if repeated.any():
        first = shown(wanted[np.argmax(repeated)])
        many = counted(int(repeated.sum()), "kept sample is", "kept samples are")
        raise InputError(f"{many} in the listing more than once (first: {first})")
    return rows


def find_digests(wanted: np.ndarray, listing: np.ndarray) -> np.ndarray:
    """Find every wanted digest in a listing of digests.

    Images with equal bytes have equal digests: the first wanted one takes the lowest row, the second the next.

    Parameters
    ----------
    wanted : (k,) uint64
    listing : (n,) uint64

    Returns
    -------
    (k,) int64
        Rows in the listing, all different; -1 where the listing has no (further) image with that digest.
    """
    order = np.argsort(listing, kind="stable")
    keys = listing[order]
    turn = np.argsort(wanted, kind="stable")
    sought = wanted[turn]
    place = np.searchsorted(keys, sought, side="left") + _rank_in_run(sought)
    inside = place < len(keys)
    hit = inside.copy()
    hit[inside] = keys[place[inside]] == sought[inside]
    rows = np.full(len(wanted), -1, np.int64)
    rows[turn[hit]] = order[place[hit]]
    return rows


def _rank_in_run(ordered: np.ndarray) -> np.ndarray:
    """0, 1, 2, ... inside each run of equal values of a sorted array."""
    at = np.arange(len(ordered))
    if not len(ordered):
        return at
    begins = np.concatenate([[True], ordered[1:] != ordered[:-1]])
    return at - np.maximum.accumulate(np.where(begins, at, 0))


def as_digests(digests: Iterable[int]) -> np.ndarray:
    """Turn digests into (n,) uint64; signed 64-bit arrays (torch has no other) keep their bits."""
    array = digests if isinstance(digests, np.ndarray) else np.array(list(digests), np.uint64)
    if array.dtype == np.int64:
        return array.view(np.uint64)
    if array.dtype != np.uint64:
        raise InputError(f"digests must be 64-bit integers, not {array.dtype}")
    return array


def checked_rows(rows: np.ndarray, n: int) -> np.ndarray:
    """Return ascending rows in [0, n) as int64, or raise `InputError` with the count and the first offender."""
    rows = np.asarray(rows)
    if rows.ndim != 1 or (len(rows) and rows.dtype.kind not in "iu"):
        raise InputError(f"rows must be a list of whole numbers, not {rows.dtype} of the shape {rows.shape}")
    rows = rows.astype(np.int64)
    if ascending(rows) and (not len(rows) or 0 <= rows[0] <= rows[-1] < n):
        return rows
    step = np.diff(rows, prepend=-1)
    for bad, what in (
        (rows < 0, "negative"),
        (rows >= n, f"beyond the {n} samples of the source"),
        (step == 0, "repeated"),
        (step < 0, "not in ascending order"),
    ):
        if bad.any():
            raise InputError(f"{counted(int(bad.sum()), 'row is', 'rows are')} {what} (first: {rows[np.argmax(bad)]})")
    return rows


def proportional_order(labels: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Order samples so that every beginning of the order is shared among the classes in proportion.

    The r-th sample (from 0) of a class with m samples gets the place (r + 1/2) / m: Sainte-Lague's method, whose
    shares never shrink when more is shared out, so that the beginnings are nested. The first of every class comes
    before all others.

    Parameters
    ----------
    labels : (n,) int
    keys : (n,) uint64
        The order inside a class, ascending; ties go to the lower row.

    Returns
    -------
    (n,) int64
        Rows.
    """
    by_class = np.lexsort((keys, labels))
    sizes = np.bincount(labels)
    begins = np.cumsum(sizes) - sizes
    ordered = labels[by_class]
    rank = np.arange(len(labels)) - begins[ordered]
    place = (rank + 0.5) / sizes[ordered] - (rank == 0)
    return by_class[np.lexsort((keys[by_class], place))]


def sampled_rows(labels: np.ndarray, ids: np.ndarray, keep: float, seed: int) -> np.ndarray:
    """Rows of a fraction of the samples, every class in proportion, ascending (k,) int64; nested for one seed.

    Parameters
    ----------
    labels : (n,) int
    ids : (n,) bytes
    keep : float
        In (0, 1]; round(keep * n) samples stay, at least one.
    seed : int
    """
    count = min(len(labels), max(1, round(keep * len(labels))))
    return np.sort(proportional_order(labels, hashes(ids, seed + 1))[:count])


def shown(name: bytes) -> str:
    """A stored id as text for messages, cut where it is long."""
    text = repr(bytes(name).decode("utf-8", "backslashreplace"))
    return text if len(text) <= 120 else f"{text[:119]}…"
