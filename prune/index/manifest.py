"""The manifest: which images a beton holds, in its order, and how to recognise them elsewhere.

`X.manifest.npz` lies beside `X.beton`. Its fingerprint covers ids, labels and digests and depends neither on the order
nor on paths, so that it is the same on every machine with the same images. Needs NumPy alone.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .npz import open_arrays, save_arrays
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
    ordered = len(ids) < 2 or bool(np.all(ids[:-1] <= ids[1:]))
    order = None if ordered else np.argsort(ids, kind="stable")
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
        """Map `X.manifest.npz`.

        Raises
        ------
        InputError
            Missing, damaged, foreign, or with columns of different lengths.
        """
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
    """`X.manifest.npz` for `X.beton`."""
    return Path(beton).with_suffix(".manifest.npz")


def open_manifest(path: Path) -> Manifest:
    """Open the manifest at `path`, or beside the beton at `path`."""
    path = Path(path)
    place = manifest_path(path) if path.suffix == ".beton" else path
    return Manifest.load(need_file(place, "a manifest of `prune write`"))
