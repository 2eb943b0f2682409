"""A surrogate as the judge of codecs: its features of images of any sizes, as it is shown them when it is evaluated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from prune.data.crops import render
from prune.data.dataset import Dataset, stored_image
from prune.data.stored_images import decode
from prune.models import evaluation_view, networks
from prune.models.model_spec import model_fingerprint

_BATCH = 256


@dataclass(frozen=True)
class Judge:
    """A network whose features are compared.

    Attributes
    ----------
    model : nn.Module
    spec : mapping
        Content of `model.json`.
    fingerprint : str
    """

    model: nn.Module
    spec: Mapping[str, Any]
    fingerprint: str

    def features(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """Features of (h, w, 3) uint8 images of any sizes, (n, d) float32."""
        parts = []
        with torch.inference_mode():
            for begin in range(0, len(images), _BATCH):
                shown = torch.from_numpy(self.shown(images[begin : begin + _BATCH])).permute(0, 3, 1, 2)
                parts.append(self.of_pixels(shown).numpy())
        return np.concatenate(parts)

    def of_pixels(self, shown: torch.Tensor) -> torch.Tensor:
        """Features (b, d) float32 of images (b, 3, side, side) with values from 0 to 255; gradients pass."""
        normal = networks.normalise(shown, self.spec["mean"], self.spec["std"])
        return evaluation_view.outputs(self.model, normal, self.spec)[0].float()

    def shown(self, images: Sequence[np.ndarray], side: int | None = None) -> np.ndarray:
        """The central crops that the network sees, (n, side, side, 3) uint8; `side`: its resolution, or another."""
        ratio = evaluation_view.crop_ratio(self.spec)
        side = side or self.spec["resolution"]
        return np.stack([render(one, evaluation_view.central_box(one, ratio), False, side) for one in images])


def open_judge(directory: Path) -> Judge:
    """Open a surrogate's directory on the CPU; `InputError` when it is none."""
    model, spec = networks.load_model(directory)
    return Judge(model.eval().requires_grad_(False), spec, model_fingerprint(directory))


def sampled(
    source: Dataset, count: int, seed: int, part: Literal["all", "learned", "judged"] = "all"
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Rows of at most `count` images drawn from a source, and their pixels, each (h, w, 3) uint8.

    Every fourth image is "judged", the others are "learned": a codec is not judged by what it was fitted to.
    """
    rows = np.random.default_rng(seed).permutation(len(source))
    if part != "all":
        rows = rows[(rows % 4 == 0) == (part == "judged")]
    rows = rows[:count]
    return rows, [decode(stored_image(source, int(row))) for row in rows]
