"""Which part of each image an epoch sees: crop boxes and flips, as a function of (seed, epoch, position) alone.

Draws come from a counter-based hash, so they do not depend on the order of the samples, the batch size, the number of
workers or processes, or on where a run was resumed. The loaders crop to the boxes that they are given.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from prune.index.matching import mixed

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class Crops:
    """Boxes and flips, one row per image of the beton, or per requested image.

    Attributes
    ----------
    boxes : (n, 4) int32
        Top, left, height, width in pixels. May extend beyond the border by `padding`; the outside is black.
    flip : (n,) bool
        Mirror left to right.
    """

    boxes: np.ndarray
    flip: np.ndarray


def center_crops(heights: np.ndarray, widths: np.ndarray, ratio: float = 1.0) -> Crops:
    """Take the central square whose side is `ratio` times the shorter side; no flip."""
    heights, widths = np.asarray(heights, np.int64), np.asarray(widths, np.int64)
    side = np.maximum(1, (np.minimum(heights, widths) * ratio).astype(np.int64))
    boxes = np.stack([(heights - side) // 2, (widths - side) // 2, side, side], axis=1).astype(np.int32)
    return Crops(boxes, np.zeros(len(boxes), bool))


def random_resized_crops(
    heights: np.ndarray,
    widths: np.ndarray,
    *,
    seed: int,
    epoch: int,
    rows: np.ndarray | None = None,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    flip: float = 0.5,
) -> Crops:
    """Draw the boxes of the Inception-style random resized crop: area in `scale`, aspect log-uniform in `ratio`.

    Up to ten tries for each image, as torchvision's RandomResizedCrop; then the central crop within the ratio.

    Parameters
    ----------
    heights, widths : (n,) int
        Pixels of each image; row i is position i.
    rows : (k,) int, optional
        Draw for these images alone, in this order; for all n when absent.
    """
    heights, widths, key = _requested(heights, widths, seed, epoch, rows)
    boxes = np.empty((len(heights), 4), np.int32)
    open_rows = np.arange(len(heights))
    log_ratio = np.log(ratio)
    for attempt in range(10):
        if not len(open_rows):
            break
        h, w, k = heights[open_rows], widths[open_rows], key[open_rows]
        area = h * w * (scale[0] + (scale[1] - scale[0]) * _uniform(k, 4 * attempt + 1))
        aspect = np.exp(log_ratio[0] + (log_ratio[1] - log_ratio[0]) * _uniform(k, 4 * attempt + 2))
        crop_w = np.round(np.sqrt(area * aspect)).astype(np.int64)
        crop_h = np.round(np.sqrt(area / aspect)).astype(np.int64)
        fits = (crop_w > 0) & (crop_w <= w) & (crop_h > 0) & (crop_h <= h)
        top = (_uniform(k, 4 * attempt + 3) * (h - crop_h + 1)).astype(np.int64)
        left = (_uniform(k, 4 * attempt + 4) * (w - crop_w + 1)).astype(np.int64)
        boxes[open_rows[fits]] = np.stack([top, left, crop_h, crop_w], axis=1)[fits]
        open_rows = open_rows[~fits]
    if len(open_rows):
        h, w = heights[open_rows], widths[open_rows]
        crop_w = np.where(w / h > ratio[1], np.round(h * ratio[1]), w).astype(np.int64)
        crop_h = np.where(w / h < ratio[0], np.round(w / ratio[0]), h).astype(np.int64)
        boxes[open_rows] = np.stack([(h - crop_h) // 2, (w - crop_w) // 2, crop_h, crop_w], axis=1)
    return Crops(boxes, _uniform(key, 0) < flip)


def padded_crops(
    heights: np.ndarray,
    widths: np.ndarray,
    *,
    seed: int,
    epoch: int,
    rows: np.ndarray | None = None,
    padding: float = 0.125,
    flip: float = 0.5,
) -> Crops:
    """Draw the small-image crop: pad the central square by `padding` of its side, then cut a square of the same side.

    At 32 pixels and the default this is the usual "pad 4, crop 32". `rows` as for `random_resized_crops`.
    """
    heights, widths, key = _requested(heights, widths, seed, epoch, rows)
    square = center_crops(heights, widths)
    reach = np.round(square.boxes[:, 2] * padding)
    boxes = square.boxes.copy()
    boxes[:, 0] += _shift(key, 1, reach)
    boxes[:, 1] += _shift(key, 2, reach)
    return Crops(boxes, _uniform(key, 0) < flip)


def _shift(key: np.ndarray, draw: int, reach: np.ndarray) -> np.ndarray:
    found: np.ndarray = (np.floor(_uniform(key, draw) * (2 * reach + 1)) - reach).astype(np.int32)
    return found


def _requested(
    heights: np.ndarray, widths: np.ndarray, seed: int, epoch: int, rows: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Heights and widths of the requested images, and the key of each one's draws."""
    heights, widths = np.asarray(heights), np.asarray(widths)
    rows = np.arange(len(heights)) if rows is None else np.asarray(rows)
    with np.errstate(over="ignore"):
        base = mixed(np.uint64(seed) * _GOLDEN + mixed(np.uint64(epoch) + np.uint64(1)))
        key = mixed(base ^ mixed(rows.astype(np.uint64) + np.uint64(0x632BE59BD9B4E019)))
    return heights[rows].astype(np.int64), widths[rows].astype(np.int64), key


def _uniform(key: np.ndarray, draw: int) -> np.ndarray:
    """Return doubles in [0, 1), one for each key, for the draw of this number."""
    with np.errstate(over="ignore"):
        found: np.ndarray = (mixed(key + np.uint64(draw) * _GOLDEN) >> np.uint64(11)).astype(np.float64) * 2.0**-53
        return found


def render(pixels: np.ndarray, box: np.ndarray, flip: bool, resolution: int) -> np.ndarray:
    """Crop (h, w, 3) uint8 pixels to `box` (black outside the image), resize to a square, mirror.

    Returns
    -------
    (resolution, resolution, 3) uint8
    """
    top, left, height, width = (int(v) for v in box)
    bottom, right = min(top + height, pixels.shape[0]), min(left + width, pixels.shape[1])
    inside = pixels[max(top, 0) : bottom, max(left, 0) : right]
    if inside.shape[:2] != (height, width):
        padded = np.zeros((height, width, 3), np.uint8)
        y, x = max(-top, 0), max(-left, 0)
        padded[y : y + inside.shape[0], x : x + inside.shape[1]] = inside
        inside = padded
    image = cv2.resize(inside, (resolution, resolution), interpolation=cv2.INTER_AREA)
    return image[:, ::-1] if flip else image
