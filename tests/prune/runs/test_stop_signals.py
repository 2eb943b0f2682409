"""A signal that comes when a step has ended, while the interpreter shuts down, does not change its exit code."""

import subprocess
import sys

import pytest

STEP = """
import atexit, os, signal, sys
from prune.runs.command_line import run_step

atexit.register(lambda: os.kill(os.getpid(), signal.{name}))  # a library that tidies up when the signal comes
sys.exit(run_step("prune show", "prune.show", sys.argv[1:]))
"""


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_the_exit_code_of_a_step_that_has_ended_stays(name, tmp_path):
    command = [sys.executable, "-c", STEP.format(name=name), str(tmp_path / "missing.npz")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2, done.stderr
    assert "missing.npz" in done.stderr
    assert "Traceback" not in done.stderr
