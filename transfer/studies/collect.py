"""Gather a study's results: results.json, which `transfer show` and `transfer report` read."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prune.runs.files import InputError, note, read_json, write_json
from transfer.studies.cascade import OPEN, gate_summary
from transfer.studies.evaluations import DEFAULT
from transfer.studies.flags import study_of
from transfer.studies.ladder import search_summary
from transfer.studies.runner import is_done
from transfer.studies.study_checks import read_settings
from transfer.studies.surrogate_search import surrogate_predictions
from transfer.studies.task import Task
from transfer.studies.task_costs import EQUAL_COMPUTE_RULE, cost_records, read_resolved_plan
from transfer.verdicts.results_file import FORMAT


def collect(out: Path) -> None:
    """Write `results.json` from the evaluations that are done; the same but for seconds however the study was run."""
    settings = read_settings(out)
    tasks = read_resolved_plan(out)
    found = [evaluation_result(task, out) for task in tasks if task.stage == "evaluate" and _is_finished(task, out)]
    if not found:
        raise InputError(f"{out}: no evaluation is done yet; `transfer study --out {out}` resumes the study")
    targets = settings["targets"]
    config = {name: value for name, value in settings.items() if name != "format"}
    config |= {"targets": list(targets), "places": targets, "equal_time": EQUAL_COMPUTE_RULE}
    known = {one["evaluation"] for one in found}
    config["evaluations"] = [name for name in settings.get("evaluations", DEFAULT) if name in known]
    keys = ("method", "keep", "seed")
    selections = [
        {**{key: task.facts[key] for key in keys}, "index": task.out}
        for task in tasks
        if task.stage == "select" and (out / task.out).exists()
    ]
    results = {
        "format": FORMAT,
        "search": search_summary(settings, out),
        "surrogates": [one._asdict() for one in surrogate_predictions(study_of(settings), out)],
        "gate": gate_summary(settings.get("gate", OPEN), out),
        "config": config,
        "machine": machine(),
        "cells": found,
        "ledger": cost_records(tasks, out),
        "selections": selections,
        "leaks": counted_leaks(tasks, out),
        "commands": [shlex.join(task.command) for task in tasks],
    }
    write_json(out / "results.json", results)
    note(f"{out / 'results.json'}: {len(found)} results")


def _is_finished(task: Task, out: Path) -> bool:
    return (out / task.out / "DONE").exists()


def evaluation_result(task: Task, out: Path) -> dict[str, Any]:
    """What one evaluation measured: the facts of its task, and its figures."""
    result = read_json(out / task.out / "result.json")
    more = {key: result[key] for key in ("mean_per_class", "ece")}
    facts = {**task.facts, "value": result["value"], **more}
    return {**facts, "n": result["n"], "predictions": f"{task.out}/predictions.npz"}


def counted_leaks(tasks: Sequence[Task], out: Path) -> dict[str, dict[str, Any]]:
    """By target: test images, how many of them the source has copies of, how many only look alike, and examples."""
    keys = ("images", "leaked", "source_images", "identical", "pairs", "similar", "compared", "closest")
    found = {}
    for task in tasks:
        if task.stage == "leaks" and task.name.startswith("leaks/") and is_done(task, out):
            (one,) = read_json(out / task.out)["tests"].values()
            found[task.facts["target"]] = {key: one[key] for key in keys if key in one}
    return found


def machine() -> str:
    """Processor, cores and GPUs, in a few words."""
    import platform

    name = platform.processor() or platform.machine()
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
        name = next(row.split(":", 1)[1].strip() for row in text.splitlines() if row.startswith("model name"))
    except (OSError, StopIteration):
        pass
    words = [f"{name}, {os.cpu_count()} cores"]
    import torch

    count = torch.cuda.device_count()
    return ", ".join([*words, f"{count} x {torch.cuda.get_device_name(0)}"] if count else [*words, "no GPU"])
