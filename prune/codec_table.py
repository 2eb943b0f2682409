"""Rank image codecs by the error of the surrogate's features at equal bytes.

    prune codecs runs/photos.beton --model runs/surrogate --sample 500 --json

A sample of the images is encoded by each codec at each quality. Mean FMSE (mean squared error of the features) and PSNR
are interpolated, over the logarithm of the mean bytes, at sizes that all codecs reach. The codec with the smallest FMSE
comes first.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from prune.runs.files import InputError, at_least

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Config:
    beton: Annotated[Path, tyro.conf.Positional]
    """Source, X.beton."""
    model: Path
    """Surrogate: directory of a `pretrain` run."""
    codecs: tuple[str, ...] = ("jpeg", "webp", "avif")
    """Codecs to compare."""
    qualities: tuple[int, ...] = (95, 75, 45, 20, 10)
    """Qualities, each on the codec's own scale."""
    sample: int = 200
    """Images to encode."""
    seed: int = 0
    """Decides which images are encoded."""
    json: bool = False
    """Print JSON instead of a table."""


def run(config: Config) -> dict[str, Any]:
    """Print the table; returns its numbers."""
    import json

    from prune.data.image_codecs import CODECS

    if wrong := [name for name in config.codecs if name not in CODECS]:
        raise InputError(f"--codecs {wrong[0]}: {', '.join(CODECS)} are possible")
    if config.sample < 1 or not config.codecs:
        raise InputError("--sample of 1 or more and at least one codec are needed")
    if not config.qualities or any(not 1 <= q <= 100 for q in config.qualities):
        raise InputError(f"--qualities {' '.join(map(str, config.qualities))}: at least one, from 1 to 100, is needed")
    at_least(config, 0, "seed")
    result = ranked(_measured(config))
    if config.json:
        json.dump(result, sys.stdout, indent=1)
        sys.stdout.write("\n")
        return result
    from rich.console import Console
    from rich.table import Table

    table = Table("bytes", "rank", "codec", "FMSE", "PSNR, dB")
    for size in result["at"]:
        for place, row in enumerate(size["codecs"]):
            table.add_row(
                f"{size['bytes']:,.0f}" if not place else "", str(place + 1), row["codec"], f"{row['fmse']:.5g}",
                f"{row['psnr']:.2f}",
            )  # fmt: skip
    Console(soft_wrap=not sys.stdout.isatty(), highlight=False).print(table)
    return result


def ranked(points: list[dict[str, Any]]) -> dict[str, Any]:
    """Interpolate each codec's points at five sizes that all reach and sort by FMSE.

    Parameters
    ----------
    points : list of dict
        codec, quality, bytes, fmse, psnr (means).
    """
    import numpy as np

    by_codec: dict[str, list[dict[str, Any]]] = {}
    for point in sorted(points, key=lambda p: p["bytes"]):
        by_codec.setdefault(point["codec"], []).append(point)
    low = max(rows[0]["bytes"] for rows in by_codec.values())
    high = min(rows[-1]["bytes"] for rows in by_codec.values())
    at = []
    for size in np.geomspace(low, high, 5) if high > low else ():
        rows: list[dict[str, Any]] = []
        for codec, curve in by_codec.items():
            x = np.log([p["bytes"] for p in curve])
            y = {key: float(np.interp(np.log(size), x, [p[key] for p in curve])) for key in ("fmse", "psnr")}
            rows.append({"codec": codec, **y})
        at.append({"bytes": float(size), "codecs": sorted(rows, key=lambda row: row["fmse"])})
    return {"points": points, "at": at}


def _measured(config: Config) -> list[dict[str, Any]]:
    import numpy as np
    import torch

    from prune.byte_budget.distortion import fmse, psnr
    from prune.data import image_codecs
    from prune.data.dataset import open_dataset, stored_image
    from prune.data.stored_images import decode
    from prune.models import evaluation_view, networks

    model, spec = networks.load_model(config.model)
    source = open_dataset(config.beton)
    rows = np.random.default_rng(config.seed).permutation(len(source))[: config.sample]
    pixels = [decode(stored_image(source, int(row))) for row in rows]

    def features(images: list[np.ndarray]) -> np.ndarray:
        with torch.inference_mode():
            flat = torch.from_numpy(_shown(images, spec)).permute(0, 3, 1, 2)
            parts = [networks.normalise(part, spec["mean"], spec["std"]) for part in flat.split(256)]
            return np.concatenate([evaluation_view.outputs(model, part, spec)[0].numpy() for part in parts])

    original, points = features(pixels), []
    for codec in config.codecs:
        for quality in config.qualities:
            datas = [image_codecs.encode(image, codec, quality) for image in pixels]  # type: ignore[arg-type]
            images = [image_codecs.decode(data) for data in datas]
            error = fmse(features(images), original)
            noise = [min(99.0, float(psnr(one, image))) for one, image in zip(images, pixels)]
            mean = {"bytes": float(np.mean([len(data) for data in datas])), "fmse": float(error.mean())}
            points.append({"codec": codec, "quality": quality, **mean, "psnr": float(np.mean(noise))})
    return points


def _shown(images: list[np.ndarray], spec: dict[str, Any]) -> np.ndarray:
    import numpy as np

    from prune.data.crops import render
    from prune.models.evaluation_view import central_box, crop_ratio

    side, ratio = spec["resolution"], crop_ratio(spec)
    return np.stack([render(image, central_box(image, ratio), False, side) for image in images])
