"""Speed of training, loading and scoring, relative to what the hardware can do, measured in one run.

    python tests/benchmarks/training.py --out tests/benchmarks/results/training      (.md and .json)
    python tests/benchmarks/training.py --images 400 --rounds 2                      (a quick look)
    python tests/benchmarks/training.py --parts loading --out RESULTS                (one part again, the others stay)

On a machine with a GPU:

    python tests/benchmarks/training.py --images 20000 --steps 200 --out tests/benchmarks/results/training-gpu

Each line compares ours with a bare counterpart on the same images, cores and model, in turns. The share is the
ratio of the images a second (the median over the rounds); the share in processor seconds of all threads and processes,
which is comparable on a busy machine too, is listed beside it. On CUDA the models are ResNet-50 at 160 and 192 px and
ResNet-18 at 32 px, in bf16, channels-last and compiled.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from published import made_here, publish
from torch import nn
from torch.nn import functional

from pretrain import optimisation, training_loop
from pretrain.distributed import open_ranks
from pretrain.recipe import Recipe
from pretrain.recipes import RECIPES
from pretrain.schedule import Budget
from pretrain.training_run import augmented
from prune import write
from prune.data import crops
from prune.data.dataset import open_dataset
from prune.data.loader import open_loader
from prune.models import networks
from prune.models.feature_extraction import extract
from prune.runs.memory_allocator import keep_freed_memory

CUDA = torch.cuda.is_available()
ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Line:
    """One comparison: medians of images a second, the share, and the share by processor seconds."""

    what: str
    ours: float
    other: float
    share: float
    processor: float
    goal: float
    load: float

    def __str__(self) -> str:
        verdict = f"{'yes' if self.share >= self.goal else 'no'} / {'yes' if self.processor >= self.goal else 'no'}"
        figures = f"{self.ours:,.0f} | {self.other:,.0f} | {self.share:.2f} | {self.processor:.2f} | {self.goal}"
        return f"| {self.what} | {figures} | {verdict} | {self.load:.1f} |"


def draw_images(folder: Path, count: int, side: int) -> Path:
    """Write an ImageFolder tree of JPEGs (quality 90) with structure at all scales, like photographs."""
    draw = np.random.default_rng(side)
    for i in range(count):
        image = np.zeros((side, side, 3), np.float32)
        for cells in (4, 8, 16, 32, 64):
            noise = draw.normal(0, 1, (cells, cells, 3)).astype(np.float32)
            layer = [Image.fromarray(noise[..., c]).resize((side, side), Image.Resampling.BICUBIC) for c in range(3)]
            image += np.stack([np.asarray(x) for x in layer], axis=2) * (40 / cells**0.5 * 2)
        path = folder / f"c{i % 4}" / f"{i:06d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.clip(image + 120, 0, 255).astype(np.uint8)).save(path, quality=90)
    return folder


def processor_seconds() -> float:
    """Processor seconds of this process and of its ended children."""
    own, ended = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + ended.ru_utime + ended.ru_stime


def compare(
    what: str, goal: float, rounds: int, ours: Callable[[], Iterator[int]], other: Callable[[], Iterator[int]]
) -> Line:
    """Run both in turns. Each yields once when ready, then how many images it handled; the first turn warms up."""
    rates: list[list[float]] = [[], []]
    costs: list[list[float]] = [[], []]
    for turn in range(rounds + 1):
        for i, work in enumerate((ours, other)):
            running = work()
            next(running)
            wall, processor = time.perf_counter(), processor_seconds()
            count = sum(running)
            if turn:
                rates[i].append(count / (time.perf_counter() - wall))
                costs[i].append((processor_seconds() - processor) / count)
    share = statistics.median(a / b for a, b in zip(*rates))
    by_processor = statistics.median(b / a for a, b in zip(*costs))
    medians = [statistics.median(rate) for rate in rates]
    line = Line(what, *medians, share, by_processor, goal, os.getloadavg()[0])
    print(line, file=sys.stderr, flush=True)
    return line


def loop(beton: Path, recipe: Recipe, rounds: int, steps: int, what: str, dynamics: bool = False) -> list[Line]:
    """The whole training loop on a beton against the same steps on a tensor that is in memory."""
    source = open_dataset(beton)
    rows = np.arange(len(source))
    batch = min(recipe.batch, len(rows))
    spec = {"arch": recipe.arch, "kwargs": recipe.kwargs, "stem": recipe.stem, "classes": ["a", "b", "c", "d"]}
    with open_ranks() as ranks:
        loader = open_loader(source, resolution=recipe.resolution, batch_size=batch)
        batches = augmented(loader, recipe, 0)

        def fresh() -> nn.Module:
            network = networks.build(spec).to(ranks.device)
            return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

        def ours(dynamics: bool = False) -> Iterator[int]:
            network = fresh()
            if CUDA:  # compiling is start-up, not training
                trained(network, dynamics, 3)
            yield 0
            yield trained(network, dynamics, steps)

        def trained(network: nn.Module, dynamics: bool, count: int) -> int:
            return training_loop.train(
                network,
                batches,
                rows,
                recipe,
                ranks,
                budget=Budget(steps=count),
                mean=networks.MEAN,
                std=networks.STD,
                dynamics=dynamics,
            ).samples

        images, labels, _ = next(iter(loader.epoch(rows[:batch])))
        images, labels = images.to(ranks.device), labels.to(ranks.device)

        def bare() -> Iterator[int]:
            network = fresh()
            model = torch.compile(network) if recipe.compile and CUDA else network
            optimiser = optimisation.build(network, recipe)
            if CUDA:
                model(networks.normalise(images, networks.MEAN, networks.STD)).sum().backward()
                optimiser.zero_grad(set_to_none=True)
            yield 0
            for _ in range(steps):
                with ranks.autocast():
                    logits = model(networks.normalise(images, networks.MEAN, networks.STD)).float()
                functional.cross_entropy(logits, labels, label_smoothing=recipe.smoothing).backward()
                optimiser.step()
                optimiser.zero_grad(set_to_none=True)
            if CUDA:
                torch.cuda.synchronize()
            yield steps * batch

        lines = [compare(f"loop / tensor in memory, {what}", 0.95, rounds, ours, bare)]
        if dynamics:
            records = f"loop with dynamics / loop, {what}"
            lines.append(compare(records, 0.97, rounds, partial(ours, True), ours))
        loader.close()
    return lines


def loading(folder: Path, beton: Path, side: int, goal: float, rounds: int) -> list[Line]:
    """Our loader against ImageFolder and DataLoader, and against decoding and resizing alone."""
    from ffcv.libffcv import imdecode, resize_crop
    from torch.utils.data import DataLoader
    from torchvision import datasets, transforms

    source, cores = open_dataset(beton), len(os.sched_getaffinity(0))
    rows, heights, widths = np.arange(len(source)), source.beton.heights, source.beton.widths
    loader = open_loader(source, resolution=side, batch_size=128)
    epochs = iter(range(1 << 30))

    def ours() -> Iterator[int]:
        yield 0
        draw = partial(crops.random_resized_crops, heights, widths, seed=0, epoch=next(epochs), scale=(0.25, 1.0))
        yield sum(len(images) for images, _, _ in loader.epoch(rows, crops=lambda these: draw(rows=these)))

    steps = [
        transforms.RandomResizedCrop(side, (0.25, 1.0)),
        transforms.RandomHorizontalFlip(),
        transforms.PILToTensor(),
    ]
    listed = datasets.ImageFolder(str(folder), transforms.Compose(steps))

    def torchvision() -> Iterator[int]:
        yield 0
        yield sum(len(images) for images, _ in DataLoader(listed, 128, shuffle=True, num_workers=cores))

    stored = [np.frombuffer(source.beton.stored(row)[0], np.uint8) for row in rows]
    boxes = crops.random_resized_crops(heights, widths, seed=0, epoch=0, scale=(0.25, 1.0)).boxes.tolist()

    def part(first: int) -> None:
        pixels = np.empty((int(heights.max()), int(widths.max()), 3), np.uint8)
        output = np.empty((side, side, 3), np.uint8)
        for row in range(first, len(rows), cores):
            h, w = int(heights[row]), int(widths[row])
            imdecode(stored[row], pixels, h, w, h, w, 0, 0, 1, 1, False, False)
            top, left, height, width = boxes[row]
            resize_crop(pixels, top, top + height, left, left + width, output)

    def bare() -> Iterator[int]:
        yield 0
        with ThreadPoolExecutor(cores) as pool:
            list(pool.map(part, range(cores)))
        yield len(rows)

    found = [
        compare(f"loader / ImageFolder + DataLoader, {side} px", goal, rounds, ours, torchvision),
        compare(f"loader / turbojpeg decode and resize alone, {side} px", 0.9, rounds, ours, bare),
    ]
    loader.close()
    return found


def scoring(beton: Path, side: int, rounds: int) -> Line:
    """The feature pass against forward passes on a tensor that is in memory."""
    source = open_dataset(beton)
    spec: dict[str, Any] = {"arch": "resnet50" if CUDA else "resnet18", "classes": [str(i) for i in range(1000)]}
    network = networks.build(spec).eval()
    rows, batch = np.arange(len(source)), 128
    device = torch.device("cuda" if CUDA else "cpu")
    images = torch.randint(0, 256, (batch, 3, side, side), dtype=torch.uint8).to(memory_format=torch.channels_last)
    spec |= {"resolution": side, "mean": networks.MEAN, "std": networks.STD}

    def ours() -> Iterator[int]:
        counts = (len(which) for _, _, which in extract(network, spec, source, rows, batch_size=batch))
        yield next(counts) * 0  # the loader is built and compiled
        yield sum(counts)

    def bare() -> Iterator[int]:
        yield 0
        precision = networks.pick_precision("auto", device) == "bf16"
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=precision):
            on_device = images.to(device)
            for first in range(batch, len(rows), batch):
                part = networks.normalise(on_device[: len(rows) - first], networks.MEAN, networks.STD)
                [v.float().cpu() for v in networks.features_and_logits(network, part)]
        yield len(rows) - batch

    return compare(f"feature pass / forward pass alone, {spec['arch']}, {side} px", 0.95, rounds, ours, bare)


def growth(beton: Path, recipe: Recipe, turns: int) -> list[dict]:
    """Seconds of an epoch at several keeps, and how far they are from proportion.

    Every keep trains on the same number of images in all, in turns; the deviation is the median over the turns of the
    ratio to the full set's run of the same turn, since a shared machine's speed drifts.
    """
    source = open_dataset(beton)
    spec = {"arch": recipe.arch, "kwargs": recipe.kwargs, "stem": recipe.stem, "classes": ["a", "b", "c", "d"]}
    found: dict[float, list[tuple[float, float]]] = {}
    with open_ranks() as ranks:
        loader = open_loader(source, resolution=recipe.resolution, batch_size=recipe.batch)
        network = networks.build(spec).to(ranks.device)
        for keep in (1.0, *(1.0, 0.5, 0.2, 0.1) * turns):
            rows = np.arange(round(keep * len(source)) // recipe.batch * recipe.batch)
            before = processor_seconds()
            done = training_loop.train(
                network,
                augmented(loader, recipe, 0),
                rows,
                recipe,
                ranks,
                budget=Budget(epochs=round(1 / keep)),
                mean=networks.MEAN,
                std=networks.STD,
            )
            now = 1e3 * done.seconds / done.samples, 1e3 * (processor_seconds() - before) / done.samples
            found.setdefault(len(rows) / len(source), []).append(now)
        loader.close()
    shares = sorted(found, reverse=True)
    found[shares[0]] = found[shares[0]][1:]  # the first run warms up
    each = {share: np.array(found[share]) for share in shares}
    middle = {share: np.median(each[share], axis=0) for share in shares}
    off = {share: np.median(each[share] / each[shares[0]], axis=0) - 1 for share in shares}
    return [
        {"keep": share, "seconds": middle[share][0] * share * len(source) / 1e3, "processor_ms": middle[share][1],
         "off": off[share][0], "off_processor": off[share][1]}
        for share in shares
    ]  # fmt: skip


def start_up(beton: Path, folder: Path, loader: str, fresh: bool) -> dict:
    """Seconds and memory of a run of one step, from the shell; `fresh`: with nothing compiled on disk."""
    out = folder / f"start-{loader}-{fresh}"
    command = [sys.executable, "-m", "pretrain", "--beton", str(beton), "--recipe", "tiny", "--steps", "1"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    if fresh:
        environment["NUMBA_CACHE_DIR"] = str(folder / "numba")
    began = time.perf_counter()
    with subprocess.Popen([*command, "--loader", loader, "--out", str(out)], env=environment) as process:
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"the run ended with exit code {process.returncode}")
    how = f"{loader}, first time on this machine" if fresh else loader
    return {"loader": how, "seconds": time.perf_counter() - began, "processor": used.ru_utime + used.ru_stime,
            "peak": used.ru_maxrss / 2**20}  # fmt: skip


def steps_with_heap(kept: bool, steps: int = 40) -> None:
    """Train `tiny` on noise in this process; print images a second and processor seconds an image."""
    if kept:
        keep_freed_memory()
    recipe = RECIPES["tiny"]
    spec = {"arch": recipe.arch, "kwargs": recipe.kwargs, "stem": recipe.stem, "classes": [str(i) for i in range(100)]}
    network = networks.build(spec).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    images = torch.rand(recipe.batch, 3, recipe.resolution, recipe.resolution).to(memory_format=torch.channels_last)
    labels = torch.arange(recipe.batch)
    optimiser = optimisation.build(network, recipe)
    for step in range(steps + 5):
        if step == 5:  # the first ones fill oneDNN's caches
            wall, processor = time.perf_counter(), processor_seconds()
        functional.cross_entropy(network(images), labels).backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
    count = steps * recipe.batch
    print(count / (time.perf_counter() - wall), (processor_seconds() - processor) / count)


def heap(rounds: int) -> Line:
    """Steps with the freed memory kept against steps with the C library's own settings, each in a process."""
    found: dict[str, list[tuple[float, float]]] = {"kept": [], "glibc": []}
    for _ in range(rounds):
        for kind, figures in found.items():
            command = [sys.executable, __file__, "--heap", kind]
            environment = {**os.environ, "PYTHONPATH": str(ROOT)}
            done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
            rate, cost = map(float, done.stdout.split())
            figures.append((rate, cost))
    ours, other = (statistics.median(rate for rate, _ in figures) for figures in found.values())
    pairs = list(zip(*found.values()))
    share = statistics.median(kept[0] / glibc[0] for kept, glibc in pairs)
    by_processor = statistics.median(glibc[1] / kept[1] for kept, glibc in pairs)
    what = "steps / steps with glibc's heap, tiny, 32 px"
    return Line(what, ours, other, share, by_processor, 1.0, os.getloadavg()[0])


PARTS = ("loop", "heap", "loading", "scoring", "growth", "start")


def measure(part: str, folder: Path, given: argparse.Namespace) -> list[dict]:
    """One part of the page."""
    betons, trees = {}, {}
    for side in (96, 256) if part == "loading" or (part == "loop" and CUDA) else (96,):
        trees[side] = folder / str(side)
        betons[side] = folder / f"{side}.beton"
        if not betons[side].exists():
            draw_images(trees[side], given.images, side)
            write.run(write.Config(str(trees[side]), betons[side]))
    small = replace(RECIPES["small-rn18"], crop="resized", batch=512 if CUDA else 64, compile=CUDA)
    if part == "start":
        cases = (("torch", False), ("ffcv", True), ("ffcv", False))
        return [start_up(betons[96], folder, loader, fresh) for loader, fresh in cases]
    if part == "growth":
        # A quick network: whatever an epoch costs besides its images would show.
        return growth(betons[96], replace(RECIPES["tiny"], crop="resized", batch=32), given.turns)
    if part == "heap":
        lines = [heap(given.rounds)]
    elif part == "scoring":
        lines = [scoring(betons[96], 64, given.rounds)]
    elif part == "loading":
        lines = loading(trees[256], betons[256], 224, 2.5, given.rounds)
        lines += loading(trees[96], betons[96], 64, 4.0, given.rounds)
    else:
        lines = loop(betons[96], small, given.rounds, given.steps, "ResNet-18, 3x3 stem, 32 px", dynamics=True)
        stock = replace(small, stem="imagenet", resolution=64)
        if not CUDA:
            lines += loop(betons[96], stock, given.rounds, given.steps, "ResNet-18, 64 px")
        for side in (160, 192) if CUDA else ():
            large = replace(RECIPES["rn50-16ep"], resolution=side, start_resolution=0, batch=256)
            lines += loop(betons[256], large, given.rounds, given.steps, f"ResNet-50, {side} px")
    return [asdict(line) for line in lines]


def page(found: dict) -> str:
    """The results in words."""
    lines = [str(Line(**line)) for part in ("loop", "heap", "loading", "scoring") for line in found.get(part, [])]
    keeps = [
        f"| {k['keep']:.2f} | {k['seconds']:.2f} | {k['off']:+.1%} | {k['processor_ms']:.3f} "
        f"| {k['off_processor']:+.1%} |"
        for k in found.get("growth", [])
    ]
    started = [
        f"| {s['loader']} | {s['seconds']:.1f} | {s['processor']:.1f} | {s['peak']:.2f} |"
        for s in found.get("start", [])
    ]
    return "\n".join(
        [
            "# Training, loading and scoring against the bare hardware",
            "",
            f"`{found['command']}`, {found['made']}.",
            "",
            "Images a second, ours and the counterpart's; the share by time and by processor seconds of all threads "
            "and processes; the goal, and whether it was met by time / by processor seconds; the machine's load then. "
            "Above its number of cores other work ran beside; then that by processor seconds is the better figure.",
            "",
            "| ours / counterpart | ours | counterpart | share | by processor | goal | met | load |",
            "|---|---:|---:|---:|---:|---:|---|---:|",
            *lines,
            "",
            "An epoch at several keeps: seconds, and how far time and processor time are from falling exactly with the "
            "keep (goal: 5 %).",
            "",
            "| keep | seconds an epoch | off | processor ms an image | off |",
            "|---:|---:|---:|---:|---:|",
            *keeps,
            "",
            "A run of one step of `tiny`, from the shell to its end, imports and compilation included.",
            "",
            "| loader | seconds | processor seconds | peak GiB |",
            "|---|---:|---:|---:|",
            *started,
            "",
        ]
    )


def main() -> None:
    """Measure all of it, or some parts of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="writes OUT.md and OUT.json; prints only when absent")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--folder", type=Path, help="keeps the drawn images there, and takes those that are there")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--turns", type=int, default=2, help="of the growth over keeps")
    parser.add_argument("--steps", type=int, default=100 if CUDA else 12)
    parser.add_argument("--heap", choices=("kept", "glibc"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.heap:
        return steps_with_heap(given.heap == "kept")
    before = given.out.with_suffix(".json") if given.out else None
    found = json.loads(before.read_text()) if before and before.exists() and len(given.parts) < len(PARTS) else {}
    found |= {
        "command": f"python tests/benchmarks/training.py --images {given.images} --rounds {given.rounds} "
        f"--turns {given.turns} --steps {given.steps}",
        "made": made_here(),
    }
    folder = given.folder or Path(tempfile.mkdtemp(prefix="winnow-benchmark-"))
    try:
        for part in given.parts:
            found[part] = measure(part, folder, given)
            if given.out:
                given.out.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")
                publish(given.out.with_suffix(".md"), page(found))
    finally:
        if not given.folder:
            shutil.rmtree(folder)
    print(page(found))


if __name__ == "__main__":
    main()
