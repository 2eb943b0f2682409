"""Pretrain on everything, on random parts and on chosen parts, and compare them on the targets.

    transfer study --source photos --targets pets=data/pets birds=data/birds --recipe rn50-16ep --out runs/study
    transfer study --out runs/study                             goes on where it was stopped
    transfer study --out runs/study --seeds 3 --keeps 0.1       adds a seed and a keep: only what is new runs
    transfer study --out runs/study --evaluations finetune knn  judges the same backbones in other ways as well
    transfer study --out runs/study --keep auto                 searches the smallest keep that holds
    transfer study --out runs/study --line 7                    runs line 7 of plan.jsonl alone, as array jobs do

First the plan is written: plan.jsonl, one command a line, in levels that depend on each other. Then its lines run in
--jobs processes, and results.json and report.html are made. A target directory has train/ and test/; a source may
have them too, and its test part only watches pretraining. A target that is added to a study that exists is evaluated
and does not guide the selection.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from prune.runs.files import InputError, at_least, note, read_json, write_json

if TYPE_CHECKING:
    from transfer.studies.plan import Line
    from transfer.studies.settings import Study


@dataclass(frozen=True)
class Config:
    out: Path
    """The study's directory."""
    source: str | None = None
    """Images to prune: a directory (class folders, or train/ and test/ with class folders), torchvision:NAME:ROOT, a
    .parquet file or a .beton."""
    targets: tuple[str, ...] = ()
    """name=DIR, DIR with train/ and test/; name=torchvision:NAME:ROOT; or name=X for X.train.beton and X.test.beton.
    Their train parts guide the selection."""
    guides: tuple[str, ...] = ()
    """Targets that guide the selection; all targets of the first call when none is named."""
    methods: tuple[str, ...] = ()
    """full, random, random-equal-time, and any --method of `prune select`. [full random dp4tl-lm winnow]"""
    keeps: tuple[float, ...] = ()
    """Kept fractions. [0.2 0.5]"""
    keep: Literal["auto"] | None = None
    """auto: search the smallest keep that holds. The surrogate's recipe on every rung of --ladder predicts it, the
    backbone confirms it and the rung below (or above, until one holds)."""
    ladder: tuple[float, ...] = ()
    """Keeps that --keep auto chooses from. [0.05 0.1 0.2 0.3 0.5 0.7]"""
    evaluations: tuple[str, ...] = ()
    """How a backbone is judged on a target: probe, knn, few-shot-K (a probe of K images per class), finetune (all of
    it), probe-finetune (beginning with the probe's classifier), both also as finetune-E with E epochs instead of the
    recipe's. The verdict is that of the first. [probe]"""
    seeds: tuple[int, ...] = ()
    """One surrogate and one backbone per cell for each. [0 1 2]"""
    recipe: str | None = None
    """Recipe of the backbones. [rn50-16ep]"""
    surrogate_recipe: str | None = None
    """Recipe of the surrogates. [rn18-surrogate]"""
    surrogate_sample: float | None = None
    """Part of the source that a surrogate is trained on. [0.25]"""
    side: int | None = None
    """Shrink all images whose shorter side is longer than this many pixels."""
    floor: float | None = None
    """The least that `winnow` keeps of every class: from 1 a number of samples, below 1 a fraction of the class."""
    epochs: float | None = None
    """Epochs of the backbones, instead of the recipe's."""
    surrogate_epochs: float | None = None
    """Epochs of the surrogates, instead of the recipe's."""
    margin: float | None = None
    """Points of accuracy below full data that still count as holding. [0.5]"""
    loader: Literal["ffcv", "torch"] | None = None
    """How images are read."""
    jobs: int = 1
    """Lines that run at once, each in a process with its share of the cores; 1: in this process."""
    line: int | None = None
    """Run this line of plan.jsonl (the first is 1) and nothing else."""
    plan_only: bool = False
    """Write the plan and run nothing."""
    todo: bool = False
    """Print number, level, stage, output and name of each line that is still to run, for scripts; run nothing."""
    collect: bool = False
    """Write results.json from what is there and run nothing."""
    dry_run: bool = False
    """Print the plan with its levels and cost; write nothing."""
    json: bool = False
    """With --dry-run: as JSON."""


def run(config: Config) -> None:
    """Do what the study still lacks."""
    at_least(config, 1, "jobs")
    if config.json and not config.dry_run:
        raise InputError("--json: serves --dry-run; `transfer show --json` prints a study's figures")
    if config.collect:
        from transfer.studies.collect import collect

        return collect(config.out)
    if config.line is not None:
        return _one_line(config.out, config.line)
    if config.todo:
        return _todo(config.out)
    from prune.runs.run_lock import directory_lock
    from transfer.studies.plan import plan
    from transfer.studies.search_steps import next_keep
    from transfer.studies.setup import check_floor, settings_of, study_of

    settings = settings_of(config)
    study = study_of(settings, config.out)
    lines = plan(study)
    check_floor(study, config.out)
    if config.dry_run:
        from transfer.studies.plan_progress import show_plan

        return show_plan(lines, config.json)
    with directory_lock(config.out):
        if config.plan_only and (keep := _found_so_far(study, config.out, settings["margin"])) is not None:
            settings, study, lines = _confirming(keep, settings, config.out)
        _write_settings(settings, lines, config.out)
        if config.plan_only:
            _forget_outstanding(config.out)
            return note(f"{config.out / 'plan.jsonl'}: {len(lines)} lines in {lines[-1].level + 1} levels")
        _run(lines, config)
        while (keep := next_keep(study, config.out, settings["margin"])) is not None:
            settings, study, lines = _confirming(keep, settings, config.out)
            _write_settings(settings, lines, config.out)
            _run(lines, config)
    _say_verdict(config.out, len(lines))


def _write_settings(settings: dict[str, Any], lines: list[Line], out: Path) -> None:
    """Write study.json and plan.jsonl; results that were collected under other settings are no longer done."""
    from transfer.studies.costs import resolve
    from transfer.studies.runner import forget

    place = out / "study.json"
    if not place.exists() or read_json(place) != settings:
        write_json(place, settings)
        for line in lines:
            if line.name == "collect":
                forget(line, out)
    _write_plan([resolve(line, out) for line in lines], out)


def _found_so_far(study: Study, out: Path, margin: float) -> float | None:
    """The keep that --keep auto asks for next by the results that are there; None when it has none, or runs already."""
    from transfer.studies.search_steps import next_keep

    keep = next_keep(study, out, margin) if (out / "results.json").exists() else None
    return None if keep in study.keeps else keep


def _confirming(keep: float, settings: dict[str, Any], out: Path) -> tuple[dict[str, Any], Study, list[Line]]:
    """Settings, study and plan with one keep more, which --keep auto asks for."""
    from transfer.studies.plan import plan
    from transfer.studies.setup import study_of

    note(f"--keep auto: the backbone is to confirm keep {keep:g}")
    settings = {**settings, "keeps": [*settings["keeps"], keep]}
    study = study_of(settings, out)
    return settings, study, plan(study)


def _say_verdict(out: Path, lines: int) -> None:
    from transfer.show import verdict_line
    from transfer.verdicts import leak_counts
    from transfer.verdicts.analysis import load

    note(f"{out / 'results.json'}: {lines} lines of the plan are done; the page is {out / 'report.html'}")
    results = load(out)
    if held := leak_counts.words(results):
        note(held)
    note(verdict_line(results, out))


def _run(lines: list[Line], config: Config) -> None:
    from transfer.studies.costs import resolve
    from transfer.studies.plan_progress import Display
    from transfer.studies.runner import outstanding, run_lines
    from transfer.studies.worker_pool import Here, Workers

    lines = [resolve(line, config.out) for line in lines]
    todo = outstanding(lines, config.out)
    if not todo:
        return
    jobs = min(config.jobs, len(todo))
    with Display(lines, todo) as display:
        pool = Here(config.out) if jobs == 1 else Workers(config.out, jobs)
        run_lines(lines, config.out, pool, display, lambda line: resolve(line, config.out))
    _write_plan([resolve(line, config.out) for line in lines], config.out)


def _write_plan(lines: list[Line], out: Path) -> None:
    import json

    from prune.runs.files import atomic

    with atomic(out / "plan.jsonl") as partial:
        partial.write_text("".join(json.dumps(line.record()) + "\n" for line in lines), encoding="utf-8")


def _one_line(out: Path, number: int) -> None:
    """Run one line of the plan in this process, its output where ours goes; ends with the line's exit code."""
    import contextlib

    from transfer.studies.costs import resolve
    from transfer.studies.plan import read_plan
    from transfer.studies.runner import is_done, remember
    from transfer.studies.worker import execute

    lines = read_plan(out)
    if not 1 <= number <= len(lines):
        raise InputError(f"--line {number}: {out / 'plan.jsonl'} has lines 1 to {len(lines)}")
    numbers = {line.name: i for i, line in enumerate(lines, 1)}
    by_name = {line.name: resolve(line, out) for line in lines}
    line = by_name[lines[number - 1].name]
    for need in line.needs:
        if not is_done(by_name[need], out):
            raise InputError(f"--line {number} ({line.name}) needs line {numbers[need]} ({need}), which is not done")
    if is_done(line, out):
        return note(f"{line.name}: done already")
    with contextlib.chdir(out):
        code, seconds = execute(line.command)
    if code:
        raise SystemExit(code)
    if os.environ.get("RANK", "0") == "0":
        remember(line, out, seconds)


def _todo(out: Path) -> None:
    from transfer.studies.costs import resolve
    from transfer.studies.plan import read_plan
    from transfer.studies.runner import outstanding

    lines = [resolve(line, out) for line in read_plan(out)]
    numbers = {line.name: i for i, line in enumerate(lines, 1)}
    for line in outstanding(lines, out):
        print(numbers[line.name], line.level, line.stage, line.out, line.name)


def _forget_outstanding(out: Path) -> None:
    """Take back that a line is done when one that it needs must run again: `--line` looks at a line alone."""
    from transfer.studies.costs import resolve
    from transfer.studies.plan import read_plan
    from transfer.studies.runner import forget, outstanding

    for line in outstanding([resolve(line, out) for line in read_plan(out)], out):
        forget(line, out)
