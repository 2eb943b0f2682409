"""Features of images that need no network: an 8 x 8 colour thumbnail, and histograms of grey, colour and gradients.

They tell domains apart (photographs, scans, drawings, printed text) at the speed of decoding, before any surrogate is
trained; they say little about which object an image shows. `prune.scores.domain` puts a linear classifier on them.

Every image is brought to one small square, the centre as networks see it. From there on all sums are sums of whole
numbers, which are exact: the features do not depend on the threads, on the batch or on the order of the images.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence

import cv2
import numpy as np
from PIL import Image

from prune.data.crops import center_crops
from prune.data.dataset import Dataset, stored_image
from prune.data.orientation import orientation_of, upright
from prune.data.pixel_values import to_rgb
from prune.data.stored_images import Stored, decode
from prune.runs.cores import in_order
from prune.runs.files import InputError
from prune.runs.progress import track

NAME = "thumbnail-1"
"""Stands for the model in features files; another number when the features change."""
SIDE = 32
"""Pixels of the square from which all features are taken."""
_CELLS, _GREYS, _STEPS, _TURNS = 8, 16, 8, 8
DIMENSIONS = 3 * _CELLS**2 + _GREYS + 2 * _STEPS + 4 * _TURNS
_ROWS = 256
"""Images described at once: few enough for their arrays to stay in a core's cache."""


def square(pixels: np.ndarray) -> np.ndarray:
    """Cut the central square of (h, w, 3) uint8 pixels and bring it to (SIDE, SIDE, 3) by averaging areas."""
    if pixels.shape[:2] == (SIDE, SIDE):
        return pixels
    crop = center_crops(np.array([pixels.shape[0]]), np.array([pixels.shape[1]]))
    top, left, side, _ = crop.boxes[0].tolist()
    return cv2.resize(pixels[top : top + side, left : left + side], (SIDE, SIDE), interpolation=cv2.INTER_AREA)


def grey(squares: np.ndarray) -> np.ndarray:
    """Grey levels of (b, h, w, 3) uint8 pixels, (b, h, w) uint8, in whole numbers."""
    red, green, blue = (squares[..., channel].astype(np.int32) for channel in range(3))
    return ((77 * red + 150 * green + 29 * blue) >> 8).astype(np.uint8)


def describe(squares: np.ndarray) -> np.ndarray:
    """Features of square images, (b, SIDE, SIDE, 3) uint8 to (b, DIMENSIONS) float32, each between 0 and 1.

    In this order: the means of 8 x 8 cells in red, green and blue, row by row (192); the share of the pixels by grey
    level (16 bins), by colourfulness (largest less smallest channel; 8 bins, which end at 2, 4, 8 ... 128, 256) and by
    the length of the grey gradient (the same 8 bins); and for each quarter of the image the sum of the gradients'
    lengths by direction (8 bins around 0, 22.5 ... 157.5 degrees), as a share of the whole image's sum.
    """
    b, cell, inner = len(squares), SIDE // _CELLS, SIDE - 2
    cells = squares.reshape(b, _CELLS, cell, _CELLS, cell, 3).sum(axis=(2, 4), dtype=np.uint32)
    red, green, blue = (squares[..., channel].astype(np.int32) for channel in range(3))
    shade = grey(squares).astype(np.int32)
    colour = np.maximum(np.maximum(red, green), blue) - np.minimum(np.minimum(red, green), blue)
    right = shade[:, 1:-1, 2:] - shade[:, 1:-1, :-2]
    down = shade[:, 2:, 1:-1] - shade[:, :-2, 1:-1]
    code = (down + 255) * 511 + (right + 255)
    length = _LENGTH[code]
    low = np.arange(inner) < inner // 2
    quarter = np.where(low, 0, 2)[:, None] + np.where(low, 0, 1)
    edges = _counts(quarter * _TURNS + _TURN[code], 4 * _TURNS, length)
    parts = (
        cells.reshape(b, -1) / (255 * cell**2),
        _counts(shade >> 4, _GREYS) / SIDE**2,
        _counts(_STEP[colour], _STEPS) / SIDE**2,
        _counts(_STEP[length], _STEPS) / inner**2,
        edges / np.maximum(edges.sum(axis=1, keepdims=True), 1),
    )
    return np.concatenate(parts, axis=1, dtype=np.float32)


def thumbnail(pixels: np.ndarray) -> np.ndarray:
    """Features of one image, (h, w, 3) uint8 to (DIMENSIONS,) float32; see `describe`."""
    return np.asarray(describe(square(pixels)[None])[0])


def thumbnails(
    source: Dataset, rows: np.ndarray | None = None, workers: int | None = None
) -> Iterator[tuple[slice, np.ndarray]]:
    """Describe the images of a beton block by block, on threads: places and features, (b, DIMENSIONS) float32.

    As `of_squares` with `describe` alone.
    """
    for part, (features,) in of_squares(source, (describe,), rows, workers):
        yield part, features


def of_squares(
    source: Dataset,
    functions: Sequence[Callable[[np.ndarray], np.ndarray]],
    rows: np.ndarray | None = None,
    workers: int | None = None,
) -> Iterator[tuple[slice, list[np.ndarray]]]:
    """Apply functions to the central squares of a beton's images, block by block, on threads.

    Parameters
    ----------
    source : Dataset
    functions : sequence of function
        Each maps (b, SIDE, SIDE, 3) uint8 pixels to (b, ...) values.
    rows : (k,) int, optional
        Images to describe, in this order; all when absent.
    workers : int, optional
        Threads; all cores when absent. The values do not depend on them.

    Yields
    ------
    places : slice
        Of range(k), in order.
    values : list of (b, ...) array
        One for each function.

    Raises
    ------
    InputError
        The bytes of an image are not those of the manifest, or cannot be decoded.
    """
    rows = np.arange(len(source)) if rows is None else np.asarray(rows, np.int64)

    def work(begin: int) -> tuple[slice, list[np.ndarray]]:
        part = slice(begin, min(len(rows), begin + _ROWS))
        squares = np.empty((part.stop - begin, SIDE, SIDE, 3), np.uint8)
        for place, row in enumerate(rows[part].tolist()):
            squares[place] = square(decoded(source, row))
        return part, [function(squares) for function in functions]

    begins = range(0, len(rows), _ROWS)
    yield from track(in_order(work, begins, workers, ahead=2), len(begins), f"{source.name}: thumbnails")


def decoded(source: Dataset, row: int) -> np.ndarray:
    """Pixels of one image, (h, w, 3) uint8, as small as serves; `InputError` when it cannot be decoded."""
    stored = stored_image(source, row)
    try:
        return small(stored)
    except Exception as error:  # Pillow raises whatever a broken file leads it to
        name = bytes(source.manifest.ids[row]).decode("utf-8", "backslashreplace")
        raise InputError(f"{source.beton.path}: image {name!r} (row {row}) cannot be decoded: {error}") from None


def small(stored: Stored) -> np.ndarray:
    """Decode to (h, w, 3) uint8; a JPEG at the smallest size, of its own divided by 1, 2, 4 or 8, that covers SIDE.

    The decoder forms such a size from the lowest frequencies alone, which is faster and averages as well.
    """
    if not stored.jpeg:
        return decode(stored)
    image = Image.open(io.BytesIO(stored.data))
    image.draft(image.mode, (SIDE, SIDE))
    return upright(to_rgb(image), orientation_of(stored.data))


def _counts(bins: np.ndarray, count: int, weights: np.ndarray | None = None) -> np.ndarray:
    """Count each image's entries (b, ...) by bin, or add up whole-number weights; (b, count) float64, exact."""
    b = len(bins)
    at = (bins.reshape(b, -1) + count * np.arange(b)[:, None]).reshape(-1)
    found = np.bincount(at, None if weights is None else weights.reshape(-1), minlength=b * count)
    return found.reshape(b, count)


def _tables() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Length and direction of the gradient by its code in `describe`, and the bin of a value that doubles."""
    down, right = np.meshgrid(np.arange(-255, 256), np.arange(-255, 256), indexing="ij")
    length = np.floor(np.sqrt(down**2 + right**2)).astype(np.int32)
    turn = np.round(np.arctan2(down, right) * (_TURNS / np.pi)).astype(np.int32) % _TURNS
    step = np.minimum(np.log2(np.maximum(np.arange(length.max() + 1), 1)).astype(np.int32), _STEPS - 1)
    return length.reshape(-1), turn.reshape(-1), step


_LENGTH, _TURN, _STEP = _tables()
