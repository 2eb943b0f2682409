"""How cheap a surrogate may be: its cost, and how far its choice agrees with that of a network trained on all data.

    python tests/benchmarks/surrogates.py --study runs/study --keep 0.2 --out work/surrogates
    python tests/benchmarks/surrogates.py ... --confirm --results tests/benchmarks/results/surrogates.md

STUDY is a finished `transfer study`; its full-data backbones are the reference, the best surrogates that there can
be. Each surrogate of the grid scores the source and chooses `--keep` of it by each method; the overlap is the
share of the reference's choice that it also keeps. The last row is the overlap of two references of different seeds.
--confirm trains the study's backbone on the reference's choices and probes it on the targets, to compare with the
study's results of its own, cheap surrogate. Finished runs are not repeated; the command is the same on a GPU.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
from pathlib import Path
from typing import Any

import numpy as np

from prune.index.manifest import Manifest
from prune.index.pruned_index import PrunedIndex
from prune.runs.command_line import run_step
from prune.runs.files import read_json

GRID = ((0.25, 8, 32), (0.25, 5, 24), (0.25, 5, 16), (0.1, 8, 24), (0.1, 8, 16), (0.05, 8, 16))
"""Part of the source, epochs, side in pixels; recipe `tiny`."""
METHODS = ("dp4tl-lm", "winnow")


def step(command: str, module: str, *words: Any) -> None:
    """Run a command in this process."""
    if code := run_step(command, module, [str(word) for word in words]):
        sys.exit(code)


def chosen(model: Path, seed: int, given: argparse.Namespace) -> dict[str, Path]:
    """Rows that a surrogate chooses, by method."""
    data, place = given.study / "data", given.out / f"{model.name}-seed{seed}"
    guides = [data / f"{name}.train.beton" for name in read_json(given.study / "study.json")["guides"]]
    betons = [data / "source.beton", *guides]
    step("prune features", "prune.features", "--model", model, "--out", place, "--betons", *betons)
    targets = [place / f"{beton.stem}.features.npz" for beton in guides]
    scores = place / "scores.npz"
    source = place / "source.features.npz"
    step("prune score", "prune.score", "--source", source, "--targets", *targets, "--out", scores)
    found = {}
    for method in METHODS:
        found[method] = place / f"{method}.index.npz"
        words = ("--scores", scores, "--method", method, "--keep", given.keep, "--seed", seed, "--out", found[method])
        step("prune select", "prune.selection", *words)
    return found


def trained(sample: float, epochs: float, side: int, seed: int, given: argparse.Namespace) -> Path:
    """A surrogate of the grid."""
    out = given.out / f"{sample:g}-{epochs:g}-{side}-s{seed}"
    words = ["--beton", given.study / "data" / "source.beton", "--recipe", "tiny", "--sample", sample]
    words += ["--epochs", epochs, "--resolution", side, "--seed", seed]
    step("pretrain", "pretrain.train", *words, "--threads", 1, "--out", out)
    return out


def flops(model: Path, given: argparse.Namespace) -> float:
    """FLOPs of a surrogate's training and of its pass over source and guides."""
    facts = read_json(model / "provenance.json")
    each = facts["flops_per_sample"]
    names = [f"{name}.train" for name in read_json(given.study / "study.json")["guides"]]
    images = sum(len(Manifest.load(given.study / "data" / f"{n}.manifest.npz")) for n in ("source", *names))
    return (facts["samples"] + images / 3) * each  # the forward pass is a third of a training step


def overlap(one: Path, other: Path) -> float:
    """Share of one choice that the other keeps too."""
    first, second = (PrunedIndex.load(place).positions for place in (one, other))
    return float(np.isin(first, second).mean())


def confirmed(index: Path, method: str, seed: int, given: argparse.Namespace) -> dict[str, float]:
    """Accuracy on each target of the study's backbone, trained on the reference's choice."""
    settings = read_json(given.study / "study.json")
    out = given.out / f"confirm-{method}-s{seed}"
    words = ["--beton", given.study / "data" / "source.beton", "--index", index, "--recipe", settings["recipe"]]
    words += ["--epochs", settings["epochs"]] if settings["epochs"] else []
    step("pretrain", "pretrain.train", *words, "--seed", seed, "--threads", 1, "--out", out)
    found = {}
    for name in settings["targets"]:
        halves = [given.study / "data" / f"{name}.{half}.beton" for half in ("train", "test")]
        place = out / "probes" / name
        words = ["--model", out, "--train", halves[0], "--test", halves[1], "--seed", seed, "--out", place]
        step("transfer probe", "transfer.probe", *words)
        found[name] = read_json(place / "result.json")["value"]
    return found


def main() -> None:
    """Run what is missing, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--keep", type=float, default=0.2)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--confirm", action="store_true")
    parser.add_argument("--results", type=Path, help="Markdown file; .json with the figures goes beside it")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    references = {seed: given.study / "backbones" / f"full-s{seed}" for seed in given.seeds}
    best = {seed: chosen(model, seed, given) for seed, model in references.items()}
    rows = []
    for sample, epochs, side in GRID:
        shares: dict[str, list[float]] = {method: [] for method in METHODS}
        costs = []
        for seed in given.seeds:
            model = trained(sample, epochs, side, seed, given)
            for method, index in chosen(model, seed, given).items():
                shares[method].append(overlap(best[seed][method], index))
            full = read_json(references[seed] / "provenance.json")
            costs.append(flops(model, given) / (full["samples"] * full["flops_per_sample"]))
        what = f"{sample:.0%} of the source, {epochs} epochs, {side} px"
        rows.append({"surrogate": what, "cost": statistics.fmean(costs), "overlap": shares})
    between = {m: [overlap(best[a][m], best[b][m]) for a, b in itertools.combinations(given.seeds, 2)] for m in METHODS}
    rows.append({"surrogate": "references of two seeds", "cost": None, "overlap": between})
    cells = []
    for method, seed in itertools.product(METHODS if given.confirm else (), given.seeds):
        values = confirmed(best[seed][method], method, seed, given)
        probes = given.study / "probes" / f"{method}-k{given.keep:g}-s{seed}"
        cheap = {name: read_json(probes / name / "result.json")["value"] for name in values}
        cells.append({"method": method, "seed": seed, "reference": values, "cheap": cheap})
    text = table(rows, cells, given)
    print(text)
    if given.results:
        given.results.write_text(text)
        facts = {"keep": given.keep, "surrogates": rows, "cells": cells}
        given.results.with_suffix(".json").write_text(json.dumps(facts, indent=1) + "\n")


def table(rows: list[dict], cells: list[dict], given: argparse.Namespace) -> str:
    """Both tables in Markdown."""
    lines = [
        "# How cheap may a surrogate be",
        "",
        f"Keep {given.keep:g}, {len(given.seeds)} seeds. Cost: FLOPs of training the surrogate and of its pass over "
        "the source and the guiding targets, as a share of one full-data pretraining of the backbone. Overlap: share "
        "of the full-data network's choice that the surrogate's choice keeps, mean ± standard deviation over seeds; "
        f"a random choice has {given.keep:.2f}.",
        "",
        "| surrogate | cost | " + " | ".join(f"overlap, {m}" for m in METHODS) + " |",
        "| --- | ---: |" + " ---: |" * len(METHODS),
    ]
    for row in rows:
        cost = "" if row["cost"] is None else f"{row['cost']:.1%}"
        shown = [mean_std(row["overlap"][m], 2) for m in METHODS]
        lines.append(f"| {row['surrogate']} | {cost} | {' | '.join(shown)} |")
    if cells:
        lines += ["", "Linear probe of the backbone trained on either choice, accuracy in points:", ""]
        names = list(cells[0]["cheap"])
        lines += [
            "| method | surrogate | " + " | ".join(names) + " | mean | difference, paired by seed |",
            "| --- | --- |" + " ---: |" * (len(names) + 2),
        ]
        for method in dict.fromkeys(cell["method"] for cell in cells):
            own = [cell for cell in cells if cell["method"] == method]
            means = {
                kind: [100 * statistics.fmean(cell[kind].values()) for cell in own] for kind in ("reference", "cheap")
            }
            for kind, said in (("reference", "full data"), ("cheap", "the study's")):
                values = [mean_std([100 * cell[kind][name] for cell in own], 1) for name in names]
                differs = ""
                if kind == "cheap":
                    each = [b - a for a, b in zip(means["reference"], means["cheap"])]
                    differs = mean_std(each, 1, "+")
                shown = " | ".join([*values, mean_std(means[kind], 1), differs])
                lines.append(f"| {method} | {said} | {shown} |")
    return "\n".join(lines) + "\n"


def mean_std(values: list[float], digits: int, sign: str = "") -> str:
    """`12.3 ± 0.4`; one value has no spread."""
    spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):{sign}.{digits}f}{spread}"


if __name__ == "__main__":
    main()
