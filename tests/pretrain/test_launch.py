"""Two processes under our torchrun: how they end when they are asked to, and when one of them is killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.processes]

ROOT = Path(__file__).parents[2]


def children(process: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def disturbed(beton: Path, out: Path, disturb) -> tuple[int, str]:
    """Start a training that would last for minutes, disturb it after its first checkpoint; exit code, what it said."""
    command = [sys.executable, "-m", "pretrain.launch", "--standalone", "--nproc_per_node=2", "-m", "pretrain"]
    command += ["--beton", str(beton), "--recipe", "tiny", "--epochs", "5000", "--precision", "fp32"]
    command += ["--loader", "torch", "--checkpoint-minutes", "0", "--out", str(out)]
    before = {place.name for place in out.glob("checkpoint/0*")}
    with subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    ) as process:  # fmt: skip
        try:
            end = time.monotonic() + 120
            while {place.name for place in out.glob("checkpoint/0*")} <= before and time.monotonic() < end:
                time.sleep(0.05)
            disturb(process.pid)
            said = process.communicate(timeout=120)[1]
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    return process.returncode, said


def test_a_signal_to_the_launcher_gives_85_and_a_killed_process_ends_the_other_in_one_line(beton, tmp_path):
    out = tmp_path / "run"
    code, said = disturbed(beton, out, lambda process: os.kill(process, signal.SIGTERM))
    assert code == 85, said
    assert said.count("the same command resumes") == 1
    assert "Traceback" not in said
    code, said = disturbed(beton, out, lambda process: os.kill(children(process)[1], signal.SIGKILL))
    assert code == 128 + signal.SIGKILL, said
    (line,) = [line for line in said.splitlines() if line.startswith("pretrain: ")]
    assert line.startswith("pretrain: process 1 of 2 ended; the last checkpoint is step ")
    assert line.endswith("; the same command resumes")
    assert "Traceback" not in said
