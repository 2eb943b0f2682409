"""What a run may write to: a directory that is not its input's, in which no other run is at work, from one process."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prune.runs.files import InputError


def need_one_process() -> None:
    """Check that torchrun, accelerate or Slurm started this process alone; `InputError` otherwise."""
    if (world := int(os.environ.get("WORLD_SIZE", "1"))) > 1:
        raise InputError(f"started with {world} processes: one process, with one GPU, runs this step")


def need_other(out: Path, model: Path) -> None:
    """Check that OUT is not the directory of the model that is read; `InputError` otherwise."""
    if Path(out).resolve() == Path(model).resolve():
        raise InputError(f"--out {out}: is the directory of --model, which is only read; give another")


@contextmanager
def alone(out: Path, steps: str) -> Iterator[None]:
    """Hold the directory `out`, which is made when absent: others that would hold it are refused until the block ends.

    Parameters
    ----------
    out : Path
    steps : str
        Who may be at work there, for the message.

    Raises
    ------
    InputError
        Another process holds it, or it is a file.
    """
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: is a file; a directory is expected")
    out.mkdir(parents=True, exist_ok=True)
    with open(out / ".lock", "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"{out}: {steps} is at work there; wait for its end") from None
        yield
