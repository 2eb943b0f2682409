"""Finds what is left of deleted images in files: their ids, their bytes under any name, and pictures that show them.

Indices, manifests and other `.npz`, betons, parquet, arrow and tar files are read by their structure; pages and other
texts are searched, and the pictures in their `data:` addresses decoded; any other file is searched for the ids alone.
A picture shows a deleted image when the two agree pixel by pixel after both are brought to one small square, which
compression and size do not change: a correlation of `CERTAIN`, as near-duplicates are found.
"""

from __future__ import annotations

import base64
import binascii
import json
import mmap
import os
import re
import tarfile
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from prune.data.beton import open_beton
from prune.data.dataset import Dataset
from prune.data.image_likeness import CERTAIN, grey_squares, plain_likeness
from prune.data.stored_images import SUFFIXES, Stored, prepare
from prune.data.thumbnail_features import grey, small, square
from prune.index.manifest import Manifest, digest
from prune.index.matching import find
from prune.index.pruned_index import PrunedIndex
from prune.index.tar_shards import key_of
from prune.runs.extras import need_modules
from prune.runs.files import InputError

TEXTS = (".html", ".htm", ".svg", ".txt", ".csv", ".tsv", ".json", ".jsonl", ".md", ".yaml", ".yml", ".xml", ".log")
PACKED = (".zip", ".gz", ".bz2", ".xz", ".zst", ".7z", ".rar", ".lz4")
TABLES = (".parquet", ".arrow", ".feather")
_URI = re.compile(rb"data:image/[a-z+.-]+;base64,([A-Za-z0-9+/=]+)")
_INSIDE = re.compile(rb"[A-Za-z0-9_-]")
"""What lies beside a name that goes on: `a/1.jpg` is no part of `aa/1.jpg` or `a/1.jpg2`."""
_ALONE = re.compile(rb"[^\s,;:\"'<>()\[\]{}|]")
"""What may not lie beside an id that is one word, such as `17`: in a sentence it means anything."""
_BLOCK = 256


@dataclass(frozen=True)
class Deleted:
    """What may not be left.

    Attributes
    ----------
    ids : (m,) bytes
    digests : (k,) uint64
        Of the stored bytes of those that the source has; of no other image of the source.
    digest_ids : (k,) bytes
    squares : (p, SIDE, SIDE) uint8
        Grey; of those whose pixels are known.
    square_ids : (p,) bytes
    """

    ids: np.ndarray
    digests: np.ndarray
    digest_ids: np.ndarray
    squares: np.ndarray
    square_ids: np.ndarray


@dataclass(frozen=True)
class Trace:
    """One thing that is left: where, what ("id", "bytes" or "picture"), and of which image."""

    place: str
    kind: str
    id: bytes


def deleted_of(ids: np.ndarray, source: Manifest | None, beton: Dataset | None) -> Deleted:
    """Gather what is known of the deleted images: their names, and from the source their bytes and pictures.

    Bytes that another image of the source also has are no trace of the deleted one.
    """
    none = np.zeros(0, ids.dtype)
    squares = grey(np.zeros((0, 1, 1, 3), np.uint8))
    if source is None:
        return Deleted(ids, np.zeros(0, np.uint64), none, squares, none)
    rows = find(ids, source.ids)[0]
    known, rows = ids[rows >= 0], rows[rows >= 0]
    digests = np.asarray(source.digests)[rows]
    others = np.delete(np.asarray(source.digests), rows)
    alone = ~np.isin(digests, others)
    if beton is None:
        return Deleted(ids, digests[alone], known[alone], squares, none)
    shown = grey_squares(beton, rows) if len(rows) else squares
    return Deleted(ids, digests[alone], known[alone], shown, known)


def traces(path: Path, deleted: Deleted) -> Iterator[Trace]:
    """What one file has of the deleted images; `InputError` when a file that claims to be one of ours is damaged."""
    suffix = path.suffix.lower()
    if suffix == ".npz":
        yield from _in_archive(path, deleted)
    elif suffix == ".npy":
        yield from _in_names(str(path), _strings(_array(path)), deleted)
    elif suffix == ".beton":
        yield from _in_beton(path, deleted)
    elif suffix in TABLES:
        yield from _in_table(path, deleted)
    elif suffix == ".tar" or path.name.lower().endswith((".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")):
        yield from _in_tar(path, deleted)
    elif suffix in PACKED:
        raise InputError(f"{path}: is packed and cannot be searched; unpack it, or name the other outputs alone")
    elif suffix in SUFFIXES:
        yield from _in_image_file(path, deleted)
    else:
        yield from _in_text(path, deleted, pictures=suffix in TEXTS)


def _in_archive(path: Path, deleted: Deleted) -> Iterator[Trace]:
    """An index, with packed ids or not; of other archives every column of names, of digests, and the meta's text."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = {info.filename.removesuffix(".npy") for info in archive.infolist()}
        with np.load(path, allow_pickle=False) as file:
            meta = bytes(file["meta"]) if "meta" in members else b""
            if b'"winnow-index/' in meta:
                index = PrunedIndex.open(path)
                yield from _in_names(str(path), index.ids, deleted)
                yield from _in_digests(str(path), index.digests, deleted)
            else:
                for name in sorted(members - {"meta"}):
                    yield from _in_column(path, name, file, deleted)
        yield from _named(f"{path}: meta", meta, deleted)
    except (zipfile.BadZipFile, ValueError, OSError, EOFError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: cannot be read as an archive of arrays ({error})") from None


def _in_column(path: Path, name: str, file: Any, deleted: Deleted) -> Iterator[Trace]:
    with file.zip.open(f"{name}.npy") as member:  # the type first: features are not read
        version = np.lib.format.read_magic(member)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        kind = read(member)[2]
    if kind.kind in "SU":
        yield from _in_names(f"{path}: {name}", _strings(file[name]), deleted)
    elif kind == np.uint64 and "digest" in name:
        yield from _in_digests(f"{path}: {name}", file[name], deleted)


def _in_beton(path: Path, deleted: Deleted) -> Iterator[Trace]:
    beton = open_beton(path)
    waiting: list[tuple[str, np.ndarray]] = []
    for row in range(len(beton)):
        data, jpeg = beton.stored(row)
        place = f"{path}: row {row}"
        yield from _in_digests(place, np.array([digest(data)], np.uint64), deleted)
        if len(deleted.squares):
            shown = _square(Stored(data, jpeg, int(beton.heights[row]), int(beton.widths[row])))
            waiting += [] if shown is None else [(place, shown)]
            if len(waiting) >= _BLOCK:
                yield from _in_pictures(waiting, deleted)
                waiting = []
    yield from _in_pictures(waiting, deleted)


def _in_table(path: Path, deleted: Deleted) -> Iterator[Trace]:
    """Texts and bytes of every column, those inside structs and lists too."""
    need_modules("pyarrow")
    import pyarrow as pa
    from pyarrow import ipc, parquet

    try:
        if path.suffix.lower() == ".parquet":
            with parquet.ParquetFile(path) as file:
                for number, batch in enumerate(file.iter_batches(batch_size=_BLOCK)):
                    yield from _in_values(f"{path}: rows from {number * _BLOCK}", batch.to_pylist(), deleted)
            return
        with pa.memory_map(str(path)) as raw:
            try:
                reader: Any = ipc.open_file(raw)
                batches: Iterable[Any] = (reader.get_batch(k) for k in range(reader.num_record_batches))
            except pa.ArrowInvalid:
                raw.seek(0)
                batches = ipc.open_stream(raw)
            for number, batch in enumerate(batches):
                yield from _in_values(f"{path}: batch {number}", batch.to_pylist(), deleted)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path}: cannot be read as a table ({error})") from None


def _in_values(place: str, values: Any, deleted: Deleted) -> Iterator[Trace]:
    """Texts and bytes anywhere in what a table's rows come to."""
    names, pictures, todo = [], [], [values]
    while todo:
        value = todo.pop()
        if isinstance(value, dict):
            todo += list(value.values())
        elif isinstance(value, list):
            todo += value
        elif isinstance(value, str):
            names.append(value.encode("utf-8", "surrogateescape"))
        elif isinstance(value, bytes):
            names += [value] if len(value) < 4096 else []
            pictures.append(value)
    yield from _in_names(place, np.array(names or [b""], np.bytes_), deleted)
    for data in pictures:
        yield from _in_encoded(place, data, deleted)


def _in_tar(path: Path, deleted: Deleted) -> Iterator[Trace]:
    """Members by name, by WebDataset's key, and by shard and key; and their bytes."""
    keys = {key_of(name): name for name in deleted.ids.tolist()}
    stem = os.fsencode(path.name.split(".")[0])
    try:
        with tarfile.open(path, "r:*") as shard:
            for member in shard:
                if not member.isfile():
                    continue
                name = member.name.encode("utf-8", "surrogateescape").removeprefix(b"./")
                place, key = f"{path}: {member.name}", key_of(name)
                if found := next((keys[k] for k in (key, stem + b"/" + key) if k in keys), None):
                    yield Trace(place, "id", found)
                opened = shard.extractfile(member)
                if opened is None:
                    continue
                data = opened.read()
                if Path(member.name).suffix.lower() in SUFFIXES:
                    yield from _in_encoded(place, data, deleted)
                else:
                    yield from _named(place, data, deleted)
    except (tarfile.TarError, OSError, EOFError) as error:
        raise InputError(f"{path}: not a readable tar file ({error})") from None


def _in_image_file(path: Path, deleted: Deleted) -> Iterator[Trace]:
    parts = path.as_posix().encode("utf-8", "surrogateescape").split(b"/")
    tails = np.array([b"/".join(parts[k:]) for k in range(len(parts))], np.bytes_)
    yield from _in_names(str(path), tails, deleted)
    yield from _in_encoded(str(path), path.read_bytes(), deleted)


def _in_text(path: Path, deleted: Deleted, pictures: bool) -> Iterator[Trace]:
    if not path.stat().st_size:
        return
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
        yield from _named(str(path), text, deleted)
        for number, found in enumerate(_URI.finditer(text) if pictures else ()):
            try:
                data = base64.b64decode(found[1])
            except binascii.Error:
                continue
            yield from _in_encoded(f"{path}: picture {number + 1}", data, deleted)


def _named(place: str, text: Any, deleted: Deleted) -> Iterator[Trace]:
    """Ids in a text, as they are and as HTML and JSON write them; a name that goes on to either side is another."""
    for name in deleted.ids.tolist():
        plain = name.decode("utf-8", "surrogateescape")
        forms = {name, escape(plain).encode("utf-8", "replace"), json.dumps(plain)[1:-1].encode()}
        forms.add(json.dumps(plain, ensure_ascii=False)[1:-1].encode("utf-8", "surrogateescape"))
        if any(_stands(text, form) for form in forms):
            yield Trace(place, "id", name)


def _stands(text: Any, name: bytes) -> bool:
    beside = _INSIDE if b"/" in name or b"." in name else _ALONE
    at = text.find(name)
    while at >= 0:
        before, after = text[at - 1 : at] if at else b"", text[at + len(name) : at + len(name) + 1]
        if not beside.match(before) and not beside.match(after):
            return True
        at = text.find(name, at + 1)
    return False


def _in_names(place: str, names: np.ndarray, deleted: Deleted) -> Iterator[Trace]:
    if not len(names) or not len(deleted.ids):
        return
    rows = find(deleted.ids, names)[0]
    for name in deleted.ids[rows >= 0].tolist():
        yield Trace(place, "id", name)


def _in_digests(place: str, digests: np.ndarray, deleted: Deleted) -> Iterator[Trace]:
    for at in np.flatnonzero(np.isin(deleted.digests, digests)).tolist():
        yield Trace(place, "bytes", bytes(deleted.digest_ids[at]))


def _in_encoded(place: str, data: bytes, deleted: Deleted) -> Iterator[Trace]:
    """An image file: by its bytes, by the bytes that a beton stores of it, and by its picture."""
    try:
        stored = prepare(data)
    except Exception:  # no image, or one that `prune write` skips too
        yield from _in_digests(place, np.array([digest(data)], np.uint64), deleted)
        return
    yield from _in_digests(place, np.array([digest(data), digest(stored.data)], np.uint64), deleted)
    if len(deleted.squares) and (shown := _square(stored)) is not None:
        yield from _in_pictures([(place, shown)], deleted)


def _square(stored: Stored) -> np.ndarray | None:
    try:
        found: np.ndarray = grey(square(small(stored))[None])[0]
    except Exception:  # a broken image shows nothing
        return None
    return found


def _in_pictures(shown: Sequence[tuple[str, np.ndarray]], deleted: Deleted) -> Iterator[Trace]:
    for place, picture in shown:
        alike = plain_likeness(np.broadcast_to(picture, deleted.squares.shape), deleted.squares)
        for at in np.flatnonzero(alike >= CERTAIN).tolist():
            yield Trace(place, "picture", bytes(deleted.square_ids[at]))


def _array(path: Path) -> np.ndarray:
    try:
        return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
    except Exception as error:  # a damaged header reaches any line of NumPy's parser
        raise InputError(f"{path}: not a plain .npy array ({type(error).__name__})") from None


def _strings(array: np.ndarray) -> np.ndarray:
    if array.dtype.kind == "U":
        array = np.char.encode(array, "utf-8", "surrogatepass")
    return array.reshape(-1) if array.dtype.kind == "S" else np.zeros(0, "S1")
