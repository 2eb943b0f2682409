"""What stands in for modules that are not installed, so that the check can start; they themselves stay unchecked."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import ModuleType

import numpy as np


def install(lacking: Sequence[str]) -> None:
    """Let Pillow shrink images where OpenCV is not installed."""
    if "cv2" in lacking:
        module = ModuleType("cv2")
        module.INTER_AREA = 3  # type: ignore[attr-defined]
        module.resize = _resize  # type: ignore[attr-defined]
        sys.modules["cv2"] = module


def _resize(pixels: np.ndarray, size: tuple[int, int], interpolation: int = 3) -> np.ndarray:
    """Averages over areas where images shrink, as cv2.INTER_AREA does; (h, w, 3) uint8."""
    from PIL import Image

    return np.asarray(Image.fromarray(np.ascontiguousarray(pixels)).resize(size, Image.Resampling.BOX))
