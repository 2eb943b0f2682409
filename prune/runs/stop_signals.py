"""What ends a step from outside: SIGTERM and SIGHUP become an exception, so that nothing half-written stays behind."""

from __future__ import annotations

import atexit
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

STOPPING = ("SIGTERM", "SIGHUP")
_RESUME = {
    "prune features": "resumes after the last beton that is done",
    "prune curves": "resumes",
    "prune codecs": "resumes a training of --train where it was last saved, once a minute",
    "prune materialize": "resumes",
    "pretrain": "resumes from its last checkpoint, if it has written one",
    "transfer finetune": "resumes from its last checkpoint, if it has written one",
    "transfer compress": "resumes after the last step of the compression",
    "transfer compress-language": "resumes after the last step of the compression",
    "transfer incremental": "resumes after the last task that is done",
    "transfer stream": "resumes after the last round that is done",
    "transfer auto": "resumes",
    "transfer study": "resumes",
}


class Stopped(BaseException):
    """A signal asks the process to end."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.name = signal.Signals(number).name


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Raise `Stopped` in the main thread on SIGTERM or SIGHUP until the block ends.

    A signal that has a handler already, or is ignored as under `nohup`, is left as it is. A second signal is ignored:
    the first one is being obeyed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    taken = [n for n in (getattr(signal, name, None) for name in STOPPING) if n is not None]
    taken = [number for number in taken if signal.getsignal(number) == signal.SIG_DFL]

    def stop(number: int, _: object) -> None:
        for each in taken:
            signal.signal(each, signal.SIG_IGN)
        raise Stopped(number)

    for number in taken:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)


def no_longer_listen() -> None:
    """While the interpreter shuts down, let no signal change the exit code of a step that has ended."""
    atexit.unregister(_ignore)
    atexit.register(_ignore)  # what was registered last runs first: before libraries tidy up, which takes a while


def _ignore() -> None:
    if threading.current_thread() is threading.main_thread():
        for name in ("SIGINT", *STOPPING):
            if number := getattr(signal, name, None):
                signal.signal(number, signal.SIG_IGN)


def afterwards(program: str) -> str:
    """What the same command does after a step was stopped.

    Examples
    --------
    >>> afterwards("prune write"), afterwards("winnow prune curves")
    ('the same command begins again; nothing half-written is left', 'the same command resumes')
    """
    step = program.removeprefix("winnow ")
    return f"the same command {_RESUME.get(step, 'begins again; nothing half-written is left')}"
