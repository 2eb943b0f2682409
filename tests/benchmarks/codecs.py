"""Feature error of image codecs at equal bytes: the standard JPEG, fitted tables, AVIF, a learned codec.

    python tests/benchmarks/codecs.py --sets cifar100=cifar100.beton flowers5=flowers5.beton \
        --models runs/s0 runs/s1 runs/s2 --work runs/codecs --out tests/benchmarks/results/codecs.md

One row for each set and rate, over the networks given (one for each seed, which also draws the images). Tables and
codecs are fitted to three quarters of the images and judged on the rest. --learned trains a codec for each network,
too. What is in --work is not made again.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from published import END, REMARKS, made_here, publish

from prune.byte_budget.codec_comparison import compared
from prune.byte_budget.codec_files import StandardCodec
from prune.byte_budget.codec_training import TrainingSettings, train_to_file
from prune.byte_budget.feature_error import Judge, open_judge, sampled
from prune.byte_budget.table_fitting import FittingSettings, fit_to_file
from prune.data.dataset import Dataset, open_dataset
from prune.data.image_codecs import standard_table
from prune.data.jpeg_tables import JpegTables
from prune.runs.files import read_json, write_json

RATES = (10, 30, 75)
"""Qualities of the standard JPEG whose bytes are the three rates."""
LADDER = (3, 5, 7, 10, 14, 20, 30, 45, 60, 75, 85, 92)
JUDGED, FITTED = 128, 96


def full_colour() -> JpegTables:
    """The standard's table with colour at the full resolution: what the fitted tables owe to that alone."""
    steps = tuple((tuple(standard_table(q)), tuple(standard_table(q))) for q in range(1, 101))
    return JpegTables(steps, (True,) * 100)


def measured(source: Dataset, judge: Judge, seed: int, work: Path, steps: int) -> dict[str, Any]:
    """Bytes and FMSE of each codec's qualities on one draw of images."""
    tables = fit_to_file(FittingSettings(FITTED, seed), source, judge, work.with_suffix(".tables.npz"))
    _, images = sampled(source, JUDGED, seed, "judged")
    codecs: dict[str, tuple[Any, Sequence[int]]] = {
        "jpeg": (StandardCodec("jpeg"), LADDER),
        "jpeg, full colour": (StandardCodec("jpeg", full_colour()), LADDER),
        "jpeg-fitted": (StandardCodec("jpeg", tables), (5, 10, 20, 30, 60, 75, 85)),
        "avif": (StandardCodec("avif"), (10, 30, 50, 70, 90)),
    }
    if steps:
        settings = TrainingSettings(steps=steps, images=2000, seed=seed)
        codecs["learned"] = (train_to_file(settings, source, judge, work.with_suffix(".safetensors")), ())
    found: dict[str, Any] = {}
    for name, (codec, qualities) in codecs.items():
        points = compared(images, [codec], qualities, judge)
        found[name] = {
            "bytes": [p["bytes"] for p in points],
            "fmse": [p["fmse"] for p in points],
            "once": points[0]["once"],
        }
    return found


def at_bytes(curve: dict[str, Any], size: float) -> float | None:
    """FMSE at a size, interpolated on logarithms; None outside the curve."""
    order = np.argsort(curve["bytes"])
    x, y = np.array(curve["bytes"])[order], np.array(curve["fmse"])[order]
    if not x[0] <= size <= x[-1]:
        return None
    return float(np.exp(np.interp(np.log(size), np.log(x), np.log(y))))


def rows(results: dict[str, list[dict[str, Any]]], rates: Sequence[int]) -> list[str]:
    """A Markdown table: each codec's FMSE as a multiple of the standard JPEG's at equal bytes."""
    names = [name for name in next(iter(results.values()))[0] if name != "jpeg"]
    lines = ["| set | bytes an image | FMSE, jpeg | " + " | ".join(f"{name} / jpeg" for name in names) + " |"]
    lines.append("| --- | ---: | ---: |" + " ---: |" * len(names))
    for set_name, seeds in results.items():
        for rate in rates:
            at = LADDER.index(rate)
            cells = []
            for name in names:
                ratios = [
                    None
                    if (v := at_bytes(one[name], one["jpeg"]["bytes"][at])) is None
                    else v / one["jpeg"]["fmse"][at]
                    for one in seeds
                ]
                known = [value for value in ratios if value is not None]
                if len(known) < len(seeds):
                    cells.append("not measured")
                else:
                    spread = f" ± {statistics.stdev(known):.2f}" if len(known) > 1 else ""
                    cells.append(f"{statistics.mean(known):.2f}{spread}")
            size = statistics.mean(one["jpeg"]["bytes"][at] for one in seeds)
            error = statistics.mean(one["jpeg"]["fmse"][at] for one in seeds)
            lines.append(f"| {set_name} | {size:,.0f} | {error:.4f} | " + " | ".join(cells) + " |")
    return lines


def verdict(results: dict[str, list[dict[str, Any]]], rates: Sequence[int]) -> str:
    """Whether the fitted tables meet the goal of 0.9 at every rate of every set."""
    worst = max(
        statistics.mean(
            (at_bytes(s["jpeg-fitted"], s["jpeg"]["bytes"][k]) or np.inf) / s["jpeg"]["fmse"][k] for s in seeds
        )
        for seeds in results.values()
        for k in (LADDER.index(rate) for rate in rates)
    )
    met = "met" if worst <= 0.9 else "missed"
    return f"Goal of the fitted tables, at most 0.9 at every rate: {met}, worst {worst:.2f}."


def main() -> None:
    """Measure what is missing and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", required=True, help="NAME=BETON")
    parser.add_argument("--models", nargs="+", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--learned", type=int, default=0, help="steps of training of a learned codec; 0: none")
    parser.add_argument("--rates", type=int, nargs="+", default=RATES, choices=LADDER, metavar="QUALITY")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    results: dict[str, list[dict[str, Any]]] = {}
    for seed, model in enumerate(given.models):
        judge = open_judge(model)
        for text in given.sets:
            name, _, beton = text.partition("=")
            place = given.work / f"{name}-s{seed}.json"
            if not place.exists():
                found = measured(open_dataset(Path(beton)), judge, seed, given.work / f"{name}-s{seed}", given.learned)
                write_json(place, found)
                print(json.dumps({"set": name, "seed": seed}), flush=True)
            results.setdefault(name, []).append(read_json(place))
    page = [
        "# Feature error of image codecs at equal bytes",
        "",
        f"{len(given.models)} seeds, each with a surrogate of its own (quarter-width ResNet-18, 32 px, trained on a "
        f"part of CIFAR-100) and its own draw of {JUDGED} images; tables fitted to {FITTED} other images. FMSE: mean "
        "squared error of the surrogate's features. Mean and standard deviation over seeds; below 1 is better than the "
        "standard JPEG at the same bytes, headers counted; `not measured`: the codec's qualities do not reach these "
        "bytes. `full colour` is the standard's table without subsampling: "
        f"the part of the gain that needs no fitting. Made: {made_here()}.",
        "",
        *rows(results, given.rates),
        "",
        verdict(results, given.rates),
        "",
        REMARKS,
        END,
        "",
    ]
    publish(given.out, "\n".join(page))


if __name__ == "__main__":
    main()
