"""The settings that all runs of one incremental learning share, and what distinguishes one run from another."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pretrain.recipe import Recipe
from pretrain.schedule import Budget
from prune.byte_budget.codec_files import ImageCodec
from transfer.continual.exemplar_form import RAW, Form, form_of

HEADS = ("linear", "nearest-mean")
"""The two classifiers that predict: the network's own head, and the nearest mean of exemplars (iCaRL)."""


@dataclass(frozen=True)
class IncrementalSetting:
    """Settings of all runs of one call; the fields are the step's flags, checked.

    Attributes
    ----------
    budget : Budget
        Of each task.
    side : int
        Height and width at which images are learned, stored and tested.
    quality : int
        0: chosen from the images of the first task.
    """

    recipe_name: str
    recipe: Recipe
    budget: Budget
    side: int
    tasks: int
    per_class: int | None
    codec: ImageCodec
    quality: int
    shared: bool
    rank: str
    distillation: float
    init: Path | None
    checkpoint_seconds: float
    workers: int | None

    def form(self, name: str) -> Form:
        """How exemplars of "raw", "compressed" or "same-codec" are stored, once the quality is known."""
        if name == RAW:
            return Form(RAW, 0, self.side)
        return form_of(self.codec, self.quality, self.side, self.shared)


@dataclass(frozen=True)
class IncrementalRun:
    """One run: bytes of memory, form of the exemplars ("raw", "compressed", "same-codec") and seed."""

    memory: int
    form: str
    seed: int

    @property
    def name(self) -> str:
        """Name of its directory."""
        return f"{self.form}-{self.memory}-s{self.seed}"
