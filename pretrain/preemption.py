"""Stop on a signal: it is recorded here; the training loop saves after the current step and ends.

Slurm sends SIGTERM before it takes a node away, and SIGUSR1 before the time limit (`--signal=USR1@120`); a terminal
sends SIGHUP when it closes, and SIGINT for Ctrl-C. Until `listen` is called, each of them kills the process; so this
module imports nothing slow and is used before any slow import.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

from prune.runs.exit_codes import ExitCode

_SAME_PRESS = 1.0  # seconds: a terminal and a launcher both send SIGINT for one Ctrl-C
_received: list[int] = []
_saving: list[float] = []  # one entry for each training that would save; then the time of the first SIGINT


class Requeue(SystemExit):
    """The run ends on a signal: with exit code 85, or 130 for Ctrl-C; what it has saved is printed already."""

    def __init__(self) -> None:
        super().__init__(int(ExitCode.INTERRUPTED if signal.SIGINT in _received else ExitCode.STOPPED))


def listen() -> None:
    """Record SIGTERM, SIGUSR1 and SIGHUP from now on, and SIGINT while a training could save. Only in the main thread.

    A signal that is ignored, as SIGHUP under `nohup` is, stays ignored.
    """
    _received.clear()
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP):
        if number == signal.SIGTERM or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, lambda received, frame: _received.append(received))
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
        signal.signal(signal.SIGINT, _interrupt)


def _interrupt(number: int, frame: object) -> None:
    """Let a training save on the first Ctrl-C; end at once on the second, or when nothing is being trained."""
    now = time.monotonic()
    if not _saving or (number in _received and now - _saving[-1] > _SAME_PRESS):
        raise KeyboardInterrupt
    if number not in _received:
        _received.append(number)
        _saving[-1] = now


@contextmanager
def saves_first() -> Iterator[None]:
    """Within the block Ctrl-C is obeyed where the training loop looks for signals, after a checkpoint."""
    _saving.append(0.0)
    try:
        yield
    finally:
        _saving.pop()


def stop_requested() -> bool:
    """Whether a signal has arrived; `training_loop.train` checks this after every step, saves and raises `Requeue`."""
    return bool(_received)
