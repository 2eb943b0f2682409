"""A long-lived process that runs tasks of a study's plan: modules are imported and code is compiled only once.

    python -m transfer.studies.worker 0,1    (started by `transfer study`; JSON lines over stdin and stdout)

Each request {"command", "log"} is answered by {"code", "seconds"}. A task's output goes to its log. When the parent
process ends or closes our stdin, this process and all that it started end at once.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from prune.runs import compute_device
from prune.runs.console_log import LOG_JSON, QUIET, variables
from prune.runs.exit_codes import ExitCode

_PROGRAMS = ("prune", "pretrain", "transfer")


def execute(command: Sequence[str], log: Path | None = None) -> tuple[int, float]:
    """Run `python -m PROGRAM ...` in this process.

    Parameters
    ----------
    command : sequence of str
        As in the plan.
    log : Path, optional
        File for everything written to standard output and error, also by libraries and child processes. It is appended
        to, so that a resumed task keeps its history.

    Returns
    -------
    int
        Exit code: the step's own, or 1 after an exception, whose traceback is in the log.
    float
        Seconds.
    """
    begin = time.monotonic()
    # What --quiet and --log-json ask for is about the study's own output; a task's log is for people.
    plain = variables({QUIET: None, LOG_JSON: None}) if log else contextlib.nullcontext()
    with plain, _logged(log, " ".join(command)) if log else contextlib.nullcontext(), _own_signals():
        code = _call(command)
    _clean()
    return code, time.monotonic() - begin


def _call(command: Sequence[str]) -> int:
    python, flag, program, *arguments = command
    if (python, flag) != ("python", "-m") or program not in _PROGRAMS:
        raise ValueError(f"not a task of a plan: {' '.join(command)}")
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # a worker between two tasks
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        if (count := _processes(program, arguments)) > 1:
            return _launched(count, program, arguments)
        return importlib.import_module(f"{program}.__main__").main(arguments) or 0
    except SystemExit as stop:
        if isinstance(stop.code, int) or stop.code is None:
            return stop.code or 0
        print(stop.code, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return int(ExitCode.INTERRUPTED)
    except Exception:
        traceback.print_exc()
        return 1


def _processes(program: str, arguments: Sequence[str]) -> int:
    """Processes for a task: one for each visible GPU where a large network is trained, else this one alone."""
    if program != "pretrain" or "--recipe" not in arguments or os.environ.get("WORLD_SIZE", "1") != "1":
        return 1
    from pretrain.recipes import RECIPES

    recipe = RECIPES.get(arguments[list(arguments).index("--recipe") + 1])
    # Recipes that compile are those of ImageNet's size; smaller networks train no faster on several GPUs.
    return len(compute_device.visible()) if recipe and recipe.compile else 1


def _launched(count: int, program: str, arguments: Sequence[str]) -> int:
    """Run a program as so many processes of this machine; its exit code."""
    command = [sys.executable, "-m", "pretrain.launch", "--standalone", f"--nproc_per_node={count}", "-m", program]
    paths = [str(Path(__file__).resolve().parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
    own = {"WINNOW_DEVICE": compute_device.asked(), "PYTHONPATH": os.pathsep.join(paths), "PYTHONSAFEPATH": "1"}
    process = subprocess.Popen([*command, *arguments], env={**os.environ, **own})
    try:
        return process.wait()
    finally:  # interrupted, or told to stop: they save a checkpoint first
        if process.poll() is None:
            process.terminate()
            process.wait()


@contextlib.contextmanager
def _logged(log: Path, head: str) -> Iterator[None]:
    """Send file descriptors 1 and 2, and Python's own streams, to `log`."""
    log.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(1), os.dup(2)]
    try:
        with open(log, "a", encoding="utf-8", buffering=1) as file:
            print(f"$ {head}", file=file)
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
            with contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
                yield
    finally:
        for descriptor, old in enumerate(kept, 1):
            os.dup2(old, descriptor)
            os.close(old)


@contextlib.contextmanager
def _own_signals() -> Iterator[None]:
    """Restore the signal handlers that a step replaces by its own."""
    names = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP") if hasattr(signal, name)]
    kept = [(name, signal.getsignal(name)) for name in names]
    try:
        yield
    finally:
        for name, handler in kept:
            if handler is not None:
                signal.signal(name, handler)


def _clean() -> None:
    """Free the task's memory, and undo changes to the number of threads, which FFCV makes."""
    gc.collect()
    torch = sys.modules.get("torch")
    if (compiler := sys.modules.get("torch._dynamo")) is not None:
        compiler.reset()  # graphs of a network that no later task has
    if torch is not None:
        threads = os.environ.get("OMP_NUM_THREADS", "")
        if threads.isdecimal():
            torch.set_num_threads(int(threads))
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _requests(stream: int) -> queue.Queue[dict[str, Any]]:
    """Read requests on a thread, so that the end of our parent is noticed while a task runs."""
    found: queue.Queue[dict[str, Any]] = queue.Queue()

    def receive() -> None:
        with open(stream, encoding="utf-8") as lines:
            for line in lines:
                found.put(json.loads(line))
        # We lead our process group: what this task started ends with us.
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=receive, daemon=True).start()
    return found


def main() -> None:
    """Answer requests until the parent ends; the first argument lists the cores to use, as `0,1`."""
    if len(sys.argv) > 1:  # before any library counts them
        os.sched_setaffinity(0, {int(core) for core in sys.argv[1].split(",")})
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if os.getpgid(0) != os.getpid():
        os.setpgid(0, 0)
    asked, answers = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(nothing, 1)
    os.set_inheritable(asked, False)
    requests = _requests(asked)
    with open(answers, "w", encoding="utf-8", buffering=1) as reply:
        while True:
            request = requests.get()
            code, seconds = execute(request["command"], Path(request["log"]))
            print(json.dumps({"code": code, "seconds": seconds}), file=reply, flush=True)


if __name__ == "__main__":
    main()
