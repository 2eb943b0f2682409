"""Batches decoded by Pillow in a plain PyTorch DataLoader, for machines where FFCV does not build."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import numpy as np
import torch
from torch.utils.data import DataLoader

from prune.data.batches import Batch, Draw, by_blocks, drawing
from prune.data.crops import Crops
from prune.data.dataset import Dataset, damage_error
from prune.data.stored_images import Stored, cut_out


class Images(torch.utils.data.Dataset[tuple[np.ndarray, int, bool]]):
    """The images of a beton as a map-style data set; needs no FFCV.

    Parameters
    ----------
    source : Dataset
    resolution : int

    Notes
    -----
    A key is (row, box of four, flip); an item is (image (r, r, 3) uint8, row, sound). `sound` is False when the bytes
    do not match the manifest: an exception in a worker process would reach the user as a page of traceback.
    """

    def __init__(self, source: Dataset, resolution: int) -> None:
        self.source, self.resolution = source, resolution

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, key: tuple[int, list[int], bool]) -> tuple[np.ndarray, int, bool]:
        row, box, flip = key
        image = self.source.beton.samples["image"][row]
        data, jpeg = self.source.beton.stored(row)
        if zlib.crc32(data) != self.source.manifest.crc32[row]:
            return np.zeros((self.resolution, self.resolution, 3), np.uint8), row, False
        stored = Stored(data, jpeg, int(image["height"]), int(image["width"]))
        return cut_out(stored, np.array(box), flip, self.resolution), row, True


class TorchLoader:
    """`prune.data.batches.Loader` on `torch.utils.data.DataLoader`."""

    def __init__(self, source: Dataset, resolution: int, batch_size: int, workers: int) -> None:
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
            batch_sampler=keys,
            num_workers=self.workers,
            collate_fn=_collate,
        )
        for image, row, sound in batches:
            if not sound.all():
                raise damage_error(self.source, int(row[~sound][0]))
            yield image, torch.from_numpy(self.labels[row.numpy()]), row

    def close(self) -> None:
        pass


def _collate(items: list[tuple[np.ndarray, int, bool]]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    images = torch.from_numpy(np.stack([item[0] for item in items])).permute(0, 3, 1, 2)
    return images, torch.tensor([item[1] for item in items]), torch.tensor([item[2] for item in items])
