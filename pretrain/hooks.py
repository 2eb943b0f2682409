"""Types that the training loop shares with its callers: batches, progress, and the functions that it calls."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
from torch import nn

from prune.data.batches import Batch
from prune.runs.files import InputError

Batches = Callable[[np.ndarray, int, int], Iterator[Batch]]
"""(rows, epoch, resolution) -> batches in this order, each as large as the rank's part of a step."""


@dataclass
class Progress:
    """Counters and clocks of a run; all of it goes into the checkpoint."""

    epoch: int = 0
    batch: int = 0
    step: int = 0
    samples: int = 0
    seconds: float = 0.0
    began: float = 0.0  # share of the budget spent when the current epoch began
    resolution: int = 0
    epoch_samples: int = 0
    epoch_seconds: float = 0.0
    waited: float = 0.0  # seconds spent waiting for data in the current epoch
    micro_batch: int = 0
    lines: list[dict[str, Any]] = field(default_factory=list)
    processes: list[list[int]] = field(default_factory=list)  # [first step, processes], where their number changed

    @classmethod
    def of(cls, record: Any) -> Progress:
        """Progress from a checkpoint's record; `ValueError` for values that no run writes."""
        found = cls(**record)
        for each in fields(cls):
            value, kind = getattr(found, each.name), type(getattr(cls(), each.name))
            number = type(value) is kind or (kind is float and type(value) is int)
            if not number or (kind in (int, float) and not 0 <= value < 1 << 62):
                raise ValueError(f"{each.name} is {str(value)[:40]!r}")
        if not all(isinstance(line, dict) for line in found.lines):
            raise ValueError("lines are no mappings")
        return found

    def line(self, loss: float, correct: float, count: float, rate: float) -> dict[str, Any]:
        """Build the current epoch's line of metrics.jsonl from sums over all ranks and the last learning rate."""
        return {
            "epoch": self.epoch + 1,
            "loss": round(loss / max(count, 1), 6),
            "top1": round(correct / max(count, 1), 6),
            "seconds": round(self.epoch_seconds, 3),
            "samples": self.epoch_samples,
            "images_per_second": round(self.epoch_samples / max(self.epoch_seconds, 1e-9), 1),
            "waited": round(self.waited / max(self.epoch_seconds, 1e-9), 4),
            "lr": float(f"{rate:.6g}"),
            "resolution": self.resolution,
            "step": self.step,
        }

    def next_epoch(self, line: dict[str, Any]) -> None:
        """End the current epoch: store its line and reset its counters."""
        self.lines.append(line)
        self.epoch, self.batch, self.epoch_samples, self.epoch_seconds, self.waited = self.epoch + 1, 0, 0, 0.0, 0.0


@dataclass(frozen=True)
class Hooks:
    """Functions that the loop calls; all optional, all called on every rank.

    Attributes
    ----------
    after_epoch : callable
        (network, line), with the weights that would be saved in place; may add to the line.
    on_records : callable
        (epoch, records), when dynamics are recorded.
    on_lines : callable
        (lines), whenever the lines of metrics.jsonl change, also when a resume drops some.
    on_step : callable
        (progress, share of the budget) after every step.
    """

    after_epoch: Callable[[nn.Module, dict[str, Any]], None] | None = None
    on_records: Callable[[int, dict[str, np.ndarray]], None] | None = None
    on_lines: Callable[[list[dict[str, Any]]], None] = lambda lines: None
    on_step: Callable[[Progress, float], None] | None = None


class NonFinite(InputError):
    """The loss became infinite or not a number."""
