"""Colour profiles: which of them are not sRGB, and the conversion of pixels to sRGB by Pillow's ImageCms.

Networks read numbers. Those of a Display P3 photograph, as phones take them, stand for stronger colours than the same
numbers in sRGB, so pixels are converted where they are decoded to be stored. The conversion is relative colorimetric
with black-point compensation (ICC.1:2022, section 6.2), the same for every image with a profile.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image, ImageCms

from prune.data.declared_colours import HDR, UNKNOWN, code_points, declared
from prune.data.pixel_values import to_rgb

UNUSABLE = "damaged, or for another kind of colours"
"""Stands for the name of a profile that cannot be applied; decoders take such colours as sRGB, and so does this one."""
TAKEN_AS_SRGB = (UNUSABLE, HDR, UNKNOWN)
"""All that stand for the name of a profile which is not applied."""
_TOLERANCE = 3
"""Grey levels by which a profile that counts as sRGB may differ: the many copies of it are rounded differently."""
_NAME = 60


@dataclass(frozen=True)
class Profile:
    """A colour profile.

    Attributes
    ----------
    name : str
        As it calls itself; one of `TAKEN_AS_SRGB`, or "" where it is sRGB.
    mode : {"RGB", "L", "CMYK"}
        Of the pixels that it describes.
    transform : ImageCmsTransform or None
        To sRGB; None where there is nothing to convert.
    """

    name: str
    mode: str
    transform: Any


_SRGB = Profile("", "RGB", None)


def profile_of(image: Image.Image, data: bytes = b"") -> Profile:
    """The profile that an open image carries; that of sRGB where it has none.

    Parameters
    ----------
    image : Image
    data : bytes
        The file's content: what it says of colours in JPEG 2000, PNG, AVIF and HEIC is not all read by Pillow.
    """
    grey = image.mode in ("1", "L", "LA", "F") or image.mode.startswith("I")
    mode = "CMYK" if image.mode == "CMYK" else "L" if grey else "RGB"
    found = image.info.get("icc_profile") or (jp2_profile(data) if image.format == "JPEG2000" else b"")
    if found and not (image.format == "PNG" and code_points("PNG", data)):
        return _opened(bytes(found), mode)
    said = declared(image.format, image.info, data)
    if isinstance(said, str):  # a decoder that cannot apply code points applies the profile beside them
        return _opened(bytes(found), mode) if found else Profile(said, mode, None)
    return _opened(said, mode) if said else _SRGB


def to_srgb(image: Image.Image, data: bytes = b"", white: float | None = None) -> np.ndarray:
    """Turn a Pillow image of any mode into (h, w, 3) uint8 as `to_rgb` does, and convert its colours to sRGB.

    Raises
    ------
    Unreadable
        The range of the values is not declared, or not as they are.
    """
    profile = profile_of(image, data)
    if profile.transform is not None and profile.mode == "CMYK":
        return np.asarray(ImageCms.applyTransform(image, profile.transform))
    pixels = to_rgb(image, data, white)
    if profile.transform is None:
        return pixels
    shown = Image.fromarray(pixels[..., 0] if profile.mode == "L" else pixels)
    return np.asarray(ImageCms.applyTransform(shown, profile.transform))


@lru_cache(maxsize=16)
def _opened(data: bytes, mode: str) -> Profile:
    """Read a profile for pixels of a mode; grey pixels may have one for RGB, of which they use the neutral axis."""
    from io import BytesIO

    try:
        profile = ImageCms.ImageCmsProfile(BytesIO(data))
        space = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}.get(profile.profile.xcolor_space.strip(), "")
        if space != mode and (space, mode) != ("RGB", "L"):
            return Profile(UNUSABLE, mode, None)
        transform = ImageCms.buildTransform(
            profile,
            ImageCms.createProfile("sRGB"),
            space,
            "RGB",
            renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
            flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
        if space != "CMYK" and _changes_little(transform, space):
            return _SRGB
        name = ImageCms.getProfileDescription(profile).strip()[:_NAME]
    except Exception:  # a stranger's file: ImageCms and Little CMS raise all kinds of errors
        return Profile(UNUSABLE, mode, None)
    return Profile("".join(c for c in name if c.isprintable()) or "without a name", space, transform)


def _changes_little(transform: Any, mode: str) -> bool:
    """Whether no colour of a grid (all 256 greys for grey pixels) is moved by more than the tolerance."""
    if mode == "L":
        given = np.arange(256, dtype=np.uint8)[None]
    else:
        steps = np.linspace(0, 255, 9).round().astype(np.uint8)
        given = np.stack(np.meshgrid(steps, steps, steps), -1).reshape(1, -1, 3)
    found = np.asarray(ImageCms.applyTransform(Image.fromarray(given), transform)).astype(int)
    return bool(np.abs(found - given.reshape(1, found.shape[1], -1)).max() <= _TOLERANCE)


def jp2_profile(data: bytes) -> bytes:
    """The ICC profile in the header of a JP2 file (ISO/IEC 15444-1, annex I.5.3.3); b"" where it has none.

    Examples
    --------
    >>> colr = (3 + 8 + 4).to_bytes(4, "big") + b"colr" + bytes([2, 0, 0]) + b"icc!"
    >>> jp2_profile((8 + len(colr)).to_bytes(4, "big") + b"jp2h" + colr)
    b'icc!'
    """
    at, end = 0, len(data)
    while at + 8 <= end:
        size, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        if kind == b"jp2h":
            at += 8  # its boxes follow
        elif kind == b"colr" and data[at + 8 : at + 9] == b"\2":
            return data[at + 11 : at + size] if size <= end - at else b""
        elif size < 8:  # to the end, or with a length of 64 bits: neither is a header
            return b""
        else:
            at += size
    return b""
