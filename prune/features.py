"""Run a network once over every image and keep its features and logits.

    prune features --model runs/surrogate --betons runs/source.beton runs/pets.beton --out runs/features
    accelerate launch --multi_gpu -m prune features ...       (all GPUs; each takes a part of every beton)

Writes OUT/<name>.features.npz for each beton, half floats, rows in the beton's order; memory-mapped by its readers.
What it took stands beside it, in <name>.features.json.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from prune.runs.files import InputError, at_least, note, write_json
from prune.runs.run_directory import identity, refuse_other

if TYPE_CHECKING:
    import numpy as np

    from prune.data.dataset import Dataset

FORMAT = "winnow-features/1"
_KINDS = ("features", "logits")


@dataclass(frozen=True)
class Config:
    model: Path
    """Directory of a `pretrain` run: model.safetensors and model.json."""
    betons: tuple[Path, ...]
    """Betons of `prune write`; the source and the targets' train splits go through in one call."""
    out: Path
    """Directory for <name>.features.npz."""
    resolution: int | None = None
    """Side of the images in pixels; the model's own evaluation resolution when absent."""
    batch_size: int = 256
    """Images a step and process."""
    precision: str = "auto"
    """auto, bf16 or fp32."""
    loader: Literal["ffcv", "torch"] = "ffcv"
    """torch needs no FFCV."""
    workers: int | None = None
    """Decoding threads a process."""


def run(config: Config) -> None:
    """Write the features of each beton that has none yet."""
    from prune.data.dataset import open_dataset
    from prune.models import networks

    _check(config)
    names = [path.name.removesuffix(".beton") for path in config.betons]
    if twice := {n for n in names if names.count(n) > 1}:
        raise InputError(f"--betons: two are named {min(twice)!r}; their features would overwrite each other")
    model, spec = networks.load_model(config.model)
    sources = [open_dataset(path) for path in config.betons]
    facts = {"arch": spec["arch"], "classes": spec["classes"], "fingerprint": networks.fingerprint(config.model)}
    for source in sources:
        _features(config, source, model, spec, facts)


def _check(config: Config) -> None:
    if not config.betons:
        raise InputError("--betons: name at least one")
    at_least(config, 1, "resolution", "batch_size", "workers")


def _features(config: Config, source: Dataset, model: Any, spec: dict[str, Any], facts: dict[str, Any]) -> None:
    from accelerate import PartialState

    from prune.index.manifest import manifest_path
    from prune.index.npz import open_arrays
    from prune.scores.feature_files import check_order, order_fingerprint, write_features

    place, manifest = config.out / f"{source.name}.features.npz", manifest_path(source.beton.path)
    options = {k: v for k, v in identity(config).items() if k not in ("model", "betons", "batch_size")}
    asked = {**options, "model": facts["fingerprint"], "source": source.manifest.fingerprint}
    if place.exists():
        meta = open_arrays(place, FORMAT)[1]
        refuse_other(place, meta["made"], asked)
        check_order(place, meta.get("order"), manifest, order_fingerprint(manifest), "give another --out, or remove it")
        note(f"{place}: there already")
        return
    begin = time.perf_counter()
    state = PartialState(cpu=not _cuda())
    n, rank, world = len(source), state.process_index, state.num_processes
    rows = range(rank * n // world, (rank + 1) * n // world)
    config.out.mkdir(parents=True, exist_ok=True)
    whole = [config.out / f".{source.name}.{kind}.partial" for kind in _KINDS]
    parts = [[config.out / f".{source.name}.{kind}.{r}.partial.npy" for r in range(world)] for kind in _KINDS]
    mine = [paths[rank] for paths in parts]
    try:
        _extract_to(mine, config, source, rows, model, spec, state.device)
        state.wait_for_everyone()
        if state.is_main_process:
            features, logits = (joined(path, n, of) for path, of in zip(whole, parts))
            write_features(place, features, logits, source.manifest, manifest, facts, asked)
        state.wait_for_everyone()
    finally:
        for path in (*mine, *(whole if state.is_main_process else ())):
            path.unlink(missing_ok=True)
    seconds = time.perf_counter() - begin
    if state.is_main_process:  # beside the arrays: those hold no time, and are the same bytes each time
        write_json(config.out / f"{source.name}.features.json", {"seconds": round(seconds, 3), "samples": n})
    note(f"{place}: {n} images in {seconds:.1f} s ({n / seconds:,.0f} images/s)")


def extract(
    model: Any,
    source: Dataset,
    rows: np.ndarray,
    *,
    resolution: int,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    batch_size: int = 256,
    precision: str = "auto",
    loader: Literal["ffcv", "torch"] = "ffcv",
    workers: int | None = None,
    device: Any = None,
) -> Any:
    """Yield (features (b, d), logits (b, c), rows (b,)) as float32 and int64 arrays, in the order of `rows`.

    Central crops; the model is put in evaluation mode. An image that gives a value that is not finite stops the pass.
    """
    import numpy as np
    import torch

    from prune.data.loader import open_loader, share_of_cores
    from prune.models import networks
    from prune.runs.heap import keep_freed_memory
    from prune.runs.progress import track

    device = torch.device("cuda" if _cuda() else "cpu") if device is None else device
    bf16 = networks.pick_precision(precision, device) == "bf16"
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(share_of_cores())
    if device.type == "cpu":
        keep_freed_memory()
    model = model.to(device, memory_format=torch.channels_last).eval()
    batches = open_loader(source, resolution=resolution, batch_size=batch_size, workers=workers, loader=loader)
    total = -(-len(rows) // batch_size)
    try:
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            for images, _, which in track(batches.epoch(rows), total, source.name):
                images = networks.normalise(images.to(device, non_blocking=True), mean, std)
                outputs = networks.features_and_logits(model, images)
                features, logits = (output.float().cpu().numpy() for output in outputs)
                finite = np.isfinite(features).all(1) & np.isfinite(logits).all(1)
                if not finite.all():
                    row = int(which.numpy()[~finite][0])
                    raise InputError(
                        f"the model gives values that are not finite, first for row {row} of {source.name}"
                    )
                yield features, logits, which.numpy()
    finally:
        batches.close()


def _extract_to(
    parts: list[Path], config: Config, source: Dataset, rows: range, model: Any, spec: dict[str, Any], device: Any
) -> None:
    import numpy as np

    from prune.scores.streaming import halves

    passes = extract(
        model,
        source,
        np.arange(rows.start, rows.stop),
        resolution=config.resolution or spec["resolution"],
        mean=spec["mean"],
        std=spec["std"],
        batch_size=config.batch_size,
        precision=config.precision,
        loader=config.loader,
        workers=config.workers,
        device=device,
    )
    files: list[np.memmap] = []
    for features, logits, which in passes:
        if not files:
            shapes = [(len(rows), a.shape[1]) for a in (features, logits)]
            files = [np.lib.format.open_memmap(p, "w+", np.float16, s) for p, s in zip(parts, shapes)]
        at = which - rows.start
        files[0][at], files[1][at] = halves(features), halves(logits)
    for file in files:
        file.flush()


def joined(whole: Path, n: int, parts: Sequence[Path]) -> np.ndarray:
    """Append the ranks' parts, each removed once it is copied, in a file at `whole`; (n, d) float16, mapped.

    A rank without rows (fewer images than processes) leaves no part.
    """
    import numpy as np

    from prune.scores.streaming import blocks, read

    there = [path for path in parts if path.exists()]
    if len(there) == 1:
        return np.load(there[0], mmap_mode="r", allow_pickle=False)
    with open(whole, "wb") as file:
        for path in there:
            part = np.load(path, mmap_mode="r", allow_pickle=False)
            for rows in blocks(len(part), 8192):
                file.write(read(part, rows).tobytes())
            path.unlink()
    return np.memmap(whole, np.float16, "r", shape=(n, part.shape[1]))


def _cuda() -> bool:
    import torch

    return torch.cuda.is_available()
