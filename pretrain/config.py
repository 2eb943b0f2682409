"""The settings of a training run: what `pretrain` can be told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from prune.runs.identity import Location, RunOption


@dataclass(frozen=True)
class Config:
    """What to train on, how, and for how long."""

    beton: Location[Path]
    """Source to train on; its manifest stands beside it."""
    out: Location[Path]
    """Run directory."""
    recipe: str
    """Name of a recipe; --list shows them."""
    index: Location[Path | None] = None
    """Train on the samples that this index keeps."""
    allow_changed: RunOption[bool] = False
    """Use the index also on another source, as far as its samples are there; recorded in provenance.json."""
    val: Location[Path | None] = None
    """Beton with the same classes to evaluate after each epoch; never pruned."""
    sample: float = 1.0
    """Train on a random part of the (indexed) source, in (0, 1]; drawn from the seed."""
    fold: str | None = None
    """K/N: leave out fold K of N, so that `prune score` can score it by a surrogate that did not see it; give it the
    features of all N surrogates."""
    seed: int = 0
    """Decides initial weights, order, augmentation and sample."""
    epochs: float | None = None
    """Budget in epochs; the recipe's when none of the three budgets is given."""
    steps: int | None = None
    """Budget in optimiser steps."""
    seconds: float | None = None
    """Budget in seconds of training."""
    resolution: int | None = None
    """Side of the training images in pixels instead of the recipe's."""
    batch_size: int | None = None
    """Images of a step over all processes instead of the recipe's; the learning rate follows in proportion."""
    micro_batch: RunOption[int | None] = None
    """Images of one forward pass at most in each process; more are accumulated. May change when a run goes on."""
    init: Location[Path | None] = None
    """Model directory to start from; a head for other classes is drawn anew."""
    infobatch: float | None = None
    """Share of the easy images that each epoch leaves out, in [0, 1) (InfoBatch); the recipe's when absent."""
    adversarial: Literal["recipe", "none", "fast", "free", "pgd"] = "recipe"
    """Train on adversarial images: one step, replays of each batch, or PGD; radius 4/255 unless the recipe says."""
    dynamics: bool = False
    """Record probability, margin and correctness of every image in every epoch: OUT/dynamics.npz."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """auto: bf16 where the hardware has it, fp32 elsewhere."""
    loader: Literal["ffcv", "torch"] = "ffcv"
    """torch needs no FFCV."""
    workers: RunOption[int | None] = None
    """Decoding threads of each process; its share of the cores when absent."""
    threads: RunOption[int | None] = None
    """torch's threads of each process; OMP_NUM_THREADS or its share of the cores when absent."""
    checkpoint_minutes: RunOption[float] = 10.0
    """Write a checkpoint after every epoch, and within one whenever this time has passed."""
    tracker: RunOption[Literal["none", "tensorboard", "wandb"]] = "none"
    """Also log each epoch there."""
