"""Export a network for a device: write its ONNX files, compare each with PyTorch on real images, and measure them.

An int8 file that is not worth having (`int8_worth`) does not get the name of one that is.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from prune.models.evaluation_view import passes
from prune.models.forward_flops import multiply_adds
from prune.runs.files import InputError, write_json
from transfer.compression import onnx_model
from transfer.compression.acceptance import predicted_classes
from transfer.compression.int8_worth import reasons_against, time_ratio
from transfer.compression.quantization import Quantizer, quantise_until_accepted
from transfer.evaluation.image_arrays import predictor
from transfer.evaluation.metrics import per_class

PARITY = 1e-3
"""Largest difference of a logit between PyTorch and an fp32 file; times the largest logit where that exceeds 1."""
INT8, REJECTED = "model.int8.onnx", "model.int8.rejected.onnx"
_SENSITIVITY = 128  # calibration images on which the sensitivity of layers is measured


def need_layers(model: nn.Module, keep_float: Sequence[str]) -> None:
    """Check the names of the layers that are to stay in fp32.

    Raises
    ------
    InputError
        The network has no such layer, or no layer would be quantised.
    """
    there = [name for name, module in model.named_modules() if isinstance(module, (nn.Conv2d, nn.Linear))]
    if unknown := [name for name in keep_float if name not in there]:
        raise InputError(f"--keep-float {unknown[0]}: no such layer; there are {', '.join(there)}")
    if set(there) <= set(keep_float):
        raise InputError("--keep-float: names every layer: there is nothing to quantise")


def export(
    model: nn.Module,
    spec: dict[str, Any],
    out: Path,
    images: np.ndarray,
    labels: np.ndarray | None,
    calibration: np.ndarray | None,
    *,
    torch_bytes: int,
    agreement: float = 0.97,
    keep_float: Sequence[str] = (),
    threads: int = 1,
) -> dict[str, Any]:
    """Write OUT/model.onnx and OUT/model.int8.onnx; returns what result.json records of them.

    An int8 file that agrees less than asked or is slower than fp32 is called OUT/model.int8.rejected.onnx, and its
    record has the reasons under "rejected".

    Parameters
    ----------
    model, spec : nn.Module, dict
        From `networks.load_model`.
    out : Path
    images : (n, r, r, 3) uint8
        On which the files are compared with PyTorch.
    labels : (n,) int, optional
        True classes of `images`, where they are those of the model.
    calibration : (k, r, r, 3) uint8, optional
        Without them no int8 file is written.
    torch_bytes : int
        Size of the PyTorch weights' file.
    agreement : float in [0, 1]
        Share of the calibration images, and of `images`, on which int8 must predict as fp32 does; below it layers go
        back to fp32.
    keep_float : sequence of str
        Layers that stay in fp32; none are chosen then.
    threads : int
        While measuring.
    """
    wanted = predictor(model, spec)(images)
    files = [_facts("PyTorch", "fp32", torch_bytes, wanted, wanted, labels, spec)]
    fp32 = onnx_model.export_onnx(model, spec, out / "model.onnx")
    got = onnx_model.predict(onnx_model.session(fp32), images)
    check_parity(wanted, got, fp32)
    facts = _facts(fp32.name, "fp32", fp32.stat().st_size, got, wanted, labels, spec)
    if calibration is None:
        files.append({**facts, **_cost(fp32, onnx_model.blocks_ms([fp32], threads=threads)[0])})
    else:
        int8, before = out / REJECTED, facts  # until it is accepted
        kept, calibrated = _quantise(fp32, int8, calibration, agreement, keep_float)
        got = onnx_model.predict(onnx_model.session(int8), images)
        facts = _facts(INT8, "int8", int8.stat().st_size, got, wanted, labels, spec)
        times = onnx_model.blocks_ms([fp32, int8], threads=threads)
        ratio = time_ratio(*times)
        rejected = reasons_against({"calibration": calibrated, "compared": facts["agreement"]}, agreement, ratio)
        more = {"keep_float": kept, "rejected": rejected, "time_ratio": round(ratio, 4)}
        files += [{**before, **_cost(fp32, times[0])}, {**facts, **more, **_cost(int8, times[1])}]
        if rejected:
            files[-1]["file"] = REJECTED
            (out / INT8).unlink(missing_ok=True)  # of a run that was killed
        else:
            os.replace(int8, out / INT8)
    side = int(spec["resolution"])
    return {
        "task": "export",
        "arch": spec["arch"],
        "resolution": side,
        "macs": passes(spec) * multiply_adds(model, side),
        "params": sum(p.numel() for p in model.parameters()),
        "compared": len(images),
        "threads": threads,
        "files": files,
    }


def allow_worse(out: Path, result: dict[str, Any]) -> None:
    """Give a rejected int8 file of a finished export the name of an accepted one, and record it in result.json."""
    for file in result["files"]:
        if file["file"] == REJECTED:
            if (out / REJECTED).exists():  # else an earlier run was killed here
                os.replace(out / REJECTED, out / INT8)
            file["file"] = INT8
            write_json(out / "result.json", result)


def worse(out: Path, result: dict[str, Any]) -> str:
    """Say why a result's int8 file is not worth having, which layers fell back, and the way out; "" where it is."""
    for file in result["files"]:
        if reasons := file.get("rejected"):
            layers = ", ".join(file["keep_float"])
            fallen = f"; {layers} fell back to fp32" if layers else ""
            return (
                f"{out / file['file']}: not accepted: {' and '.join(reasons)}{fallen}; {out / 'model.onnx'} (fp32) is "
                "sound, and the same command with --allow-worse accepts int8 as well"
            )
    return ""


def check_parity(wanted: np.ndarray, got: np.ndarray, path: Path) -> None:
    """Refuse, and remove, an fp32 file whose logits are not those of PyTorch.

    Raises
    ------
    InputError
        A logit differs by more than `PARITY`.
    """
    apart = float(np.abs(wanted - got).max())
    if not apart <= PARITY * max(1.0, float(np.abs(wanted).max())):
        path.unlink()
        raise InputError(f"{path}: differs from PyTorch by {apart:.3g} on real images: not exported")


def _quantise(
    fp32: Path, out: Path, calibration: np.ndarray, agreement: float, keep_float: Sequence[str]
) -> tuple[list[str], float]:
    """Quantise; layers go back to fp32 until enough predictions on the calibration images are those of fp32.

    Returns
    -------
    kept : list of str
        Layers in fp32.
    agreement : float
        Share of the calibration images that are predicted as in fp32.
    """
    reference = onnx_model.predict(onnx_model.session(fp32), calibration).argmax(1)

    def share() -> float:
        found = onnx_model.predict(onnx_model.session(out), calibration).argmax(1)
        return float((found == reference).mean())

    with Quantizer(fp32, calibration) as quantizer:
        if keep_float:
            quantizer.write(out, keep_float)
        else:
            quantise_until_accepted(quantizer, out, calibration[:_SENSITIVITY], lambda _: share() >= agreement)
    return list(onnx_model.facts(onnx_model.session(out), out)["keep_float"]), share()


def _facts(
    name: str,
    precision: str,
    size: int,
    got: np.ndarray,
    wanted: np.ndarray,
    labels: np.ndarray | None,
    spec: dict[str, Any],
) -> dict[str, Any]:
    """What result.json records of a file's predictions, given its logits and those of PyTorch."""
    predicted = predicted_classes(got)
    facts: dict[str, Any] = {
        "file": name,
        "precision": precision,
        "bytes": size,
        "agreement": float((predicted == predicted_classes(wanted)).mean()),
        "difference": float(np.abs(got - wanted).max()),
    }
    if labels is not None:
        by_class = per_class(labels, predicted, len(spec["classes"]))
        facts |= {"top1": float((predicted == labels).mean()), "worst_class": float(np.nanmin(by_class))}
    return facts


def _cost(path: Path, times: Sequence[float]) -> dict[str, Any]:
    return {"latency_ms": round(min(times), 4), "memory": onnx_model.peak_memory(path)}


def export_table(result: dict[str, Any]) -> str:
    """The result as text, one line for each file."""
    head = f"{result['arch']}, {result['resolution']} px, {result['params'] / 1e6:.2f} M parameters, "
    lines = [head + f"{result['macs'] / 1e6:.1f} M multiply-adds; compared on {result['compared']} images"]
    lines.append(
        f"{'file':<24} {'MB':>7} {'ms':>8} {'MB used':>8} {'top-1 %':>8} {'agrees %':>9} {'largest diff.':>14}"
    )
    for file in result["files"]:
        columns = [f"{file['file']:<24}", f"{file['bytes'] / 1e6:7.2f}"]
        columns += [f"{file['latency_ms']:8.3f}" if "latency_ms" in file else f"{'':8}"]
        columns += [f"{file['memory'] / 1e6:8.1f}" if "memory" in file else f"{'':8}"]
        columns += [f"{100 * file['top1']:8.2f}" if "top1" in file else f"{'':8}"]
        columns += [f"{100 * file['agreement']:9.2f}", f"{file['difference']:14.2g}"]
        lines.append(" ".join(columns))
        if "time_ratio" in file:
            lines.append(f"{'':<24} {file['time_ratio']:.2f} times fp32's time")
        if file.get("keep_float"):
            lines.append(f"{'':<24} in fp32: {', '.join(file['keep_float'])}")
    return "\n".join(lines)
