"""The loop of a compression: try a step, recover, apply the acceptance test, keep the step or roll it back, record it.

An accepted step's directory is complete before it gets its name, and contains its journal entry as step.json; the
journal follows. A run that was killed between the two reads the entry from the directory.
"""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from pretrain import preemption
from prune.models import networks
from prune.models.evaluation_view import passes
from prune.models.forward_flops import multiply_adds
from prune.runs.files import note, read_json, write_json
from prune.runs.identity import plain
from transfer.compression import approval, journal
from transfer.compression.acceptance import AcceptanceTest, Decision
from transfer.compression.importance import Importance
from transfer.compression.journal import ACCEPTED, INT8, ROLLED_BACK, SPEC, WEIGHTS, CompressionPlan, Entry, Trial
from transfer.compression.recovery_training import Recovery
from transfer.compression.shrinking import parameters, shrink
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
    out = compression.out
    entries = _resume(out) or [_record_original(compression, original)]
    while (trial := journal.next_trial(entries, compression.plan)) is not None:
        journal.verified_directory(out, entries[trial.base])
        entry = _try(compression, trial)
        approval.need_answer(out, entries)
        entries.append(entry)
        journal.write_journal(out, entries)
        note(journal.describe(entries[-1]))
        if preemption.stop_requested():
            note(f"stopping on a signal after step {entries[-1]['step']}; the same command resumes")
            raise preemption.Requeue
    shutil.rmtree(out / "work", ignore_errors=True)
    return entries


def _resume(out: Path) -> list[Entry]:
    """Entries of an earlier run, with that of a step whose directory exists and that the journal does not have yet."""
    entries = journal.read_journal(out)
    directory = journal.step_directory(out, len(entries))
    if entries and (directory / "step.json").is_file():
        entries.append(read_json(directory / "step.json"))
        journal.write_journal(out, entries)
    if entries:
        approval.need_answer(out, entries)
        entries = approval.settle(out, entries)
        journal.make_current(out, journal.step_directory(out, journal.current_step(entries)))
        note(f"{out}: resuming after step {entries[-1]['step']}")
    return entries


def _record_original(compression: Compression, original: Path) -> Entry:
    """Copy the original to the run directory and write its entry, the first of the journal."""
    target = compression.out / "original"
    target.mkdir(parents=True, exist_ok=True)
    for name in (WEIGHTS, SPEC):
        shutil.copyfile(original / name, target / name)
    decision = compression.test.decide_original()
    trial = Trial(0, 0, "original", None)
    entry = _entry(compression, trial, target, compression.model, compression.spec, decision, {}, 0.0)
    journal.make_current(compression.out, target)
    journal.write_journal(compression.out, [entry])
    return entry


def _try(compression: Compression, trial: Trial) -> Entry:
    begin = time.perf_counter()
    work = compression.out / "work"
    if not (work / f"{trial.step}").is_dir():  # left by an earlier trial
        shutil.rmtree(work, ignore_errors=True)
    scratch = work / f"{trial.step}"
    scratch.mkdir(parents=True, exist_ok=True)
    model, spec = networks.load_model(journal.step_directory(compression.out, trial.base))
    test, recovery = compression.test, compression.recovery
    if trial.kind == "int8":
        from transfer.compression.int8_step import quantise

        model, what, decision = quantise(trial, model, spec, scratch, test=test, recovery=recovery)
    else:
        goal = compression.plan.size * parameters(compression.model)
        importance = compression.importance
        model, spec, what = shrink(trial, model, spec, scratch, goal=goal, importance=importance, recovery=recovery)
        decision = test.decide(predictor(model, spec, recovery.ranks.device))
        if what.get("layers") == {}:
            decision = replace(decision, accepted=False, reason="nothing is left to remove at this ratio", beyond=None)
    final = scratch / "model"
    final.mkdir(exist_ok=True)
    networks.save_model(final, model, spec)
    if (scratch / INT8).exists():
        os.replace(scratch / INT8, final / INT8)
    entry = _entry(compression, trial, final, model, spec, decision, what, time.perf_counter() - begin)
    if decision.accepted:
        write_json(final / "step.json", entry)
        if compression.approve:
            approval.hold(compression.out, final)
        else:
            place = journal.step_directory(compression.out, trial.step)
            place.parent.mkdir(exist_ok=True)
            os.replace(final, place)
            journal.make_current(compression.out, place)
    shutil.rmtree(work)
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
        "verdict": ACCEPTED if decision.accepted else ROLLED_BACK,
        "reason": decision.reason,
        "files": journal.file_digests(directory),
        "seconds": round(seconds, 3),
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
