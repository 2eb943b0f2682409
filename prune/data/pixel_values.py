"""Turns what Pillow decodes into 8-bit RGB. Values of more than 8 bits are scaled by the range that the file declares.

What declares a range: the bits of an unsigned TIFF or PNG; TIFF's SMinSampleValue and SMaxSampleValue; PNG's sBIT where
the values were not spread over 16 bits; PGM's largest value; the bits of a JPEG 2000. A float or signed image without
one, and an image of 16 bits so dark that it holds fewer, is refused by name: to store it would be a guess.
`prune write --white` declares the range for all of them.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

_BITS, _PHOTOMETRIC, _FORMAT, _LEAST, _MOST = 258, 262, 339, 340, 341
"""Tags of TIFF 6.0: BitsPerSample, PhotometricInterpretation, SampleFormat, SMinSampleValue, SMaxSampleValue."""
_DARK = 16
"""An image whose largest value is less than one in so many of the declared white would be stored all but black."""


class Unreadable(ValueError):
    """The image cannot be decoded; the message is the reason."""


def to_rgb(image: Image.Image, data: bytes = b"", white: float | None = None) -> np.ndarray:
    """Turn a Pillow image of any mode into (h, w, 3) uint8; transparency is dropped.

    Parameters
    ----------
    image : Image
    data : bytes
        The file's content, which may declare more than Pillow keeps.
    white : float, optional
        The value of white where an image of more than 8 bits does not declare its own.

    Raises
    ------
    Unreadable
        The range of the values is not declared, or not as they are.
    """
    if image.mode.startswith("I") or image.mode == "F":
        grey = np.asarray(image)
        if image.mode == "I" and _tiff(image, _FORMAT, 1) == 1:
            grey = grey.view(np.uint32)  # Pillow has no such mode
        grey = _eight_bits(grey, image, data, white)
        if image.format == "TIFF" and _tiff(image, _PHOTOMETRIC, 1) == 0:
            grey = 255 - grey
        return np.repeat(grey[:, :, None], 3, axis=2)
    pixels = np.array(image.convert("RGB"))
    if image.format == "JPEG2000" and _jp2_bits(data) > 8:  # Pillow rounds white up to 256, which is 0 in 8 bits
        return _wide_colour(image, data, white, np.zeros_like(pixels))
    if _is_wide(image, data) and (white is not None or pixels.max(initial=0) < _DARK or _png_bits(data) is not None):
        return _wide_colour(image, data, white, pixels)
    return pixels


def _is_wide(image: Image.Image, data: bytes) -> bool:
    """Whether Pillow kept the upper 8 of 16 bits of every colour."""
    if image.format == "PNG":
        return len(data) > 24 and data[24] == 16
    return image.format == "TIFF" and _tiff(image, _BITS, 8) == 16


def _wide_colour(image: Image.Image, data: bytes, white: float | None, pixels: np.ndarray) -> np.ndarray:
    """The colours with all 16 bits, which OpenCV reads, scaled to 8."""
    import cv2

    wide = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED) if data else None
    if wide is None or wide.dtype != np.uint16 or wide.ndim != 3 or sorted(wide.shape[:2]) != sorted(pixels.shape[:2]):
        if pixels.any() and pixels.max() >= _DARK:
            return pixels
        raise Unreadable("16-bit colours that would be stored all but black: convert the image to 8 bits")
    return _eight_bits(np.ascontiguousarray(wide[..., 2::-1]), image, data, white)


def _eight_bits(values: np.ndarray, image: Image.Image, data: bytes, white: float | None) -> np.ndarray:
    """Scale values to uint8 by the range that the file, or else `white`, declares."""
    if not values.size:
        return values.astype(np.uint8)
    least, most = float(values.min()), float(values.max())
    if not (np.isfinite(least) and np.isfinite(most)):
        raise Unreadable("has values that are not finite")
    declared = _declared(values, image, data)
    low, high = declared or (0, white if white is not None else _type_range(image))
    if high is None:
        kind = "floats" if image.mode == "F" else "signed values"
        raise Unreadable(f"holds {kind} from {least:g} to {most:g} and does not declare their range: give --white")
    if least < low or most > high:
        source = "it declares" if declared else "--white gives" if white is not None else "they have"
        raise Unreadable(f"has values from {least:g} to {most:g}, and {source} a range from {low:g} to {high:g}")
    if declared is None and white is None and 0 < most * _DARK < high:
        raise Unreadable(
            f"has values up to {most:g} of {high:g}, all but black, and does not declare fewer bits: give --white "
            f"{2 ** int(np.ceil(np.log2(int(most) + 1))) - 1}, or {high:g} where it is as dark as that"
        )
    scaled: np.ndarray = ((values - float(low)) / ((float(high) - float(low)) / 255)).round().astype(np.uint8)
    return scaled


def _declared(values: np.ndarray, image: Image.Image, data: bytes) -> tuple[float, float] | None:
    """The range that a file states by more than the type of its values."""
    if image.format == "TIFF":
        most = _tiff(image, _MOST, None)
        low = _tiff(image, _LEAST, None)
        if most is None or (low is None and values.min() < 0):
            return None
        low = 0 if low is None else low
        return (float(low), float(most)) if most > low else None
    if image.format == "PPM" or (image.format == "JPEG2000" and image.mode.startswith("I")):
        return 0, 65535  # Pillow has scaled by the file's largest value
    if image.format == "JPEG2000":
        return 0, float((1 << _jp2_bits(data)) - 1)
    if image.format == "PNG" and (bits := _png_bits(data)) is not None and values.max() < 1 << bits:
        # A PNG's values are to be spread over all 16 bits; then the lower ones are zero, or the upper ones again.
        wide = values.astype(np.uint32)
        spread = wide >> (16 - bits) << (16 - bits)
        if not ((wide == spread).all() or (wide == spread | (spread >> bits)).all()):
            return 0, float((1 << bits) - 1)
    return None


def _type_range(image: Image.Image) -> float | None:
    """The largest value of an unsigned type, which is white in TIFF and PNG; None for floats and signed values.

    An image that was made in memory holds values as Pillow's own conversions make them.
    """
    if image.format is None:
        return 65535.0 if image.mode.startswith("I;16") else 255.0
    if image.format == "TIFF":
        return 2.0 ** (_tiff(image, _BITS, None) or 8) - 1 if _tiff(image, _FORMAT, 1) == 1 else None
    return 65535.0 if image.format == "PNG" else None


def _tiff(image: Image.Image, tag: int, otherwise: float | None) -> float | None:
    """The first value of a TIFF's tag."""
    found = getattr(image, "tag_v2", {}).get(tag, otherwise)
    return found[0] if isinstance(found, tuple) else found


def _jp2_bits(data: bytes) -> int:
    """Bits of the first component of a JPEG 2000 codestream (ISO/IEC 15444-1, A.5.1); 8 where there is none."""
    at = data.find(b"\xff\x4f\xff\x51")
    return (data[at + 42] & 0x7F) + 1 if 0 <= at < len(data) - 42 else 8


def _png_bits(data: bytes) -> int | None:
    """Significant bits of a 16-bit PNG by its sBIT chunk, if they are fewer; None where it has none."""
    at = 8
    while at + 12 <= len(data) and data[:8] == b"\x89PNG\r\n\x1a\n":
        size, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        if kind == b"sBIT" and 1 <= size <= 4 and at + 8 + size <= len(data):
            bits = max(data[at + 8 : at + 8 + size])
            return bits if 8 < bits < 16 else None
        if kind == b"IDAT":
            return None
        at += 12 + size
    return None
