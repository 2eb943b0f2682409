"""How every command ends: one table of exit codes."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """The exit codes of all commands; schedulers restart a job on `STOPPED` alone."""

    DONE = 0
    ANSWER_IS_NO = 1
    WRONG_INPUT = 2
    NEEDS_APPROVAL = 75
    MORE_NEEDED = 80
    ROLLED_BACK = 81
    STOPPED = 85
    INTERRUPTED = 130


MEANING = {
    ExitCode.DONE: "done, or up to date",
    ExitCode.ANSWER_IS_NO: "done, and the answer is no: a check failed, a result was not accepted",
    ExitCode.WRONG_INPUT: "wrong input, or a disk that takes no more; nothing was changed",
    ExitCode.NEEDS_APPROVAL: "waits for a person",
    ExitCode.MORE_NEEDED: "nothing is wrong so far; a later look decides",
    ExitCode.ROLLED_BACK: "something is wrong, and an earlier model is in its place",
    ExitCode.STOPPED: "stopped; the same command resumes or, as its last line says, begins again",
    ExitCode.INTERRUPTED: "interrupted by Ctrl-C; a training has saved a checkpoint first",
}


def table() -> str:
    """The exit codes as lines of text, for `--help`."""
    return "\n".join(f"  {int(code):>3}  {meaning}" for code, meaning in MEANING.items())


class AnswerIsNo(SystemExit):
    """A step did its work and found that the answer is no; what it found is printed already."""

    def __init__(self) -> None:
        super().__init__(int(ExitCode.ANSWER_IS_NO))


class NeedsApproval(SystemExit):
    """A step waits for a person's answer; what it waits for is printed already."""

    def __init__(self) -> None:
        super().__init__(int(ExitCode.NEEDS_APPROVAL))


class MoreNeeded(SystemExit):
    """A step found nothing wrong so far, and needs more images before it is sure; what it found is printed already."""

    def __init__(self) -> None:
        super().__init__(int(ExitCode.MORE_NEEDED))


class RolledBack(SystemExit):
    """A step found something wrong, and put an earlier model in its place; what it found is printed already."""

    def __init__(self) -> None:
        super().__init__(int(ExitCode.ROLLED_BACK))
