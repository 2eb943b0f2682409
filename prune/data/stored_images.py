"""What a beton stores of one image: made from a file of any common format, decoded again with Pillow, one at a time.

Batches for training are decoded elsewhere: `loader.py` chooses how. `image_codecs.py` encodes.
"""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass

import numpy as np
from PIL import Image

from prune.data.image_codecs import Unreadable, encode, to_rgb, unreadable

SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jfif", ".png", ".webp", ".avif", ".bmp", ".ppm", ".pgm", ".tif", ".tiff", ".gif"}
)
_JPEG = ("JPEG", "MPO")
"""MPO is Pillow's name for a JPEG followed by more pictures, as phones write them; decoders read the first."""
_DEFAULT_QUALITY = 95


@dataclass(frozen=True)
class Stored:
    """What a beton stores of an image: JPEG bytes or raw RGB pixels."""

    data: bytes
    jpeg: bool
    height: int
    width: int


def prepare(data: bytes, *, side: int | None = None, quality: int | None = None) -> Stored:
    """Check one encoded image by decoding it, and convert it to what is stored.

    A JPEG with one or three components keeps its bytes, unless `side` or `quality` changes them. A lossless image is
    stored as raw pixels, or as a JPEG when `quality` is given. The first frame of an animation counts, and the first
    picture of a JPEG with several; 16-bit grey becomes 8-bit; transparency is dropped; CMYK becomes an RGB JPEG of
    quality 95.

    Parameters
    ----------
    data : bytes
        The file's content.
    side : int, optional
        Shrink so that the shorter side is at most this many pixels (aspect kept).
    quality : int, optional
        Re-encode as a JPEG of this quality, 1 to 100.

    Raises
    ------
    Unreadable
        Empty, cut short, not an image, or too large.
    """
    if not data:
        raise Unreadable("empty file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(data))
            lossy = image.format in _JPEG
            bands = len(image.getbands())
            image.load()
            shrunk = _shrink(image, side)
            if lossy and quality is None and shrunk is image and bands in (1, 3):
                return Stored(data, True, image.height, image.width)
            pixels = to_rgb(shrunk)
    except MemoryError:
        raise Unreadable("too large for the memory") from None
    except Exception as error:  # Pillow's plugins raise all kinds of errors for a broken file
        raise unreadable(error) from None
    if quality is None and not lossy:
        return Stored(pixels.tobytes(), False, *pixels.shape[:2])
    return encode_jpeg(pixels, quality or _DEFAULT_QUALITY)


def encode_jpeg(pixels: np.ndarray, quality: int) -> Stored:
    """Encode (h, w, 3) uint8 pixels as a short JPEG (see `prune.data.image_codecs`)."""
    return Stored(encode(pixels, "jpeg", quality), True, *pixels.shape[:2])


def decode(stored: Stored) -> np.ndarray:
    """Decode to (h, w, 3) uint8."""
    if not stored.jpeg:
        return np.frombuffer(stored.data, np.uint8).reshape(stored.height, stored.width, 3)
    return to_rgb(Image.open(io.BytesIO(stored.data)))


def _shrink(image: Image.Image, side: int | None) -> Image.Image:
    short = min(image.size)
    if side is None or short <= side:
        return image
    if image.mode not in ("RGB", "L"):
        image = Image.fromarray(to_rgb(image))
    size = (max(side, round(image.width * side / short)), max(side, round(image.height * side / short)))
    return image.resize(size, Image.Resampling.LANCZOS)
