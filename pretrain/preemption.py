"""Stop on SIGTERM or SIGUSR1: the signal is recorded here; the training loop saves after the current step and ends.

Slurm sends SIGTERM before it takes a node away, and SIGUSR1 before the time limit (`--signal=USR1@120`). Until `listen`
is called, either kills the process; so this module imports nothing slow and is used before any slow import.
"""

from __future__ import annotations

import signal

from prune.runs.exit_codes import ExitCode

_received: list[int] = []


class Requeue(SystemExit):
    """The run saved a checkpoint on a signal and ends with exit code 85."""

    def __init__(self) -> None:
        super().__init__(int(ExitCode.STOPPED))


def listen() -> None:
    """Record SIGTERM and SIGUSR1 from now on. Only in the main thread."""
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, lambda received, frame: _received.append(received))


def stop_requested() -> bool:
    """Whether a signal has arrived; `training_loop.train` checks this after every step, saves and raises `Requeue`."""
    return bool(_received)
