"""Bytes as a budget: the allocator's time, the bytes of small images, and accuracy at equal bytes on real images.

    python tests/benchmarks/storage.py allocator --results tests/benchmarks/results/storage-allocator.json
    python tests/benchmarks/storage.py bytes --images cifar100/train flowers5/train --results .../storage-bytes.json
    python tests/benchmarks/storage.py accuracy --source cifar100 --out runs/storage --results .../storage.json

`accuracy` takes 250 training and 50 validation images of each of 20 classes. A surrogate trained on them measures the
curves. On the validation images, with one seed, the best setting of each policy is chosen for each budget; then drop,
uniform and adaptive are compared at equal bytes on the set's test images, the same number of steps each. Results in
--out are not made again. Half an hour on one core.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import resource
import statistics
import time
from pathlib import Path
from typing import Any

BUDGETS = (0.02, 0.05, 0.1, 0.2)
CLASSES, TRAIN, VALIDATION, STEPS = 20, 250, 50, 150
HALF_RESOLUTION = 100  # added to the quality
SETTINGS: dict[str, dict[str, dict[str, Any]]] = {
    "drop": {"original bytes": {"policy": "drop"}},
    "uniform": {
        f"quality {q % 100}{' at half resolution' * (q > 100)}": {"policy": "uniform", "quality": q}
        for q in (10, 30, 60, HALF_RESOLUTION + 30, HALF_RESOLUTION + 60)
    },
    "adaptive": {
        "charge mean": {"policy": "adaptive"},
        "charge own": {"policy": "adaptive", "charge": "own"},
    },
}


def main() -> None:
    """Run one part and write its results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("allocator", "bytes", "accuracy"))
    parser.add_argument("--source", type=Path)
    parser.add_argument("--images", type=Path, nargs="+")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--results", type=Path)
    given = parser.parse_args()
    if given.part == "allocator":
        told: Any = allocator()
    elif given.part == "bytes":
        told = [sizes(folder) for folder in given.images]
    else:
        told = accuracy(given.source, given.out, given.seeds)
    text = json.dumps(told, indent=1)
    print(text)
    if given.results:
        given.results.write_text(text + "\n")
        if given.part == "accuracy":
            given.results.with_suffix(".md").write_text(table(told))


def allocator(n: int = 1_281_167) -> list[dict[str, Any]]:
    """Processor seconds, peak memory and gap for ImageNet's size and 8 levels."""
    import numpy as np

    from prune.byte_budget.allocation import allocate

    rng = np.random.default_rng(0)
    full = rng.lognormal(11, 0.5, n)
    nbytes = (full[:, None] * [1, 0.5, 0.35, 0.28, 0.22, 0.16, 0.11, 0.06] * rng.uniform(0.8, 1.2, (n, 8))).astype(
        "i4"
    ) + 1
    hurt = np.array([0, 0.01, 0.03, 0.05, 0.08, 0.13, 0.22, 0.4]) * rng.lognormal(0, 0.6, (n, 1))
    value = ((1 - hurt) * rng.uniform(0.2, 1, (n, 1))).astype(np.float32)
    labels, order, rows = rng.integers(0, 1000, n), rng.permutation(n), []
    for floors in (None, np.full(1000, 100)):
        budget = int(0.1 * nbytes[:, 0].sum(dtype=np.int64))
        wall, cpu = time.perf_counter(), time.process_time()
        plan = allocate(nbytes, value, budget, labels=labels, floors=floors, order=order)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        rows.append(
            {"samples": n, "levels": 8, "floors": floors is not None, "budget": budget, "bytes": plan.nbytes,
             "gap": plan.gap, "wall_s": round(time.perf_counter() - wall, 1),
             "cpu_s": round(time.process_time() - cpu, 1), "peak_gib": round(peak, 2)}
        )  # fmt: skip
    return rows


def sizes(folder: Path) -> dict[str, Any]:
    """Mean bytes of 200 images at each quality, as Pillow writes JPEGs and as we do; their fixed part."""
    import numpy as np
    from PIL import Image

    from prune.data import image_codecs

    files = sorted(path for path in folder.rglob("*") if path.is_file())
    files = files[:: max(1, len(files) // 200)][:200]
    images = [image_codecs.to_rgb(Image.open(file)) for file in files]
    rows = []
    for quality in (*image_codecs.QUALITIES, *(image_codecs.HALF + q for q in (60, 10))):
        ours = [image_codecs.encode_level(image, quality) for image in images]
        stock = [_stock(image, quality) for image in images]
        row: dict[str, Any] = {"level": quality}
        for name, datas in (("stock", stock), ("ours", ours)):
            fixed = float(np.mean([image_codecs.fixed_bytes(data) for data in datas]))
            row[name] = {
                "bytes": float(np.mean([len(data) for data in datas])), "fixed": fixed,
                "error": float(np.mean([_error(image, data) for image, data in zip(images, datas)])),
            }  # fmt: skip
        rows.append(row)
    side = float(np.median([min(image.shape[:2]) for image in images]))
    raw = float(np.mean([image.size for image in images]))
    return {"images": f"{folder.parent.name}/{folder.name}", "side": side, "raw": raw, "levels": rows}


def _stock(pixels: Any, level: int) -> bytes:
    from PIL import Image

    from prune.data import image_codecs

    buffer = io.BytesIO()
    image = Image.fromarray(image_codecs.halved(pixels) if level > image_codecs.HALF else pixels)
    image.save(buffer, "JPEG", quality=level % 100, optimize=True)
    return buffer.getvalue()


def _error(pixels: Any, data: bytes) -> float:
    import numpy as np
    from PIL import Image

    from prune.data import image_codecs

    image = Image.fromarray(image_codecs.decode(data)).resize(pixels.shape[1::-1], Image.Resampling.BILINEAR)
    return float(np.square(np.subtract(image, pixels, dtype=np.float64)).mean())


def accuracy(source: Path, out: Path, seeds: list[int]) -> dict[str, Any]:
    """The conditions of the table; earlier ones are read from OUT/cells.jsonl."""
    from prune import curves

    out.mkdir(parents=True, exist_ok=True)
    betons = {
        name: _beton(source / folder, out, name, part)
        for name, folder, part in (
            ("train", "train", slice(0, TRAIN)), ("val", "train", slice(TRAIN, TRAIN + VALIDATION)),
            ("test", "test", slice(None)),
        )
    }  # fmt: skip
    model = out / "surrogate"
    _train(betons["train"], betons["val"], model, seed=77, steps=600)
    ladder = curves.run(curves.Config(betons["train"], model=model, out=out / "train.curves.npz", half=True))
    index = _everything(betons["train"], out / "all.index.npz")
    made = Cells(out, betons, index, ladder)
    best = {}
    for budget in BUDGETS:
        for policy, settings in SETTINGS.items():
            tried = {name: made.cell("val", policy, name, budget, 1000)["top1"] for name in settings}
            best[budget, policy] = max(tried, key=lambda name: tried[name])
    for seed in seeds:
        for budget in BUDGETS:
            for policy in SETTINGS:
                made.cell("test", policy, best[budget, policy], budget, seed)
    made.cell("test", "full", "all, original bytes", 1.0, seeds[0])
    return {"cells": made.cells, "steps": STEPS, "classes": CLASSES, "images": CLASSES * TRAIN}


class Cells:
    """Results of training on what a setting keeps, one JSON line for each condition."""

    def __init__(self, out: Path, betons: dict[str, Path], index: Path, ladder: Path) -> None:
        self.out, self.betons, self.index, self.ladder = out, betons, index, ladder
        self.place = out / "cells.jsonl"
        self.cells = [json.loads(line) for line in self.place.read_text().splitlines()] if self.place.exists() else []

    def cell(self, judged: str, policy: str, setting: str, budget: float, seed: int) -> dict[str, Any]:
        """Accuracy on the `judged` images (test or validation), and the numbers of the budget's plan."""
        from prune.index.pruned_index import PrunedIndex

        names = {"judged": judged, "policy": policy, "setting": setting, "budget": budget, "seed": seed}
        for cell in self.cells:
            if all(cell[key] == value for key, value in names.items()):
                return cell
        beton, plan = self.betons["train"], self.index
        if policy != "full":
            plan, beton = self._planned(SETTINGS[policy][setting], f"{policy}-{setting}-{budget:g}".replace(" ", "-"))
        index = PrunedIndex.load(plan)
        name = f"{judged}-{policy}-{setting}-{budget:g}-s{seed}".replace(" ", "-")
        top1 = _train(beton, self.betons[judged], self.out / "runs" / name, seed=seed, steps=STEPS)
        levels = sorted({int(q) for q in index.quality})
        histogram = {str(q): int((index.quality == q).sum()) for q in levels}
        cell = {
            **names,
            "top1": top1,
            "bytes": int(index.nbytes.sum(dtype="i8")),
            "kept": len(index),
            "quality": histogram,
        }
        self.cells.append(cell)
        with open(self.place, "a", encoding="utf-8") as file:
            file.write(json.dumps(cell) + "\n")
        return cell

    def _planned(self, options: dict[str, Any], name: str) -> tuple[Path, Path]:
        from prune import budget as step
        from prune import materialize

        ratio = float(name.rpartition("-")[2])
        place = self.out / "plans" / f"{name}.index.npz"
        config = step.Config(self.index, curves=self.ladder, out=place, ratio=ratio, floor=1, **options)
        step.run(config)
        beton = self.out / "plans" / f"{name}.beton"
        materialize.run(materialize.Config(place, source=self.betons["train"], out=beton))
        return place, beton


def _beton(images: Path, out: Path, name: str, part: slice) -> Path:
    from prune import write as step

    place = out / "images" / name
    if not place.is_dir():
        for folder in sorted(path for path in images.iterdir() if path.is_dir())[:CLASSES]:
            (place / folder.name).mkdir(parents=True)
            for file in sorted(folder.iterdir())[part]:
                os.symlink(file.resolve(), place / folder.name / file.name)
    classes = None if name == "train" else out / "train.manifest.npz"
    step.run(step.Config(images=str(place), out=out / f"{name}.beton", classes=classes))
    return out / f"{name}.beton"


def _everything(beton: Path, place: Path) -> Path:
    from prune import selection

    manifest = beton.with_suffix(".manifest.npz")
    return selection.run(selection.Config(out=place, manifest=manifest, method="random", keep=1.0))


def _train(beton: Path, judged: Path, out: Path, *, seed: int, steps: int) -> float:
    """Top-1 on the test or validation images after the last epoch only, since few images make many short epochs."""
    import numpy as np

    from pretrain import train as step
    from prune import features
    from prune.index.npz import open_arrays

    step.run(step.Config(beton=beton, out=out, recipe="tiny", seed=seed, steps=steps))
    features.run(features.Config(model=out, betons=(judged,), out=out / "judged"))
    arrays, _ = open_arrays(out / "judged" / f"{judged.stem}.features.npz", "winnow-features/1")
    return float(np.mean(np.argmax(arrays["logits"], axis=1) == arrays["label"]))


def table(told: dict[str, Any]) -> str:
    """The conditions as Markdown."""
    cells = told["cells"]
    lines = [
        f"Accuracy at equal bytes: {told['images']:,} images of 32 px in {told['classes']} classes of CIFAR-100, "
        f"recipe `tiny`, {told['steps']} steps of 64.",
        "Mean and standard deviation of the test accuracy in points over the seeds; in brackets the setting, chosen on "
        "validation images with another seed, and the samples kept.",
        "", "| budget | " + " | ".join(SETTINGS) + " |", "| --- |" + " --- |" * len(SETTINGS),
    ]  # fmt: skip
    for budget in sorted({cell["budget"] for cell in cells if cell["policy"] != "full"}):
        row = [f"{budget:.0%}"]
        for policy in SETTINGS:
            found = [c for c in cells if (c["judged"], c["policy"], c["budget"]) == ("test", policy, budget)]
            if not found:
                row.append("-")
                continue
            top = [100 * c["top1"] for c in found]
            spread = f" ± {statistics.stdev(top):.2f}" if len(top) > 1 else ""
            row.append(f"{statistics.mean(top):.2f}{spread} ({found[0]['setting']}; {found[0]['kept']:,})")
        lines.append("| " + " | ".join(row) + " |")
    full = [c for c in cells if c["policy"] == "full"]
    lines += ["", *(f"All images at their original bytes: {100 * c['top1']:.2f}." for c in full), ""]
    lines += ["What was tried on the validation images:", "", "| budget | policy | setting | kept | points |"]
    lines += ["| --- | --- | --- | --- | --- |"]
    lines += [
        f"| {c['budget']:.0%} | {c['policy']} | {c['setting']} | {c['kept']:,} | {100 * c['top1']:.2f} |"
        for c in cells if c["judged"] == "val"
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
