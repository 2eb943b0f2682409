"""The manifest: which images a beton holds, in its order, and how to recognise them elsewhere.

`X.manifest.npz` lies beside `X.beton`. Its fingerprint covers ids, labels and digests and depends neither on the order
nor on paths, so that it is the same on every machine with the same images. Needs NumPy alone.
"""

from __future__ import annotations

import glob
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .joined_rows import JoinedRows
from .matching import ascending, shown
from .npz import open_arrays, save_arrays
from .packed_ids import LARGE
from .whole_files import InputError, need_file

FORMAT = "winnow-manifest/1"
_ROWS = 1 << 20


def digest(data: bytes | memoryview) -> int:
    """64-bit BLAKE2b of an image's stored bytes, as an unsigned integer (little-endian)."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def fingerprint(ids: np.ndarray, labels: np.ndarray, digests: np.ndarray) -> str:
    """SHA-256 over (id, label, digest) of every image, in the order of the ids.

    Parameters
    ----------
    ids : (n,) bytes
    labels : (n,) int
    digests : (n,) uint64

    Returns
    -------
    str
        32 hexadecimal digits.
    """
    order = None if ascending(ids) else np.argsort(ids, kind="stable")
    sha = hashlib.sha256()
    for begin in range(0, len(ids), _ROWS):
        rows = slice(begin, begin + _ROWS) if order is None else order[begin : begin + _ROWS]
        part = np.asarray(ids[rows])
        # The width of the id column is a matter of storage: lengths and bytes count, padding does not.
        sha.update(np.char.str_len(part).astype("<i4").tobytes())
        sha.update(b"".join(part.tolist()))
        sha.update(np.asarray(labels[rows]).astype("<i4").tobytes())
        sha.update(np.asarray(digests[rows]).astype("<u8").tobytes())
    return sha.hexdigest()[:32]


@dataclass(frozen=True)
class Manifest:
    """What a beton holds, one row per image, in the beton's order.

    Attributes
    ----------
    ids : (n,) bytes
        Path relative to the root, `/` between parts, UTF-8.
    labels : (n,) int32
    nbytes : (n,) int32
        Stored size.
    width, height : (n,) int32
        Pixels.
    digests : (n,) uint64
        `digest` of the stored bytes: recognises an image under another name.
    crc32 : (n,) uint32
        zlib's CRC-32 of the stored bytes: cheap enough for the loaders to check every image that they decode.
    classes : list of str
    meta : dict
        "source" (name of the place), "skipped" (list of [id, reason]) and what else the writer recorded.
    """

    ids: np.ndarray
    labels: np.ndarray
    nbytes: np.ndarray
    width: np.ndarray
    height: np.ndarray
    digests: np.ndarray
    crc32: np.ndarray
    classes: list[str]
    meta: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the images; stored when the manifest was saved, computed otherwise."""
        return self.meta.get("fingerprint") or fingerprint(self.ids, self.labels, self.digests)

    def save(self, path: Path) -> None:
        """Write `X.manifest.npz`, atomically."""
        columns = {
            "id": self.ids,
            "label": self.labels,
            "nbytes": self.nbytes,
            "width": self.width,
            "height": self.height,
            "digest": self.digests,
            "crc32": self.crc32,
        }
        kinds = {"label": "<i4", "nbytes": "<i4", "width": "<i4", "height": "<i4", "digest": "<u8", "crc32": "<u4"}
        arrays = {name: np.asarray(column, dtype=kinds.get(name)) for name, column in columns.items()}
        meta = {**self.meta, "format": FORMAT, "classes": self.classes, "n": len(self.ids)}
        meta["fingerprint"] = fingerprint(self.ids, self.labels, self.digests)
        save_arrays(path, arrays, meta)

    @classmethod
    def load(cls, path: Path) -> Manifest:
        """Map `X.manifest.npz`; those of several betons, named by a folder or a pattern, are read as one (`merged`).

        Raises
        ------
        InputError
            Missing, damaged, foreign, or with columns of different lengths; or several that are not one source.
        """
        if several(path):
            places = shards_at(path, ".manifest.npz")
            return merged([cls.load(place) for place in places], places)[0]
        arrays, meta = open_arrays(path, FORMAT, checked=True)
        wanted = {"id": "S", "label": "i", "nbytes": "i", "width": "i", "height": "i", "digest": "u", "crc32": "u"}
        for name, kind in wanted.items():
            if name not in arrays or arrays[name].dtype.kind != kind or arrays[name].shape != (meta.get("n"),):
                raise InputError(f"{path}: column {name!r} is missing, or not of the stated length and type")
        classes = meta.pop("classes", None)
        if not isinstance(classes, list):
            raise InputError(f"{path}: the class names are missing")
        labels = arrays["label"]
        if len(labels) and (labels.min() < 0 or labels.max() >= len(classes)):
            raise InputError(f"{path}: labels outside [0, {len(classes)})")
        return cls(
            arrays["id"],
            labels,
            arrays["nbytes"],
            arrays["width"],
            arrays["height"],
            arrays["digest"],
            arrays["crc32"],
            classes,
            meta,
        )


def manifest_path(beton: Path) -> Path:
    """`X.manifest.npz` for `X.beton`; a pattern for the folder or the pattern that names several betons."""
    beton = Path(beton)
    return beton / "*.manifest.npz" if beton.is_dir() else beton.with_suffix(".manifest.npz")


def manifest_at(path: Path) -> Path:
    """The manifest at `path` or beside the beton at `path`; a pattern where `path` names several. It must exist.

    Raises
    ------
    InputError
        Nothing there.
    """
    path = Path(path)
    place = manifest_path(path) if path.suffix == ".beton" or path.is_dir() else path
    if several(place):
        shards_at(place, ".manifest.npz")
        return place
    return need_file(place, "a manifest of `prune write`")


def manifest_exists(place: Path) -> bool:
    """Whether there is a manifest at a path or a pattern of `manifest_path`."""
    return Path(place).is_file() or (several(place) and bool(_matches(place, ".manifest.npz")))


def open_manifest(path: Path) -> Manifest:
    """Open the manifest at `path`, or beside the beton at `path`; as one, where it names several."""
    return Manifest.load(manifest_at(path))


def several(path: Path) -> bool:
    """Whether a path names several betons or manifests: a folder, or a pattern such as `photos/*.beton`."""
    path = Path(path)
    return path.is_dir() or (any(sign in str(path) for sign in "*?[") and not path.exists())


def shards_at(path: Path, suffix: str) -> list[Path]:
    """The betons or manifests that a folder or a pattern names, in the order of their names; `InputError` if none."""
    if not (found := _matches(path, suffix)):
        what = "no betons in it" if Path(path).is_dir() else "no file matches"
        raise InputError(f"{path}: {what}; betons of `prune write` with their manifests are expected")
    return found


def _matches(path: Path, suffix: str) -> list[Path]:
    pattern = os.path.join(glob.escape(str(path)), f"*{suffix}") if Path(path).is_dir() else str(path)
    return sorted(Path(name) for name in glob.glob(pattern) if name.endswith(suffix) and os.path.isfile(name))


def merged(parts: Sequence[Manifest], places: Sequence[Path]) -> tuple[Manifest, np.ndarray | None]:
    """Several manifests as one, in the order of the ids, as if one beton had been written of all images.

    Parameters
    ----------
    parts : sequence of Manifest
    places : sequence of Path
        Their files, for messages.

    Returns
    -------
    manifest : Manifest
    order : (n,) int64, optional
        The row of each image in the concatenated parts; None where that is their order.

    Raises
    ------
    InputError
        Other classes or settings in one of them, an image in two, or shards (`prune write --shard`) that are missing.
    """
    for part, place in zip(parts, places):
        if part.classes != parts[0].classes:
            raise InputError(f"{place}: has other classes than {places[0]}: they are not one source")
        for key in ("side", "quality"):
            if (ours := part.meta.get("config", {}).get(key)) != (first := parts[0].meta.get("config", {}).get(key)):
                raise InputError(f"{place}: was written with another {key} ({ours}) than {places[0]} ({first})")
    _check_complete(parts, places)
    if len(parts) == 1:
        return parts[0], None
    ids, order = _sorted_together(parts)
    if ids is None:
        ids = np.concatenate([part.ids for part in parts])
        order = np.argsort(ids, kind="stable")
        ids = ids[order]
        if len(again := np.flatnonzero(ids[:-1] == ids[1:])):
            raise InputError(f"{places[0].parent}: {len(again)} images are in two betons, first {shown(ids[again[0]])}")

    def column(name: str) -> np.ndarray:
        whole = np.concatenate([getattr(part, name) for part in parts])
        return whole if order is None else whole[order]

    labels, digests = column("labels"), column("digests")
    config = {key: value for key, value in parts[0].meta.get("config", {}).items() if key != "shard"}
    meta = {
        **parts[0].meta,
        "config": config,
        "skipped": [entry for part in parts for entry in part.meta.get("skipped", [])],
        "fingerprint": fingerprint(ids, labels, digests),
        "n": len(ids),
    }
    nbytes, width, height, crc32 = map(column, ("nbytes", "width", "height", "crc32"))
    return Manifest(ids, labels, nbytes, width, height, digests, crc32, parts[0].classes, meta), order


def _sorted_together(parts: Sequence[Manifest]) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Ids and order of `merged` where the parts, one after another in some order, are sorted, as shards are.

    Without sorting or, of many millions, joining the ids; None for the ids where an image comes before one of an
    earlier part.
    """
    turn = sorted(range(len(parts)), key=lambda k: bytes(parts[k].ids[0]) if len(parts[k]) else b"")
    ids = JoinedRows([parts[k].ids for k in turn])
    if not ascending(ids):  # type: ignore[arg-type]  # joined rows are read like an array
        return None, None
    begins = np.cumsum([0, *map(len, parts)])
    order = None
    if any(turn[k] > turn[k + 1] for k in range(len(turn) - 1)):
        order = np.concatenate([np.arange(begins[k], begins[k + 1]) for k in turn])
    return ids if len(ids) > LARGE else np.asarray(ids), order  # type: ignore[return-value]


def _check_complete(parts: Sequence[Manifest], places: Sequence[Path]) -> None:
    """Raise `InputError` unless shards K/N are all of one N, each once; betons that are no shards always fit."""
    shards = [part.meta.get("config", {}).get("shard") for part in parts]
    if not any(shards):
        return
    counts = {str(shard).partition("/")[2] if shard else "" for shard in shards}
    if len(counts) > 1:
        odd = next(k for k, shard in enumerate(shards) if str(shard).partition("/")[2] != max(counts))
        raise InputError(f"{places[odd]}: is shard {shards[odd] or 'of nothing'}, and others are of {max(counts)}")
    numbers = [int(str(shard).partition("/")[0]) for shard in shards]
    count = int(counts.pop())
    if len(set(numbers)) < len(numbers):
        number = next(number for number in numbers if numbers.count(number) > 1)
        raise InputError(f"{places[0].parent}: shard {number}/{count} is there twice")
    if lost := sorted(set(range(1, count + 1)) - set(numbers)):
        raise InputError(
            f"{places[0].parent}: {len(lost)} of {count} shards are missing, first {lost[0]}: "
            f"write it with `prune write ... --shard {lost[0]}/{count}`"
        )
