"""Run the lines of a plan: each once, when all that it needs is done.

A line that ended well leaves `done/NAME.json`; a study that is started again runs what has none. A line whose
command or needs have changed, whose output is gone, or that follows such a line, runs again (all steps are
idempotent: where nothing changed they return at once).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from prune.runs.files import InputError, read_json, write_json
from transfer.studies.plan import Line
from transfer.studies.worker_pool import Pool


class Watch(Protocol):
    """Something that shows how far the study is."""

    def started(self, line: Line) -> None:
        """A line has begun."""
        ...

    def ended(self, line: Line, seconds: float) -> None:
        """A line has ended well."""
        ...


def outstanding(lines: Sequence[Line], out: Path) -> list[Line]:
    """The lines that are to run: those without a record that fits, and all that follow from one."""
    names: set[str] = set()
    found = []
    for line in lines:
        if not names.isdisjoint(line.needs) or not is_done(line, out):
            names.add(line.name)
            found.append(line)
    return found


def is_done(line: Line, out: Path) -> bool:
    """Whether `line` has ended well with this command and these needs, and what it made is still there."""
    place = out / "done" / f"{line.name}.json"
    if not place.exists():
        return False
    record, made = read_json(place), out / line.out
    if (record["command"], record["needs"]) != (list(line.command), list(line.needs)):
        return False
    return (made / "DONE").exists() if (made / "config.json").exists() else made.exists()


def forget(line: Line, out: Path) -> None:
    """Take back that `line` is done; what it took stays on record."""
    place = out / "done" / f"{line.name}.json"
    if place.exists():
        write_json(place, {**read_json(place), "command": None})


def remember(line: Line, out: Path, seconds: float) -> None:
    """Record that `line` has ended well; a repetition that had nothing to do does not shorten what it took."""
    place = out / "done" / f"{line.name}.json"
    before = read_json(place)["seconds"] if place.exists() else 0.0
    facts = {"command": list(line.command), "needs": list(line.needs), "seconds": round(max(before, seconds), 3)}
    write_json(place, facts)


def run_lines(
    lines: Sequence[Line], out: Path, pool: Pool, watch: Watch, resolve: Callable[[Line], Line] = lambda line: line
) -> None:
    """Run the outstanding ones of `lines` in `pool`, the longest way to the end first; closes the pool.

    Parameters
    ----------
    lines : sequence of Line
        The whole plan, in its order.
    out : Path
        The study's directory.
    pool : Pool
    watch : Watch
    resolve : callable
        Last change to a line, made when all that it needs is done.

    Raises
    ------
    InputError, SystemExit
        A line ended badly: with exit code 2, or with another. What else was running is ended; the study can go on.
    """
    todo = outstanding(lines, out)
    for line in todo:  # before anything runs: a record must never outlive what it was made from
        forget(line, out)
    left = _way_to_the_end(todo)
    waiting = {line.name: line for line in sorted(todo, key=lambda line: -left[line.name])}
    running: dict[str, Line] = {}
    try:
        while waiting or running:
            ready = [
                line for line in waiting.values() if not any(need in waiting or need in running for need in line.needs)
            ]
            for line in ready[: pool.size - len(running)]:
                del waiting[line.name]
                running[line.name] = resolve(line)
                watch.started(line)
                pool.start(running[line.name])
            failed = None
            for name, code, seconds in pool.wait():
                if code == 130:
                    raise KeyboardInterrupt
                if code:
                    failed = failed or (name, code)
                    continue
                line = running.pop(name)
                remember(line, out, seconds)
                watch.ended(line, seconds)
            if failed:
                raise failure(*failed, lines, out)
    finally:
        pool.close()


def failure(name: str, code: int, lines: Sequence[Line], out: Path) -> BaseException:
    """Say which line failed, how, and where to read on."""
    number = next((i for i, line in enumerate(lines, 1) if line.name == name), 0)
    log = out / "logs" / f"{name}.log"
    said = [text for text in log.read_text(errors="replace").splitlines() if text.strip()] if log.exists() else []
    last = f": {said[-1]}" if said else ""
    text = f"line {number} of the plan ({name}) ended with exit code {code}; its log is {log}{last}"
    return InputError(text) if code == 2 else SystemExit(f"transfer study: {text}")


def _way_to_the_end(lines: Sequence[Line]) -> dict[str, float]:
    """Cost of the longest chain of lines that begins with each: what decides how long the whole takes."""
    own = {line.name: line.cost for line in lines}
    longest = dict(own)
    for line in reversed(lines):  # the plan is in order: all that follows from a line stands after it
        for need in line.needs:
            if need in longest:
                longest[need] = max(longest[need], own[need] + longest[line.name])
    return longest
