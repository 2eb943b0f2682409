"""Put a checked export to work: write the files, compare each with PyTorch on real images, measure."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn

from prune.data.dataset import Dataset
from prune.data.loader import open_loader
from prune.models.forward_flops import multiply_adds
from prune.runs.files import InputError, note
from transfer.compression import onnx_model
from transfer.compression.acceptance import predicted
from transfer.compression.quantization import Quantizer, put_back
from transfer.compression.recovery_training import balanced, images_of, predictor
from transfer.evaluation.metrics import per_class
from transfer.evaluation.target_splits import kept_rows

if TYPE_CHECKING:
    from transfer.export import Config

PARITY = 1e-3
"""Largest difference of a logit between PyTorch and an fp32 file; times the largest logit where that exceeds 1."""


def calibration_rows(config: Config, images: Dataset) -> tuple[np.ndarray, str | None]:
    """Rows of the calibration images, ascending, and the index's fingerprint."""
    rows, fingerprint = kept_rows(images.manifest, config.index)
    labels = np.asarray(images.manifest.labels)[rows]
    return balanced(rows, labels, config.calibrate, config.seed), fingerprint


def need_layers(model: nn.Module, keep_float: Sequence[str]) -> None:
    """Check the names of the layers that are to stay in fp32.

    Raises
    ------
    InputError
        A layer that the network does not have, or none left to quantise.
    """
    there = [name for name, module in model.named_modules() if isinstance(module, (nn.Conv2d, nn.Linear))]
    if unknown := [name for name in keep_float if name not in there]:
        raise InputError(f"--keep-float {unknown[0]}: no such layer; there are {', '.join(there)}")
    if set(there) <= set(keep_float):
        raise InputError("--keep-float: names every layer: there is nothing to quantise")


def export(
    config: Config, model: nn.Module, spec: dict[str, Any], images: Dataset, test: Dataset | None, rows: np.ndarray
) -> dict[str, Any]:
    """Write model.onnx and model.int8.onnx into OUT; what there is to say of them."""
    side = int(spec["resolution"])
    shown, labels = _compared(config, spec, images, test)
    wanted = predictor(model, spec)(shown)
    torch_size = (config.model / "model.safetensors").stat().st_size
    known = test or images
    judged = labels if list(known.manifest.classes) == list(spec["classes"]) else None
    files = [_facts("PyTorch", "fp32", torch_size, wanted, wanted, judged, spec)]

    fp32 = onnx_model.export_onnx(model, spec, config.out / "model.onnx")
    got = onnx_model.predict(onnx_model.session(fp32), shown)
    check_parity(wanted, got, fp32)
    files.append({**_facts(fp32.name, "fp32", fp32.stat().st_size, got, wanted, judged, spec), **_cost(fp32, config)})
    if config.int8:
        with closing(open_loader(images, resolution=side, batch_size=256, loader="torch", workers=1)) as loader:
            calibration, _ = images_of(loader, rows)
        int8, kept = _int8(config, fp32, calibration)
        got = onnx_model.predict(onnx_model.session(int8), shown)
        facts = _facts(int8.name, "int8", int8.stat().st_size, got, wanted, judged, spec)
        files.append({**facts, "keep_float": kept, **_cost(int8, config)})
    return {
        "task": "export",
        "arch": spec["arch"],
        "resolution": side,
        "macs": multiply_adds(model, side),
        "params": sum(p.numel() for p in model.parameters()),
        "compared": len(shown),
        "threads": config.threads,
        "files": files,
    }


def check_parity(wanted: np.ndarray, got: np.ndarray, path: Path) -> None:
    """Refuse, and remove, an fp32 file that does not answer as PyTorch does.

    Raises
    ------
    InputError
        A logit differs by more than `PARITY`.
    """
    apart = float(np.abs(wanted - got).max())
    if not apart <= PARITY * max(1.0, float(np.abs(wanted).max())):
        path.unlink()
        raise InputError(f"{path}: differs from PyTorch by {apart:.3g} on real images: not exported")


def _int8(config: Config, fp32: Path, calibration: np.ndarray) -> tuple[Path, list[str]]:
    """Quantise; layers go back to fp32 until enough answers on the calibration images are those of fp32."""
    out = config.out / "model.int8.onnx"
    reference = onnx_model.predict(onnx_model.session(fp32), calibration).argmax(1)

    def holds(path: Path) -> bool:
        answers = onnx_model.predict(onnx_model.session(path), calibration).argmax(1)
        return float((answers == reference).mean()) >= config.agreement

    with Quantizer(fp32, calibration) as quantizer:
        if config.keep_float:
            return quantizer.write(out, config.keep_float), list(config.keep_float)
        kept = put_back(quantizer, out, calibration[:128], holds)
        if kept is None:
            note(f"{out}: agrees with fp32 on less than {config.agreement:.0%} of the calibration images")
            kept = onnx_model.facts(onnx_model.session(out), out)["keep_float"]
    return out, kept


def _compared(
    config: Config, spec: dict[str, Any], images: Dataset, test: Dataset | None
) -> tuple[np.ndarray, np.ndarray]:
    source = test or images
    rows = np.sort(np.random.default_rng((config.seed, 1)).permutation(len(source))[: config.compare])
    with closing(open_loader(source, resolution=spec["resolution"], batch_size=256, loader="torch", workers=1)) as ours:
        return images_of(ours, rows.astype(np.int64))


def _facts(
    name: str,
    precision: str,
    size: int,
    got: np.ndarray,
    wanted: np.ndarray,
    labels: np.ndarray | None,
    spec: dict[str, Any],
) -> dict[str, Any]:
    answers = predicted(got)
    facts: dict[str, Any] = {
        "file": name,
        "precision": precision,
        "bytes": size,
        "agreement": float((answers == predicted(wanted)).mean()),
        "difference": float(np.abs(got - wanted).max()),
    }
    if labels is not None:
        accuracies = per_class(labels, answers, len(spec["classes"]))
        facts |= {"top1": float((answers == labels).mean()), "worst_class": float(np.nanmin(accuracies))}
    return facts


def _cost(path: Path, config: Config) -> dict[str, Any]:
    return {
        "latency_ms": round(onnx_model.latency_ms(path, threads=config.threads), 4),
        "memory": onnx_model.peak_memory(path),
    }


def table(result: dict[str, Any]) -> str:
    """The result as text, a line for each file."""
    head = f"{result['arch']}, {result['resolution']} px, {result['params'] / 1e6:.2f} M parameters, "
    lines = [head + f"{result['macs'] / 1e6:.1f} M multiply-adds; compared on {result['compared']} images"]
    lines.append(
        f"{'file':<16} {'MB':>7} {'ms':>8} {'MB used':>8} {'top-1 %':>8} {'agrees %':>9} {'largest diff.':>14}"
    )
    for file in result["files"]:
        cells = [f"{file['file']:<16}", f"{file['bytes'] / 1e6:7.2f}"]
        cells += [f"{file['latency_ms']:8.3f}" if "latency_ms" in file else f"{'':8}"]
        cells += [f"{file['memory'] / 1e6:8.1f}" if "memory" in file else f"{'':8}"]
        cells += [f"{100 * file['top1']:8.2f}" if "top1" in file else f"{'':8}"]
        cells += [f"{100 * file['agreement']:9.2f}", f"{file['difference']:14.2g}"]
        lines.append(" ".join(cells))
        if file.get("keep_float"):
            lines.append(f"{'':<16} in fp32: {', '.join(file['keep_float'])}")
    return "\n".join(lines)
