"""SIGTERM and SIGUSR1 ask a run to save and leave: noted here; the training loop saves at the next step boundary.

Slurm sends SIGTERM before it takes a node away, and SIGUSR1 before the time is up (`--signal=USR1@120`). Until
`listen` was called, either ends the process; so this module imports nothing slow and is used before anything that is.
"""

from __future__ import annotations

import signal

from prune.runs.exit_codes import ExitCode

_received: list[int] = []


class Requeue(SystemExit):
    """The run saved a checkpoint on a signal and leaves with exit code 85."""

    def __init__(self) -> None:
        super().__init__(int(ExitCode.STOPPED))


def listen() -> None:
    """Note SIGTERM and SIGUSR1 from here on. Only in the main thread."""
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, lambda received, frame: _received.append(received))


def asked() -> bool:
    """Whether a signal has arrived; at every step `training_loop.train` asks, saves and raises `Requeue`."""
    return bool(_received)
