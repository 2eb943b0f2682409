"""The class of recipes: all settings of a training that are tuned together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class Attack:
    """Adversarial training: images are changed within a radius to raise the loss, before the model learns from them.

    Attributes
    ----------
    kind : {"pgd", "fast", "free"}
        PGD (Madry et al., arXiv 1706.06083); one step from a random start (Wong et al., arXiv 2001.03994); or noise
        that is kept while each batch is replayed `steps` times (Shafahi et al., arXiv 1904.12843): an epoch then makes
        `steps` times as many updates at `steps` times the cost, so divide the epochs by `steps`.
    norm : {"linf", "l2"}
    epsilon : float
        Radius; in grey levels of 255 for linf, in units of images scaled to [0, 1] for l2 (as published).
    steps : int
        Steps of PGD, or replays of a batch.
    ramp : float
        Share of the budget over which the radius grows from 0; keeps one-step training from collapsing early.
    """

    kind: Literal["pgd", "fast", "free"]
    norm: Literal["linf", "l2"] = "linf"
    epsilon: float = 4.0
    steps: int = 3
    ramp: float = 0.0


@dataclass(frozen=True)
class Recipe:
    """How to train one model.

    Attributes
    ----------
    cost, expect : str
        Shown by `--list`.
    arch, kwargs, stem
        timm model, its keyword arguments, and "imagenet", "half" (3x3 stride 2) or "small" (3x3 stride 1) stem.
    epochs : float
        Budget unless the command gives another.
    batch : int
        Images of one optimiser step over all processes.
    resolution, start_resolution, grow
        Side in pixels at the end and at the start of training, and the shares of the budget between which it grows.
    evaluation, crop_ratio, mirror
        Evaluation: side in pixels (0: as `resolution`), side of the central crop as a share of the shorter side, and
        whether outputs are the mean over the image and its mirror image, at twice the cost.
    crop : {"resized", "padded", "none"}
        Random resized crop with areas in `scale`, or a shift by up to `padding` of the side; both with a flip.
    optimiser, lr, weight_decay, momentum, betas, warmup, fall
        `lr` is the peak for `batch` images a step over all processes (scaled in proportion for others); `warmup` in
        epochs of `epochs`; `fall` is how the rate then falls to 0. Norms, biases and what the network's own
        `no_weight_decay` names (positions and class tokens of transformers) do not decay.
    smoothing, mixup, cutmix
        Label smoothing; Beta parameters of mixup and CutMix, of which each step draws one.
    clip : float
        Largest norm of the gradient (0: none).
    ema : float
        Decay per step of the averaged weights, which are then evaluated and saved (0: none).
    compile : bool
        Use `torch.compile`, on CUDA alone.
    attack : Attack, optional
    infobatch : float
        Share of the easy images that an epoch skips (InfoBatch, arXiv 2303.04947; 0: none).
    method : {"supervised", "simsiam"}
    """

    cost: str
    expect: str
    arch: str
    epochs: float
    batch: int
    lr: float
    resolution: int
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    stem: Literal["imagenet", "half", "small"] = "imagenet"
    start_resolution: int = 0
    grow: tuple[float, float] = (11 / 16, 13 / 16)
    evaluation: int = 0
    crop_ratio: float = 1.0
    mirror: bool = False
    crop: Literal["resized", "padded", "none"] = "resized"
    scale: tuple[float, float] = (0.25, 1.0)
    padding: float = 0.125
    optimiser: Literal["sgd", "adamw"] = "sgd"
    weight_decay: float = 5e-5
    momentum: float = 0.9
    betas: tuple[float, float] = (0.9, 0.999)
    warmup: float = 2.0
    fall: Literal["cosine", "linear"] = "cosine"
    smoothing: float = 0.1
    mixup: float = 0.0
    cutmix: float = 0.0
    clip: float = 0.0
    ema: float = 0.0
    compile: bool = False
    attack: Attack | None = None
    infobatch: float = 0.0
    method: Literal["supervised", "simsiam"] = "supervised"
