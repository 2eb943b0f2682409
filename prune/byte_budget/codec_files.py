"""The codecs that a flag can name: jpeg, webp, avif, JPEG tables fitted to a network, a learned codec; and their terms.

    codec = open_codec("runs/photos.tables.npz")
    codec.decode(codec.encode(pixels, 20))

`fixed` is what a codec itself takes, once for any number of images: 0 where every file contains what a decoder needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from prune.data import image_codecs
from prune.data.jpeg_tables import JpegTables
from prune.runs.files import InputError, need_file

FITTED, LEARNED = "jpeg-fitted", "learned"
TERMS = {
    "jpeg": "free; patents expired",
    FITTED: "free; patents expired",
    "webp": "BSD; free grant of patents",
    "avif": "BSD; free grant of patents (AOMedia)",
    LEARNED: "weights are yours; patents unclear",
}
"""Licence and patents of each codec in a few words: no legal advice."""


class ImageCodec(Protocol):
    """What encodes and decodes one image, (h, w, 3) uint8.

    Attributes
    ----------
    name : str
        "jpeg", "webp", "avif", "jpeg-fitted" or "learned".
    fingerprint : str
        Of all that its bytes depend on; the name alone for a standard codec.
    fixed : int
        Bytes of the codec itself, stored once.
    qualities : tuple of int
        Those that it has; empty: 1 to 100.
    """

    @property
    def name(self) -> str: ...
    @property
    def fingerprint(self) -> str: ...
    @property
    def fixed(self) -> int: ...
    @property
    def qualities(self) -> tuple[int, ...]: ...

    def encode(self, pixels: np.ndarray, quality: int) -> bytes:
        """Encode (h, w, 3) uint8."""

    def decode(self, data: bytes) -> np.ndarray:
        """Decode to (h, w, 3) uint8; `Unreadable` for damaged bytes."""


@dataclass(frozen=True)
class StandardCodec:
    """JPEG, WebP or AVIF; JPEG with fitted tables where they are given."""

    kind: image_codecs.Codec
    tables: JpegTables | None = None
    fixed: int = 0
    qualities: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        """Its name in tables and figures."""
        return FITTED if self.tables else self.kind

    @property
    def fingerprint(self) -> str:
        """Of the fitted tables, or the name."""
        return self.tables.fingerprint if self.tables else self.kind

    def encode(self, pixels: np.ndarray, quality: int) -> bytes:
        """Encode (h, w, 3) uint8."""
        return image_codecs.encode(pixels, self.kind, quality, self.tables)

    def decode(self, data: bytes) -> np.ndarray:
        """Decode to (h, w, 3) uint8; `Unreadable` for damaged bytes."""
        return image_codecs.decode(data)


def open_codec(text: str, flag: str = "--codec") -> ImageCodec:
    """Open the codec that a flag names: a standard one, or a file of `prune codecs --fit`.

    Raises
    ------
    InputError
        No such codec, no such file, a damaged one, one of another version, or the extra `codecs` is not installed.
    """
    if text in image_codecs.CODECS:
        return StandardCodec(text)
    if Path(text).suffix == ".npz":
        need_file(Path(text), "JPEG tables of `prune codecs --fit`")
        return StandardCodec("jpeg", JpegTables.load(Path(text)))
    if Path(text).suffix == ".safetensors":
        from prune.byte_budget.learned_codec import open_learned  # needs the extra `codecs`

        return open_learned(Path(text))
    names = ", ".join(image_codecs.CODECS)
    raise InputError(
        f"{flag} {text}: {names} are possible, or a file of `prune codecs`: --fit (.npz), --train (.safetensors)"
    )


def distinct(codecs: Sequence[tuple[str, ImageCodec]]) -> list[tuple[str, ImageCodec]]:
    """Codecs by names that differ: those of one kind are named by their files; one that comes twice counts once.

    Parameters
    ----------
    codecs : sequence of (str, ImageCodec)
        What the user called each one, a name or a file, and the codec.
    """
    once: dict[str, tuple[str, ImageCodec]] = {}
    for given, codec in codecs:
        once.setdefault(codec.fingerprint, (given, codec))
    kinds = [codec.name for _, codec in once.values()]
    return [(f"{c.name} {given}" if kinds.count(c.name) > 1 else c.name, c) for given, c in once.values()]


def need_qualities(codec: ImageCodec, qualities: Sequence[int], flag: str) -> None:
    """Raise `InputError` when a codec lacks one of these qualities."""
    if codec.qualities and (wrong := [one for one in qualities if one not in codec.qualities]):
        raise InputError(f"{flag} {wrong[0]}: this codec has {' '.join(map(str, codec.qualities))}")


def open_tables(path: Path | None) -> JpegTables | None:
    """The fitted tables of a file, for steps that store JPEGs alone; None without one."""
    if path is None:
        return None
    if path.suffix == ".safetensors":
        raise InputError(
            f"--tables {path}: a learned codec does not go into a beton; give JPEG tables of `prune codecs --fit` "
            "(.npz), which any decoder reads; `transfer stream` and `transfer incremental` take it as --codec"
        )
    need_file(path, "JPEG tables of `prune codecs --fit`")
    return JpegTables.load(path)
