"""The loop of a compression: try a step, recover, apply the acceptance test, keep the step or roll it back, record it.

`trials` has what every compression does around a step, `_try` what one does for a network of images.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from prune.models import networks
from prune.models.evaluation_view import passes
from prune.models.forward_flops import multiply_adds
from prune.runs.identity import plain
from transfer.compression import journal
from transfer.compression.acceptance import AcceptanceTest, Decision
from transfer.compression.importance import Importance
from transfer.compression.journal import ACCEPTED, INT8, ROLLED_BACK, SPEC, WEIGHTS, CompressionPlan, Entry, Trial
from transfer.compression.recovery_training import Recovery
from transfer.compression.shrinking import heads_of, parameters, shrink
from transfer.compression.trials import keep, scratch_of, work_through
from transfer.evaluation.image_arrays import predictor


@dataclass(frozen=True)
class Compression:
    """What the steps of a compression have in common.

    Attributes
    ----------
    out : Path
        Run directory.
    model, spec : nn.Module, dict
        The original.
    plan : CompressionPlan
    test : AcceptanceTest
    importance : Importance
    recovery : Recovery
    measure_latency : bool
        Of accepted steps, in ONNX Runtime.
    approve : bool
        Every step that passes the test waits for a person's yes.
    preserve : dict
        Version of the preservation set, for the journal's first entry.
    """

    out: Path
    model: nn.Module
    spec: dict[str, Any]
    plan: CompressionPlan
    test: AcceptanceTest
    importance: Importance
    recovery: Recovery
    measure_latency: bool
    approve: bool = False
    preserve: dict[str, Any] = field(default_factory=dict)


def compress(compression: Compression, original: Path) -> list[Entry]:
    """Try steps until the plan ends, after those that the journal has; returns all entries.

    Parameters
    ----------
    compression : Compression
    original : Path
        Model directory of the original.

    Raises
    ------
    Requeue
        A signal came; the journal has all finished steps.
    NeedsApproval
        A step waits for a person's answer.
    """
    return work_through(
        compression.out,
        compression.plan,
        lambda: _record_original(compression, original),
        lambda trial: _try(compression, trial),
    )


def _record_original(compression: Compression, original: Path) -> Entry:
    """Copy the original to the run directory and write its entry, the first of the journal."""
    target = compression.out / "original"
    target.mkdir(parents=True, exist_ok=True)
    for name in (WEIGHTS, SPEC):
        journal.copy_whole(original / name, target / name)
    decision = compression.test.decide_original()
    trial = Trial(0, 0, "original", None)
    what = {"preserve": compression.preserve} if compression.preserve else {}
    entry = _entry(compression, trial, target, compression.model, compression.spec, decision, what, 0.0)
    journal.make_current(compression.out, target)
    journal.write_journal(compression.out, [entry])
    return entry


def _try(compression: Compression, trial: Trial) -> Entry:
    begin = time.perf_counter()
    scratch = scratch_of(compression.out, trial)
    model, spec = networks.load_model(journal.step_directory(compression.out, trial.base))
    test, recovery = compression.test, compression.recovery
    if trial.kind == "int8":
        from transfer.compression.int8_step import quantise

        model, what, decision = quantise(trial, model, spec, scratch, test=test, recovery=recovery)
    else:
        goal = compression.plan.size * parameters(compression.model)
        importance = compression.importance
        model, spec, what = shrink(
            trial,
            model,
            spec,
            scratch,
            goal=goal,
            importance=importance,
            recovery=recovery,
            heads=heads_of(compression.plan.kinds),
        )
        decision = test.decide(predictor(model, spec, recovery.ranks.device))
        if journal.removed_nothing(what):
            decision = decision.nothing_removed()
    final = scratch / "model"
    final.mkdir(exist_ok=True)
    networks.save_model(final, model, spec)
    if (scratch / INT8).exists():
        os.replace(scratch / INT8, final / INT8)
    entry = _entry(compression, trial, final, model, spec, decision, what, time.perf_counter() - begin)
    keep(compression.out, entry, final, approve=compression.approve)
    return entry


def _entry(
    compression: Compression,
    trial: Trial,
    directory: Path,
    model: nn.Module,
    spec: dict[str, Any],
    decision: Decision,
    what: dict[str, Any],
    seconds: float,
) -> Entry:
    """The journal entry of a step whose model lies in `directory`."""
    file = directory / INT8 if trial.kind == "int8" and (directory / INT8).exists() else directory / WEIGHTS
    timed = decision.accepted and compression.measure_latency
    return {
        "step": trial.step,
        "base": trial.base,
        "kind": trial.kind,
        "what": plain(what),
        "params": parameters(model),
        "bytes": file.stat().st_size,
        "macs": passes(spec) * multiply_adds(model, int(spec["resolution"])),
        "latency_ms": _latency(directory, model, spec, compression.out / "work") if timed else None,
        "accuracy": decision.accuracy,
        "per_class": dict(zip(spec["classes"], decision.per_class)),
        "overall_used": decision.overall_used,
        "class_used": decision.class_used,
        "nearest": decision.nearest,
        "beyond": decision.beyond,
        "tests": list(decision.tests),
        "broke": list(decision.broke),
        "verdict": ACCEPTED if decision.accepted else ROLLED_BACK,
        "reason": decision.reason,
        "files": journal.file_digests(directory),
        "seconds": round(seconds, 3),
        **journal.uncounted(journal.removed_nothing(what)),
    }


def _latency(directory: Path, model: nn.Module, spec: dict[str, Any], work: Path) -> float:
    """Milliseconds for one image: of the int8 file where there is one, else of the model as an fp32 file."""
    from transfer.compression import onnx_model

    file = directory / INT8
    if file.exists():
        return round(onnx_model.latency_ms(file), 4)
    scratch = work / "latency.onnx"
    onnx_model.export_onnx(model, spec, scratch)
    milliseconds = round(onnx_model.latency_ms(scratch), 4)
    scratch.unlink()
    return milliseconds
