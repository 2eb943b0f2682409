"""The settings of a training run: the flags of `pretrain`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from prune.runs.compute_device import DeviceFlag
from prune.runs.identity import Location, RunOption


@dataclass(frozen=True)
class Config:
    """What to train on, how, and for how long."""

    beton: Location[Path]
    """Beton of the source to train on; its manifest lies beside it."""
    out: Location[Path]
    """Run directory."""
    recipe: str
    """Name of a recipe; --list shows them."""
    index: Location[Path | None] = None
    """Train on the samples that this index keeps."""
    allow_changed: RunOption[bool] = False
    """Accept an index of another source, and ignore its samples that --beton lacks; recorded in provenance.json."""
    val: Location[Path | None] = None
    """Beton with the same classes to evaluate on after each epoch; never pruned."""
    order: Literal["random", "block"] = "random"
    """random: each epoch a new order of all images. block: for a source larger than memory, images are mixed within 256
    pages (2 GiB) at a time, drawn from the whole file; also exact and resumable on any number of processes."""
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
    """Images per step over all processes instead of the recipe's; the learning rate follows in proportion."""
    micro_batch: RunOption[int | None] = None
    """Largest number of images per forward pass and process; larger steps accumulate gradients. May change later."""
    init: Location[Path | None] = None
    """Model directory whose weights to start from; a classifier for other classes starts with random weights."""
    infobatch: float | None = None
    """Share of the easy images that each epoch skips, in [0, 1) (InfoBatch); the recipe's when absent."""
    adversarial: Literal["recipe", "none", "fast", "free", "pgd"] = "recipe"
    """Train on adversarial images, by one step, by replays of each batch or by PGD; radius 4/255 or the recipe's."""
    dynamics: bool = False
    """Record probability, margin and correctness of every image in every epoch: OUT/dynamics.npz."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """auto: bf16 where the hardware has it, fp16 on other GPUs, fp32 on other CPUs."""
    loader: Literal["ffcv", "torch"] = "ffcv"
    """Image loader; torch works without FFCV."""
    workers: RunOption[int | None] = None
    """Decoding threads per process; its share of the cores when absent."""
    threads: RunOption[int | None] = None
    """Threads of torch per process; OMP_NUM_THREADS or its share of the cores when absent."""
    checkpoint_minutes: RunOption[float] = 10.0
    """Write a checkpoint whenever this time has passed, and after an epoch once a tenth of it has."""
    device: RunOption[DeviceFlag] = "auto"
    """auto: the GPU, where there is one; a job that was given a GPU and cannot use it is refused."""
    compile: RunOption[Literal["auto", "on", "off"]] = "auto"
    """torch.compile; auto: where the recipe wants it, on a GPU, if this machine has a compiler."""
    deterministic: RunOption[bool] = False
    """On a GPU: only operations that give the same bits each time, at some cost in speed; CPUs need no flag."""
    sync_bn: bool = False
    """On several GPUs: batch norm sees a step's images on all processes together, so that the number of processes
    changes numbers no more than the order of additions does; slower, not compiled. --micro-batch splits the step."""
    tracker: RunOption[Literal["none", "tensorboard", "wandb"]] = "none"
    """Also log each epoch to this tracker."""
