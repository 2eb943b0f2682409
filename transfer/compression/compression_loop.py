"""The loop of a compression: try a step, recover, let the guard judge, keep it or roll it back, write it down.

What is written: an accepted step's directory is complete before it gets its name, its line lies in it as step.json, and
the journal follows. A run killed between the two takes the line from the directory.
"""

from __future__ import annotations

import os
import shutil
import time
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from pretrain import preemption
from pretrain.distributed import Ranks, open_ranks
from prune.data.batches import Loader
from prune.data.dataset import Dataset
from prune.data.loader import open_loader
from prune.models import networks
from prune.models.forward_flops import multiply_adds
from prune.runs.files import note, read_json, write_json
from prune.runs.identity import plain
from prune.runs.outputs import finish
from transfer.compression import acceptance, journal, recovery_training
from transfer.compression.acceptance import Margins, Verdict
from transfer.compression.journal import ACCEPTED, INT8, ROLLED_BACK, SPEC, WEIGHTS, Line, Plan, Trial
from transfer.compression.shrinking import parameters, recipe_of, shrunk
from transfer.evaluation.target_splits import SMALL


@dataclass
class Job:
    """Everything that a run works with.

    Attributes
    ----------
    config : transfer.compress.Config
    source : Source
        The target's training images.
    model, spec : nn.Module, dict
        The original.
    preserved, rows : (n,) int64
        Rows that the guard judges by, and those that recovery and importance may see.
    inputs : dict
        Fingerprints.
    """

    config: Any
    source: Dataset
    model: nn.Module
    spec: dict[str, Any]
    preserved: np.ndarray
    rows: np.ndarray
    inputs: dict[str, Any]
    images: np.ndarray = field(init=False)
    labels: np.ndarray = field(init=False)
    answers: np.ndarray = field(init=False)
    loader: Loader = field(init=False)
    ranks: Ranks = field(init=False)

    @property
    def out(self) -> Path:
        found: Path = self.config.out
        return found

    @property
    def margins(self) -> Margins:
        return Margins(self.config.margin, self.config.class_margin, self.config.slack)


def compress(job: Job) -> None:
    """Run to the end, from wherever the journal stands."""
    config = job.config
    loader, workers = config.loader, config.workers
    if loader == "auto":
        loader, workers = ("torch", workers or 1) if len(job.source) <= SMALL else ("ffcv", workers)
    side = int(job.spec["resolution"])
    options: dict[str, Any] = {"workers": workers, "loader": loader}
    options["batch_size"] = min(recipe_of(job, 1.0).batch, len(job.rows))
    plan = Plan(tuple(config.kinds), config.ratio, config.least, config.size, config.steps)
    with (
        open_ranks(config.precision, config.threads) as job.ranks,
        closing(open_loader(job.source, resolution=side, **options)) as job.loader,
    ):
        job.images, job.labels = recovery_training.images_of(job.loader, job.preserved)
        job.answers = acceptance.predicted(recovery_training.predictor(job.model, job.spec)(job.images))
        if few := acceptance.coarse(job.labels, job.spec["classes"], config.class_margin):
            name, count = few[0]
            note(f"{len(few)} classes are so small that one wrong answer breaks their margin, first {name} ({count})")
        lines = _resumed(job) or [_original(job)]
        while (trial := journal.following(lines, plan)) is not None:
            journal.intact(job.out, lines[trial.base])
            line = _try(job, trial)
            lines.append(line)
            journal.write(job.out, lines)
            note(said(line))
            if preemption.asked():
                note(f"stopping on a signal after step {line['step']}; the same command goes on")
                raise preemption.Requeue
    _finish(job, lines)


def said(line: Line) -> str:
    """One step in words."""
    size = f"{line['params']:,} parameters, {line['bytes'] / 1e6:.2f} MB, accuracy {line['accuracy']:.4f}"
    ratio = f" {line['what']['ratio']:.3g}" if line["what"].get("ratio") else ""
    return f"step {line['step']} {line['kind']}{ratio}: {size}: {line['verdict']}, {line['reason']}"


def _resumed(job: Job) -> list[Line]:
    """Lines of an earlier run, with that of a step whose directory is there and whose line is not yet written."""
    lines = journal.read(job.out)
    directory = journal.place(job.out, len(lines))
    if lines and (directory / "step.json").is_file():
        lines.append(read_json(directory / "step.json"))
        journal.write(job.out, lines)
    if lines:
        show(job.out, journal.place(job.out, journal.current(lines)))
        note(f"{job.out}: going on after step {lines[-1]['step']}")
    return lines


def _original(job: Job) -> Line:
    """Copy the original, and its line of the journal."""
    target = job.out / "original"
    target.mkdir(parents=True, exist_ok=True)
    for name in (WEIGHTS, SPEC):
        shutil.copyfile(job.config.model / name, target / name)
    verdict = acceptance.judge(job.labels, job.answers, job.answers, job.spec["classes"], job.margins)
    line = _line(job, Trial(0, 0, "original", None), target, job.model, job.spec, verdict, {}, 0.0)
    show(job.out, target)
    journal.write(job.out, [line])
    return line


def _try(job: Job, trial: Trial) -> Line:
    begin = time.perf_counter()
    work = job.out / "work"
    if not (work / f"{trial.step}").is_dir():  # what an earlier trial left
        shutil.rmtree(work, ignore_errors=True)
    scratch = work / f"{trial.step}"
    scratch.mkdir(parents=True, exist_ok=True)
    model, spec = networks.load_model(journal.place(job.out, trial.base))
    if trial.kind == "int8":
        from transfer.compression.int8_step import quantised

        model, what, verdict = quantised(job, trial, model, spec, scratch)
    else:
        model, spec, what = shrunk(job, trial, model, spec, scratch)
        found = acceptance.predicted(recovery_training.predictor(model, spec)(job.images))
        verdict = acceptance.judge(job.labels, job.answers, found, spec["classes"], job.margins)
        if what.get("layers") == {}:
            verdict = replace(verdict, accepted=False, reason="nothing is left to remove at this ratio", beyond=None)
    final = scratch / "model"
    final.mkdir(exist_ok=True)
    networks.save_model(final, model, spec)
    if (scratch / INT8).exists():
        os.replace(scratch / INT8, final / INT8)
    line = _line(job, trial, final, model, spec, verdict, what, time.perf_counter() - begin)
    if verdict.accepted:
        write_json(final / "step.json", line)
        place = journal.place(job.out, trial.step)
        place.parent.mkdir(exist_ok=True)
        os.replace(final, place)
        show(job.out, place)
    shutil.rmtree(work)
    return line


def show(run: Path, step: Path) -> None:
    """Make `run` itself the model directory of a step: its files are copied, model.json last."""
    if not (step / INT8).exists():
        (run / INT8).unlink(missing_ok=True)
    for name in (WEIGHTS, INT8, SPEC):
        if (step / name).exists():
            partial = run / f".{name}.partial"
            shutil.copyfile(step / name, partial)
            os.replace(partial, run / name)


def _line(
    job: Job,
    trial: Trial,
    directory: Path,
    model: nn.Module,
    spec: dict[str, Any],
    verdict: Verdict,
    what: dict[str, Any],
    seconds: float,
) -> Line:
    file = directory / INT8 if trial.kind == "int8" and (directory / INT8).exists() else directory / WEIGHTS
    return {
        "step": trial.step,
        "base": trial.base,
        "kind": trial.kind,
        "what": plain(what),
        "params": parameters(model),
        "bytes": file.stat().st_size,
        "macs": multiply_adds(model, int(spec["resolution"])),
        "latency_ms": _latency(job, directory, model, spec) if verdict.accepted else None,
        "accuracy": verdict.accuracy,
        "per_class": dict(zip(spec["classes"], verdict.per_class)),
        "overall_used": verdict.overall_used,
        "class_used": verdict.class_used,
        "nearest": verdict.nearest,
        "beyond": verdict.beyond,
        "verdict": ACCEPTED if verdict.accepted else ROLLED_BACK,
        "reason": verdict.reason,
        "files": journal.digests(directory),
        "seconds": round(seconds, 3),
    }


def _latency(job: Job, directory: Path, model: nn.Module, spec: dict[str, Any]) -> float | None:
    if job.config.latency == "none":
        return None
    from transfer.compression import onnx_model

    file = directory / INT8
    if file.exists():
        return round(onnx_model.latency_ms(file), 4)
    scratch = job.out / "work" / "latency.onnx"
    onnx_model.export_onnx(model, spec, scratch)
    milliseconds = round(onnx_model.latency_ms(scratch), 4)
    scratch.unlink()
    return milliseconds


def _finish(job: Job, lines: list[Line]) -> None:
    shutil.rmtree(job.out / "work", ignore_errors=True)
    result = summary(lines)
    write_json(job.out / "result.json", {**result, "target": job.source.name.removesuffix(".train"), **job.inputs})
    finish(job.out, seconds=sum(line["seconds"] for line in lines), inputs=job.inputs)
    first, final = result["original"], result["final"]
    note(f"{job.out}: step {final['step']} stands: {final['bytes'] / first['bytes']:.3f} of the size, {said(final)}")
    if doubtful := result["refused_within_one_error"]:
        note(
            f"{doubtful} of {result['rolled_back']} refusals lie within one standard error of a margin: with "
            f"{len(job.preserved)} images chance may have made them. A larger preservation set tells, wider margins or "
            "--slack 1 let such steps pass"
        )


def summary(lines: list[Line]) -> dict[str, Any]:
    """What result.json says of a journal."""
    final = lines[journal.current(lines)]
    return {
        "task": "compress",
        "metric": "accuracy on the preservation set",
        "value": final["accuracy"],
        "original": lines[0],
        "final": final,
        "step": final["step"],
        "accepted": len(journal.accepted(lines)) - 1,
        "rolled_back": sum(line["verdict"] == ROLLED_BACK for line in lines),
        "refused_within_one_error": sum(0 < (line.get("beyond") or 0) <= 1 for line in lines),
    }
