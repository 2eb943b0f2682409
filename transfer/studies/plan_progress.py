"""How a study's plan is printed, and how a running study shows its progress on standard error."""

from __future__ import annotations

import json
import os
import shlex
import time
from collections.abc import Sequence

from prune.runs.console_log import plain_lines, say
from transfer.studies.forecast import Forecast
from transfer.studies.task import Task


def stage_totals(tasks: Sequence[Task]) -> list[dict[str, float | str]]:
    """Tasks, images seen and share of the cost by stage, in the order of the chain."""
    cost = sum(task.cost for task in tasks)
    rows: list[dict[str, float | str]] = []
    for stage in dict.fromkeys(task.stage for task in tasks):
        found = [task for task in tasks if task.stage == stage]
        share = sum(task.cost for task in found) / cost if cost else 0.0
        samples = sum(task.samples for task in found)
        rows.append({"stage": stage, "lines": len(found), "samples": samples, "share": round(share, 4)})
    return rows


def print_plan(tasks: Sequence[Task], cost: Forecast | None, as_json: bool) -> None:
    """Print every task with its number, by level, what the stages cost in images seen, and what all cost."""
    if as_json:
        records = [{**task.record(), "samples": task.samples} for task in tasks]
        whole = {"lines": records, "stages": stage_totals(tasks), "cost": None if cost is None else cost.record()}
        print(json.dumps(whole, indent=1))
        return
    level = -1
    for number, task in enumerate(tasks, 1):
        if task.level != level:
            level = task.level
            print(f"level {level}")
        seen = f"  # {task.samples:,} images" if task.samples else ""
        print(f"{number:5}  {shlex.join(task.command)}{seen}")
    print(f"\n{'stage':<12}{'tasks':>6}{'images seen':>14}{'share of the work':>19}")
    for row in stage_totals(tasks):
        print(f"{row['stage']:<12}{row['lines']:>6}{row['samples']:>14,}{row['share']:>19.1%}")
    print(
        "An image counts three times as much in training as in inference, whatever the network; --dry-run writes "
        "nothing."
    )
    if cost is not None:
        print(cost.sentence())


class StudyDisplay:
    """Number of tasks done, names of running ones and time left on a terminal; elsewhere a line per finished task.

    Parameters
    ----------
    tasks : sequence of Task
        The whole plan.
    todo : sequence of Task
        The tasks that are to run; the time left is estimated from their costs.
    """

    def __init__(self, tasks: Sequence[Task], todo: Sequence[Task]) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        self._all, self._done = len(tasks), len(tasks) - len(todo)
        self._running: dict[str, float] = {}
        # Descriptor 2 is redirected to a log while a task runs: the display writes to a copy of it.
        self._stream = os.fdopen(os.dup(2), "w")
        self._console = Console(file=self._stream)
        columns = (
            BarColumn(24),
            TextColumn("{task.fields[done]}/{task.fields[all]} tasks"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.description}"),
        )
        self._shown = self._console.is_terminal and plain_lines()
        self._progress = Progress(*columns, console=self._console, disable=not self._shown)
        cost = {task.name: task.cost + 1 for task in todo}  # every task takes some time
        self._cost = cost
        self._bar = self._progress.add_task("", total=sum(cost.values()), done=self._done, all=self._all)

    def __enter__(self) -> StudyDisplay:
        self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.stop()
        self._stream.close()

    def started(self, task: Task) -> None:
        """Show `task` among those that run."""
        self._running[task.name] = time.monotonic()
        self._update()

    def ended(self, task: Task, seconds: float) -> None:
        """Count `task` as done."""
        self._running.pop(task.name, None)
        self._done += 1
        self._progress.advance(self._bar, self._cost[task.name])
        self._update()
        if not self._shown:
            facts = {"what": task.name, "done": self._done, "total": self._all, "seconds": round(seconds, 1)}
            text = f"[{self._done}/{self._all}] {task.name} {seconds:.1f} s"
            say("progress", text, self._stream, **facts)

    def _update(self) -> None:
        self._progress.update(self._bar, description=", ".join(self._running), done=self._done)
