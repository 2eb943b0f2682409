"""Feature error of image codecs at equal bytes: the standard JPEG, fitted tables, AVIF, a learned codec.

    python tests/benchmarks/codecs.py --sets cifar100=cifar100.beton flowers5=flowers5.beton \
        --models runs/s0 runs/s1 runs/s2 --work runs/codecs --out tests/benchmarks/results/codecs.md

One row for each set and rate, over the networks given (one for each seed, which also draws the images). Tables and
codecs are fitted to three quarters of the images and judged on the rest. --learned trains a codec for each network and
set, too. What is in --work is not made again; a stopped training resumes. The page of all finished seeds is written
after every seed.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from published import made_here, publish_page

from prune.byte_budget.codec_comparison import compared
from prune.byte_budget.codec_files import StandardCodec
from prune.byte_budget.codec_training import TrainingSettings, train_to_file
from prune.byte_budget.feature_error import Judge, open_judge, sampled
from prune.byte_budget.table_fitting import FittingSettings, fit_to_file
from prune.data.dataset import Dataset, open_dataset
from prune.data.image_codecs import fixed_bytes, standard_table
from prune.data.jpeg_tables import JpegTables
from prune.runs.files import counted, read_json, write_json

RATES = (10, 30, 75)
"""Qualities of the standard JPEG whose bytes are the three rates."""
LADDER = (3, 5, 7, 10, 14, 20, 30, 45, 60, 75, 85, 92)
JUDGED, FITTED = 128, 96


def full_colour() -> JpegTables:
    """The standard's table with colour at the full resolution: what the fitted tables owe to that alone."""
    steps = tuple((tuple(standard_table(q)), tuple(standard_table(q))) for q in range(1, 101))
    return JpegTables(steps, (True,) * 100)


def measured(source: Dataset, judge: Judge, seed: int, work: Path, steps: int) -> dict[str, Any]:
    """Bytes, the bytes of headers among them, FMSE and PSNR of each codec's qualities on one draw of images."""
    tables = fit_to_file(FittingSettings(FITTED, seed), source, judge, work.with_suffix(".tables.npz"))
    _, images = sampled(source, JUDGED, seed, "judged")
    codecs: dict[str, tuple[Any, Sequence[int]]] = {
        "jpeg": (StandardCodec("jpeg"), LADDER),
        "jpeg, full colour": (StandardCodec("jpeg", full_colour()), LADDER),
        "jpeg-fitted": (StandardCodec("jpeg", tables), (5, 10, 20, 30, 60, 75, 85)),
        "avif": (StandardCodec("avif"), (10, 30, 50, 70, 90)),
    }
    if steps:
        settings = TrainingSettings(steps=steps, seed=seed)
        codecs["learned"] = (train_to_file(settings, source, judge, work.with_suffix(".safetensors")), ())
    found: dict[str, Any] = {}
    for name, (codec, qualities) in codecs.items():
        points = compared(images, [codec], qualities, judge)
        found[name] = {key: [p[key] for p in points] for key in ("bytes", "fmse", "psnr")}
        found[name]["once"] = points[0]["once"]
        if name == "jpeg":
            headers = [[fixed_bytes(codec.encode(image, q)) for image in images] for q in qualities]
            found[name]["headers"] = [float(np.mean(one)) for one in headers]
    return found


def at_bytes(curve: dict[str, Any], size: float) -> float | None:
    """FMSE at a size, interpolated on logarithms; below the curve None, above it that of the finest quality."""
    order = np.argsort(curve["bytes"])
    x, y = np.array(curve["bytes"])[order], np.array(curve["fmse"])[order]
    if size < x[0]:
        return None
    return float(np.exp(np.interp(np.log(size), np.log(x), np.log(y))))


def ratios(seeds: Sequence[dict[str, Any]], name: str, against: str, at: int) -> list[float | None]:
    """A codec's FMSE as a multiple of the standard JPEG's quality number `at`, one for each seed.

    `against`: "jpeg", at equal bytes; "best", the smaller error of JPEG and AVIF at these bytes; "bare", JPEG without
    its headers, as where many images share them.
    """
    found: list[float | None] = []
    for one in seeds:
        jpeg = one["jpeg"]
        size, other = jpeg["bytes"][at], jpeg["fmse"][at]
        if against == "bare":
            size -= jpeg["headers"][at]
        if against == "best":
            other = min(other, at_bytes(one["avif"], size) or np.inf)
        error = at_bytes(one[name], size)
        found.append(None if error is None else error / other)
    return found


def columns(names: Sequence[str]) -> list[tuple[str, str, str]]:
    """Heads of the table's columns, each with a codec and what it is compared with."""
    found = [(f"{name} / jpeg", name, "jpeg") for name in names if name != "jpeg"]
    if "learned" in names:
        found.append(("learned / better of jpeg and avif", "learned", "best"))
        found.append(("learned / jpeg, no headers", "learned", "bare"))
    return found


def rows(results: dict[str, list[dict[str, Any]]], rates: Sequence[int]) -> list[str]:
    """A Markdown table: each codec's FMSE as a multiple of the standard JPEG's at equal bytes."""
    heads = columns(list(next(iter(results.values()))[0]))
    lines = ["| set | bytes an image | of it headers | FMSE, jpeg | " + " | ".join(head for head, *_ in heads) + " |"]
    lines.append("| --- | ---: | ---: | ---: |" + " ---: |" * len(heads))
    for set_name, seeds in results.items():
        for at in (LADDER.index(rate) for rate in rates):
            cells = []
            for _, name, against in heads:
                found = ratios(seeds, name, against, at)
                known = [value for value in found if value is not None]
                if len(known) < len(seeds):
                    cells.append("not measured")
                else:
                    spread = f" ± {statistics.stdev(known):.2f}" if len(known) > 1 else ""
                    cells.append(f"{statistics.mean(known):.2f}{spread}")
            size, headers, error = (
                statistics.mean(one["jpeg"][key][at] for one in seeds) for key in ("bytes", "headers", "fmse")
            )
            lines.append(f"| {set_name} | {size:,.0f} | {headers:,.0f} | {error:.4f} | " + " | ".join(cells) + " |")
    return lines


def learned_rows(results: dict[str, list[dict[str, Any]]]) -> list[str]:
    """A Markdown table of the learned codec's own qualities: means over seeds."""
    lines = ["| set | learned codec, bytes an image | FMSE | PSNR, dB | bytes of its file |", "| --- |" + " ---: |" * 4]
    for set_name, seeds in results.items():
        for at in reversed(range(len(seeds[0]["learned"]["bytes"]))):
            size, error, noise = (
                statistics.mean(one["learned"][key][at] for one in seeds) for key in ("bytes", "fmse", "psnr")
            )
            once = statistics.mean(one["learned"]["once"] for one in seeds)
            lines.append(f"| {set_name} | {size:,.0f} | {error:.5f} | {noise:.1f} | {once:,.0f} |")
    return lines


def verdict(results: dict[str, list[dict[str, Any]]], rates: Sequence[int]) -> list[str]:
    """Whether the fitted tables and the learned codec meet their goals at every rate of every set."""
    lines = []
    for name, text, against, goal in (
        ("jpeg-fitted", "fitted tables", "jpeg", 0.9),
        ("learned", "learned codec, against the better of jpeg and avif", "best", 0.7),
        ("learned", "learned codec, against jpeg without headers", "bare", 0.7),
    ):
        if name not in next(iter(results.values()))[0]:
            continue
        means = [
            statistics.mean(np.inf if value is None else value for value in ratios(seeds, name, against, at))
            for seeds in results.values()
            for at in (LADDER.index(rate) for rate in rates)
        ]
        met = "met" if max(means) <= goal else "missed"
        lines.append(f"- Goal of the {text}, at most {goal} at every rate: {met}, worst {max(means):.2f}.")
    return lines


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
        learned = f", learned codecs in {given.learned:,} steps" if given.learned else ""
        lead = (
            f"{counted(seed + 1, 'seed')}, each with a surrogate of its own (quarter-width ResNet-18, 32 px, trained "
            f"on a part of CIFAR-100) and its own draw of {JUDGED} images; tables fitted to {FITTED} other "
            f"images{learned}. FMSE: mean squared error of the surrogate's features. Mean and standard deviation over "
            "seeds; below 1 is better than the standard JPEG at the same bytes, headers counted; `no headers`: at the "
            "bytes that JPEG takes where its headers are stored once for all images. `not measured`: the codec's "
            "lowest quality takes more bytes. Where the finest takes fewer, its error counts. The learned codec's own "
            "file is in no column but the last one. `full colour` is the "
            f"standard's table without subsampling: the part of the gain that needs no fitting. Made: {made_here()}."
        )
        parts = [*rows(results, given.rates), "", *verdict(results, given.rates)]
        if given.learned:
            parts += ["", *learned_rows(results)]
        publish_page(given.out, "Feature error of image codecs at equal bytes", lead, parts)


if __name__ == "__main__":
    main()
