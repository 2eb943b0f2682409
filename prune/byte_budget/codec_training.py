"""Trains a learned codec on a source: rate plus distortion, the distortion in a network's features or in pixels.

    D * lambda + R, R = -log2 of a logistic density around values with uniform noise (Ballé et al., 2018, equation 9)

The transform is orthonormal, and starts as the principal components of the images' squares (Karhunen and Loève's);
each quality starts with one step for all channels. So the first step of the training already is a fair codec, and any
quality can be had: networks of the same size, started at random, needed most of the training to come near it.

`pretrain` has the project's one training loop; this is the documented exception to it: `prune` may not import it, there
are no labels and no classes, and minutes suffice. A stopped training resumes from the last saved state; batches and
noise depend on seed and step alone.
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

from prune.byte_budget.distortion import dropped
from prune.byte_budget.feature_error import Judge, sampled
from prune.byte_budget.learned_codec import DEAD, SIDE, SYMBOLS, LearnedCodec, open_learned, read_facts, squares
from prune.data.dataset import Dataset
from prune.runs.extras import need_modules
from prune.runs.files import InputError, atomic, note
from prune.runs.identity import identity
from prune.runs.outputs import claim_file
from prune.runs.progress import track

QUALITIES = (95, 90, 75, 60, 40, 20, 10)
_STEPS = (6.0, 10.0, 18.0, 32.0, 56.0, 92.0, 150.0)
"""Grey levels between two symbols at the start of the training, for each quality."""
_PRICES = (1e7, 2.6e6, 6.7e5, 1.7e5, 4.5e4, 1.2e4, 3e3)
"""Bits per 1,024 pixels that the network sees that a distortion of 1 costs: what dropping an image costs."""
_PIXELS = 3.0
"""Weight of the mean squared error of pixels in [0, 1] beside the feature error: keeps images recognisable."""
_UNSEEN = 0.1
"""Share of it that is taken at the images' own resolution, where the network sees a smaller one."""
_LARGEST_TRAINED = 128
_SAVE_SECONDS = 60.0


@dataclass(frozen=True)
class TrainingSettings:
    """What decides a codec besides the source and the network.

    Attributes
    ----------
    distortion : {"features", "pixels"}
    images : int
        Images to learn from.
    batch : int
        Images a step; fewer where they are larger than the network's resolution.
    channels : int
        Values that the transform gives for each square, at most 192.
    """

    steps: int = 1500
    distortion: Literal["features", "pixels"] = "features"
    images: int = 4000
    batch: int = 32
    channels: int = 96
    seed: int = 0


class TrainedCodec(nn.Module):
    """The transform, the gains and the prior, with gradients; started from images (n, side, side, 3) uint8."""

    def __init__(self, settings: TrainingSettings, images: np.ndarray) -> None:
        super().__init__()
        parts = np.concatenate([squares(image) for image in images[:1500]]) / 255
        middle = parts.mean(0)
        values, vectors = np.linalg.eigh(np.cov((parts - middle).T))
        first = slice(None, -settings.channels - 1, -1)
        steps = torch.tensor(_STEPS)[:, None] / 255
        deviation = torch.from_numpy(np.sqrt(values[first].clip(1e-9))).float()
        self.basis = nn.Parameter(torch.from_numpy(vectors[:, first].copy()).float())
        self.gain = nn.Parameter((1 / steps).log().repeat(1, len(deviation)))
        self.spread = nn.Parameter((deviation / steps / 2).clamp_min(0.1).log())
        self.middle = torch.from_numpy(np.rint(255 * middle)) / 255

    def transform(self) -> torch.Tensor:
        """The transform (192, channels): the basis made orthonormal."""
        q, r = torch.linalg.qr(self.basis)
        signed: torch.Tensor = q * r.diagonal().sign()
        return signed

    def forward(self, parts: torch.Tensor, at: int, random: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Decoded squares (b, squares, 192) with values from 0 to 1, and bits of each image, (b,)."""
        transform, gain, middle = self.transform(), self.gain[at].exp(), self.middle.float()
        values = (parts - middle) @ transform * gain
        noisy = values + torch.rand(values.shape, generator=random) - 0.5
        away, spread = noisy.abs(), self.spread[at].exp()
        # The logistic's mass within half a step, by the tail below so that it stays above 0.
        share = torch.sigmoid((0.5 - away) / spread) - torch.sigmoid((-0.5 - away) / spread)
        bits = -share.clamp_min(1e-6).log2().flatten(1).sum(1)
        # The decoder learns from rounded values, the gradient passes the rounding as it is.
        rounded = values.sign() * (values.abs() + (0.5 - DEAD)).floor()
        rounded = values + (rounded - values).detach()
        return rounded / gain @ transform.T + middle, bits

    def whole(self, images: Sequence[np.ndarray]) -> LearnedCodec:
        """The codec in whole numbers, its frequencies counted on images."""
        with torch.no_grad():
            transform, gains = self.transform().double().numpy(), self.gain.exp().numpy() / 255
        step = (np.abs(transform).max(0) / 127).astype(np.float32)
        weight = np.rint(transform / step).clip(-127, 127).astype(np.int8)
        middle = np.rint(255 * self.middle.numpy()).astype(np.uint8)
        return counted_codec(weight, step, middle, gains.astype(np.float32), images)


def counted_codec(
    weight: np.ndarray, step: np.ndarray, middle: np.ndarray, gains: np.ndarray, images: Sequence[np.ndarray]
) -> LearnedCodec:
    """The codec of a transform and gains: frequencies counted on images, channels left out that no image uses."""
    reach = np.full(gains.shape, SYMBOLS, np.uint16)
    codec = LearnedCodec(weight, step, middle, gains, reach, np.empty(0, np.uint8), QUALITIES)
    counts = np.zeros((*gains.shape, SYMBOLS + 1))
    for at in range(len(gains)):
        found = np.abs(np.concatenate([codec.symbols(image, at) for image in images]))
        for channel in range(gains.shape[1]):
            counts[at, channel] = np.bincount(found[:, channel], minlength=SYMBOLS + 1)
    stored = np.flatnonzero(counts[..., 1:].any((0, 2)))
    stored = stored if len(stored) else np.array([0])
    counts = counts[:, stored]
    reach = ((counts > 0) * np.arange(SYMBOLS + 1)).max(-1)
    reach = np.minimum(reach + reach // 4, SYMBOLS).astype(np.uint16)  # other images go further
    # One half more of each symbol that may come; two symbols share the count of an absolute value.
    halves = (counts + 0.5) / np.where(np.arange(SYMBOLS + 1), 2, 1)
    roots = np.rint(255 * np.sqrt(halves / halves.max(-1, keepdims=True))).clip(1, 255).astype(np.uint8)
    ends = reach.astype(int).ravel() + 1
    kept = np.concatenate([one[:end] for one, end in zip(roots.reshape(-1, SYMBOLS + 1), ends)])
    return LearnedCodec(weight[:, stored].copy(), step[stored], middle, gains[:, stored].copy(), reach, kept, QUALITIES)


def _parts(images: torch.Tensor) -> torch.Tensor:
    """Squares of (b, 3, h, w), (b, squares, 192), in the order of `squares`; sides are filled up likewise."""
    height, width = images.shape[2:]
    whole = functional.pad(images, (0, -width % SIDE, 0, -height % SIDE), mode="replicate")
    shape = (len(whole), 3, whole.shape[2] // SIDE, SIDE, whole.shape[3] // SIDE, SIDE)
    return whole.reshape(shape).permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)


def _joined(parts: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Images (b, 3, height, width) of their squares: the inverse of `_parts`."""
    rows, columns = -(-height // SIDE), -(-width // SIDE)
    whole = parts.reshape(len(parts), rows, columns, SIDE, SIDE, 3).permute(0, 5, 1, 3, 2, 4)
    return whole.reshape(len(parts), 3, rows * SIDE, columns * SIDE)[..., :height, :width]


def train_codec(
    images: np.ndarray, judge: Judge, settings: TrainingSettings, state: Path | None = None
) -> tuple[LearnedCodec, dict[str, Any]]:
    """Train a codec.

    Parameters
    ----------
    images : (n, side, side, 3) uint8
        At least 8; `side` is the network's resolution, or a multiple of it where the images are larger.
    judge : Judge
        Whose features count, unless the distortion is that of pixels.
    settings : TrainingSettings
    state : Path, optional
        Where a stopped training is kept.

    Returns
    -------
    codec : LearnedCodec
    facts : dict
        "loss" (of the last step). No time: the file's bytes are its fingerprint and count in every budget.
    """
    if len(images) < 8:
        raise InputError(f"{len(images)} images: at least 8 are needed to train a codec")
    torch.manual_seed(settings.seed)
    side, factor = images.shape[1], max(1, images.shape[1] // int(judge.spec["resolution"]))
    model = TrainedCodec(settings, images)
    rates = ((model.basis, 5e-4), (model.gain, 1e-2), (model.spread, 1e-2))
    optimiser = torch.optim.Adam([{"params": [parameter], "lr": rate} for parameter, rate in rates])
    exact = _features(images, judge, factor)
    worth = float(dropped(exact.numpy(), exact.numpy().mean(0)).mean())
    first = _restore(state, model, optimiser) if state is not None else 0
    saved = time.monotonic()
    loss = float("nan")
    for step in track(range(first, settings.steps), settings.steps - first, "training a codec"):
        random = torch.Generator().manual_seed(settings.seed * 1_000_003 + step)
        batch = max(1, settings.batch // factor)
        rows = torch.randint(0, len(images), (batch,), generator=random).numpy()
        at = int(torch.randint(0, len(QUALITIES), (1,), generator=random))
        pixels = torch.from_numpy(images[rows]).permute(0, 3, 1, 2).float() / 255
        for group, (_, rate) in zip(optimiser.param_groups, rates):
            group["lr"] = rate * min(1.0, (step + 1) / 50, 3 * (1 - step / settings.steps) + 0.02)
        parts, bits = model(_parts(pixels), at, random)
        decoded = _joined(parts, side, side)
        if settings.distortion == "features":
            seen, wanted = _seen(decoded, factor), _seen(pixels, factor)
            gap = judge.of_pixels(255 * seen.clamp(0, 1)) - exact[rows]
            near = (1 - _UNSEEN) * functional.mse_loss(seen, wanted) + _UNSEEN * functional.mse_loss(decoded, pixels)
            error = gap.square().mean() / worth + _PIXELS * near
            price, size = _PRICES[at], bits.mean() * 1024 * factor**2 / side**2
        else:
            # Where a uniform quantiser of this step is the best: d^2 / 12 of error, -log2 d of bits a value.
            error, price = functional.mse_loss(decoded, pixels), 6 * 3072 / np.log(2) / (_STEPS[at] / 255) ** 2
            size = bits.mean() * 1024 / side**2
        total = (size + price * error) / price**0.5
        optimiser.zero_grad()
        total.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimiser.step()
        loss = float(total.detach())
        if not np.isfinite(loss):
            raise InputError(f"training the codec: the loss is {loss} at step {step}; try another --seed")
        more = step + 1 < settings.steps  # a state without a step left would know no loss
        if state is not None and more and time.monotonic() - saved > _SAVE_SECONDS:
            _keep(state, model, optimiser, step + 1)
            saved = time.monotonic()
    codec = model.whole(list(images[: min(len(images), 1500)]))
    return codec, {"loss": loss}


def _seen(images: torch.Tensor, factor: int) -> torch.Tensor:
    """What the network sees of (b, 3, side, side): means over squares of `factor`."""
    return functional.avg_pool2d(images, factor) if factor > 1 else images


def _features(images: np.ndarray, judge: Judge, factor: int) -> torch.Tensor:
    """Features (n, d) of images that are `factor` times as large as what the network sees."""
    with torch.no_grad():
        parts = [
            judge.of_pixels(_seen(torch.from_numpy(images[at : at + 256]).permute(0, 3, 1, 2).float(), factor))
            for at in range(0, len(images), 256)
        ]
    return torch.cat(parts)


def trained_side(sizes: Sequence[tuple[int, ...]], resolution: int) -> int:
    """Side of the images to train on: the largest multiple of the network's that the middle image fills, up to 128."""
    middle = int(np.median([min(size[:2]) for size in sizes]))
    return resolution * max(1, min(middle, _LARGEST_TRAINED) // resolution)


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
    with claim_file(out, lambda path: read_facts(path).get("made", {}), settings, inputs, "--train") as done:
        if not done:
            made = identity(settings) | inputs
            key = json.dumps(made, sort_keys=True).encode()
            state = out.with_name(f".{out.name}.{zlib.crc32(key):08x}.state")
            drawn = sampled(source, settings.images, settings.seed, "learned")[1]
            images = judge.shown(drawn, trained_side([one.shape for one in drawn], int(judge.spec["resolution"])))
            codec, facts = train_codec(images, judge, settings, state)
            codec.save(out, {**facts, "made": made})
            state.unlink(missing_ok=True)
            note(f"{out}: {len(images)} images, {settings.steps} steps, {out.stat().st_size:,} bytes")
        return open_learned(out)
