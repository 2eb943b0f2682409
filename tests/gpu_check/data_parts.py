"""Parts of the check: the machine, generated images, and loaders whose batches arrive unchanged."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path

import numpy as np
import torch

from tests.gpu_check.sizes import CLASSES, Setting

_BATCHES = 30


def facts(c: Setting) -> None:
    """Card, driver, precision, and two yardsticks: copies to the device and a product of matrices."""
    import timm

    from pretrain.distributed import dtype_of
    from prune.runs import compute_device

    name = torch.cuda.get_device_name() if c.gpu else platform.processor() or platform.machine()
    found = {
        "device": f"{c.device.type}: {name}",
        "driver": compute_device.driver(),
        "torch": f"{torch.__version__}, CUDA {torch.version.cuda}",
        "timm": timm.__version__,
        "precision": str(dtype_of("auto") or torch.float32).removeprefix("torch."),
        "cores": str(c.cores),
    }
    if c.gpu:
        found["capability"] = ".".join(map(str, torch.cuda.get_device_capability()))
    c.report.facts |= found
    for key, text in found.items():
        c.report.fact(key, text)
    for module in c.lacking:
        c.report.unchecked(module, "is not installed")
    c.report.must("a precision is chosen", dtype_of("auto") is not None or not c.gpu, found["precision"])
    side, mega = (256, 4) if c.tiny else (8192, 256)
    one = torch.randn(side, side, device=c.device, dtype=torch.bfloat16)
    seconds = timed(c, lambda: one @ one)
    c.report.speed("product of bf16 matrices", 2 * side**3 / seconds / 1e12, "TFLOP/s")
    held = torch.empty(mega << 20, dtype=torch.uint8)
    held = held.pin_memory() if c.gpu else held
    place = torch.empty_like(held, device=c.device)
    seconds = timed(c, lambda: place.copy_(held, non_blocking=True))
    c.report.speed("copies from pinned memory", (mega << 20) / seconds / 1e9, "GB/s")


def timed(c: Setting, work: Callable[[], object], least: float | None = None) -> float:
    """Seconds of one call: the mean over as many as fill a moment, after one that warms up."""
    work()
    wait(c)
    least = (0.02 if c.tiny else 0.5) if least is None else least
    begin, calls = time.perf_counter(), 0
    while time.perf_counter() - begin < least:
        for _ in range(5):
            work()
        wait(c)
        calls += 5
    return (time.perf_counter() - begin) / calls


def wait(c: Setting) -> None:
    """Wait until the device has done what is queued."""
    if c.gpu:
        torch.cuda.synchronize()


def data(c: Setting) -> None:
    """Draw large JPEGs and small images in ten classes that a network can learn, and write them as betons."""
    from prune import write

    number, width, height = c.photographs
    drawn = {"photos": (number, width, height, "jpg")}
    train, test = c.thumbnails
    drawn |= {"train": (train, 32, 32, "png"), "test": (test, 32, 32, "png"), "target": (test // 2, 32, 32, "png")}
    begin = time.perf_counter()
    for seed, (name, (count, wide, high, kind)) in enumerate(drawn.items()):
        folder = c.work / "images" / name
        for k in range(CLASSES):
            (folder / f"class{k}").mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(c.cores) as pool:
            save = partial(_draw, folder, wide, high, kind, seed)
            list(pool.map(save, range(count)))
    c.report.speed("images drawn", sum(one[0] for one in drawn.values()) / (time.perf_counter() - begin), "a second")
    for name in drawn:
        beton = c.work / f"{name}.beton"
        classes = c.work / "train.beton" if name in ("test", "target") else None
        write.run(write.Config(images=str(c.work / "images" / name), out=beton, classes=classes))
        c.made[name] = beton
    from prune.data.dataset import open_dataset

    counts = [len(open_dataset(c.made[name])) for name in drawn]
    c.report.must("all images are written", counts == [one[0] for one in drawn.values()], str(counts))


def _draw(folder: Path, width: int, height: int, kind: str, seed: int, row: int) -> None:
    """One picture: the class decides the colour and the width of its stripes."""
    from PIL import Image

    k, draw = row % CLASSES, np.random.default_rng((seed, row))
    wave = np.sin(np.arange(width) * (0.15 + 0.12 * (k % 5)) * 32 / min(width, height) * 3 + 6 * draw.random())
    tint = np.array([k % 2, k // 2 % 2, k // 4 % 2], np.float32)
    pixels = 90 + 60 * tint + 40 * wave[None, :, None] + draw.normal(0, 12, (height, width, 1))
    image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    image.save(folder / f"class{k}" / f"{row:05d}.{kind}", quality=90)


def loader(c: Setting) -> None:
    """Batches that are copied behind a busy device arrive as they were; speeds beside other ways to read images."""
    from prune.data.dataset import open_dataset
    from prune.data.loader import open_loader

    source = open_dataset(c.made["photos"])
    batch = 4 if c.tiny else 64
    for side in c.sides:
        for kind in dict.fromkeys((c.loader, "torch")) if side == c.sides[0] else (c.loader,):
            workers = 1 if c.tiny else None
            reader = partial(open_loader, source, resolution=side, batch_size=batch, loader=kind, workers=workers)
            with c.report.trying(f"{kind} at {side} px"), closing(reader()) as opened:
                rows = np.resize(np.random.default_rng(side).permutation(len(source)), _BATCHES * batch)
                _arrive(c, f"{kind} at {side} px: 30 batches arrive as they were", opened.epoch(rows))
                begin = time.perf_counter()
                images = sum(len(part) for part, _, _ in opened.epoch(rows))
                c.report.speed(f"{kind} at {side} px", images / (time.perf_counter() - begin), "images/s")
    if c.loader != "ffcv":
        c.report.unchecked("ffcv loader", "FFCV or numba is not installed")
    _others(c, batch)


def _arrive(c: Setting, name: str, batches: Iterator) -> None:
    from prune.models.transfers import sent

    kept, there, pinned = [], [], True
    side = 32 if c.tiny else 4096
    busy = torch.randn(side, side, device=c.device)
    for images, _, _ in batches:
        for _ in range(4):  # work that is still queued when the loader fills its memory again
            busy = (busy @ busy).clamp(-1, 1)
        kept.append(images.clone())
        pinned &= images.is_pinned() if c.gpu else True
        there.append(sent(images, c.device))
    wait(c)
    same = all(torch.equal(one.cpu(), other) for one, other in zip(there, kept, strict=True))
    c.report.must(name, same and len(kept) == _BATCHES, f"{len(kept)} batches")
    if c.gpu and name.startswith("ffcv"):
        c.report.must(f"{name.split(':')[0]}: pinned", pinned)


def _others(c: Setting, batch: int) -> None:
    """torchvision's own way, the bare decoding, and FFCV's own loader on the same images."""
    from torch.utils.data import DataLoader
    from torchvision import transforms
    from torchvision.datasets import ImageFolder

    side = c.sides[0]
    folder = c.work / "images" / "photos"
    with c.report.trying("torchvision DataLoader"):
        change = transforms.Compose([transforms.RandomResizedCrop(side), transforms.PILToTensor()])
        pictures = DataLoader(ImageFolder(folder, change), batch, num_workers=0 if c.tiny else c.cores, shuffle=True)
        begin = time.perf_counter()
        images = sum(len(part) for part, _ in pictures)
        c.report.speed(f"torchvision DataLoader at {side} px", images / (time.perf_counter() - begin), "images/s")
    with c.report.trying("bare decoding"):
        from PIL import Image

        def decoded(place: Path) -> int:
            with Image.open(place) as image:
                image.draft("RGB", (side, side))
                return image.convert("RGB").resize((side, side)).size[0]

        places = sorted(folder.rglob("*.jpg"))
        begin = time.perf_counter()
        with ThreadPoolExecutor(c.cores) as pool:
            list(pool.map(decoded, places))
        c.report.speed(f"bare Pillow at {side} px", len(places) / (time.perf_counter() - begin), "images/s")
    if c.tiny:
        return c.report.unchecked("FFCV's own loader", "takes too long to compile for --tiny")
    with c.report.trying("FFCV's own loader"):
        threads = os.cpu_count()
        from ffcv.fields.rgb_image import RandomResizedCropRGBImageDecoder
        from ffcv.loader import Loader, OrderOption
        from ffcv.transforms import ToTensor

        pipelines = {"image": [RandomResizedCropRGBImageDecoder((side, side)), ToTensor()]}
        pipelines |= {"label": None, "position": None}
        stock = Loader(str(c.made["photos"]), batch, threads, order=OrderOption.RANDOM, pipelines=pipelines)
        for _ in stock:  # compiles
            pass
        begin = time.perf_counter()
        images = sum(len(part[0]) for part in stock)
        c.report.speed(f"FFCV's own loader at {side} px", images / (time.perf_counter() - begin), "images/s")
    return None
