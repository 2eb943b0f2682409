"""The forms in which an exemplar is stored: pixels, compressed files, or JPEGs whose common headers are stored once.

A raw exemplar takes height x width x 3 bytes, a compressed one the bytes of its file. Nearly all headers of many JPEGs
of one size and quality are equal, and can be stored once for a whole memory (abbreviated streams, ITU-T T.81, B.5).
Each compressed exemplar takes one more 32-bit word, for its length and kind.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from prune.byte_budget.codec_files import FITTED, ImageCodec, StandardCodec
from prune.data import image_codecs

WORD = 4
"""Bytes in addition to each compressed exemplar: its length, and which of the shared headers it uses."""
RAW = "raw"
OWN_HEADERS = 255
"""Kind of an exemplar that contains its own headers."""


@dataclass(frozen=True)
class Form:
    """How exemplars are stored.

    Attributes
    ----------
    codec : str
        "raw", or the name of a codec.
    quality : int
        1 to 100; 0 for raw.
    side : int
        Height and width of the images in pixels.
    shared : bool
        Headers that all JPEGs of this size and quality have in common are stored once; otherwise each is a file.
    coder : ImageCodec, optional
        The codec; the standard one of this name when absent.
    """

    codec: str
    quality: int
    side: int
    shared: bool = True
    coder: ImageCodec | None = None

    @property
    def _coder(self) -> ImageCodec:
        return self.coder or StandardCodec(self.codec)  # type: ignore[arg-type]

    @cached_property
    def headers(self) -> tuple[bytes, ...]:
        """Headers that are stored once: those of a coloured and of a grey JPEG with the standard Huffman tables."""
        if not self.is_jpeg or not self.shared:
            return ()
        flat = np.zeros((2, self.side, self.side, 3), np.uint8)
        flat[0, ..., 0] = 255
        return tuple(_split(self._coder.encode(one, self.quality))[0] for one in flat)

    @property
    def is_jpeg(self) -> bool:
        """Whether it stores JPEGs, with the standard's tables or fitted ones."""
        return self.codec in ("jpeg", FITTED)

    @property
    def fixed(self) -> int:
        """Bytes that a memory of this form takes before it contains anything: shared headers, and a codec's own."""
        return fixed_bytes([self])

    @property
    def word(self) -> int:
        """Bytes that each exemplar takes in addition to its own."""
        return 0 if self.codec == RAW else WORD

    def pack(self, pixels: np.ndarray) -> tuple[int, bytes]:
        """Encode (side, side, 3) uint8: the number of its shared headers (or `OWN_HEADERS`), and the bytes to store."""
        if self.codec == RAW:
            return OWN_HEADERS, pixels.tobytes()
        data = self._coder.encode(pixels, self.quality)
        if self.headers:
            header, scan = _split(data)
            if header in self.headers:
                return self.headers.index(header), scan
        return OWN_HEADERS, data

    def unpack(self, kind: int, data: bytes) -> np.ndarray:
        """Decode to (side, side, 3) uint8."""
        if self.codec == RAW:
            return np.frombuffer(data, np.uint8).reshape(self.side, self.side, 3)
        return self._coder.decode(data if kind == OWN_HEADERS else self.headers[kind] + data + b"\xff\xd9")

    def round_trip(self, images: np.ndarray) -> np.ndarray:
        """Encode and decode (n, side, side, 3) uint8 images; in raw form they do not change."""
        if self.codec == RAW or not len(images):
            return images
        return np.stack([self._coder.decode(self._coder.encode(one, self.quality)) for one in images])


def form_of(codec: ImageCodec, quality: int, side: int, shared: bool = True) -> Form:
    """The form of a codec at a quality; a standard codec is known by its name alone."""
    standard = codec.fingerprint == codec.name
    return Form(codec.name, quality, side, shared, None if standard else codec)


def policy_forms(policy: str, codec: ImageCodec, quality: int, ladder: Sequence[int], side: int) -> list[Form]:
    """Forms of a stream's policy, the finest first: pixels only, one quality only, or pixels and then each of a ladder.

    Parameters
    ----------
    policy : str
        "raw", "uniform" or "adaptive".
    codec : ImageCodec
    quality : int
        Of "uniform".
    ladder : sequence of int
        Qualities of "adaptive", the finest first.
    side : int
    """
    fine = Form(RAW, 0, side)
    if policy == "raw":
        return [fine]
    if policy == "uniform":
        return [form_of(codec, quality, side)]
    return [fine, *(form_of(codec, one, side) for one in ladder)]


def fixed_bytes(forms: Iterable[Form]) -> int:
    """Bytes that a memory of several forms takes before it contains anything; a codec's own bytes count once."""
    forms = list(forms)
    own = {form.coder.fingerprint: form.coder.fixed for form in forms if form.coder is not None}
    return sum(len(header) for form in forms for header in form.headers) + sum(own.values())


def _split(data: bytes) -> tuple[bytes, bytes]:
    """Split a JPEG into its headers and its entropy-coded part without the end marker."""
    at = image_codecs.fixed_bytes(data) - 2
    return data[:at], data[at:-2]
