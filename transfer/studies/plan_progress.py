"""How a plan is printed, and how a running study shows its progress on standard error."""

from __future__ import annotations

import json
import os
import shlex
import time
from collections.abc import Sequence

from transfer.studies.plan import Line


def totals(lines: Sequence[Line]) -> list[dict[str, float | str]]:
    """Lines, images seen and share of the cost by stage, in the order of the chain."""
    cost = sum(line.cost for line in lines)
    rows: list[dict[str, float | str]] = []
    for stage in dict.fromkeys(line.stage for line in lines):
        found = [line for line in lines if line.stage == stage]
        share = sum(line.cost for line in found) / cost if cost else 0.0
        samples = sum(line.samples for line in found)
        rows.append({"stage": stage, "lines": len(found), "samples": samples, "share": round(share, 4)})
    return rows


def show_plan(lines: Sequence[Line], as_json: bool) -> None:
    """Print every line with its number, by level, and what the stages cost in images seen."""
    if as_json:
        records = [{**line.record(), "samples": line.samples} for line in lines]
        print(json.dumps({"lines": records, "stages": totals(lines)}, indent=1))
        return
    level = -1
    for number, line in enumerate(lines, 1):
        if line.level != level:
            level = line.level
            print(f"level {level}")
        seen = f"  # {line.samples:,} images" if line.samples else ""
        print(f"{number:5}  {shlex.join(line.command)}{seen}")
    print(f"\n{'stage':<12}{'lines':>6}{'images seen':>14}{'share of the work':>19}")
    for row in totals(lines):
        print(f"{row['stage']:<12}{row['lines']:>6}{row['samples']:>14,}{row['share']:>19.1%}")
    print(
        "The share counts an image in training as three in inference, whatever the network; --dry-run writes nothing."
    )


class Display:
    """Lines done, the ones that run, and the time left, on the terminal; one text line per finished line elsewhere.

    Parameters
    ----------
    lines : sequence of Line
        The whole plan.
    todo : sequence of Line
        What this run is to do; the time left is judged by its cost.
    """

    def __init__(self, lines: Sequence[Line], todo: Sequence[Line]) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        self._all, self._done = len(lines), len(lines) - len(todo)
        self._running: dict[str, float] = {}
        # The steps' output is sent to logs by moving descriptor 2: the display writes to a copy of it.
        self._stream = os.fdopen(os.dup(2), "w")
        self._console = Console(file=self._stream)
        columns = (
            BarColumn(24),
            TextColumn("{task.fields[done]}/{task.fields[all]} lines"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.description}"),
        )
        self._progress = Progress(*columns, console=self._console, disable=not self._console.is_terminal)
        cost = {line.name: line.cost + 1 for line in todo}  # every line takes some time
        self._cost = cost
        self._task = self._progress.add_task("", total=sum(cost.values()), done=self._done, all=self._all)

    def __enter__(self) -> Display:
        self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.stop()
        self._stream.close()

    def started(self, line: Line) -> None:
        """Show `line` among those that run."""
        self._running[line.name] = time.monotonic()
        self._update()

    def ended(self, line: Line, seconds: float) -> None:
        """Count `line` as done."""
        self._running.pop(line.name, None)
        self._done += 1
        self._progress.advance(self._task, self._cost[line.name])
        self._update()
        if not self._console.is_terminal:
            print(f"[{self._done}/{self._all}] {line.name} {seconds:.1f} s", file=self._stream, flush=True)

    def _update(self) -> None:
        self._progress.update(self._task, description=", ".join(self._running), done=self._done)
