"""What a run of incremental learning is given, and what is said of it when it has ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pretrain.recipe import Recipe
from pretrain.schedule import Budget
from transfer.continual.exemplar_form import RAW, Form
from transfer.continual.forgetting import average_incremental_accuracy, forgetting, seen_accuracies

HEADS = ("linear", "nearest-mean")


@dataclass(frozen=True)
class Setting:
    """What all runs of one call have in common; the fields are the step's flags, checked.

    Attributes
    ----------
    budget : Budget
        Of each task.
    side : int
        Height and width at which images are seen, stored and tested.
    quality : int
        0: chosen from the images of the first task.
    """

    recipe_name: str
    recipe: Recipe
    budget: Budget
    side: int
    tasks: int
    per_class: int | None
    codec: str
    quality: int
    shared: bool
    rank: str
    distillation: float
    init: Path | None
    checkpoint_seconds: float
    workers: int | None

    def form(self, name: str) -> Form:
        """How exemplars of "raw", "compressed" or "same-codec" are stored, the quality being known."""
        return Form(RAW, 0, self.side) if name == RAW else Form(self.codec, self.quality, self.side, self.shared)


@dataclass(frozen=True)
class Cell:
    """One run: bytes of memory, form ("raw", "compressed", "same-codec"), seed."""

    memory: int
    form: str
    seed: int

    @property
    def name(self) -> str:
        """Name of its directory."""
        return f"{self.form}-{self.memory}-s{self.seed}"


def assembled(
    setting: Setting, cell: Cell, records: Sequence[Mapping[str, Any]], groups: Sequence[Sequence[str]]
) -> dict[str, Any]:
    """What result.json of one run says, from its records: one for each task, in order."""
    sizes = np.array(records[-1]["test_images"])
    heads = {}
    for head in HEADS:
        matrix = np.full((len(records), len(records)), np.nan)
        for k, record in enumerate(records):
            matrix[k, : k + 1] = record["accuracy"][head]
        seen = seen_accuracies(matrix, sizes)
        heads[head] = {
            "value": average_incremental_accuracy(seen),
            "accuracies": seen.tolist(),
            "forgetting": forgetting(matrix).tolist(),
            "matrix": [row[: k + 1].tolist() for k, row in enumerate(matrix)],
        }
    return {
        "task": "incremental",
        "metric": "average incremental accuracy",
        "form": cell.form,
        "memory": cell.memory,
        "seed": cell.seed,
        "codec": None if cell.form == RAW else setting.codec,
        "quality": records[-1]["quality"],
        "heads": heads,
        "records": [{k: v for k, v in r.items() if k not in ("accuracy", "test_images")} for r in records],
        "classes": [list(group) for group in groups],
        "test_images": sizes.tolist(),
        "n": int(sizes.sum()),
    }
