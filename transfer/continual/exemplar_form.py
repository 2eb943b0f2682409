"""The forms in which a learner keeps an exemplar: pixels, files, or JPEGs whose common headers are kept once.

A raw exemplar takes height x width x 3 bytes. A compressed one takes its file; but of many JPEGs of one size and
quality nearly all headers are equal, and they can be kept once for all of a memory (abbreviated streams, ITU-T T.81,
B.5). Each compressed exemplar is charged one 32-bit word besides, for its length and kind.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from prune.data import image_codecs

WORD = 4
"""Bytes beside each compressed exemplar: its length and whether its headers are among the shared ones."""
RAW = "raw"
ALONE = 255
"""Kind of an exemplar whose headers are its own."""


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
        Headers that all JPEGs of this size and quality have in common are kept once; otherwise each is a file.
    """

    codec: str
    quality: int
    side: int
    shared: bool = True

    @cached_property
    def heads(self) -> tuple[bytes, ...]:
        """Headers that are kept once: those of a coloured and of a grey JPEG with the standard Huffman tables."""
        if self.codec != "jpeg" or not self.shared:
            return ()
        flat = np.zeros((2, self.side, self.side, 3), np.uint8)
        flat[0, ..., 0] = 255
        return tuple(_split(image_codecs.encode(one, "jpeg", self.quality))[0] for one in flat)

    @property
    def fixed(self) -> int:
        """Bytes that a memory of this form takes before it holds anything."""
        return sum(len(head) for head in self.heads)

    @property
    def word(self) -> int:
        """Bytes charged for each exemplar besides its own."""
        return 0 if self.codec == RAW else WORD

    def pack(self, pixels: np.ndarray) -> tuple[int, bytes]:
        """Encode (side, side, 3) uint8: the number of its shared headers (`ALONE`: none), and what is stored."""
        if self.codec == RAW:
            return ALONE, pixels.tobytes()
        data = image_codecs.encode(pixels, self.codec, self.quality)  # type: ignore[arg-type]
        if self.heads:
            head, scan = _split(data)
            if head in self.heads:
                return self.heads.index(head), scan
        return ALONE, data

    def unpack(self, kind: int, data: bytes) -> np.ndarray:
        """Decode to (side, side, 3) uint8."""
        if self.codec == RAW:
            return np.frombuffer(data, np.uint8).reshape(self.side, self.side, 3)
        return image_codecs.decode(data if kind == ALONE else self.heads[kind] + data + b"\xff\xd9")

    def through(self, images: np.ndarray) -> np.ndarray:
        """Pass (n, side, side, 3) uint8 images through the codec; raw ones stay as they are."""
        if self.codec == RAW or not len(images):
            return images
        codec: image_codecs.Codec = self.codec  # type: ignore[assignment]
        return np.stack([image_codecs.decode(image_codecs.encode(one, codec, self.quality)) for one in images])


def _split(data: bytes) -> tuple[bytes, bytes]:
    """Headers of a JPEG, and its entropy-coded part without the end marker."""
    at = image_codecs.fixed_bytes(data) - 2
    return data[:at], data[at:-2]
