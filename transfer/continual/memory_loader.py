"""Labelled images in memory, as batches for the training loop with the recipe's crops."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from pretrain.hooks import Batches
from pretrain.recipe import Recipe
from prune.data import crops
from prune.data.batches import Batch
from prune.data.crops import render
from prune.data.dataset import Dataset
from transfer.evaluation.image_arrays import read_images
from transfer.evaluation.target_splits import SMALL


@dataclass(frozen=True)
class LabelledImages:
    """Labelled images of one size.

    Attributes
    ----------
    images : (n, side, side, 3) uint8
    labels : (n,) int64
    drawn : (m,) int64, optional
        Positions of the images in the order of their draws; an epoch is then these m, repeats included.
    """

    images: np.ndarray
    labels: np.ndarray
    drawn: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.labels if self.drawn is None else self.drawn)

    def joined(self, other: LabelledImages) -> LabelledImages:
        """These images, then the other's."""
        images, labels = (self.images, other.images), (self.labels, other.labels)
        return LabelledImages(np.concatenate(images), np.concatenate(labels))

    def batches(self, recipe: Recipe, seed: int, size: int) -> Batches:
        """Build batches of `size` with the recipe's crops, which depend on (seed, epoch, position) only."""
        sides = np.full(len(self), self.images.shape[1])
        at = np.arange(len(self)) if self.drawn is None else self.drawn

        def batches(rows: np.ndarray, epoch: int, resolution: int) -> Iterator[Batch]:
            if recipe.crop == "resized":
                boxes = crops.random_resized_crops(sides, sides, seed=seed, epoch=epoch, scale=recipe.scale)
            elif recipe.crop == "padded":
                boxes = crops.padded_crops(sides, sides, seed=seed, epoch=epoch, padding=recipe.padding)
            else:
                boxes = crops.center_crops(sides, sides)
            for first in range(0, len(rows), size):
                part = rows[first : first + size]
                drawn = [render(self.images[at[i]], boxes.boxes[i], bool(boxes.flip[i]), resolution) for i in part]
                pixels = torch.from_numpy(np.stack(drawn)).permute(0, 3, 1, 2)
                yield pixels, torch.from_numpy(self.labels[at[part]]), torch.from_numpy(part)

        return batches


def read_squares(dataset: Dataset, rows: np.ndarray, side: int, workers: int | None = None) -> np.ndarray:
    """Central squares of a dataset's images at `rows`, in this order, (n, side, side, 3) uint8."""
    # Few images are read by this process itself, whatever --workers says: nothing is forked.
    return read_images(dataset, rows, side, workers=None if len(rows) <= SMALL else workers)[0]
