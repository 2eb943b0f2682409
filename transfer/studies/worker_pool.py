"""Where the tasks of a plan run: in this process, or in several long-lived ones that share its cores."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Protocol

from prune.runs import compute_device
from transfer.studies.task import Task
from transfer.studies.worker import execute

_PATIENCE = 3.0  # seconds for a step to end after Ctrl-C
Finished = tuple[str, int, float]
"""Name of the task, its exit code, seconds."""


class TaskPool(Protocol):
    """Something that runs tasks."""

    size: int

    def start(self, task: Task) -> None:
        """Begin `task`; at most `size` may run at once."""
        ...

    def wait(self) -> list[Finished]:
        """Block until a task has ended."""
        ...

    def close(self) -> None:
        """End everything that still runs."""
        ...


class InProcess:
    """Runs tasks in this process, one at a time, with `out` as working directory."""

    size = 1

    def __init__(self, out: Path) -> None:
        self.out = out.resolve()
        self._task: Task | None = None

    def start(self, task: Task) -> None:
        self._task = task

    def wait(self) -> list[Finished]:
        assert self._task is not None
        task, self._task = self._task, None
        with contextlib.chdir(self.out):
            return [(task.name, *execute(task.command, Path("logs", f"{task.name}.log")))]

    def close(self) -> None:
        pass


class WorkerProcesses:
    """Runs tasks in `size` processes (`transfer.studies.worker`), each with its share of the cores.

    Two processes of one thread get more done than one of two threads: the barriers of a parallel region spin while
    they wait, which costs most when the machine has other work.
    """

    def __init__(self, out: Path, size: int) -> None:
        self.size = size
        self._free: list[subprocess.Popen[str]] = []
        self._busy: dict[subprocess.Popen[str], str] = {}
        self._answers = selectors.DefaultSelector()
        cores = sorted(os.sched_getaffinity(0))
        share = max(1, len(cores) // size)
        root = str(Path(__file__).resolve().parents[2])
        paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {**os.environ, "OMP_NUM_THREADS": str(share), "PYTHONPATH": os.pathsep.join(paths)}
        environment["PYTHONSAFEPATH"] = "1"  # the study's directory is no place to import from
        environment["WINNOW_DEVICE"] = compute_device.asked()
        gpus = compute_device.visible()
        for k in range(size):
            if gpus:  # one each, in turns: otherwise all workers would take the first
                environment["CUDA_VISIBLE_DEVICES"] = gpus[k % len(gpus)]
            # Decoders and torch use as many threads as they have cores.
            own = ",".join(str(cores[(k * share + i) % len(cores)]) for i in range(share))
            worker = subprocess.Popen(
                [sys.executable, "-m", "transfer.studies.worker", own],
                cwd=out,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                start_new_session=True,  # Ctrl-C reaches only us, and we end our workers in order
            )
            assert worker.stdout is not None
            self._answers.register(worker.stdout, selectors.EVENT_READ, worker)
            self._free.append(worker)

    def start(self, task: Task) -> None:
        worker = self._free.pop(0)
        self._busy[worker] = task.name
        request = {"command": list(task.command), "log": f"logs/{task.name}.log"}
        assert worker.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it died: `wait` sees the end of its answers and reports it
            worker.stdin.write(json.dumps(request) + "\n")
            worker.stdin.flush()

    def wait(self) -> list[Finished]:
        found: list[Finished] = []
        while not found:
            for key, _ in self._answers.select():
                worker = key.data
                name = self._busy.pop(worker, None)
                answer = worker.stdout.readline()
                if not answer:  # killed, or out of memory
                    self._answers.unregister(worker.stdout)
                    found += [(name or "an idle worker", worker.wait() or 1, 0.0)]
                    continue
                facts = json.loads(answer)
                self._free.append(worker)
                assert name is not None
                found.append((name, facts["code"], facts["seconds"]))
        return found

    def close(self) -> None:
        for worker in self._busy:
            _signal(worker, signal.SIGINT)  # lets a step remove what it has half-written
        deadline, waiting = time.monotonic() + _PATIENCE, set(self._busy)
        while waiting and (left := deadline - time.monotonic()) > 0:
            for key, _ in self._answers.select(left):
                waiting.discard(key.data)
                self._answers.unregister(key.fileobj)
        for worker in (workers := [*self._free, *self._busy]):
            _signal(worker, signal.SIGKILL)
        for worker in workers:
            worker.wait()
            for stream in (worker.stdin, worker.stdout):
                assert stream is not None
                with contextlib.suppress(BrokenPipeError):
                    stream.close()
        self._answers.close()


def _signal(worker: subprocess.Popen[str], number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(worker.pid, number)
