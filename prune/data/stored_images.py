"""What a beton stores of one image: made from a file of any common format, decoded again with Pillow, one at a time.

Batches for training are decoded elsewhere: `loader.py` chooses how. `image_codecs.py` encodes.
"""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from prune.data.colour_profiles import TAKEN_AS_SRGB, profile_of, to_srgb
from prune.data.crops import render
from prune.data.foreign_formats import open_image
from prune.data.image_codecs import encode, unreadable
from prune.data.orientation import UPRIGHT, orientation_of, upright
from prune.data.pixel_values import Unreadable, to_rgb

SINCE_0_3 = frozenset({".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx", ".heic", ".heif", ".hif", ".jxl"})
"""Suffixes of images that version 0.2 did not list."""
SUFFIXES = SINCE_0_3 | {
    *(".jpg", ".jpeg", ".jfif", ".png", ".webp", ".avif", ".bmp", ".ppm", ".pgm", ".tif", ".tiff", ".gif")
}
_JPEG = ("JPEG", "MPO")
"""MPO is Pillow's name for a JPEG followed by more pictures, as phones write them; decoders read the first."""
_DEFAULT_QUALITY = 95
_PIXELS, _RATIO = 1 << 26, 256
"""An image may have 67 million pixels, or 256 for each of its bytes."""


@dataclass(frozen=True)
class Stored:
    """What a beton stores of an image: JPEG bytes or raw RGB pixels, whose height and width are those of the pixels as
    they are coded: a JPEG may say that they are to be turned (`prune.data.orientation`). `profile` names a colour
    profile that was not applied: the bytes were kept, or it cannot be (`prune.data.colour_profiles.TAKEN_AS_SRGB`)."""

    data: bytes
    jpeg: bool
    height: int
    width: int
    profile: str = ""


def prepare(
    data: bytes,
    *,
    side: int | None = None,
    quality: int | None = None,
    white: float | None = None,
    srgb: bool = False,
) -> Stored:
    """Check one encoded image by decoding it, and convert it to what is stored.

    A JPEG with one or three components keeps its bytes, unless `side` or `quality` changes them. A lossless image is
    stored as raw pixels, or as a JPEG when `quality` is given. The first frame of an animation counts, and the first
    picture of a JPEG with several; values of more than 8 bits are scaled by the range that the file declares
    (`prune.data.pixel_values`); transparency is dropped; CMYK becomes an RGB JPEG of quality 95. Pixels that are stored
    raw or encoded again are turned as the EXIF orientation says, and their colours are converted to sRGB where the file
    has another profile.

    Parameters
    ----------
    data : bytes
        The file's content.
    side : int, optional
        Shrink so that the shorter side is at most this many pixels (aspect kept).
    quality : int, optional
        Re-encode as a JPEG of this quality, 1 to 100.
    white : float, optional
        The value of white where an image of more than 8 bits does not declare its range.
    srgb : bool
        Encode a JPEG again, with quality 95 where none is given, when its profile is not sRGB.

    Raises
    ------
    Unreadable
        Empty, cut short, not an image, too large, of a format that Pillow does not read here, or of more than 8 bits
        without a declared range.
    """
    if not data:
        raise Unreadable("empty file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = open_image(data)
            _refuse_bomb(image, len(data))
            lossy = image.format in _JPEG
            bands = len(image.getbands())
            image.load()
            profile = profile_of(image, data)
            if lossy:
                shrunk = _shrink(image, side)
                kept = quality is None and shrunk is image and bands in (1, 3)
                if kept and not (srgb and profile.transform):
                    return Stored(data, True, image.height, image.width, profile.name)
                pixels = upright(to_srgb(shrunk), orientation_of(data))
            else:
                shrunk = _shrink(Image.fromarray(to_srgb(image, data, white)), side)
                pixels = upright(np.asarray(shrunk), _orientation(image))
    except MemoryError:
        raise Unreadable("too large for the memory") from None
    except Unreadable:
        raise
    except Exception as error:  # Pillow's plugins raise all kinds of errors for a broken file
        raise unreadable(error) from None
    left = profile.name if profile.name in TAKEN_AS_SRGB else ""
    if quality is None and not lossy:
        return Stored(pixels.tobytes(), False, pixels.shape[0], pixels.shape[1], left)
    return replace(encode_jpeg(np.ascontiguousarray(pixels), quality or _DEFAULT_QUALITY), profile=left)


def _refuse_bomb(image: Image.Image, size: int) -> None:
    """Raise `Unreadable` for a few bytes that claim many pixels; Pillow refuses twice as many, whatever their bytes."""
    pixels = image.width * image.height
    if pixels > _PIXELS and pixels > _RATIO * size:
        raise Unreadable(
            f"{size:,} bytes that claim {image.width} x {image.height} pixels: no photograph is like that, and to "
            "decode it would fill the memory"
        )


def encode_jpeg(pixels: np.ndarray, quality: int) -> Stored:
    """Encode (h, w, 3) uint8 pixels as a short JPEG (see `prune.data.image_codecs`)."""
    return Stored(encode(pixels, "jpeg", quality), True, *pixels.shape[:2])


def decode(stored: Stored) -> np.ndarray:
    """Decode to (h, w, 3) uint8, turned as the EXIF orientation says."""
    pixels = decode_as_coded(stored)
    return np.ascontiguousarray(upright(pixels, orientation_of(stored.data))) if stored.jpeg else pixels


def cut_out(stored: Stored, box: np.ndarray, flip: bool, side: int) -> np.ndarray:
    """Decode, crop to a box of the pixels as they are coded, resize to a square, turn upright, mirror.

    Returns
    -------
    (side, side, 3) uint8
    """
    image = render(decode_as_coded(stored), box, False, side)
    image = upright(image, orientation_of(stored.data)) if stored.jpeg else image
    return image[:, ::-1] if flip else image


def decode_as_coded(stored: Stored) -> np.ndarray:
    """Decode to (stored.height, stored.width, 3) uint8 without regard to the EXIF orientation."""
    if not stored.jpeg:
        return np.frombuffer(stored.data, np.uint8).reshape(stored.height, stored.width, 3)
    return to_rgb(Image.open(io.BytesIO(stored.data)))


def _orientation(image: Image.Image) -> int:
    """EXIF orientation of an image that is loaded and no JPEG; Pillow has turned a TIFF by then."""
    if image.format == "TIFF":
        return UPRIGHT
    try:
        found = image.getexif().get(0x0112, UPRIGHT)
    except Exception:  # a damaged segment
        return UPRIGHT
    return found if isinstance(found, int) and 1 <= found <= 8 else UPRIGHT


def _shrink(image: Image.Image, side: int | None) -> Image.Image:
    short = min(image.size)
    if side is None or short <= side:
        return image
    if image.mode not in ("RGB", "L"):
        image = Image.fromarray(to_srgb(image))
    size = (max(side, round(image.width * side / short)), max(side, round(image.height * side / short)))
    return image.resize(size, Image.Resampling.LANCZOS)
