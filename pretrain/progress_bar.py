"""A bar on rank 0's terminal: images a second, share of the time spent waiting for data, time left."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pretrain.hooks import Progress


@contextmanager
def bar(what: str) -> Iterator[Callable[[Progress, float], None] | None]:
    """Yield `on_step(progress, share of the budget)`; None on other ranks and without a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    if os.environ.get("RANK", "0") != "0" or not console.is_terminal:
        yield None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[state]}"), TimeRemainingColumn())
    with Bar(*columns, console=console, refresh_per_second=2) as shown:
        task = shown.add_task(what, total=1.0, state="")
        last = [0.0]

        def on_step(progress: Progress, share: float) -> None:
            if time.monotonic() - last[0] < 0.5 and share < 1:
                return
            last[0] = time.monotonic()
            spent = max(progress.epoch_seconds, 1e-9)
            state = (
                f"epoch {progress.epoch + 1}  {progress.epoch_samples / spent:,.0f} images/s  "
                f"{progress.waited / spent:.0%} waiting for data"
            )
            shown.update(task, completed=share, state=state)

        yield on_step
