"""What a network is shown of an image when it is evaluated: the central crop, and perhaps the mirror image too.

`model.json` holds it as "crop_ratio" (side of the crop as a share of the image's shorter side; 1 where it is absent)
and "mirror" (outputs are the mean over the crop and its mirror image). Everything that evaluates a model obeys it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from prune.data.batches import Draw
from prune.data.crops import center_crops
from prune.data.dataset import Dataset
from prune.models.networks import features_and_logits


def crop_ratio(spec: Mapping[str, Any]) -> float:
    """Side of the central crop as a share of the shorter side, in (0, 1]."""
    return float(spec.get("crop_ratio") or 1.0)


def passes(spec: Mapping[str, Any]) -> int:
    """Forward passes that an image takes."""
    return 2 if spec.get("mirror") else 1


def central(source: Dataset, ratio: float) -> Draw:
    """The `crops` of `Loader.epoch` for evaluation."""
    heights, widths = source.beton.heights, source.beton.widths
    return lambda rows: center_crops(heights[rows], widths[rows], ratio)


def central_box(pixels: np.ndarray, ratio: float) -> np.ndarray:
    """The box of one image (h, w, 3): top, left, height, width."""
    found: np.ndarray = center_crops(np.array([pixels.shape[0]]), np.array([pixels.shape[1]]), ratio).boxes[0]
    return found


def outputs(model: nn.Module, images: torch.Tensor, spec: Mapping[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """Features (b, d) and logits (b, c) of images (b, 3, h, w); with "mirror" the means over both views, float32."""
    features, logits = features_and_logits(model, images)
    if passes(spec) == 1:
        return features, logits
    other, others = features_and_logits(model, images.flip(3))
    return (features.float() + other.float()) / 2, (logits.float() + others.float()) / 2


def logits(model: nn.Module, images: torch.Tensor, spec: Mapping[str, Any]) -> torch.Tensor:
    """Logits alone, (b, c) float32, by the network's own forward pass."""
    found: torch.Tensor = model(images).float()
    return found if passes(spec) == 1 else (found + model(images.flip(3)).float()) / 2
