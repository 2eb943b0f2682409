"""How far a step is, on standard error: one display for every step."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")


@contextmanager
def display(what: str, total: float, *, counted: bool = True) -> Iterator[Callable[[float, str], None] | None]:
    """Show a bar with the time left until the block ends.

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
        `update(done, state)`: how much of the total is done, and a few words beside the bar. None on ranks above 0
        and without a terminal: nothing is shown.
    """
    try:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    except ModuleNotFoundError:  # nobody's work should fail for want of a bar
        yield None
        return
    console = Console(stderr=True)
    if os.environ.get("RANK", "0") != "0" or not console.is_terminal:
        yield None
        return
    numbers = (MofNCompleteColumn(),) if counted else ()
    columns = (TextColumn("{task.description}"), BarColumn(), *numbers, TextColumn("{task.fields[state]}"))
    with Progress(*columns, TimeRemainingColumn(), console=console, refresh_per_second=4) as shown:
        task = shown.add_task(what, total=total, state="")
        yield lambda done, state: shown.update(task, completed=done, state=state)


def track(items: Iterable[T], total: int, what: str) -> Iterator[T]:
    """Yield `items` under a bar."""
    with display(what, total) as update:
        for done, item in enumerate(items, start=1):
            yield item
            if update is not None:
                update(done, "")
