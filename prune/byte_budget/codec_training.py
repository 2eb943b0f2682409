"""Trains a learned codec on a source: rate plus distortion, the distortion in a network's features or in pixels.

    D * lambda + R, R = -log2 of a logistic density around values with uniform noise (Ballé et al., 2018, equation 9)

`pretrain` has the project's one training loop; this is the documented exception to it: `prune` may not import it, there
are no labels and no classes, and minutes suffice. Weights are int8 already while they are learned (straight-through).
A stopped training resumes from the last saved state; batches and noise depend on seed and step alone.
"""

from __future__ import annotations

import json
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from prune.byte_budget import integer_network
from prune.byte_budget.distortion import dropped
from prune.byte_budget.feature_error import Judge, sampled
from prune.byte_budget.integer_network import Layer, Shape
from prune.byte_budget.learned_codec import (
    DECODER,
    ENCODER,
    FIXED,
    SYMBOLS,
    LearnedCodec,
    open_learned,
    read_facts,
)
from prune.data.dataset import Dataset
from prune.runs.extras import need_modules
from prune.runs.files import InputError, atomic, note
from prune.runs.identity import identity
from prune.runs.outputs import claim_file
from prune.runs.progress import track

QUALITIES = (60, 40, 20, 10)
_PRICES = (40000.0, 14000.0, 5000.0, 1800.0)
"""Bits per 1,024 pixels that a distortion of 1 costs: what dropping an image costs."""
_PIXELS = 0.3
"""Weight of the mean squared error of pixels in [0, 1] beside the feature error: keeps images recognisable."""
_SAVE_SECONDS = 60.0


@dataclass(frozen=True)
class TrainingSettings:
    """What decides a codec besides the source and the network.

    Attributes
    ----------
    distortion : {"features", "pixels"}
    images : int
        Images to learn from, at the network's resolution.
    width, channels : int
        Channels inside the networks and of the latent image.
    """

    steps: int = 1500
    distortion: Literal["features", "pixels"] = "features"
    images: int = 4000
    batch: int = 16
    width: int = 32
    channels: int = 24
    seed: int = 0


class _Convolution(nn.Module):
    """A layer while it is learned: weights as int8 steps, values as plain numbers."""

    def __init__(self, inside: int, outside: int, shape: Shape, positive: bool) -> None:
        super().__init__()
        side = 5 if shape == "down" else 3
        self.convolution = nn.Conv2d(inside, outside * (4 if shape == "up" else 1), side)
        nn.init.kaiming_normal_(self.convolution.weight, nonlinearity="relu" if positive else "linear")
        assert self.convolution.bias is not None
        nn.init.zeros_(self.convolution.bias)
        self.shape, self.positive = shape, positive
        self.middle = 0.0  # is subtracted from the values and from the zeros around them

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        weight = self.convolution.weight
        whole, step = integer_network.int8_weight(weight.detach())
        weight = weight + (whole * step[:, None, None, None] - weight).detach()
        stride = 2 if self.shape == "down" else 1
        values = integer_network.padded(values, weight.shape[2], stride) - self.middle
        values = functional.conv2d(values, weight, self.convolution.bias, stride=stride)
        values = values.relu() if self.positive else values
        return functional.pixel_shuffle(values, 2) if self.shape == "up" else values


class TrainedCodec(nn.Module):
    """Both networks and the prior, with gradients."""

    def __init__(self, settings: TrainingSettings) -> None:
        super().__init__()
        wide, deep = settings.width, settings.channels
        self.encoder = _network(ENCODER, (3, wide, wide, deep))
        self.decoder = _network(DECODER, (deep, wide, wide, 3))
        first, last = self.encoder[0], self.decoder[-1]
        assert isinstance(first, _Convolution)
        assert isinstance(last, _Convolution)
        assert last.convolution.bias is not None
        first.middle = 0.5
        with torch.no_grad():
            first.convolution.weight *= 2  # the values are half as large as those of the layers after it
            last.convolution.weight *= 0.3
        nn.init.constant_(last.convolution.bias, 0.5)  # middle grey
        gains = torch.tensor([[1.0], [0.6], [0.35], [0.2]]).expand(-1, deep) * 8
        self.gain = nn.Parameter(gains.log().clone())
        self.spread = nn.Parameter(torch.zeros(len(QUALITIES), deep))
        self.middle = nn.Parameter(torch.zeros(len(QUALITIES), deep))

    def forward(self, pixels: torch.Tensor, at: int, random: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Decoded images with values from 0 to 1, and bits of each image, (b,)."""
        gain = self.gain[at].exp()[:, None, None]
        latent = self.encoder(pixels) * gain
        noisy = latent + torch.rand(latent.shape, generator=random) - 0.5
        spread = self.spread[at].exp()[:, None, None]
        away = (noisy - self.middle[at][:, None, None]).abs()
        # The logistic's mass within half a step, by the tail below so that it stays above 0.
        share = torch.sigmoid((0.5 - away) / spread) - torch.sigmoid((-0.5 - away) / spread)
        bits = -share.clamp_min(1e-6).log2().flatten(1).sum(1)
        rounded = latent + (latent.clamp(-SYMBOLS, SYMBOLS).round() - latent).detach()
        return self.decoder(rounded / gain), bits

    def whole(self, images: Sequence[np.ndarray]) -> LearnedCodec:
        """The codec in whole numbers, its frequencies counted on images."""
        encoder = _whole(self.encoder, first=1 / 255, last=float(FIXED))
        decoder = _whole(self.decoder, first=1 / FIXED, last=255.0)
        gains = self.gain.detach().exp().numpy().astype(np.float32)
        counts = np.ones((*gains.shape, 2 * SYMBOLS + 1), np.int64)
        codec = LearnedCodec(encoder, decoder, gains, counts.astype(np.uint16), QUALITIES)
        for at in range(len(QUALITIES)):
            for image in images:
                for channel, symbols in enumerate(codec.symbols(image, at)):
                    counts[at, channel] += np.bincount(symbols.reshape(-1) + SYMBOLS, minlength=2 * SYMBOLS + 1)
        shares = counts / counts.sum(-1, keepdims=True)
        scaled = np.maximum(1, np.floor(shares * 2**15)).astype(np.uint16)
        return LearnedCodec(encoder, decoder, gains, np.minimum(scaled, 2**15 - 1).astype(np.uint16), QUALITIES)


def _network(kinds: Sequence[tuple[Shape, bool]], sizes: Sequence[int]) -> nn.Sequential:
    return nn.Sequential(*(_Convolution(a, b, *kind) for a, b, kind in zip(sizes, sizes[1:], kinds)))


def _whole(network: nn.Sequential, *, first: float, last: float) -> tuple[Layer, ...]:
    """Layers in whole numbers: the input in steps of `first`, between layers of 1/256, the output times `last`."""
    layers = []
    for number, layer in enumerate(network):
        assert isinstance(layer, _Convolution)
        weight, step = integer_network.int8_weight(layer.convolution.weight.detach().double())
        inside = first if number == 0 else 1 / FIXED
        outside = last if number == len(network) - 1 else float(FIXED)
        assert layer.convolution.bias is not None
        moved = layer.convolution.bias.detach().double() - layer.middle * weight.sum((1, 2, 3)) * step
        bias = moved * outside
        layers.append(Layer(weight.to(torch.int8), step * inside * outside, bias, layer.shape, layer.positive))
    return tuple(layers)


def train_codec(
    images: np.ndarray, judge: Judge, settings: TrainingSettings, state: Path | None = None
) -> tuple[LearnedCodec, dict[str, Any]]:
    """Train a codec.

    Parameters
    ----------
    images : (n, side, side, 3) uint8
        At least 8.
    judge : Judge
        Whose features count, unless the distortion is that of pixels.
    settings : TrainingSettings
    state : Path, optional
        Where a stopped training is kept.

    Returns
    -------
    codec : LearnedCodec
    facts : dict
        "seconds", "loss" (of the last step).
    """
    if len(images) < 8:
        raise InputError(f"{len(images)} images: at least 8 are needed to train a codec")
    torch.manual_seed(settings.seed)
    model = TrainedCodec(settings)
    optimiser = torch.optim.Adam(model.parameters(), 2e-3)
    exact = judge.features(list(images))
    worth = float(dropped(exact, exact.mean(0)).mean())
    first = _restore(state, model, optimiser) if state is not None else 0
    begin = saved = time.monotonic()
    loss = float("nan")
    for step in track(range(first, settings.steps), settings.steps - first, "training a codec"):
        random = torch.Generator().manual_seed(settings.seed * 1_000_003 + step)
        rows = torch.randint(0, len(images), (settings.batch,), generator=random).numpy()
        at = int(torch.randint(0, len(QUALITIES), (1,), generator=random))
        pixels = torch.from_numpy(images[rows]).permute(0, 3, 1, 2).float() / 255
        for group in optimiser.param_groups:
            group["lr"] = 2e-3 * min(1.0, 4 * (1 - step / settings.steps) + 0.02)
        decoded, bits = model(pixels, at, random)
        # Pixels first: features of an image that nothing resembles yet give no direction.
        pixel_weight = _PIXELS * (1 + 20 * max(0.0, 1 - 3 * step / settings.steps))
        error = pixel_weight * functional.mse_loss(decoded, pixels)
        if settings.distortion == "features":
            gap = judge.of_pixels(255 * decoded.clamp(0, 1)) - torch.from_numpy(exact[rows])
            error = error + gap.square().mean() / worth
        else:
            error = 10 * error
        rate = bits.mean() * 1024 / (pixels.shape[2] * pixels.shape[3])
        total = (rate + _PRICES[at] * error) / _PRICES[at] ** 0.5
        optimiser.zero_grad()
        total.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimiser.step()
        loss = float(total.detach())
        if not np.isfinite(loss):
            raise InputError(f"training the codec: the loss is {loss} at step {step}; try another --seed")
        if state is not None and time.monotonic() - saved > _SAVE_SECONDS:
            _keep(state, model, optimiser, step + 1)
            saved = time.monotonic()
    codec = model.whole(list(images[: min(len(images), 512)]))
    return codec, {"seconds": round(time.monotonic() - begin, 1), "loss": loss}


def _keep(state: Path, model: nn.Module, optimiser: torch.optim.Optimizer, step: int) -> None:
    """Write weights and the optimiser's moments, by the number of each parameter."""
    from safetensors.torch import save

    tensors = {f"weight.{k}": p.detach().clone() for k, p in enumerate(model.parameters())}
    for k, p in enumerate(model.parameters()):
        moments = optimiser.state.get(p, {})
        tensors |= {f"{name}.{k}": moments[name].clone() for name in ("exp_avg", "exp_avg_sq") if name in moments}
    with atomic(state) as partial:
        partial.write_bytes(save(tensors, {"step": str(step)}))


def _restore(state: Path, model: nn.Module, optimiser: torch.optim.Optimizer) -> int:
    """Read what `_keep` wrote; the number of steps done, 0 when there is nothing whole."""
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import load

    if not state.is_file():
        return 0
    try:
        with safe_open(state, "pt") as file:
            step = int((file.metadata() or {})["step"])
        tensors = load(state.read_bytes())
        with torch.no_grad():
            for k, p in enumerate(model.parameters()):
                p.copy_(tensors[f"weight.{k}"])
                if f"exp_avg.{k}" in tensors:
                    moments = {name: tensors[f"{name}.{k}"] for name in ("exp_avg", "exp_avg_sq")}
                    optimiser.state[p] = {"step": torch.tensor(float(step)), **moments}
    except (SafetensorError, KeyError, ValueError, RuntimeError):
        return 0
    note(f"training the codec: resuming after step {step}")
    return step


def train_to_file(settings: TrainingSettings, source: Dataset, judge: Judge, out: Path) -> LearnedCodec:
    """Train a codec on a sample of a source and write it to `out`, unless it is up to date."""
    need_modules("constriction")
    inputs = {"model": judge.fingerprint, "source": source.manifest.fingerprint}
    with claim_file(out, lambda path: read_facts(path).get("made", {}), settings, inputs) as done:
        if not done:
            made = identity(settings) | inputs
            key = json.dumps(made, sort_keys=True).encode()
            state = out.with_name(f".{out.name}.{zlib.crc32(key):08x}.state")
            images = judge.shown(sampled(source, settings.images, settings.seed, "learned")[1])
            codec, facts = train_codec(images, judge, settings, state)
            codec.save(out, {**facts, "made": made})
            state.unlink(missing_ok=True)
            note(f"{out}: {len(images)} images, {settings.steps} steps, {out.stat().st_size:,} bytes")
        return open_learned(out)
