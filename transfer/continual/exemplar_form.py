"""The forms in which an exemplar is stored: pixels, compressed files, or JPEGs whose common headers are stored once.

A raw exemplar takes height x width x 3 bytes, a compressed one the bytes of its file. Nearly all headers of many JPEGs
of one size and quality are equal, and can be stored once for a whole memory (abbreviated streams, ITU-T T.81, B.5).
Each compressed exemplar takes one more 32-bit word, for its length and kind.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

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
    codec : {"raw", "jpeg", "webp", "avif"}
    quality : int
        1 to 100; 0 for raw.
    side : int
        Height and width of the images in pixels.
    shared : bool
        Headers that all JPEGs of this size and quality have in common are stored once; otherwise each is a file.
    """

    codec: str
    quality: int
    side: int
    shared: bool = True

    @cached_property
    def headers(self) -> tuple[bytes, ...]:
        """Headers that are stored once: those of a coloured and of a grey JPEG with the standard Huffman tables."""
        if self.codec != "jpeg" or not self.shared:
            return ()
        flat = np.zeros((2, self.side, self.side, 3), np.uint8)
        flat[0, ..., 0] = 255
        return tuple(_split(image_codecs.encode(one, "jpeg", self.quality))[0] for one in flat)

    @property
    def fixed(self) -> int:
        """Bytes that a memory of this form takes before it contains anything."""
        return sum(len(header) for header in self.headers)

    @property
    def word(self) -> int:
        """Bytes that each exemplar takes in addition to its own."""
        return 0 if self.codec == RAW else WORD

    def pack(self, pixels: np.ndarray) -> tuple[int, bytes]:
        """Encode (side, side, 3) uint8: the number of its shared headers (or `OWN_HEADERS`), and the bytes to store."""
        if self.codec == RAW:
            return OWN_HEADERS, pixels.tobytes()
        data = image_codecs.encode(pixels, self.codec, self.quality)  # type: ignore[arg-type]
        if self.headers:
            header, scan = _split(data)
            if header in self.headers:
                return self.headers.index(header), scan
        return OWN_HEADERS, data

    def unpack(self, kind: int, data: bytes) -> np.ndarray:
        """Decode to (side, side, 3) uint8."""
        if self.codec == RAW:
            return np.frombuffer(data, np.uint8).reshape(self.side, self.side, 3)
        return image_codecs.decode(data if kind == OWN_HEADERS else self.headers[kind] + data + b"\xff\xd9")

    def round_trip(self, images: np.ndarray) -> np.ndarray:
        """Encode and decode (n, side, side, 3) uint8 images; in raw form they do not change."""
        if self.codec == RAW or not len(images):
            return images
        codec: image_codecs.Codec = self.codec  # type: ignore[assignment]
        return np.stack([image_codecs.decode(image_codecs.encode(one, codec, self.quality)) for one in images])


def _split(data: bytes) -> tuple[bytes, bytes]:
    """Split a JPEG into its headers and its entropy-coded part without the end marker."""
    at = image_codecs.fixed_bytes(data) - 2
    return data[:at], data[at:-2]
