"""Schedules as pure functions of progress: the learning rate, the resolution and the strength of an attack.

Progress is the share of the budget that is spent, 0 to 1, whether the budget is in epochs, steps or seconds. As nothing
else enters, a resumed run needs no scheduler state.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Budget:
    """How long to train: exactly one of the three is set.

    Attributes
    ----------
    epochs : float, optional
        Passes over the training images. The time is proportional to the keep.
    steps : int, optional
        Optimiser steps, whatever the keep.
    seconds : float, optional
        Seconds of training (loading data counts; evaluation and writing checkpoints do not).
    """

    epochs: float | None = None
    steps: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        given = [v for v in (self.epochs, self.steps, self.seconds) if v is not None]
        if len(given) != 1 or not given[0] > 0:
            raise ValueError("a budget is a positive number of epochs, or of steps, or of seconds: one of them")

    def spent(self, epoch: float, step: int, seconds: float) -> float:
        """Progress in [0, 1] after `epoch` passes (a fraction inside one), `step` steps and `seconds` seconds."""
        if self.epochs is not None:
            share = epoch / self.epochs
        elif self.steps is not None:
            share = step / self.steps
        else:
            share = seconds / self.seconds  # type: ignore[operator]
        # Sums of fractions may miss 1 by rounding: a budget is spent when less than 1e-9 of it is left.
        return 1.0 if share > 1 - 1e-9 else share


def learning_rate(
    progress: float, peak: float, warmup: float, final: float = 0.0, fall: Literal["cosine", "linear"] = "cosine"
) -> float:
    """Linear warm-up from a hundredth of `peak`, then down to `final`.

    Along half a cosine (SGDR, arXiv 1608.03983, eq. 5) or a straight line (arXiv 1905.04753).

    Parameters
    ----------
    progress : float in [0, 1]
    peak : float
    warmup : float in [0, 1)
        Share of the budget in which the rate rises.
    final : float
        Learning rate at progress 1.
    """
    if progress < warmup:
        return peak * (0.01 + 0.99 * progress / warmup)
    done = min(1.0, (progress - warmup) / (1 - warmup))
    return final + (peak - final) * (1 - done if fall == "linear" else 0.5 * (1 + math.cos(math.pi * done)))


def resolution(progress: float, start: int, end: int, begin: float, finish: float, multiple: int = 32) -> int:
    """Side of the training images: `start` until `begin`, then growing evenly to `end` at `finish`.

    Values between the ends are multiples of `multiple`, so that few shapes occur (progressive resizing as in
    FFCV's ImageNet recipe).

    Parameters
    ----------
    progress : float in [0, 1]
        At the start of an epoch; all of the epoch has this resolution.
    start, end : int
        Pixels.
    begin, finish : float
        Shares of the budget between which the images grow.
    """
    if progress <= begin or start >= end:
        return min(start, end)
    if progress >= finish:
        return end
    side = start + (end - start) * (progress - begin) / (finish - begin)
    return max(start, min(end, round(side / multiple) * multiple))


def ramp(progress: float, length: float) -> float:
    """Rise from 0 at progress 0 to 1 at progress `length`, and stay there."""
    return 1.0 if length <= 0 else min(1.0, progress / length)
