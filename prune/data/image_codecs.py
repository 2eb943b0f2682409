"""Encodes one image: short JPEGs for betons and replay memories, WebP and AVIF for comparison.

A 32-pixel JPEG as libjpeg writes it has 625 bytes of headers. Three changes leave 106; decoders built on libjpeg-turbo
accept them all (tests check Pillow, OpenCV, torchvision and FFCV; `jpeg_tables.py` has fitted tables):

- the Huffman tables are the image's own or, where that is shorter, the standard's, which need not be in the file
  (libjpeg and libjpeg-turbo 2.0 or later assume them, as for Motion JPEG);
- one quantisation table, that for luminance, serves all components; at equal bytes the error is smaller too;
- no JFIF segment: decoders read components 1, 2, 3 without one as YCbCr.

Decoding a stored image: `stored_images.py`. Decoding for training: `loader.py`.
"""

from __future__ import annotations

import io
import re
import struct
import warnings
from functools import cache
from typing import Literal

import numpy as np
from PIL import Image

from prune.data.jpeg_tables import JpegTables
from prune.data.pixel_values import Unreadable, to_rgb

Codec = Literal["jpeg", "webp", "avif"]
CODECS: tuple[Codec, ...] = ("jpeg", "webp", "avif")
QUALITIES = (95, 85, 75, 60, 45, 30, 20, 10)
"""The ladder on which curves are measured; a level of 0 means the original bytes."""
HALF = 100
"""Levels above this are the quality `level - HALF` at half the height and width, rounded up."""
_BOTH_TABLES = 256 * 256
"""Pixels up to which both kinds of Huffman tables are tried; in larger images the standard's are never shorter."""
# fmt: off
_LUMINANCE = (  # ITU-T T.81, table K.1
    16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29, 51,
    87, 80, 62, 18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92, 49, 64, 78, 87, 103, 121, 120, 101,
    72, 92, 95, 98, 112, 100, 103, 99,
)
# fmt: on
_DQT, _DHT, _SOS, _FRAMES = 0xDB, 0xC4, 0xDA, range(0xC0, 0xC3)


def encode(pixels: np.ndarray, codec: Codec = "jpeg", quality: int = 75, tables: JpegTables | None = None) -> bytes:
    """Encode one image, colour at half the resolution (4:2:0); equal pixels give equal bytes.

    Parameters
    ----------
    pixels : (h, w, 3) uint8
        A grey image (three equal channels) becomes a JPEG of one component.
    codec : {"jpeg", "webp", "avif"}
    quality : int
        1 to 100, on the codec's own scale.
    tables : JpegTables, optional
        Fitted tables for a JPEG, in place of the standard's; they also decide the resolution of the colours.

    Raises
    ------
    ValueError
        No such codec or quality, or sides that the codec cannot hold.
    """
    if not 1 <= quality <= 100:
        raise ValueError(f"quality {quality}: 1 to 100 is possible")
    if codec == "jpeg":
        return _jpeg(
            pixels, *(tables.at(quality) if tables else (standard_table(quality), standard_table(quality), "4:2:0"))
        )
    if codec not in CODECS:
        raise ValueError(f"codec {codec!r}: {', '.join(CODECS)} are possible")
    options = {"speed": 6, "max_threads": 1, "subsampling": "4:2:0"} if codec == "avif" else {"method": 4}
    return _save(Image.fromarray(pixels), codec.upper(), quality=quality, **options)


def encode_level(pixels: np.ndarray, level: int, tables: JpegTables | None = None) -> bytes:
    """Encode at a level of an index's quality column: a JPEG quality, above `HALF` at half the resolution."""
    if level > HALF:
        return encode(halved(pixels), "jpeg", level - HALF, tables)
    return encode(pixels, "jpeg", level, tables)


def halved(pixels: np.ndarray) -> np.ndarray:
    """Shrink (h, w, 3) uint8 to half the height and width, rounded up."""
    size = ((pixels.shape[1] + 1) // 2, (pixels.shape[0] + 1) // 2)
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))


def decode(data: bytes) -> np.ndarray:
    """Decode the bytes of any format that Pillow knows to (h, w, 3) uint8.

    Raises
    ------
    Unreadable
        Empty, cut short, not an image, or too large.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return to_rgb(Image.open(io.BytesIO(data)))
    except MemoryError:
        raise Unreadable("too large for the memory") from None
    except Exception as error:  # Pillow's plugins raise all kinds of errors for a broken file
        raise unreadable(error) from None


def unreadable(error: Exception) -> Unreadable:
    """Turn a decoder's exception into its reason on one line."""
    text = re.sub(r" <[^<>]* object at 0x[0-9a-f]+>", "", str(error))  # an address differs in every run
    return Unreadable(f"{type(error).__name__}: {text}".splitlines()[0][:200])


def fixed_bytes(data: bytes) -> int:
    """Bytes of a JPEG that do not code pixels: markers, tables and headers; the rest is entropy-coded."""
    return len(data) - len(_segments(data)[1]) + 2  # the last two bytes end the image


def _jpeg(pixels: np.ndarray, luminance: list[int], colour: list[int], subsampling: str) -> bytes:
    grey = bool((pixels[..., 0] == pixels[..., 1]).all() and (pixels[..., 1] == pixels[..., 2]).all())
    image = Image.fromarray(np.ascontiguousarray(pixels[..., 0]) if grey else pixels)
    # Pillow uses the second of two tables for the colours; when both are equal the second can be removed.
    options = {"qtables": [luminance] if grey else [luminance, colour], "subsampling": subsampling}
    both = not grey and luminance != colour
    own = _short(_save(image, "JPEG", optimize=True, **options), tables=True, both=both)
    if pixels.shape[0] * pixels.shape[1] > _BOTH_TABLES:
        return own
    return min(own, _short(_save(image, "JPEG", **options), tables=False, both=both), key=len)


@cache
def standard_table(quality: int) -> list[int]:
    """The luminance table at a quality of 1 to 100, as libjpeg scales it (Independent JPEG Group)."""
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    return [min(255, max(1, (value * scale + 50) // 100)) for value in _LUMINANCE]


def _save(image: Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def _segments(data: bytes) -> tuple[list[tuple[int, bytes]], bytes]:
    """Marker segments up to the scan's header, and what follows it."""
    at, segments = 2, []
    while True:
        marker, length = data[at + 1], struct.unpack(">H", data[at + 2 : at + 4])[0]
        segments.append((marker, data[at + 4 : at + 2 + length]))
        at += 2 + length
        if marker == _SOS:
            return segments, data[at:]


def _short(data: bytes, *, tables: bool, both: bool) -> bytes:
    """Rewrite a JPEG of `_jpeg` with the fewest header bytes.

    With `tables` the Huffman tables stay, in one segment; with `both` the quantisation table of the colours does, too.
    """
    segments, scan = _segments(data)
    quantisation = b"".join(body for marker, body in segments if marker == _DQT)
    parts = [(_DQT, quantisation if both else quantisation[:65])]
    for marker, body in segments:
        if marker in _FRAMES:
            frame = bytearray(body)
            if not both:
                frame[8::3] = bytes(frame[5])  # every component uses table 0
            parts.append((marker, bytes(frame)))
    if tables:
        parts.append((_DHT, b"".join(body for marker, body in segments if marker == _DHT)))
    parts.append(segments[-1])
    head = b"".join(struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body for marker, body in parts)
    return data[:2] + head + scan
