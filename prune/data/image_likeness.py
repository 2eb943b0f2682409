"""How alike two images are, pixel by pixel: whether a pair that features or hashes propose is a copy.

Features of a cheap surrogate call whole classes near-duplicates. A pair counts as a copy only when the images
themselves agree: both are brought to one small grey square, brightness and contrast taken out, and compared as they
are, mirrored, turned a little and cropped a little.

    found = likeness(grey_squares(source, rows), grey_squares(tests, others))
    copies = found >= COPY
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from prune.data.dataset import Dataset
from prune.data.thumbnail_features import SIDE, decoded, grey, square
from prune.runs.cores import in_order
from prune.runs.progress import track

COPY = 0.9
"""Least correlation of the pixels of copies. Copies re-encoded at JPEG quality 30, brightened, turned by 4 degrees or
cropped to 90 % are above it; of 12,000 photographs, one in two hundred pairs that share a hash is."""
CERTAIN = 0.98
"""Correlation from which a pair is a copy whatever else looks like it."""
TURN = 4.0
"""Degrees of the turns that are tried, both ways."""
CROP = 0.9
"""Side of the central crop that is tried, as a share of the image's."""
_FLAT = 2.0
"""Standard deviation in grey levels below which an image has no pattern to compare."""
_LEVELS = 8.0
"""Largest difference of the mean grey of flat images that are copies."""
_PAIRS = 1024


def grey_squares(source: Dataset, rows: np.ndarray, workers: int | None = None) -> np.ndarray:
    """Decode the central squares of images to grey, (k, SIDE, SIDE) uint8.

    Parameters
    ----------
    source : Dataset
    rows : (k,) int
        In any order; repeated rows are decoded once.
    workers : int, optional
        Threads; all cores when absent.

    Raises
    ------
    InputError
        The bytes of an image are not those of the manifest, or cannot be decoded.
    """
    once, place = np.unique(np.asarray(rows, np.int64), return_inverse=True)
    found = np.empty((len(once), SIDE, SIDE), np.uint8)

    def work(begin: int) -> tuple[int, np.ndarray]:
        part = once[begin : begin + 64]
        squares = np.stack([square(decoded(source, row)) for row in part.tolist()])
        return begin, grey(squares)

    begins = range(0, len(once), 64)
    for begin, block in track(in_order(work, begins, workers, ahead=2), len(begins), f"{source.name}: pairs of images"):
        found[begin : begin + len(block)] = block
    return found[place]


def turned(image: np.ndarray, degrees: float = TURN) -> np.ndarray:
    """A square grey image turned about its centre, of the same size; what comes in is mirrored at the border."""
    side = len(image)
    middle = ((side - 1) / 2, (side - 1) / 2)
    turn = cv2.getRotationMatrix2D(middle, degrees, 1.0)
    return cv2.warpAffine(image, turn, (side, side), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)


def cropped(image: np.ndarray, share: float = CROP) -> np.ndarray:
    """The central square of a square grey image, a share of its side, brought back to its size."""
    side = len(image)
    inner = round(side * share)
    first = (side - inner) // 2
    return cv2.resize(image[first : first + inner, first : first + inner], (side, side), interpolation=cv2.INTER_LINEAR)


def likeness(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Largest correlation of each pair of images over small changes of one of them, (k,) float32 in [-1, 1].

    The correlation of the pixels with their mean subtracted: 1 for images that differ in brightness and contrast alone.
    Tried are the second image as it is, mirrored, turned by `TURN` both ways and cropped to `CROP`, each also mirrored,
    and the first image cropped. Images without a pattern are alike (1) when both are flat and equally grey, else not
    (0).

    Parameters
    ----------
    first, second : (k, SIDE, SIDE) uint8
    """
    found = np.empty(len(first), np.float32)
    for begin in range(0, len(first), _PAIRS):
        a, b = first[begin : begin + _PAIRS], second[begin : begin + _PAIRS]
        found[begin : begin + len(a)] = _best(a, b)
    return found


def plain_likeness(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """As `likeness`, of the images as they are and mirrored alone: some hundred times as fast."""
    found = np.empty(len(first), np.float32)
    for begin in range(0, len(first), _PAIRS):
        a, b = first[begin : begin + _PAIRS], second[begin : begin + _PAIRS]
        ours = _unit(a)
        both = [np.einsum("ij,ij->i", ours, _unit(side)) for side in (b, b[:, :, ::-1])]
        found[begin : begin + len(a)] = _or_flat(a, b, np.maximum(*both))
    return found


def _best(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    both = np.stack([second, second[:, :, ::-1]])
    changes: list[Callable[[np.ndarray], np.ndarray]] = [
        lambda image: image,
        lambda image: turned(image, TURN),
        lambda image: turned(image, -TURN),
        cropped,
    ]
    ours, best = _unit(first), np.full(len(first), -1.0, np.float32)
    for change in changes:
        for side in both:
            theirs = _unit(np.stack([change(np.ascontiguousarray(image)) for image in side]))
            best = np.maximum(best, np.einsum("ij,ij->i", ours, theirs))
    inner = _unit(np.stack([cropped(np.ascontiguousarray(image)) for image in first]))
    for side in both:
        best = np.maximum(best, np.einsum("ij,ij->i", inner, _unit(side)))
    return _or_flat(first, second, best)


def _or_flat(first: np.ndarray, second: np.ndarray, best: np.ndarray) -> np.ndarray:
    """Correlations, (k,) float32, where both images have a pattern; else 1 for equally grey ones and 0 for others."""
    flat = [image.reshape(len(image), -1).std(axis=1, dtype=np.float32) < _FLAT for image in (first, second)]
    means = [image.reshape(len(image), -1).mean(axis=1) for image in (first, second)]
    same = (flat[0] & flat[1] & (np.abs(means[0] - means[1]) <= _LEVELS)).astype(np.float32)
    found: np.ndarray = np.where(flat[0] | flat[1], same, np.minimum(best, 1.0)).astype(np.float32)
    return found


def _unit(images: np.ndarray) -> np.ndarray:
    x = images.reshape(len(images), -1).astype(np.float32)
    x = x - x.mean(axis=1, keepdims=True)
    return np.asarray(x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), np.float32(1e-6)))
