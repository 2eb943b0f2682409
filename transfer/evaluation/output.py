"""Checks of how a step was started: by one process, and not with the directory of its own model as output."""

from __future__ import annotations

import os
from pathlib import Path

from prune.runs.files import InputError


def need_one_process() -> None:
    """Raise `InputError` when torchrun, accelerate or Slurm started more than one process."""
    if (world := int(os.environ.get("WORLD_SIZE", "1"))) > 1:
        raise InputError(f"started with {world} processes: this step runs in one process, with one GPU")


def need_other(out: Path, model: Path) -> None:
    """Raise `InputError` when `out` is the directory of the model that is read."""
    if Path(out).resolve() == Path(model).resolve():
        raise InputError(f"--out {out}: is the directory of --model, which is only read; give another")
