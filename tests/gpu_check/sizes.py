"""How large the check's images, networks and trainings are, on a GPU and in the tests."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from tests.gpu_check.report import Report

CLASSES = 10


@dataclass
class Setting:
    """Where the check runs, how large it is, and what its parts hand on to each other.

    Attributes
    ----------
    report : Report
    work : Path
        Directory of what the parts write.
    device : torch.device
    tiny : bool
    lacking : list of str
        Modules that are not installed.
    """

    report: Report
    work: Path
    device: torch.device
    tiny: bool
    lacking: list[str]
    made: dict[str, Any] = field(default_factory=dict)

    @property
    def gpu(self) -> bool:
        return self.device.type == "cuda"

    @property
    def loader(self) -> Literal["ffcv", "torch"]:
        return "torch" if {"ffcv", "numba"} & set(self.lacking) else "ffcv"

    @property
    def cores(self) -> int:
        return len(os.sched_getaffinity(0))

    @property
    def photographs(self) -> tuple[int, int, int]:
        """Number, width and height of the large images."""
        return (32, 100, 75) if self.tiny else (1500, 500, 375)

    @property
    def thumbnails(self) -> tuple[int, int]:
        """Number of small images in the train and the test part."""
        return (80, 40) if self.tiny else (2400, 600)

    @property
    def sides(self) -> tuple[int, ...]:
        """Sides at which the loader is checked; a step is measured at the first two."""
        return (24, 32) if self.tiny else (160, 192, 224)

    @property
    def recipe(self) -> str:
        """Recipe of the small trainings; without compiling and without operations that CUDA cannot repeat exactly."""
        return "lamps" if self.tiny else "small-rn18"

    @property
    def side(self) -> int:
        """Side of the small images in pixels, as the recipe trains on them."""
        return 16 if self.tiny else 32
