"""Progress bar of a training run: images (or windows of text) a second, share of the time spent waiting, time left."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pretrain.hooks import Progress
from prune.runs.progress import display

_PAUSE = 0.5
"""Least seconds between two updates."""


@contextmanager
def bar(what: str, samples: str = "images") -> Iterator[Callable[[Progress, float], None] | None]:
    """Yield `on_step(progress, share of the budget)`; None on ranks above 0 and with --quiet.

    Parameters
    ----------
    what : str
        What is trained, in a few words.
    samples : str
        What it is trained on; epochs are counted for images alone.
    """
    with display(what, 1.0, counted=False) as update:
        if update is None:
            yield None
            return
        last = [0.0]

        def on_step(progress: Progress, share: float) -> None:
            if time.monotonic() - last[0] < _PAUSE and share < 1:
                return
            last[0] = time.monotonic()
            spent = max(progress.epoch_seconds, 1e-9)
            speed, waited = progress.epoch_samples / spent, progress.waited / spent
            epoch = f"epoch {progress.epoch + 1}  " if samples == "images" else ""
            update(share, f"{epoch}{speed:,.0f} {samples}/s  {waited:.0%} waiting for data")

        yield on_step
