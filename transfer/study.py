"""Pretrain on all data, on random parts and on selected parts, and compare the backbones on the targets.

    transfer study --source photos --targets pets=data/pets birds=data/birds --recipe rn50-16ep --out runs/study
    transfer study --out runs/study                             resumes where it was stopped
    transfer study --out runs/study --seeds 3 --keeps 0.1       adds a seed and a keep: only what is new runs
    transfer study --out runs/study --evaluations finetune knn  evaluates the same backbones in other ways as well
    transfer study --out runs/study --keep auto                 searches the smallest keep that holds
    transfer study ... --compute 0.25 --out runs/quarter        searches keep and passes for a quarter of the compute
    transfer study --out runs/study --task 7                    runs only task 7 of plan.jsonl, as array jobs do

A selection *holds* when its backbone is shown to stay within --margin of the one trained on all data, and *loses* when
it is shown to fall below.

First the plan is written: plan.jsonl, one task (a command) a line, in levels that depend on each other. Then the tasks
run in --jobs processes, and results.json and report.html are written. A target directory has train/ and test/; a source
may have them too, and its test split only measures pretraining. A target that is added to an existing study is
evaluated and does not guide the selection.

In [brackets]: what a new study uses for a flag that is not given. A study that exists keeps its own settings.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from prune.runs.compute_device import DeviceFlag, using
from prune.runs.files import InputError, at_least, counted, note, read_json, write_json

if TYPE_CHECKING:
    from transfer.studies.reuse import Plans
    from transfer.studies.settings import Study
    from transfer.studies.task import Task


@dataclass(frozen=True)
class Config:
    out: Path
    """The study's directory."""
    source: str | None = None
    """Images to prune: a directory (class folders, or train/ and test/ with class folders), torchvision:NAME:ROOT, a
    .parquet file or a .beton."""
    targets: tuple[str, ...] = ()
    """name=DIR, DIR with train/ and test/; name=torchvision:NAME:ROOT; or name=X for X.train.beton and X.test.beton.
    Their train splits guide the selection."""
    guides: tuple[str, ...] = ()
    """Targets that guide the selection; without this flag all targets of the first call."""
    methods: tuple[str, ...] = ()
    """full, random, and any --method of `prune select`; full-equal-compute and random-equal-compute: all data, and a
    random part, for the compute that a pruned run takes in all. [full random dp4tl-lm winnow]"""
    keeps: tuple[float, ...] = ()
    """Kept fractions. [0.2 0.5]"""
    keep: Literal["auto"] | None = None
    """auto: search the smallest keep that holds. Small networks (the surrogate's recipe) at every keep of --ladder
    predict it. The backbone confirms it and the next smaller keep, or tries larger ones until one holds."""
    ladder: tuple[float, ...] = ()
    """Keeps that --keep auto and --compute choose from. [0.05 0.1 0.2 0.3 0.5 0.7]"""
    evaluations: tuple[str, ...] = ()
    """How a backbone is evaluated on a target: probe, knn, few-shot-K (a probe of K images per class), finetune (all of
    it), probe-finetune (starting with the probe's classifier), both also as finetune-E with E epochs instead of the
    recipe's. The verdict is that of the first. [probe]"""
    full_lengths: tuple[float, ...] = ()
    """Train all data at these shares of the full length as well, such as 0.25 0.5, each with its own whole schedule:
    they show the speed-up, the compute that all data need for a method's accuracy divided by the method's."""
    uses: int | None = None
    """For how many uses of an index the controls of equal compute share the cost of its preparation. [1]"""
    compute: float | None = None
    """Train every pruned run, and random parts, for this share of the compute of full pretraining, surrogate included:
    a smaller keep then gets more passes. Without --keeps the most accurate keep is searched on --ladder as by --keep
    auto, and the backbone confirms it against its neighbours. All data at the same compute are the rival."""
    seeds: tuple[int, ...] = ()
    """For each seed one surrogate, and one backbone per method and keep. [0 1 2]"""
    recipe: str | None = None
    """Recipe of the backbones. [rn50-16ep]"""
    surrogate_recipe: str | None = None
    """Recipe of the surrogates. [rn18-surrogate]"""
    surrogate_sample: float | None = None
    """Fraction of the source that a surrogate is trained on. [0.25]"""
    feature_sample: float | None = None
    """Fraction of the source that a surrogate passes over, for its features. A tenth is enough for methods that choose
    by votes of classes alone: evidence, dp4tl-lm, dp4tl-fm; any other is refused below 1. [1]"""
    surrogates: tuple[str, ...] = ()
    """Surrogates to choose among, by the speed-up that small networks predict for this backbone, --uses and keeps: none
    (thumbnails choose), shares of the source such as 0.05 0.25 for --surrogate-recipe, RECIPE:SHARE, and
    timm:MODEL[:WEIGHTS], which is not trained."""
    gate: str | None = None
    """auto: only source images that look like the targets, by their thumbnails, are shown to the surrogates and kept by
    pruning methods; a share such as 0.35: the best 35 %; open: all. --surrogate-sample counts within what passes.
    [open]"""
    side: int | None = None
    """Shrink all images whose shorter side is longer than this many pixels."""
    floor: float | None = None
    """The least that `winnow` keeps of every class: from 1 a number of samples, below 1 a fraction of the class."""
    init: Path | None = None
    """Model directory whose weights every backbone starts from, all data's too: the study then shows what pruning adds
    to a warm start. `prune surrogate --arch MODEL` makes one of a timm model's weights."""
    epochs: float | None = None
    """Epochs of the backbones, instead of the recipe's."""
    surrogate_epochs: float | None = None
    """Epochs of the surrogates, instead of the recipe's."""
    margin: float | None = None
    """Points of accuracy below full data within which a method holds. [0.5]"""
    loader: Literal["ffcv", "torch"] | None = None
    """How images are read."""
    reuse: tuple[Path, ...] = ()
    """Other studies: surrogates, features, scores and backbones that they have made by the same commands from the same
    images are linked into this one instead of being made again."""
    price: float | None = None
    """Price of one hour of this machine: what is still to run, and the speed-up, are then given in money as well."""
    jobs: int = 1
    """Tasks that run at the same time, each in a process with its share of the cores; 1: in this process."""
    task: Annotated[int | None, tyro.conf.arg(aliases=("--line",))] = None
    """Run only this task of plan.jsonl (the first is 1)."""
    plan_only: bool = False
    """Write the plan and run nothing."""
    todo: bool = False
    """Print number, level, stage, output and name of each task that is still to run, for scripts; run nothing."""
    collect: bool = False
    """Write results.json from the evaluations that are done and run nothing."""
    dry_run: bool = False
    """Print the plan with its levels and cost; write nothing."""
    json: bool = False
    """With --dry-run: as JSON."""
    device: DeviceFlag = "auto"
    """auto: the GPUs, where there are any, shared among the --jobs; a job whose GPU cannot be used is refused."""


def run(config: Config) -> None:
    """Run the tasks that the study still lacks, and print its verdict."""
    with using(config.device):
        _run(config)


def _run(config: Config) -> None:
    at_least(config, 1, "jobs")
    if config.price is not None and not 0 <= config.price < float("inf"):
        raise InputError(f"--price {config.price}: 0 or more is needed")
    if config.json and not config.dry_run:
        raise InputError("--json: is for --dry-run; `transfer show --json` prints a study's figures")
    if config.collect:
        from transfer.studies.collect import collect

        return collect(config.out)
    if config.task is not None:
        return _run_one(config.out, config.task)
    if config.todo:
        return _print_outstanding(config.out)
    from prune.runs.run_lock import directory_lock
    from transfer.studies.flags import check_floor, counted_sizes, settings_of, study_of
    from transfer.studies.forecast import check_compute, forecast
    from transfer.studies.ladder import next_keep
    from transfer.studies.runner import outstanding
    from transfer.studies.study_plan import plan_of

    out = config.out
    settings = settings_of(out, asdict(config))
    study = study_of(settings)
    study = replace(study, sizes=counted_sizes(study, out))
    tasks = plan_of(study)
    check_floor(study, out)
    check_compute(study)
    others = _others(out, study.reuse)
    if config.dry_run:
        from transfer.studies.plan_progress import print_plan

        todo = _not_reused(tasks, out, others)
        return print_plan(tasks, forecast(todo, study, config.price, config.jobs), config.json)
    with directory_lock(out):
        if config.plan_only:
            if (text := _surrogate_to_choose(study, out)) is not None:
                settings, study = {**settings, "surrogate": text}, replace(study, surrogate=text)
            if (keep := _keep_found_so_far(study, out, settings["margin"])) is not None:
                settings, study = _with_keep(keep, settings, study)
            tasks = _write_study(settings, study, out)
            _forget_outstanding(tasks, out)
            todo = _not_reused(outstanding(tasks, out), out, others)
            if cost := forecast(todo, study, config.price, config.jobs, alone=True):
                note(cost.sentence())
            return note(f"{out / 'plan.jsonl'}: {len(tasks)} tasks in {tasks[-1].level + 1} levels")
        tasks = _write_study(settings, study, out)
        todo = _not_reused(outstanding(tasks, out), out, others)
        if cost := forecast(todo, study, config.price, config.jobs):
            note(cost.sentence())
        _run_outstanding(tasks, out, config.jobs, others)
        if (text := _surrogate_to_choose(study, out)) is not None:
            settings, study = {**settings, "surrogate": text}, replace(study, surrogate=text)
            tasks = _write_study(settings, study, out)
            _run_outstanding(tasks, out, config.jobs, others)
        while (keep := next_keep(study, out, settings["margin"])) is not None:
            settings, study = _with_keep(keep, settings, study)
            tasks = _write_study(settings, study, out)
            _run_outstanding(tasks, out, config.jobs, others)
    _print_verdict(out, len(tasks), config.price)


def _not_reused(tasks: list[Task], out: Path, others: Plans) -> list[Task]:
    """The tasks that no study of --reuse has done, as far as their commands tell."""
    from transfer.studies.reuse import expected

    there = expected(tasks, out, others)
    if there:
        note(f"--reuse: {len(there)} of {counted(len(tasks), 'task')} are taken over if the images are the same")
    return [task for task in tasks if task.name not in there]


def _write_study(settings: dict[str, Any], study: Study, out: Path) -> list[Task]:
    """Write study.json and plan.jsonl; results that were collected under other settings count as not done.

    Returns the tasks of the plan, with every number of steps that is known by now.
    """
    from transfer.studies.runner import forget
    from transfer.studies.study_plan import plan_of
    from transfer.studies.task import write_plan
    from transfer.studies.task_costs import resolved

    tasks = [resolved(task, out) for task in plan_of(study)]
    place = out / "study.json"
    if not place.exists() or read_json(place) != settings:
        write_json(place, settings)
        for task in tasks:
            if task.name == "collect":
                forget(task, out)
    write_plan(tasks, out)
    return tasks


def _surrogate_to_choose(study: Study, out: Path) -> str | None:
    """The surrogate that the study takes now; None while networks are missing, after the choice, or without one."""
    if not study.surrogates or study.surrogate is not None:
        return None
    from transfer.studies.surrogate_search import surrogate_predictions
    from transfer.verdicts.surrogate_choice import choice_sentence

    found = surrogate_predictions(study, out)
    if not found:
        return None
    note(choice_sentence(found, study.uses))
    return found[0].surrogate


def _keep_found_so_far(study: Study, out: Path, margin: float) -> float | None:
    """The keep that --keep auto tries next by the results so far; None when there is none or it is planned already."""
    from transfer.studies.ladder import next_keep

    keep = next_keep(study, out, margin) if (out / "results.json").exists() else None
    return None if keep in study.keeps else keep


def _with_keep(keep: float, settings: dict[str, Any], study: Study) -> tuple[dict[str, Any], Study]:
    """Settings and study with one more keep, which --keep auto tries next."""
    note(f"{'--compute' if study.compute else '--keep auto'}: the backbone is to confirm keep {keep:g}")
    return {**settings, "keeps": [*settings["keeps"], keep]}, replace(study, keeps=(*study.keeps, keep))


def _others(out: Path, reused: Sequence[str]) -> Plans:
    """The plans of the studies of --reuse, whose places are relative to `out`, which a dry run does not make."""
    from transfer.studies.reuse import plans_of

    return plans_of(Path(os.path.realpath(out / place)) for place in reused)


def _run_outstanding(tasks: list[Task], out: Path, jobs: int, others: Plans) -> None:
    from transfer.studies.plan_progress import StudyDisplay
    from transfer.studies.reuse import take_over
    from transfer.studies.runner import outstanding, run_tasks
    from transfer.studies.task import write_plan
    from transfer.studies.task_costs import resolved
    from transfer.studies.worker_pool import InProcess, WorkerProcesses

    todo = outstanding(tasks, out)
    if not todo:
        return
    jobs = min(jobs, len(todo))
    by_name = {task.name: task for task in tasks}

    def complete(task: Task) -> Task:
        task = resolved(task, out)
        take_over(task, by_name, out, others)
        return task

    with StudyDisplay(tasks, todo) as display:
        pool = InProcess(out) if jobs == 1 else WorkerProcesses(out, jobs)
        ran = run_tasks(tasks, out, pool, display, complete)
    write_plan(ran, out)


def _print_verdict(out: Path, tasks: int, price: float | None) -> None:
    from transfer.verdicts.analysis import analyse
    from transfer.verdicts.headline import verdict_line
    from transfer.verdicts.leak_counts import leak_sentence
    from transfer.verdicts.results_file import load_results
    from transfer.verdicts.speed_up_rows import speed_up_sentences

    note(f"{out / 'results.json'}: {tasks} tasks of the plan are done; the page is {out / 'report.html'}")
    analysis = analyse(load_results(out), out, price=price)
    if leaks := leak_sentence(analysis):
        note(leaks)
    for sentence in speed_up_sentences(analysis):
        note(sentence)
    note(verdict_line(analysis))


def _run_one(out: Path, number: int) -> None:
    """Run one task of the plan in this process, and end with its exit code."""
    import contextlib

    from transfer.studies.reuse import take_over
    from transfer.studies.runner import is_done, remember
    from transfer.studies.study_checks import read_settings
    from transfer.studies.task_costs import read_resolved_plan
    from transfer.studies.worker import execute

    tasks = read_resolved_plan(out)
    if not 1 <= number <= len(tasks):
        raise InputError(f"--task {number}: {out / 'plan.jsonl'} has tasks 1 to {len(tasks)}")
    numbers = {task.name: i for i, task in enumerate(tasks, 1)}
    task = tasks[number - 1]
    for need in task.needs:
        if not is_done(tasks[numbers[need] - 1], out):
            raise InputError(f"--task {number} ({task.name}) needs task {numbers[need]} ({need}), which is not done")
    if is_done(task, out):
        return note(f"{task.name}: up to date")
    others = _others(out, read_settings(out).get("reuse", []))
    take_over(task, {one.name: one for one in tasks}, out, others)
    with contextlib.chdir(out):
        code, seconds = execute(task.command)
    if code:
        raise SystemExit(code)
    if os.environ.get("RANK", "0") == "0":
        remember(task, out, seconds)


def _print_outstanding(out: Path) -> None:
    from transfer.studies.runner import outstanding
    from transfer.studies.task_costs import read_resolved_plan

    tasks = read_resolved_plan(out)
    numbers = {task.name: i for i, task in enumerate(tasks, 1)}
    for task in outstanding(tasks, out):
        print(numbers[task.name], task.level, task.stage, task.out, task.name)


def _forget_outstanding(tasks: list[Task], out: Path) -> None:
    """Record as not done what follows from a task that must run again: `--task` checks its own needs only."""
    from transfer.studies.runner import forget, outstanding

    for task in outstanding(tasks, out):
        forget(task, out)
