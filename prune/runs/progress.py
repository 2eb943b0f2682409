"""How far a step is, on standard error: one display for every step.

On a terminal a bar with what is being done, done and total, the rate and the time left; elsewhere the same as a line a
minute.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from prune.runs.console_log import plain_lines, say

T = TypeVar("T")
PERIOD = 60.0
"""Seconds between two lines where there is no terminal."""


@contextmanager
def display(what: str, total: float, *, counted: bool = True) -> Iterator[Callable[[float, str], None] | None]:
    """Show a bar, or a line a minute, with the time left until the block ends.

    Parameters
    ----------
    what : str
        What is being done, in a few words.
    total : float
    counted : bool
        Show done and total as numbers.

    Yields
    ------
    callable or None
        `update(done, state)`: how much of the total is done, and a few words beside it. None on ranks above 0 and with
        --quiet: nothing is shown.
    """
    if os.environ.get("RANK", "0") != "0" or os.environ.get("WINNOW_QUIET"):
        yield None
        return
    try:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    except ModuleNotFoundError:  # nobody's work should fail for want of a bar
        yield _lines(what, total, counted)
        return
    console = Console(stderr=True)
    if not (console.is_terminal and plain_lines()):
        yield _lines(what, total, counted)
        return
    numbers = (MofNCompleteColumn(), TextColumn("{task.fields[rate]}")) if counted else ()
    columns = (TextColumn("{task.description}"), BarColumn(), *numbers, TextColumn("{task.fields[state]}"))
    begin = time.monotonic()
    with Progress(*columns, TimeRemainingColumn(), console=console, refresh_per_second=4) as shown:
        task = shown.add_task(what, total=total, state="", rate="")

        def update(done: float, state: str) -> None:
            shown.update(task, completed=done, state=state, rate=_rate(done, time.monotonic() - begin))

        yield update


def track(items: Iterable[T], total: int, what: str) -> Iterator[T]:
    """Yield `items` under a bar."""
    with display(what, total) as update:
        for done, item in enumerate(items, start=1):
            yield item
            if update is not None:
                update(done, "")


def _lines(what: str, total: float, counted: bool) -> Callable[[float, str], None]:
    """An `update` that writes a line each `PERIOD`."""
    begin = time.monotonic()
    last = [begin]

    def update(done: float, state: str) -> None:
        now = time.monotonic()
        if now - last[0] < PERIOD:
            return
        last[0] = now
        facts = progress_facts(done, total, now - begin)
        words = [f"{done:,.0f} of {total:,.0f}", _rate(done, now - begin)] if counted else [f"{facts['share']:.0%}"]
        if facts["seconds_left"] is not None:
            words.append(f"{duration(facts['seconds_left'])} left")
        say("progress", f"{what}: {', '.join([*filter(None, words), *filter(None, [state])])}", what=what, **facts)

    return update


def progress_facts(done: float, total: float, seconds: float) -> dict[str, Any]:
    """Done, total, share, rate a second and seconds left, as far as they are known.

    >>> progress_facts(50, 200, 10.0)
    {'done': 50, 'total': 200, 'share': 0.25, 'rate': 5.0, 'seconds_left': 30.0}
    """
    rate = done / seconds if seconds > 0 else 0.0
    left = round((total - done) / rate, 1) if rate > 0 else None
    share = round(done / total, 4) if total else 1.0
    return {"done": done, "total": total, "share": share, "rate": round(rate, 4), "seconds_left": left}


def duration(seconds: float) -> str:
    """A time in words.

    >>> duration(42), duration(600), duration(8000)
    ('42 s', '10 min', '2 h 13 min')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def _rate(done: float, seconds: float) -> str:
    """Done a second, or a minute where that is less than one."""
    if seconds <= 0 or done <= 0:
        return ""
    rate = done / seconds
    return f"{rate:,.0f}/s" if rate >= 10 else f"{rate:.1f}/s" if rate >= 1 else f"{60 * rate:.1f}/min"
