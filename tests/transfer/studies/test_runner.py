"""Running a plan: order, records, failures, and the processes that do it."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from prune.runs import compute_device
from prune.runs.files import InputError
from transfer.studies import worker, worker_pool
from transfer.studies.runner import is_done, outstanding, remember, run_tasks
from transfer.studies.task import Task
from transfer.studies.worker import execute
from transfer.studies.worker_pool import InProcess, WorkerProcesses

ROOT = Path(__file__).resolve().parents[3]


def task(name, *needs, cost=1.0, command=("python", "-m", "prune", "--help")):
    return Task(0, name, "write", tuple(command), f"{name}.out", needs, {}, 0, cost)


class Fake:
    """A pool that ends tasks in the order they began, and makes what they should make."""

    def __init__(self, out, size=1, codes=None):
        self.out, self.size, self.codes = out, size, codes or {}
        self.begun: list[str] = []
        self.running: list[Task] = []
        self.closed = False

    def start(self, task):
        self.begun.append(task.name)
        self.running.append(task)
        assert len(self.running) <= self.size

    def wait(self):
        task = self.running.pop(0)
        (self.out / task.out).write_text("made")
        return [(task.name, self.codes.get(task.name, 0), 2.5)]

    def close(self):
        self.closed = True


class Silent:
    def started(self, task):
        pass

    def ended(self, task, seconds):
        pass


def run(tasks, out, **how):
    pool = Fake(out, **how)
    run_tasks(tasks, out, pool, Silent())
    assert pool.closed
    return pool.begun


CHAIN = [task("a"), task("b", "a"), task("c"), task("d", "b", "c")]


def test_a_task_runs_after_what_it_needs(tmp_path):
    begun = run(CHAIN, tmp_path, size=2)
    assert sorted(begun) == ["a", "b", "c", "d"]
    assert begun.index("a") < begun.index("b") < begun.index("d")
    assert begun[-1] == "d"


def test_the_longest_chain_of_followers_goes_first(tmp_path):
    # Costs to the end: short 1, cheap 1 + 10 = 11, dear 5.
    tasks = [task("short"), task("dear", cost=5), task("cheap", cost=1), task("after", "cheap", cost=10)]
    assert run(tasks, tmp_path)[:2] == ["cheap", "after"]


def test_what_is_done_does_not_run_again(tmp_path):
    run(CHAIN, tmp_path)
    assert run(CHAIN, tmp_path) == []
    assert run([*CHAIN, task("e", "a")], tmp_path) == ["e"]


def test_a_lost_output_and_all_that_follows_from_it_run_again(tmp_path):
    run(CHAIN, tmp_path)
    (tmp_path / "b.out").unlink()
    assert [one.name for one in outstanding(CHAIN, tmp_path)] == ["b", "d"]
    assert run(CHAIN, tmp_path) == ["b", "d"]


def test_a_changed_command_runs_again(tmp_path):
    run(CHAIN, tmp_path)
    other = [task("a", command=("python", "-m", "prune", "show")), *CHAIN[1:]]
    assert run(other, tmp_path) == ["a", "b", "d"]


def test_a_kill_between_a_repeated_task_and_its_followers_forgets_the_followers(tmp_path):
    run(CHAIN, tmp_path)
    (tmp_path / "b.out").unlink()
    with pytest.raises(InputError):
        run(CHAIN, tmp_path, codes={"d": 2})  # b has run again; d, made from the old b, is done no more
    assert run(CHAIN, tmp_path) == ["d"]


def test_a_run_directory_without_its_mark_is_not_done(tmp_path):
    one = task("a")
    (tmp_path / one.out).mkdir()
    (tmp_path / one.out / "config.json").write_text("{}")
    remember(one, tmp_path, 1.0)
    assert not is_done(one, tmp_path)
    (tmp_path / one.out / "DONE").touch()
    assert is_done(one, tmp_path)


def test_a_repetition_that_finds_all_done_does_not_shorten_the_recorded_time(tmp_path):
    remember(CHAIN[0], tmp_path, 40.0)
    remember(CHAIN[0], tmp_path, 0.2)
    assert json.loads((tmp_path / "done" / "a.json").read_text())["seconds"] == 40


@pytest.mark.parametrize(("code", "kind"), [(2, InputError), (1, SystemExit), (-9, SystemExit)])
def test_a_failing_task_stops_the_study_and_is_named(tmp_path, code, kind):
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "b.log").write_text("$ command\nprune: no such thing\n\n")
    with pytest.raises(kind) as caught:
        run(CHAIN, tmp_path, codes={"b": code})
    said = str(caught.value)
    assert f"task 2 of the plan (b) ended with exit code {code}" in said
    assert str(tmp_path / "logs" / "b.log") in said
    assert said.endswith("prune: no such thing")
    assert not (tmp_path / "d.out").exists()


def test_a_task_that_a_signal_stopped_ends_the_study_with_the_code_that_asks_for_a_restart(tmp_path, capsys):
    with pytest.raises(SystemExit) as caught:
        run(CHAIN, tmp_path, codes={"b": 85})
    assert caught.value.code == 85
    assert "task 2 of the plan (b) was stopped; the same command resumes" in capsys.readouterr().err
    assert run(CHAIN, tmp_path) == ["b", "c", "d"]


def test_stopping_a_task_stops_the_study(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(CHAIN, tmp_path, codes={"a": 130})


def test_a_command_is_completed_once_when_its_needs_are_done(tmp_path):
    seen = []
    pool = Fake(tmp_path)

    def complete(one):
        seen.append((one.name, (tmp_path / "a.out").exists()))
        return replace(one, command=(*one.command, "more")) if one.name == "b" else one

    ran = run_tasks(CHAIN, tmp_path, pool, Silent(), complete)
    assert ("b", True) in seen
    assert len(seen) == len(CHAIN)
    assert [one.command[-1] for one in ran] == ["--help", "more", "--help", "--help"]


def test_execute_keeps_all_output_in_the_log(tmp_path, capfd):
    log = tmp_path / "deep" / "a.log"
    code, _ = execute(("python", "-m", "prune", "nonsense"), log)
    assert code == 2
    assert execute(("python", "-m", "prune", "--help"), log)[0] == 0
    text = log.read_text()
    assert "$ python -m prune nonsense" in text
    assert "no step 'nonsense'" in text
    assert "usage: prune STEP" in text
    assert capfd.readouterr() == ("", "")


def test_execute_takes_a_programs_exit_and_exception_as_its_code(tmp_path, monkeypatch):
    import prune.__main__

    def broken(argv):
        raise RuntimeError("broken inside")

    monkeypatch.setattr(prune.__main__, "main", broken)
    assert execute(("python", "-m", "prune", "x"), tmp_path / "log")[0] == 1
    assert "RuntimeError: broken inside" in (tmp_path / "log").read_text()
    monkeypatch.setattr(prune.__main__, "main", lambda argv: sys.exit(85))
    assert execute(("python", "-m", "prune", "x"), tmp_path / "log")[0] == 85


def test_only_commands_of_a_plan_are_executed():
    with pytest.raises(ValueError, match="not a task of a plan"):
        execute(("rm", "-r", "everything"))


@pytest.mark.parametrize("jobs", [1, 2])
def test_real_commands_run_here_and_in_workers(tmp_path, jobs):
    tasks = [task("a"), task("b"), task("c", "a", "b")]
    for one in tasks:
        (tmp_path / one.out).touch()
    before = Path.cwd()
    pool = InProcess(tmp_path) if jobs == 1 else WorkerProcesses(tmp_path, jobs)
    run_tasks(tasks, tmp_path, pool, Silent())
    assert Path.cwd() == before
    assert all(is_done(one, tmp_path) for one in tasks)
    assert "usage: prune STEP" in (tmp_path / "logs" / "c.log").read_text()
    if jobs == 2:
        assert all(worker.returncode is not None for worker in pool._free)


def test_a_worker_that_is_killed_stops_the_study(tmp_path):
    pool = WorkerProcesses(tmp_path, 1)
    os.kill(pool._free[0].pid, signal.SIGKILL)
    with pytest.raises(SystemExit, match="exit code -9"):
        run_tasks([task("a")], tmp_path, pool, Silent())


ENDLESS = ("python", "-m", "prune", "generate", "--per-class", "200000", "--out", "endless")
PARENT = """
import sys
from pathlib import Path
from transfer.studies.task import Task
from transfer.studies.worker_pool import WorkerProcesses
if __name__ == "__main__":
    pool = WorkerProcesses(Path(sys.argv[1]), 2)
    pool.start(Task(0, "a", "write", tuple(sys.argv[2:]), "endless"))
    print(*(worker.pid for worker in [*pool._free, *pool._busy]), flush=True)
    pool.wait()
"""


def wait_for(place):
    """Return when a task that draws images for minutes has begun."""
    for _ in range(6000):
        if place.exists():
            return
        time.sleep(0.01)
    raise AssertionError(f"{place} did not come")


def test_ending_a_pool_ends_its_workers_whatever_they_do(tmp_path, monkeypatch):
    monkeypatch.setattr(worker_pool, "_PATIENCE", 0.0)
    pool = WorkerProcesses(tmp_path, 1)
    pool.start(task("a", command=ENDLESS))
    wait_for(tmp_path / "endless")
    pool.close()
    assert [worker.returncode for worker in pool._busy] == [-signal.SIGKILL]
    assert not (tmp_path / "endless" / "DONE").exists()


def test_workers_end_when_their_parent_is_killed(tmp_path):
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path), *ENDLESS], stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert parent.stdout is not None
    pids = [int(word) for word in parent.stdout.readline().split()]
    assert len(pids) == 2
    wait_for(tmp_path / "endless")
    descriptors = [os.pidfd_open(pid) for pid in pids]
    parent.kill()
    parent.wait()
    parent.stdout.close()
    try:
        for descriptor in descriptors:  # readable when the process has ended
            assert select.select([descriptor], [], [], 60)[0]
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def environment(process: int) -> dict[str, str]:
    """The variables that a process was started with; for a moment after its start the kernel shows none."""
    place, deadline = Path(f"/proc/{process}/environ"), time.monotonic() + 10
    while "WINNOW_DEVICE" not in (text := place.read_text()) and time.monotonic() < deadline:
        time.sleep(0.01)
    return dict(one.split("=", 1) for one in text.split("\0") if "=" in one)


@pytest.mark.parametrize(
    ("visible", "device", "found"),
    [
        ("3,5", "auto", ["3", "5", "3"]),
        ("GPU-7", "auto", ["GPU-7"] * 3),
        ("", "auto", [""] * 3),
        ("0", "cpu", ["0"] * 3),
    ],
)
def test_workers_share_the_gpus_that_the_study_was_given_and_its_device(tmp_path, monkeypatch, visible, device, found):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.delenv("WINNOW_DEVICE", raising=False)
    with compute_device.using(device):
        pool = WorkerProcesses(tmp_path, 3)
    try:
        given = [environment(worker.pid) for worker in pool._free]
    finally:
        pool.close()
    assert [one["CUDA_VISIBLE_DEVICES"] for one in given] == found
    assert {one["WINNOW_DEVICE"] for one in given} == {device}


@pytest.mark.parametrize(
    ("command", "gpus", "found"),
    [
        (["--recipe", "rn50-16ep", "--out", "b"], ["0", "1", "2", "3"], 4),
        (["--recipe", "rn50-16ep", "--out", "b"], ["0"], 1),
        (["--recipe", "small-rn18", "--out", "b"], ["0", "1", "2", "3"], 1),  # one GPU is enough for it
        (["--list"], ["0", "1"], 1),
    ],
)
def test_a_large_backbone_gets_all_visible_gpus_and_a_small_one_the_first(monkeypatch, command, gpus, found):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setattr(compute_device, "visible", lambda: gpus)
    assert max(1, worker._processes("pretrain", command)) == found
    assert worker._processes("prune", command) == 1
    monkeypatch.setenv("WORLD_SIZE", "8")  # Slurm has started the processes
    assert worker._processes("pretrain", command) == 1


@pytest.mark.slow
@pytest.mark.processes
def test_a_task_on_several_gpus_is_one_run_of_as_many_processes_with_its_own_exit_code(tmp_path, monkeypatch, toy):
    monkeypatch.setattr(compute_device, "visible", lambda: ["0", "1"])
    monkeypatch.setenv("WINNOW_DEVICE", "cpu")
    flags = [
        "--beton",
        str(toy.train),
        "--recipe",
        "rn18-16ep",
        "--steps",
        "1",
        "--batch-size",
        "8",
        "--loader",
        "torch",
    ]
    command = [
        "python",
        "-m",
        "pretrain",
        *flags,
        "--workers",
        "1",
        "--resolution",
        "32",
        "--out",
        str(tmp_path / "run"),
    ]
    code, _ = execute(command, tmp_path / "log")
    assert code == 0, (tmp_path / "log").read_text()
    assert json.loads((tmp_path / "run/provenance.json").read_text())["processes"] == 2
    assert "2 processes" in (tmp_path / "log").read_text()
    code, _ = execute([*command, "--seed", "5"], tmp_path / "log")
    assert code == 2
    assert "seed: 0 -> 5" in (tmp_path / "log").read_text()
