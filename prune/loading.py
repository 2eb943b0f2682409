"""Batches of a beton in any given order, through FFCV or through a plain PyTorch DataLoader.

Both loaders take the rows of an epoch as they are to come, cut each image to the box that `prune.crops` drew for it,
resize it with OpenCV's area interpolation and mirror it if told so. Both check every image's CRC-32 against
the manifest, so damaged bytes are an error and never silently other pixels.

A loader is expensive to build (FFCV compiles for seconds) and cheap to aim anew: open few, call `epoch` often.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, Protocol

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from prune.crops import Crops, center_crops
from prune.images import Stored, decode
from prune.node_copy import on_this_node
from prune.progress import at_least_one, share_of_cores
from prune.run import InputError
from prune.source import Source, damaged, open_source

Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""Images (b, 3, r, r) uint8 in channels-last layout, labels (b,) int64, rows (b,) int64."""


Draw = Callable[[np.ndarray], Crops]
"""Rows (k,) -> boxes and flips of these images, in this order."""

_BLOCK = 1 << 13  # images whose crops are drawn at once: few enough to be at once there, many enough to cost nothing


class Loader(Protocol):
    """What both loaders offer."""

    source: Source
    batch_size: int

    def __len__(self) -> int:
        """Count the images of the beton."""
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
        """End what runs in the background."""
        ...


def open_loader(
    beton: Path | Source,
    *,
    resolution: int,
    batch_size: int,
    workers: int | None = None,
    loader: Literal["ffcv", "torch"] = "ffcv",
) -> Loader:
    """Open a beton for reading in batches.

    Parameters
    ----------
    beton : Path or Source
    resolution : int
        Largest side in pixels that `epoch` will be asked for.
    batch_size : int
    workers : int, optional
        Decoding threads (ffcv) or processes (torch); this process's share of the cores when absent.
    loader : {"ffcv", "torch"}
        `torch` needs no FFCV.

    Raises
    ------
    InputError
        The beton or its manifest is missing or damaged, a value is out of range, or FFCV cannot be imported.
    """
    source = beton if isinstance(beton, Source) else open_source(beton)
    if resolution < 1 or batch_size < 1:
        raise InputError(f"resolution {resolution} and batch size {batch_size} must be at least 1")
    workers = share_of_cores() if workers is None else at_least_one(workers)
    source = on_this_node(source)
    if loader == "torch":
        return TorchLoader(source, resolution, batch_size, workers)
    if loader != "ffcv":
        raise InputError(f"--loader {loader}: ffcv and torch are possible")
    try:
        from prune.ffcv_loading import FfcvLoader
    except (ImportError, OSError) as error:
        raise InputError(f"FFCV cannot be imported ({error}): use --loader torch") from None
    return FfcvLoader(source, resolution, batch_size, min(workers, len(os.sched_getaffinity(0))))


def drawing(source: Source, crops: Crops | Draw | None) -> Draw:
    """Turn what `Loader.epoch` is given into a function from rows to their boxes and flips."""
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


def render(pixels: np.ndarray, box: np.ndarray, flip: bool, resolution: int) -> np.ndarray:
    """Cut (h, w, 3) uint8 pixels to `box` (black outside the image), resize to a square, mirror.

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


class Images(Dataset):
    """The images of a beton as a map-style data set; needs no FFCV.

    Parameters
    ----------
    source : Source
    resolution : int

    Notes
    -----
    A key is (row, box of four, flip); an item is (image (r, r, 3) uint8, row, sound). `sound` is False when the bytes
    do not match the manifest: an exception in a worker process would reach the user as a page of traceback.
    """

    def __init__(self, source: Source, resolution: int) -> None:
        self.source, self.resolution = source, resolution

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, key: tuple[int, list[int], bool]) -> tuple[np.ndarray, int, bool]:
        row, box, flip = key
        image = self.source.beton.samples["image"][row]
        data, jpeg = self.source.beton.stored(row)
        if zlib.crc32(data) != self.source.manifest.crc32[row]:
            return np.zeros((self.resolution, self.resolution, 3), np.uint8), row, False
        pixels = decode(Stored(data, jpeg, int(image["height"]), int(image["width"])))
        return render(pixels, np.array(box), flip, self.resolution), row, True


class TorchLoader:
    """`Loader` on `torch.utils.data.DataLoader`."""

    def __init__(self, source: Source, resolution: int, batch_size: int, workers: int) -> None:
        self.source, self.resolution, self.batch_size = source, resolution, batch_size
        self.workers = 0 if workers <= 1 else workers

    def __len__(self) -> int:
        return len(self.source)

    @property
    def labels(self) -> np.ndarray:
        return self.source.beton.labels

    def epoch(
        self, rows: np.ndarray, *, crops: Crops | Draw | None = None, resolution: int | None = None
    ) -> Iterator[Batch]:
        rows, draw = np.asarray(rows, np.int64), drawing(self.source, crops)
        images = Images(self.source, resolution or self.resolution)
        keys = (
            list(zip(part.tolist(), drawn.boxes.tolist(), drawn.flip.tolist()))
            for part, drawn in by_blocks(rows, self.batch_size, draw)
        )
        batches = DataLoader(
            images,
            batch_sampler=keys,  # type: ignore[arg-type]
            num_workers=self.workers,
            collate_fn=_collate,
        )
        for image, row, sound in batches:
            if not sound.all():
                raise damaged(self.source, int(row[~sound][0]))
            yield image, torch.from_numpy(self.labels[row.numpy()]), row

    def close(self) -> None:
        pass


def _collate(items: list[tuple[np.ndarray, int, bool]]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    images = torch.from_numpy(np.stack([item[0] for item in items])).permute(0, 3, 1, 2)
    return images, torch.tensor([item[1] for item in items]), torch.tensor([item[2] for item in items])
