"""One command line for all stages: `python -m prune STEP`, `python -m pretrain`, `python -m transfer STEP`.

A step is a module with a frozen dataclass `Config` and a function `run(config)`. Only the requested step is
imported, and step modules import NumPy, torch and FFCV inside `run`, so `--help` answers at once.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from prune.index.version import VERSION
from prune.runs.console_log import HELP, say, variables, without_flags
from prune.runs.disk_errors import in_words
from prune.runs.exit_codes import ExitCode, table
from prune.runs.extras import EXTRA, missing
from prune.runs.files import InputError, printable
from prune.runs.library_warnings import warn_in_one_line
from prune.runs.parser_messages import one_line
from prune.runs.path_checks import check_paths, meant_paths
from prune.runs.stop_signals import Stopped, afterwards, ended_by_signals, no_longer_listen


def main(program: str, summary: str, steps: Mapping[str, str], argv: Sequence[str] | None = None) -> int:
    """Run one step of `program`.

    Parameters
    ----------
    program : str
        Name in usage lines.
    summary : str
        One line for `--help`.
    steps : mapping of str to str
        Step name to "module: what it does".
    argv : sequence of str, optional
        Arguments; `sys.argv[1:]` when absent.

    Returns
    -------
    int
        Exit code; see `prune.runs.exit_codes`.
    """
    drop_unread_output()
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in ("-h", "--help"):
        print(_overview(program, summary, steps))
        return ExitCode.DONE if argv else ExitCode.WRONG_INPUT
    if argv[0] == "--version":
        print(f"{program} {VERSION}")
        return ExitCode.DONE
    if argv[0] not in steps:
        print(f"{program}: no step {argv[0]!r}; there are {', '.join(steps)}", file=sys.stderr)
        return ExitCode.WRONG_INPUT
    return run_step(f"{program} {argv[0]}", steps[argv[0]].split(":")[0], argv[1:])


def run_step(program: str, module: str, argv: Sequence[str]) -> int:
    """Parse `argv` for the step in `module` and run it; the exit code."""
    drop_unread_output()
    warn_in_one_line()
    own, flags = without_flags(argv)
    with variables({**flags}):
        return _run(program, module, own)


def _run(program: str, module: str, argv: Sequence[str]) -> int:
    """`run_step` without the flags of every step."""
    config: Any = None
    try:
        with ended_by_signals():
            step = importlib.import_module(module)
            config = meant_paths(parse(program, step, argv), argv)
            check_paths(config)  # here, since steps import torch before they open anything
            step.run(config)
    except InputError as error:
        _report(program, str(error))
        return ExitCode.WRONG_INPUT
    except KeyboardInterrupt:
        _report(program, f"interrupted; {afterwards(program)}")
        return ExitCode.INTERRUPTED
    except Stopped as stopped:
        _report(program, f"stopped by {stopped.name}; {afterwards(program)}")
        return ExitCode.STOPPED
    except ModuleNotFoundError as error:
        if error.name is None or (package := error.name.split(".")[0]) not in EXTRA:
            raise  # a module of this project, or one that should never be missing: a defect
        _report(program, missing(package))
        return ExitCode.WRONG_INPUT
    except OSError as error:  # a full disk, no permission, a folder where a file is wanted
        _report(program, in_words(error, getattr(config, "out", None)))
        return ExitCode.WRONG_INPUT
    finally:
        no_longer_listen()
    return ExitCode.DONE


class _Output(io.FileIO):
    """Standard output or error whose reader may leave, as `head` does; what is written after that is dropped."""

    def write(self, data: Any) -> int:
        """Write; to the null device once nobody reads any more."""
        try:
            return super().write(data)
        except BrokenPipeError:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self.fileno())
            os.close(null)
            return len(data)


def drop_unread_output() -> None:
    """Make the process outlive the readers of its output: a step ends when its work is done, with its own exit code.

    Without this, `pretrain ... 2>&1 | head` would end at the first note after `head` has left.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None or stream is not getattr(sys, f"__{name}__"):
            continue  # closed, captured, or replaced here before
        stream.flush()
        raw = _Output(stream.fileno(), "w", closefd=False)
        how = {"line_buffering": stream.line_buffering, "write_through": stream.write_through}
        buffer: Any = raw if stream.write_through else io.BufferedWriter(raw)
        setattr(sys, name, io.TextIOWrapper(buffer, stream.encoding, stream.errors, **how))


def _report(program: str, mistake: str) -> None:
    """Print a mistake: from rank 0 alone while all processes of a run make the same.

    All of them check the inputs before they join a process group. A mistake after that, such as a damaged image, is
    found by one process, which prints it with its rank.
    """
    rank, mistake = os.environ.get("RANK", "0"), _cut(printable(mistake))
    distributed = sys.modules.get("torch.distributed")
    if rank == "0":
        say("error", f"{program}: {mistake}")
    elif distributed and distributed.is_available() and distributed.is_initialized():
        say("error", f"{program}, process {rank}: {mistake}")


def _cut(line: str, most: int = 2000) -> str:
    return line if len(line) <= most else f"{line[:most]} ..."


def parse(program: str, step: Any, argv: Sequence[str]) -> Any:
    """Parse `argv` into the step's `Config`; on a wrong flag or value prints one line and exits with code 2."""
    import tyro

    own, said = without_flags(argv)[0], io.StringIO()
    about = f"{step.__doc__}\n{HELP}\nExit codes:\n\n{table()}"
    wide = {} if {"-h", "--help"} & set(own) else {"COLUMNS": "2000"}  # a message that is wrapped has lost its lines
    try:
        with variables({**wide}), contextlib.redirect_stderr(said):
            return tyro.cli(step.Config, prog=program, description=about, args=own)
    except SystemExit as end:
        if end.code == ExitCode.WRONG_INPUT and said.getvalue():
            _report(program, one_line(said.getvalue(), program))
            said = io.StringIO()
        raise
    finally:
        sys.stderr.write(said.getvalue())


def _overview(program: str, summary: str, steps: Mapping[str, str]) -> str:
    width = max(map(len, steps))
    lines = [f"usage: {program} STEP [--help] ...", "", summary, ""]
    lines += [f"  {name:<{width}}  {text.split(':', 1)[1].strip()}" for name, text in steps.items()]
    lines += ["", "Exit codes of all steps:", "", table()]
    return "\n".join(lines)
