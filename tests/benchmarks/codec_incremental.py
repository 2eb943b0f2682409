"""Class-incremental learning with exemplars of a trained codec and of JPEG, at the trained codec's lowest rate.

    python tests/benchmarks/codec_incremental.py --data cifar100 --codec learned.safetensors --work runs/codec-cil \
        --out tests/benchmarks/results/codec-incremental.md

`--data` holds train/CLASS/* and test/CLASS/*. JPEG has the lowest quality at which an exemplar takes at least as many
bytes as the trained codec's (headers that all share are stored once). The trained codec is run twice: its own bytes are
part of the memory, or come on top, as where it is part of the program. Every run is a run of `transfer incremental`:
the same command resumes. The page of all finished seeds is written after every seed.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from published import made_here, publish_page
from subset import thinned

from prune import write
from prune.byte_budget.codec_files import ImageCodec, StandardCodec, open_codec
from prune.data.dataset import open_dataset
from prune.index.manifest import manifest_path
from prune.runs.files import counted, read_json
from transfer import incremental
from transfer.continual import exemplars
from transfer.continual.exemplar_form import form_of
from transfer.continual.incremental_results import paired
from transfer.continual.memory_loader import read_squares

HEADS = ("linear", "nearest-mean")


def betons(given: argparse.Namespace) -> tuple[Path, Path]:
    """Write the betons of both splits, once."""
    found: list[Path] = []
    for split, count in (("train", given.per_class), ("test", given.test_per_class)):
        chosen = thinned(given.data / split, given.work / split, slice(None), slice(count))
        place = given.work / f"{split}.beton"
        write.run(write.Config(str(chosen), place, classes=manifest_path(found[0]) if found else None))
        found.append(place)
    return found[0], found[1]


def mean_bytes(codec: ImageCodec, quality: int, images: np.ndarray) -> float:
    """Bytes of an exemplar, shared headers aside."""
    none = np.zeros(len(images), np.int64)
    packed = exemplars.pack(form_of(codec, quality, images.shape[1]), images, none, none, none)
    return float(packed.sizes.mean())


def finals(out: Path, head: str) -> dict[int, float]:
    """Accuracy after the last task in percent, by seed."""
    return {
        cell["seed"]: 100 * cell["heads"][head]["accuracies"][-1] for cell in read_json(out / "result.json")["cells"]
    }


def row(name: str, quality: int, size: float, out: Path, reference: Path) -> list[str]:
    """Lines of one codec, one for each head."""
    lines = []
    held = np.mean([cell["records"][-1]["exemplars"] for cell in read_json(out / "result.json")["cells"]])
    for head in HEADS:
        mine, other = finals(out, head), finals(reference, head)
        seeds = sorted(set(mine) & set(other))
        each = list(mine.values())
        text = f"{np.mean(each):.1f}" + (f" ± {np.std(each, ddof=1):.1f}" if len(each) > 1 else "")
        against = ""
        if out != reference:
            gap: Any = paired([mine[s] for s in seeds], [other[s] for s in seeds])
            interval = "" if gap["low"] is None else f" ({gap['low']:+.1f} to {gap['high']:+.1f})"
            against = f"{gap['value']:+.1f}{interval}"
        lines.append(f"| {name}, quality {quality} | {size:.0f} | {held:,.0f} | {head} | {text} | {against} |")
    return lines


def main() -> None:
    """Run what is missing and write the part of the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--codec", required=True, help="file of `prune codecs --train`")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--per-class", type=int, default=30)
    parser.add_argument("--test-per-class", type=int, default=10)
    parser.add_argument("--tasks", type=int, default=5)
    parser.add_argument("--memory", type=int, default=153_600, help="bytes")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--recipe", default="tiny")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    train, test = betons(given)
    source = open_dataset(train)
    sample = np.linspace(0, len(source) - 1, 256).astype(int)
    images = read_squares(source, sample, 32)
    learned, jpeg = open_codec(given.codec), StandardCodec("jpeg")
    lowest = min(learned.qualities)
    wanted = mean_bytes(learned, lowest, images)
    matched = next(q for q in range(1, 101) if mean_bytes(jpeg, q, images) >= wanted)
    arms = {
        "jpeg": ("jpeg", matched, given.memory),
        "learned, its own bytes counted": (given.codec, lowest, given.memory),
        "learned, its own bytes on top": (given.codec, lowest, given.memory + learned.fixed),
    }
    for count in range(1, len(given.seeds) + 1):
        places = {}
        for name, (codec, quality, memory) in arms.items():
            places[name] = given.work / f"{name.replace(', ', '-').replace(' ', '-')}"
            incremental.run(
                incremental.Config(
                    train,
                    test,
                    places[name],
                    (str(memory),),
                    forms=("same-codec",),
                    seeds=tuple(given.seeds[:count]),
                    tasks=given.tasks,
                    recipe=given.recipe,
                    steps=given.steps,
                    resolution=32,
                    codec=codec,
                    quality=quality,
                    threads=1,
                )
            )
        lines = [
            "| codec | bytes an exemplar | exemplars at the end | head | final accuracy % | against jpeg |",
            "| --- | ---: | ---: | --- | ---: | ---: |",
        ]
        for name, (codec, quality, _) in arms.items():
            size = mean_bytes(learned if codec == given.codec else jpeg, quality, images)
            lines += row(name, quality, size, places[name], places["jpeg"])
        lead = (
            f"{given.data.name}, {given.tasks} tasks, {given.per_class} training, {given.test_per_class} test images "
            f"a class, memory of {given.memory:,} bytes, {given.steps} steps a task, recipe `{given.recipe}`, herding, "
            f"all images through the codec, {counted(count, 'seed')}. The trained codec is a file of "
            f"{learned.fixed:,} bytes. Differences are paired by seed, with 95 % intervals (Student's t). "
            f"Made: {made_here()}."
        )
        publish_page(given.out, "Class-incremental learning with a trained codec", lead, lines)


if __name__ == "__main__":
    main()
