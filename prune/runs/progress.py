"""Progress on standard error, an ordered thread pool that never runs far ahead of its reader, and how many threads."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator

from prune.runs.cores import T


def track(items: Iterable[T], total: int, what: str) -> Iterator[T]:
    """Yield `items` under a progress bar with rate and time left; silent on ranks above 0 and without a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    if os.environ.get("RANK", "0") != "0" or not console.is_terminal:
        yield from items
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, refresh_per_second=4) as progress:
        yield from progress.track(items, total=total, description=what)
