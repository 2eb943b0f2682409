"""A 64-bit perceptual hash: images that look the same have hashes that differ in few bits, without any network.

The image's central square is brought to 32 x 32 grey levels; of its discrete cosine transform the lowest 8 x 8
frequencies are kept, and each gives one bit: whether it is above their median, which leaves out the mean brightness and
the contrast (Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions", 2010, section 3.2.1).

Copies that are mirrored, turned or cropped have other hashes. Each image therefore has the hashes of its own variants
as well (`VARIANTS`): one of them is near the plain hash of a copy that was changed so.
"""

from __future__ import annotations

import numpy as np
import scipy.fft

from prune.data.image_likeness import TURN, cropped, turned
from prune.data.thumbnail_features import grey

VARIANTS = ("plain", "mirrored", "turned left", "turned right", "cropped")
"""Columns of `hashes`."""
_BITS = 8
"""Frequencies of each direction."""


def hashes(squares: np.ndarray) -> np.ndarray:
    """Hashes of square images and of their variants, (b, 32, 32, 3) uint8 to (b, 5) uint64, in the order of `VARIANTS`.

    Examples
    --------
    >>> x = np.arange(32 * 32 * 3, dtype=np.uint32).reshape(1, 32, 32, 3) * 37 % 251
    >>> found = hashes(x.astype(np.uint8))
    >>> int(found[0, 1]) == int(hashes(x[:, :, ::-1].astype(np.uint8))[0, 0])  # mirrored
    True
    """
    plain = grey(squares)
    found = np.empty((len(squares), len(VARIANTS)), np.uint64)
    turns = [[turned(image, degrees) for image in plain] for degrees in (TURN, -TURN)]
    for column, images in enumerate((plain, plain[:, :, ::-1], *turns, [cropped(image) for image in plain])):
        found[:, column] = _hash(np.asarray(images))
    return found


def _hash(images: np.ndarray) -> np.ndarray:
    """Hashes of (b, 32, 32) grey levels, (b,) uint64."""
    if not len(images):
        return np.empty(0, np.uint64)
    low = scipy.fft.dctn(images.astype(np.float64), axes=(1, 2), norm="ortho")[:, :_BITS, :_BITS]
    low = low.reshape(len(images), -1).round(6)  # so that sums in another order give the same bits
    middle = np.median(low[:, 1:], axis=1, keepdims=True)
    return np.packbits(low > middle, axis=1).view(">u8").astype(np.uint64).reshape(-1)
