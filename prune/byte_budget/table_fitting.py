"""Fits JPEG quantisation tables to a network's features: coarse where the network does not look, fine where it does.

The step of a coefficient decides its bits and its error. To first order the mean squared error of the features (FMSE)
is the sum, over the 64 coefficients of luminance and of both colours, of the coefficient's squared error times a
sensitivity: the squared length of the features' derivative by it. The steps that minimise FMSE + lambda * bits are then
found for each coefficient alone; lambda decides the rate. Tables chosen so for pixels: Wu and Gersho,
"Rate-constrained picture-adaptive quantization for JPEG baseline coders" (1993), Ratnakar and Livny, "RD-OPT" (1995).

At each rate four kinds of JPEG are measured, one table or two, colour at full or half resolution, and the one with the
smallest FMSE at equal bytes is taken. A quality keeps its meaning: about the bytes of the standard's table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.fft import dctn
from torch.nn import functional

from prune.byte_budget.distortion import fmse
from prune.byte_budget.feature_error import Judge, sampled
from prune.data import image_codecs
from prune.data.dataset import Dataset
from prune.data.jpeg_tables import FORMAT, JpegTables
from prune.index.npz import open_meta
from prune.models import evaluation_view
from prune.runs.files import InputError, note
from prune.runs.identity import identity
from prune.runs.outputs import claim_file
from prune.runs.progress import track

_DRAWS = 6
"""Random directions in feature space for each image: the derivatives' squared lengths are means over them."""
_BLOCKS = 8192
"""Blocks of 8 x 8 on which bits and errors are counted, for each component."""
_STEPS = np.unique(np.geomspace(1, 255, 72).round().astype(int))
_RATES = 14
_QUALITIES = (1, 2, 3, 5, 7, 10, 14, 20, 30, 45, 60, 75, 85, 92, 96, 98, 100)
"""Qualities whose bytes are measured; those between are interpolated."""
_TO_YCC = np.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])
_TO_RGB = np.linalg.inv(_TO_YCC)


@dataclass(frozen=True)
class _Kind:
    """One kind of JPEG.

    Attributes
    ----------
    distortion, bits : (2, 64, steps) float64
        Of luminance and of both colours together, for each coefficient at each step.
    """

    full_colour: bool
    both: bool
    distortion: np.ndarray
    bits: np.ndarray

    def tables(self, price: float) -> tuple[list[int], list[int]]:
        """The steps of luminance and colour that minimise distortion + price * bits; of equal ones the coarsest."""
        cost = (self.distortion + price * self.bits)[..., ::-1]
        chosen = cost.argmin(-1) if self.both else np.repeat(cost.sum(0, keepdims=True).argmin(-1), 2, axis=0)
        steps = _STEPS[::-1]
        return steps[chosen[0]].tolist(), steps[chosen[1]].tolist()


def fit_tables(images: Sequence[np.ndarray], judge: Judge) -> tuple[JpegTables, dict[str, Any]]:
    """Fit tables for the qualities 1 to 100 to the features of a network.

    Parameters
    ----------
    images : sequence of (h, w, 3) uint8
        At least 8, of any sizes; a hundred are enough.
    judge : Judge

    Returns
    -------
    tables : JpegTables
    facts : dict
        "gain": FMSE of the fitted tables as a share of the standard's, at equal bytes on these images, for some
        qualities.
    """
    if len(images) < 8:
        raise InputError(f"{len(images)} images: at least 8 are needed to fit tables")
    exact = judge.features(images)
    scale = float(fmse(exact, exact.mean(0)).mean())
    kinds = _kinds(images, judge)
    # From a network that hardly notices an error to one that notices all of it: the price of a bit, in FMSE.
    high = max(float(kind.distortion[..., -1].sum()) for kind in kinds) / len(images) / 50
    prices = np.geomspace(max(high, 1e-9 * scale), max(high, 1e-9 * scale) * 1e-5, _RATES)
    curves = []
    for kind in track(kinds, len(kinds), "fitting JPEG tables"):
        points = [_measured(images, judge, exact, kind.tables(price), kind.full_colour) for price in prices]
        curves.append(np.array(points))
    anchors = np.array([_measured(images, judge, exact, _standard(q), False) for q in _QUALITIES])
    at = np.interp(np.arange(1, 101), _QUALITIES, np.log(anchors[:, 0]))
    found, full = [], []
    for quality, size in enumerate(at, 1):
        errors = [_at(curve, size) for curve in curves]
        best = int(np.argmin(errors))
        if errors[best] >= np.interp(quality, _QUALITIES, np.log(np.maximum(anchors[:, 1], 1e-12))):
            luminance, colour = _standard(quality)  # at the ends of the scale
            found.append((tuple(luminance), tuple(colour)))
            full.append(False)
            continue
        price = np.exp(np.interp(size, np.log(np.maximum.accumulate(curves[best][:, 0])), np.log(prices)))
        pair = kinds[best].tables(float(f"{price:.3g}"))  # few digits: noise of the last bits changes no table
        found.append((tuple(pair[0]), tuple(pair[1])))
        full.append(kinds[best].full_colour)
    gain = {
        str(q): float(np.exp(min(0.0, min(_at(curve, np.log(size)) for curve in curves) - np.log(max(error, 1e-12)))))
        for q, (size, error) in zip(_QUALITIES, anchors)
    }
    return JpegTables(tuple(found), tuple(full)), {"gain": gain, "images": len(images), "judge": judge.fingerprint}


def _at(curve: np.ndarray, size: float) -> float:
    """Logarithm of the FMSE of a curve of (bytes, FMSE) at a logarithm of bytes, or less; 50 for what is too few."""
    order = np.argsort(curve[:, 0], kind="stable")
    x, y = np.log(curve[order, 0]), np.log(np.maximum(curve[order, 1], 1e-12))
    return float(np.interp(size, x, y)) if size > x[0] - 0.03 else 50.0


def _standard(quality: int) -> tuple[list[int], list[int]]:
    table = image_codecs.standard_table(quality)
    return table, table


def _measured(
    images: Sequence[np.ndarray], judge: Judge, exact: np.ndarray, pair: tuple[list[int], list[int]], full: bool
) -> tuple[float, float]:
    """Mean bytes and mean FMSE of the images with a pair of tables; the FMSE to four digits."""
    tables = JpegTables(((tuple(pair[0]), tuple(pair[1])),), (full,))
    datas = [image_codecs.encode(one, "jpeg", 1, tables) for one in images]
    error = fmse(judge.features([image_codecs.decode(data) for data in datas]), exact)
    return float(np.mean([len(data) for data in datas])), float(f"{error.mean(dtype=np.float64):.4g}")


def _kinds(images: Sequence[np.ndarray], judge: Judge) -> list[_Kind]:
    found = []
    for full in (True, False):
        weights = sensitivity(images, judge, full_colour=full)
        components = _coefficients(images, full)
        curves = [_rate_and_error(values, weight) for values, weight in zip(components, weights)]
        distortion = np.stack([curves[0][0], curves[1][0] + curves[2][0]])
        bits = np.stack([curves[0][1], curves[1][1] + curves[2][1]])
        found += [_Kind(full, both, distortion, bits) for both in (False, True)]
    return found


def sensitivity(images: Sequence[np.ndarray], judge: Judge, *, full_colour: bool) -> np.ndarray:
    """How strongly the features follow each DCT coefficient, (3, 64) float64: FMSE for a squared error of 1.

    Entry (c, k) is the mean, over blocks, of the squared derivative of the features by coefficient k of component c,
    divided by the number of features: the FMSE that an independent error of variance 1 causes there in one block. With
    random signs v, the mean of (v^T J)^2 is the squared length of each column of the Jacobian J (Hutchinson, 1990).
    """
    total, blocks = np.zeros((3, 64)), np.zeros(3)
    random = torch.Generator().manual_seed(0)
    groups: dict[tuple[int, ...], list[np.ndarray]] = {}
    for image in images:
        groups.setdefault(image.shape, []).append(image)
    for shape, group in groups.items():
        batch = max(1, (64 * 64 * 64) // (shape[0] * shape[1]))
        for begin in range(0, len(group), batch):
            pixels = torch.from_numpy(np.stack(group[begin : begin + batch])).permute(0, 3, 1, 2).float()
            pixels.requires_grad_(True)
            features = judge.of_pixels(_resized(pixels, judge))
            for _ in range(_DRAWS):
                signs = torch.randint(0, 2, features.shape, generator=random).float() * 2 - 1
                (slope,) = torch.autograd.grad((features * signs).sum(), pixels, retain_graph=True)
                slopes = np.einsum("ncij,ck->nkij", slope.numpy().astype(np.float64), _TO_RGB)
                for component in range(3):
                    planes = slopes[:, component]
                    if component and not full_colour:
                        planes = 4 * _halved(planes)  # a value at half the resolution moves four pixels
                    found = _blocks(planes).reshape(-1, 64)
                    total[component] += np.square(found).sum(0) / (_DRAWS * features.shape[1])
                    blocks[component] += len(found) / _DRAWS
    exact = total / np.maximum(blocks, 1)[:, None]
    exact[exact < 1e-6 * exact.max()] = 0  # rounding of the gradients
    rounded = np.vectorize(lambda value: float(f"{value:.4g}"))(exact)
    return np.asarray(rounded, np.float64)


def _resized(pixels: torch.Tensor, judge: Judge) -> torch.Tensor:
    """The central crop at the network's resolution, as `render` makes it, with gradients."""
    example = np.empty((*pixels.shape[2:], 3), np.uint8)
    top, left, height, width = evaluation_view.central_box(example, evaluation_view.crop_ratio(judge.spec)).tolist()
    inside, side = pixels[:, :, top : top + height, left : left + width], judge.spec["resolution"]
    if height == side:
        return inside
    if height > side:
        return functional.interpolate(inside, size=(side, side), mode="area")
    return functional.interpolate(inside, size=(side, side), mode="bilinear", align_corners=False)


def _coefficients(images: Sequence[np.ndarray], full_colour: bool) -> list[np.ndarray]:
    """DCT coefficients of Y, Cb and Cr, (blocks, 65) each; the last column is the first's change between blocks."""
    parts: list[list[np.ndarray]] = [[], [], []]
    for image in images:
        values = np.asarray(image, np.float64) @ _TO_YCC.T
        values[..., 0] -= 128
        for component in range(3):
            plane = values[..., component]
            if component and not full_colour:
                plane = _halved(plane[None])[0]
            found = _blocks(plane[None])[0]
            step = np.diff(found[:, :1], axis=0, prepend=0)
            parts[component].append(np.concatenate([found, step], axis=1))
    joined = [np.concatenate(part) for part in parts]
    return [one[:: max(1, -(-len(one) // _BLOCKS))] for one in joined]


def _halved(planes: np.ndarray) -> np.ndarray:
    """Means over squares of 2 x 2 pixels, odd sides continued: (n, h, w) to (n, h / 2, w / 2)."""
    n, h, w = planes.shape
    planes = np.pad(planes, ((0, 0), (0, h % 2), (0, w % 2)), mode="edge")
    means: np.ndarray = planes.reshape(n, (h + 1) // 2, 2, (w + 1) // 2, 2).mean((2, 4))
    return means


def _blocks(planes: np.ndarray) -> np.ndarray:
    """Orthonormal DCT of blocks of 8 x 8: (n, h, w) to (n, blocks, 64); the last pixels are continued."""
    n, h, w = planes.shape
    planes = np.pad(planes, ((0, 0), (0, -h % 8), (0, -w % 8)), mode="edge")
    rows, columns = planes.shape[1] // 8, planes.shape[2] // 8
    split = planes.reshape(n, rows, 8, columns, 8).transpose(0, 1, 3, 2, 4)
    found: np.ndarray = dctn(split, axes=(-2, -1), norm="ortho").reshape(n, rows * columns, 64)
    return found


def _rate_and_error(values: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """FMSE and bits of one component for each coefficient at each step, (64, steps) each, over all its blocks.

    Bits are the entropy of the rounded values; of the first coefficient JPEG codes the change from block to block.
    """
    distortion, bits = np.empty((64, len(_STEPS))), np.empty((64, len(_STEPS)))
    for k in range(64):
        coded = values[:, 64] if k == 0 else values[:, k]
        for j, step in enumerate(_STEPS):
            distortion[k, j] = weight[k] * np.square(values[:, k] - step * np.round(values[:, k] / step)).sum()
            levels = np.round(coded / step).astype(np.int64)
            counts = np.bincount(levels - levels.min())
            share = counts[counts > 0] / len(levels)
            bits[k, j] = -(share * np.log2(share)).sum() * len(levels)
    return distortion, bits


@dataclass(frozen=True)
class FittingSettings:
    """What decides the tables besides the source and the network."""

    sample: int
    seed: int


def fit_to_file(settings: FittingSettings, source: Dataset, judge: Judge, out: Path) -> JpegTables:
    """Fit tables to a sample of a source and write them to `out`, unless it is up to date."""
    inputs = {"model": judge.fingerprint, "source": source.manifest.fingerprint}
    with claim_file(out, lambda path: open_meta(path, FORMAT).get("made", {}), settings, inputs, "--fit") as done:
        if not done:
            tables, facts = fit_tables(sampled(source, settings.sample, settings.seed, "learned")[1], judge)
            tables.save(out, **facts, made=identity(settings) | inputs)
            low = {int(q): gain for q, gain in facts["gain"].items()}
            note(f"{out}: at the bytes of quality 20 the fitted table has {low[20]:.2f} times the standard's FMSE")
        return JpegTables.load(out)
