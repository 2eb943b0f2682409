"""What both loaders share: the `Loader` protocol, crops drawn block by block, one image cropped and resized."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

import numpy as np
import torch

from prune.data.crops import Crops, center_crops
from prune.data.dataset import Dataset

Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""Images (b, 3, r, r) uint8 in channels-last layout, labels (b,) int64, rows (b,) int64."""


Draw = Callable[[np.ndarray], Crops]
"""Function of rows (k,) that returns boxes and flips of these images, in this order."""


_BLOCK = 1 << 13  # images whose crops are drawn at once: few, so that the first batch does not wait long for them


class Loader(Protocol):
    """What a training loop or an evaluation reads batches from."""

    source: Dataset
    batch_size: int

    def __len__(self) -> int:
        """Number of images in the beton."""
        ...

    @property
    def labels(self) -> np.ndarray:
        """(n,) int64, by row."""
        ...

    def epoch(
        self, rows: np.ndarray, *, crops: Crops | Draw | None = None, resolution: int | None = None
    ) -> Iterator[Batch]:
        """Yield the images at `rows`, in this order, in batches of `batch_size`; the last may be smaller.

        Parameters
        ----------
        rows : (k,) int
            Rows of the beton; any order, repeats allowed.
        crops : Crops or Draw, optional
            Boxes and flips for every row of the beton, or a function that draws them for the rows that come next;
            the central square when absent.
        resolution : int, optional
            Side of the square images in pixels, at most what the loader was opened with.
        """
        ...

    def close(self) -> None:
        """End the threads or processes in the background."""
        ...


def drawing(source: Dataset, crops: Crops | Draw | None) -> Draw:
    """Turn the `crops` argument of `Loader.epoch` into a function of rows."""
    if crops is None:
        return lambda rows: center_crops(source.beton.heights[rows], source.beton.widths[rows])
    if isinstance(crops, Crops):
        return lambda rows: Crops(crops.boxes[rows], crops.flip[rows])
    return crops


def by_blocks(rows: np.ndarray, batch_size: int, draw: Draw) -> Iterator[tuple[np.ndarray, Crops]]:
    """Cut rows into batches with their crops, which are drawn when they are needed and never for other rows."""
    block = max(1, _BLOCK // batch_size) * batch_size
    for begin in range(0, len(rows), block):
        these = rows[begin : begin + block]
        crops = draw(these)
        for first in range(0, len(these), batch_size):
            part = slice(first, first + batch_size)
            yield these[part], Crops(crops.boxes[part], crops.flip[part])
