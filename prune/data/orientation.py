"""EXIF orientation: how a camera was held, which a JPEG carries beside pixels that were not turned.

Pixels that are stored raw or encoded again are turned when they are written. A JPEG that keeps its bytes keeps its
orientation as well, and the loaders turn what they cut out of it: boxes and the stored height and width count in the
pixels as they are coded.
"""

from __future__ import annotations

import numpy as np

UPRIGHT = 1
"""The orientation of an image that is not to be turned; 2 to 8 are mirrored and turned (Exif 2.3, tag 0x0112)."""


def orientation_at(data: np.ndarray, begin: int, size: int) -> int:
    """Read the orientation of a JPEG from its Exif segment; `UPRIGHT` where it has none, or one that is damaged.

    Written so that numba compiles it: `jpeg_decoder.py` runs it without Python's lock.

    Parameters
    ----------
    data : (n,) uint8
    begin, size : int
        Where the JPEG is in `data`.

    Returns
    -------
    int
        1 to 8.
    """
    end, at = begin + size, begin + 2
    while at + 4 <= end and data[at] == 0xFF:
        marker, length = data[at + 1], 256 * int(data[at + 2]) + int(data[at + 3])
        if marker == 0xDA or length < 2:
            return UPRIGHT
        tiff, stop = at + 10, min(at + 2 + length, end)
        if marker == 0xE1 and stop - tiff >= 14 and data[at + 4] == 0x45 and data[at + 5] == 0x78:
            little = data[tiff] == 0x49
            low, high = (0, 1) if little else (1, 0)
            offset = 0
            for k in range(4):
                offset = 256 * offset + int(data[tiff + 4 + (3 - k if little else k)])
            entry = tiff + offset
            if entry + 2 > stop:
                return UPRIGHT
            count = int(data[entry + low]) + 256 * int(data[entry + high])
            for _ in range(count):
                if entry + 14 > stop:
                    return UPRIGHT
                if data[entry + 2 + low] == 0x12 and data[entry + 2 + high] == 0x01:
                    found = int(data[entry + 10 + low]) + 256 * int(data[entry + 10 + high])
                    return found if 1 <= found <= 8 else UPRIGHT
                entry += 12
            return UPRIGHT
        at += 2 + length
    return UPRIGHT


def orientation_of(data: bytes) -> int:
    """Orientation of a JPEG's bytes, 1 to 8; most have no Exif segment, and a search of the beginning shows that."""
    if b"Exif\0\0" not in data[: 1 << 16]:
        return UPRIGHT
    return orientation_at(np.frombuffer(data, np.uint8), 0, len(data))


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turn (h, w, 3) pixels as the orientation says; height and width change places for 5 to 8.

    Returns
    -------
    (h, w, 3) or (w, h, 3)
        A view of `pixels`, which need not be contiguous.
    """
    if orientation >= 5:
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels
