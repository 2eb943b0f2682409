"""Run a network once over every image and keep its features and logits.

    prune features --model runs/surrogate --betons runs/source.beton runs/pets.beton --out runs/features
    accelerate launch --multi_gpu -m prune features ...       (all GPUs; each takes a part of every beton)

Writes OUT/<name>.features.npz for each beton, half floats, rows in the beton's order; memory-mapped by its readers.
What it took stands beside it, in <name>.features.json.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from prune.run import InputError, identity, note, refuse_other, write_json

if TYPE_CHECKING:
    import numpy as np

    from prune.source import Source

FORMAT = "winnow-features/1"


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
    from prune import networks
    from prune.source import open_source

    if not config.betons:
        raise InputError("--betons: name at least one")
    names = [path.name.removesuffix(".beton") for path in config.betons]
    if twice := {n for n in names if names.count(n) > 1}:
        raise InputError(f"--betons: two are named {min(twice)!r}; their features would overwrite each other")
    model, spec = networks.load_model(config.model)
    sources = [open_source(path) for path in config.betons]
    facts = {"arch": spec["arch"], "classes": spec["classes"], "fingerprint": networks.fingerprint(config.model)}
    for source in sources:
        _features(config, source, model, spec, facts)


def _features(config: Config, source: Source, model: Any, spec: dict[str, Any], facts: dict[str, Any]) -> None:
    from accelerate import PartialState

    from prune.arrays import open_arrays

    place = config.out / f"{source.name}.features.npz"
    options = {k: v for k, v in identity(config).items() if k not in ("model", "betons", "batch_size")}
    asked = {**options, "model": facts["fingerprint"], "source": source.manifest.fingerprint}
    if place.exists():
        meta = open_arrays(place, FORMAT)[1]
        refuse_other(place, meta["made"], asked)
        note(f"{place}: there already")
        return
    begin = time.perf_counter()
    state = PartialState(cpu=not _cuda())
    n, rank, world = len(source), state.process_index, state.num_processes
    rows = range(rank * n // world, (rank + 1) * n // world)
    config.out.mkdir(parents=True, exist_ok=True)
    parts = [config.out / f".{source.name}.{kind}.{rank}.partial.npy" for kind in ("features", "logits")]
    try:
        _extract_to(parts, config, source, rows, model, spec, state.device)
        state.wait_for_everyone()
        if state.is_main_process:
            meta = {
                "format": FORMAT,
                "name": source.name,
                "classes": source.manifest.classes,
                "fingerprint": source.manifest.fingerprint,
                "manifest": os.path.relpath(source.beton.path.with_suffix(".manifest.npz"), config.out),
                "model": facts,
                "made": asked,
            }
            _join(place, source, world, config.out, meta)
        state.wait_for_everyone()
    finally:
        for part in parts:
            part.unlink(missing_ok=True)
    seconds = time.perf_counter() - begin
    if state.is_main_process:  # beside the arrays: those hold no time, and are the same bytes each time
        write_json(config.out / f"{source.name}.features.json", {"seconds": round(seconds, 3), "samples": n})
    note(f"{place}: {n} images in {seconds:.1f} s ({n / seconds:,.0f} images/s)")


def extract(
    model: Any,
    source: Source,
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

    from prune import networks
    from prune.heap import keep_freed_memory
    from prune.loading import open_loader, share_of_cores
    from prune.progress import track

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
    parts: list[Path], config: Config, source: Source, rows: range, model: Any, spec: dict[str, Any], device: Any
) -> None:
    import numpy as np

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
        # Half floats end at 65,504: a larger logit keeps its sign and its rank among the largest.
        files[0][at], files[1][at] = np.clip(features, -65504, 65504), np.clip(logits, -65504, 65504)
    for file in files:
        file.flush()


def _join(place: Path, source: Source, world: int, out: Path, meta: dict[str, Any]) -> None:
    import numpy as np

    from prune.arrays import save_arrays

    arrays: dict[str, np.ndarray] = {}
    for kind in ("features", "logits"):
        # A rank without rows (fewer images than processes) leaves no file.
        paths = [p for r in range(world) if (p := out / f".{source.name}.{kind}.{r}.partial.npy").exists()]
        parts = [np.load(p, mmap_mode="r", allow_pickle=False) for p in paths]
        arrays[kind] = parts[0] if len(parts) == 1 else np.concatenate(parts)
    arrays["label"] = np.asarray(source.manifest.labels, np.int32)
    arrays["position"] = np.arange(len(source), dtype=np.int64)
    save_arrays(place, arrays, meta)


def _cuda() -> bool:
    import torch

    return torch.cuda.is_available()
