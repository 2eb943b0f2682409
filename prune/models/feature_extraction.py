"""Run a network once over images: yield their features and logits, or write them to a features file.

`prune features` and the evaluations of `transfer` both compute features here, so that each can reuse the other's files.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from prune.data.dataset import Dataset
from prune.data.loader import open_loader
from prune.index.manifest import manifest_path
from prune.index.npz import open_arrays
from prune.index.pruned_index import PrunedIndex
from prune.models import evaluation_view, networks
from prune.models.extraction_settings import ExtractionSettings, features_inputs
from prune.models.full_precision import full_precision
from prune.models.image_sizes import refuse_size
from prune.models.linear_head import linear_head_of
from prune.models.networks import TrainedModel
from prune.models.transfers import fetched, sent
from prune.runs import compute_device, process_group
from prune.runs.cores import share_of_cores
from prune.runs.disk_errors import reserve
from prune.runs.files import InputError, note, write_json
from prune.runs.identity import identity
from prune.runs.memory_allocator import keep_freed_memory
from prune.runs.outputs import claim_file
from prune.runs.progress import track
from prune.scores.class_votes import columns_of
from prune.scores.feature_files import FORMAT, check_order, order_fingerprint, write_features
from prune.scores.logit_summary import LogitSummary, summarised, summary_names
from prune.scores.quantised_rows import QuantisedRows, as_stored, widened
from prune.scores.streaming import as_float16, blocks, read_rows


def extract(
    network: nn.Module,
    spec: dict[str, Any],
    dataset: Dataset,
    rows: np.ndarray,
    *,
    resolution: int | None = None,
    precision: str = "auto",
    loader: Literal["ffcv", "torch"] = "ffcv",
    batch_size: int = 256,
    workers: int | None = None,
    device: torch.device | None = None,
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield features and logits of these images as the model's spec shows them, batch by batch, in the order of `rows`.

    Parameters
    ----------
    network : nn.Module
        Moved to the device and put in evaluation mode.
    spec : dict
        Content of its `model.json`: "resolution", "mean", "std", "crop_ratio" and "mirror" are read.
    dataset : Dataset
    rows : (n,) int64
    resolution : int, optional
        Side of the images in pixels; the one of `spec` when absent.
    precision : {"auto", "bf16", "fp32"}
    loader : {"ffcv", "torch"}
    batch_size : int
    workers : int, optional
        Decoding threads.
    device : torch.device, optional
        `prune.runs.compute_device.current` when absent.

    Yields
    ------
    features : (b, d) float32
    logits : (b, c) float32
    rows : (b,) int64

    Raises
    ------
    InputError
        The network gives values that are not finite.
    """
    device = torch.device(compute_device.current()) if device is None else device
    refuse_size(network, resolution or spec["resolution"])
    bf16 = networks.pick_precision(precision, device) == "bf16"
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(share_of_cores())
    if device.type == "cpu":
        keep_freed_memory()
    network = network.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    side = resolution or spec["resolution"]
    batches = open_loader(dataset, resolution=side, batch_size=batch_size, workers=workers, loader=loader)
    total = -(-len(rows) // batch_size)
    waiting: deque[tuple[Callable[[], list[torch.Tensor]], np.ndarray]] = deque()

    def arrived() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The outputs of the oldest batch; the next one is queued already, so that a GPU does not idle."""
        wait, which = waiting.popleft()
        features, logits = (output.numpy() for output in wait())
        finite = np.isfinite(features).all(1) & np.isfinite(logits).all(1)
        if not finite.all():
            row = int(which[~finite][0])
            raise InputError(f"the model gives values that are not finite, first for row {row} of {dataset.name}")
        return features, logits, which

    try:
        autocast = torch.autocast(device.type, torch.bfloat16, enabled=bf16)
        with torch.inference_mode(), autocast, full_precision(precision == "fp32"):
            crops = evaluation_view.central(dataset, evaluation_view.crop_ratio(spec))
            for images, _, which in track(batches.epoch(rows, crops=crops), total, dataset.name):
                images = networks.normalise(sent(images, device), spec["mean"], spec["std"])
                outputs = evaluation_view.outputs(network, images, spec)
                waiting.append((fetched(outputs), which.numpy()))
                if len(waiting) > (device.type == "cuda"):
                    yield arrived()
            while waiting:
                yield arrived()
    finally:
        batches.close()


def extract_to_file(
    model: TrainedModel, dataset: Dataset, out: Path, settings: ExtractionSettings, index: PrunedIndex | None = None
) -> None:
    """Write the features of a dataset's images, unless the file is up to date; every process of a run calls this.

    Parameters
    ----------
    model : TrainedModel
    dataset : Dataset
    out : Path
        NAME.features.npz. NAME.features.json beside it records the seconds that the pass took.
    settings : ExtractionSettings
    index : PrunedIndex, optional
        Only the images that it keeps are passed through the network; all when absent.

    Raises
    ------
    InputError
        `out` was made with another model, other images or other settings; a summary of the logits of a network whose
        classifier is not linear in the features.
    """
    manifest = manifest_path(dataset.beton.path)
    inputs, wanted = features_inputs(model.fingerprint, dataset, index), None
    if index is not None:
        wanted = np.sort(index.rows_in(dataset.manifest))
    columns = _columns_to_summarise(model, dataset, settings)
    if columns is None and settings.logits == "summary":  # the file is that of a run that asked for all logits
        note(f"{dataset.name}: its classes are not those of the model: all logits are stored")
        settings = dataclasses.replace(settings, logits="all")
    with claim_file(out, lambda path: open_arrays(path, FORMAT)[1]["made"], settings, inputs) as done:
        if done:
            order = open_arrays(out, FORMAT)[1].get("order")
            check_order(out, order, manifest, order_fingerprint(manifest), "give another --out, or remove it")
            return
        begin = time.perf_counter()
        state = process_group.join()
        images = np.arange(len(dataset)) if wanted is None else wanted
        n, rank, world = len(images), state.process_index, state.num_processes
        rows = images[rank * n // world : (rank + 1) * n // world]
        side = settings.resolution or model.spec["resolution"]
        head = None
        if columns is not None:
            refuse_size(model.network, side)
            head = linear_head_of(model.network, side)[:, columns]
        kinds = ["features", "logits" if columns is None else "summary"]
        kinds += ["steps"] if settings.features_dtype == "int8" else []
        out.parent.mkdir(parents=True, exist_ok=True)
        whole = [out.with_name(f".{dataset.name}.{kind}.partial") for kind in kinds]
        parts = [[out.with_name(f".{dataset.name}.{kind}.{r}.partial.npy") for r in range(world)] for kind in kinds]
        mine = [paths[rank] for paths in parts]
        try:
            _extract_part(mine, model, dataset, rows, settings, state.device, columns)
            state.wait_for_everyone()
            if state.is_main_process:
                features, outputs, *steps = (joined(path, n, of) for path, of in zip(whole, parts))
                summary = None if head is None else LogitSummary(summary_names(), outputs, head)
                facts = {
                    "arch": model.spec["arch"], "classes": model.spec["classes"], "fingerprint": model.fingerprint
                } | ({"fold": model.spec["fold"]} if model.spec.get("fold") else {})  # fmt: skip
                made = identity(settings) | inputs
                for name in ("logits", "features_dtype"):  # defaults, which files of older versions do not name
                    if made[name] == getattr(ExtractionSettings, name):
                        del made[name]
                stored = QuantisedRows(features, *steps) if steps else features
                write_features(out, stored, outputs, dataset.manifest, manifest, facts, made, wanted, summary=summary)
            state.wait_for_everyone()
        finally:
            for path in (*mine, *(whole if state.is_main_process else ())):
                path.unlink(missing_ok=True)
        seconds = time.perf_counter() - begin
        if state.is_main_process:  # beside the arrays, whose bytes then do not depend on the time taken
            place = out.with_name(f"{out.name.removesuffix('.npz')}.json")
            write_json(place, {"seconds": round(seconds, 3), "samples": n})
        note(f"{out}: {n} images in {seconds:.1f} s ({n / seconds:,.0f} images/s)")


def _columns_to_summarise(model: TrainedModel, dataset: Dataset, settings: ExtractionSettings) -> np.ndarray | None:
    """Columns of the logits for the dataset's classes; None where all logits are to be stored.

    Those of a target are needed in full, and a target may know some of the source's classes by name: a summary is made
    where the classes are all that the network knows.
    """
    names = dataset.manifest.classes
    if settings.logits == "all" or len(names) != len(model.spec["classes"]):
        return None
    return columns_of(model.spec["classes"], names)


def _extract_part(
    parts: Sequence[Path],
    model: TrainedModel,
    dataset: Dataset,
    rows: np.ndarray,
    settings: ExtractionSettings,
    device: torch.device,
    columns: np.ndarray | None,
) -> None:
    """Write the features and logits of this process's rows as two .npy files, the logits in float16.

    With the columns of the dataset's classes the second holds the summary of the logits instead, float32. A third one
    takes the steps of 8-bit features.
    """
    passes = extract(
        model.network,
        model.spec,
        dataset,
        rows,
        resolution=settings.resolution,
        precision=settings.precision,
        loader=settings.loader,
        batch_size=settings.batch_size,
        workers=settings.workers,
        device=device,
    )
    files: list[np.memmap] = []
    labels = np.asarray(dataset.manifest.labels)
    for features, logits, which in passes:
        kept, *steps = as_stored(features, settings.features_dtype)
        found = [kept, as_float16(logits), *steps]
        if columns is not None:  # from the numbers that readers of the features would see
            seen = widened(kept, *steps) if steps else kept
            found[1] = summarised(seen, found[1], labels[which], columns)
        if not files:
            shapes = [(len(rows), array.shape[1]) for array in found]
            files = [np.lib.format.open_memmap(p, "w+", a.dtype, s) for p, a, s in zip(parts, found, shapes)]
            for part in parts:
                reserve(part)
        at = np.searchsorted(rows, which)
        for file, array in zip(files, found):
            file[at] = array
    for file in files:
        file.flush()


def joined(whole: Path, n: int, parts: Sequence[Path]) -> np.ndarray:
    """Append the processes' parts, each removed once it is copied, to a file at `whole`; (n, d) of their type, mapped.

    A process without rows (fewer images than processes) leaves no part. A single part is mapped where it is.
    """
    there = [path for path in parts if path.exists()]
    if len(there) == 1:
        found: np.ndarray = np.load(there[0], mmap_mode="r", allow_pickle=False)
        return found
    with open(whole, "wb") as file:
        for path in there:
            part = np.load(path, mmap_mode="r", allow_pickle=False)
            for rows in blocks(len(part), 8192):
                file.write(read_rows(part, rows).tobytes())
            path.unlink()
    return np.memmap(whole, part.dtype, "r", shape=(n, part.shape[1]))
