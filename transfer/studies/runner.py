"""Run the tasks of a plan: each once, when all that it needs is done.

A task that ended well leaves `done/NAME.json`. A study that is started again runs the tasks without such a record, and
runs a task again when its command or needs have changed, when its output is gone, or when it follows such a task. All
steps can be repeated: where nothing changed they return at once.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from prune.runs.exit_codes import ExitCode
from prune.runs.files import InputError, note, write_json
from transfer.studies.study_checks import read_record
from transfer.studies.task import Task
from transfer.studies.worker_pool import TaskPool


class Observer(Protocol):
    """Something that shows how far the study is."""

    def started(self, task: Task) -> None:
        """A task has begun."""
        ...

    def ended(self, task: Task, seconds: float) -> None:
        """A task has ended well."""
        ...


def outstanding(tasks: Sequence[Task], out: Path) -> list[Task]:
    """The tasks that are to run: those without a valid record, and all that follow from one."""
    names: set[str] = set()
    found = []
    for task in tasks:
        if not names.isdisjoint(task.needs) or not is_done(task, out):
            names.add(task.name)
            found.append(task)
    return found


def is_done(task: Task, out: Path) -> bool:
    """Whether `task` has ended well with this command and these needs, and its output still exists."""
    place = out / "done" / f"{task.name}.json"
    if not place.exists():
        return False
    record, made = read_record(place), out / task.out
    if (record["command"], record["needs"]) != (list(task.command), list(task.needs)):
        return False
    return (made / "DONE").exists() if (made / "config.json").exists() else made.exists()


def forget(task: Task, out: Path) -> None:
    """Record that `task` is not done any more; the seconds that it took stay recorded."""
    place = out / "done" / f"{task.name}.json"
    if place.exists():
        write_json(place, {**read_record(place), "command": None})


def remember(task: Task, out: Path, seconds: float) -> None:
    """Record that `task` has ended well; a repetition that had nothing to do does not shorten the recorded time."""
    place = out / "done" / f"{task.name}.json"
    before = read_record(place)["seconds"] if place.exists() else 0.0
    facts = {"command": list(task.command), "needs": list(task.needs), "seconds": round(max(before, seconds), 3)}
    weights = weights_checksum(out / task.out)
    write_json(place, facts if weights is None else {**facts, "weights": weights})


def weights_checksum(made: Path) -> str | None:
    """CRC-32 of a model directory's weights, by which another study knows that they are whole; None without weights."""
    place = made / "model.safetensors"
    if not place.is_file():
        return None
    found = 0
    with open(place, "rb") as file:
        while block := file.read(1 << 20):
            found = zlib.crc32(block, found)
    return f"{found:08x}"


def run_tasks(
    tasks: Sequence[Task],
    out: Path,
    pool: TaskPool,
    observer: Observer,
    complete: Callable[[Task], Task] = lambda task: task,
) -> list[Task]:
    """Run the outstanding ones of `tasks` in `pool`, the longest chain of followers first; closes the pool.

    Parameters
    ----------
    tasks : sequence of Task
        The whole plan, in its order.
    out : Path
        The study's directory.
    pool : TaskPool
    observer : Observer
    complete : callable
        Last change to a task, made once, when all that it needs is done.

    Returns
    -------
    list of Task
        The whole plan, with each task as it was run.

    Raises
    ------
    InputError, SystemExit
        A task ended badly: with the exit code for wrong input, or with another. Other running tasks are ended; the
        study can be resumed.
    """
    todo = outstanding(tasks, out)
    for task in todo:  # before anything runs: a record must never outlive what it was made from
        forget(task, out)
    rest = _cost_to_the_end(todo)
    waiting = {task.name: task for task in sorted(todo, key=lambda task: -rest[task.name])}
    running: dict[str, Task] = {}
    ran: dict[str, Task] = {}
    try:
        while waiting or running:
            ready = [
                task for task in waiting.values() if not any(need in waiting or need in running for need in task.needs)
            ]
            for task in ready[: pool.size - len(running)]:
                del waiting[task.name]
                running[task.name] = complete(task)
                observer.started(task)
                pool.start(running[task.name])
            failed = None
            for name, code, seconds in pool.wait():
                if code == ExitCode.INTERRUPTED:
                    raise KeyboardInterrupt
                if code:
                    failed = failed or (name, code)
                    continue
                task = ran[name] = running.pop(name)
                remember(task, out, seconds)
                observer.ended(task, seconds)
            if failed:
                raise task_failure(*failed, tasks, out)
    finally:
        pool.close()
    return [ran.get(task.name, task) for task in tasks]


def task_failure(name: str, code: int, tasks: Sequence[Task], out: Path) -> BaseException:
    """The exception that says which task failed, how, and where its log is."""
    number = next((i for i, task in enumerate(tasks, 1) if task.name == name), 0)
    log = out / "logs" / f"{name}.log"
    written = [text for text in log.read_text(errors="replace").splitlines() if text.strip()] if log.exists() else []
    last = f": {written[-1]}" if written else ""
    text = f"task {number} of the plan ({name}) ended with exit code {code}; its log is {log}{last}"
    if code == ExitCode.STOPPED:  # a signal, and what the task had done is saved
        note(f"transfer study: task {number} of the plan ({name}) was stopped; the same command resumes")
        return SystemExit(int(ExitCode.STOPPED))
    return InputError(text) if code == ExitCode.WRONG_INPUT else SystemExit(f"transfer study: {text}")


def _cost_to_the_end(tasks: Sequence[Task]) -> dict[str, float]:
    """Cost of the longest chain of tasks that begins with each: it decides how long the whole plan takes."""
    own = {task.name: task.cost for task in tasks}
    longest = dict(own)
    for task in reversed(tasks):  # the plan is in order: all that follows from a task comes after it
        for need in task.needs:
            if need in longest:
                longest[need] = max(longest[need], own[need] + longest[task.name])
    return longest
