"""Gather a study's results: results.json, which the report reads."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prune.runs.files import InputError, note, read_json, write_json
from transfer.studies.costs import RULE, ledger, resolve
from transfer.studies.evaluations import DEFAULT
from transfer.studies.plan import Line, read_plan
from transfer.studies.runner import is_done

FORMAT = "winnow-study/1"


def collect(out: Path) -> None:
    """Write `results.json` from the evaluations that are done; equal but for seconds however the study came about."""
    settings = read_json(out / "study.json")
    lines = [resolve(line, out) for line in read_plan(out)]
    found = [cell(line, out) for line in lines if line.stage == "evaluate" and (out / line.out / "DONE").exists()]
    if not found:
        raise InputError(f"{out}: no evaluation is done yet; `transfer study --out {out}` goes on")
    settings.pop("format", None)
    config = {**settings, "targets": list(settings["targets"]), "places": settings["targets"], "equal_time": RULE}
    there = {one["evaluation"] for one in found}
    config["evaluations"] = [name for name in config.get("evaluations", DEFAULT) if name in there]
    keys = ("method", "keep", "seed")
    selections = [
        {**{key: line.facts[key] for key in keys}, "index": line.out}
        for line in lines
        if line.stage == "select" and (out / line.out).exists()
    ]
    from transfer.studies.search_steps import summary
    from transfer.studies.setup import study_of

    results = {
        "format": FORMAT,
        "search": summary(study_of(settings, out), out, settings["margin"]),
        "config": config,
        "machine": machine(),
        "cells": found,
        "ledger": ledger(lines, out),
        "selections": selections,
        "leaks": leaks(lines, out),
        "commands": [shlex.join(line.command) for line in lines],
    }
    write_json(out / "results.json", results)
    note(f"{out / 'results.json'}: {len(found)} results")


def cell(line: Line, out: Path) -> dict[str, Any]:
    """One result: what the line's facts say, and its value."""
    result = read_json(out / line.out / "result.json")
    more = {key: result[key] for key in ("mean_per_class", "ece")}
    facts = {**line.facts, "value": result["value"], **more}
    return {**facts, "n": result["n"], "predictions": f"{line.out}/predictions.npz"}


def leaks(lines: Sequence[Line], out: Path) -> dict[str, dict[str, Any]]:
    """By target: test images, how many of them the source nearly duplicates, by how many of its own, and examples."""
    keys = ("images", "leaked", "source_images", "identical", "pairs")
    found = {}
    for line in lines:
        if line.stage == "leaks" and line.name.startswith("leaks/") and is_done(line, out):
            (one,) = read_json(out / line.out)["tests"].values()
            found[line.facts["target"]] = {key: one[key] for key in keys}
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
