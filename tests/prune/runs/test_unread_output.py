"""A step outlives the readers of its output: it does all of its work and ends with its own exit code."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
STEP = '''
"""A step that reports, writes a file, and reports again."""

from dataclasses import dataclass
from pathlib import Path

from prune.runs.exit_codes import AnswerIsNo
from prune.runs.files import note


@dataclass(frozen=True)
class Config:
    out: Path
    well: bool = False


def run(config: Config) -> None:
    for _ in range(1000):
        note("still at work")
        print("a line of the result" * 10)
    config.out.write_text("whole")
    if not config.well:
        print("no")
        raise AnswerIsNo
'''
MAIN = "import sys; from prune.runs.command_line import run_step; sys.exit(run_step('p', 'reporting', sys.argv[1:]))"


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(("words", "code"), [(["--well"], 0), ([], 1)])
def test_a_step_whose_reader_left_finishes_and_ends_with_its_own_code(tmp_path, words, code, unbuffered):
    (tmp_path / "reporting.py").write_text(STEP)
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}", "PYTHONUNBUFFERED": unbuffered}
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-c", MAIN, "--out", str(tmp_path / "x"), *words]
    done = subprocess.run(command, stdout=writer, stderr=writer, env=environment, timeout=60)
    os.close(writer)
    assert done.returncode == code
    assert (tmp_path / "x").read_text() == "whole"


def test_what_is_read_is_whole_and_in_order(tmp_path):
    (tmp_path / "reporting.py").write_text(STEP)
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    command = [sys.executable, "-c", MAIN, "--out", str(tmp_path / "x")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)
    assert done.stderr == "still at work\n" * 1000
    assert done.stdout == ("a line of the result" * 10 + "\n") * 1000 + "no\n"


@pytest.mark.parametrize("words", [["prune"], ["prune", "select"], ["pretrain", "--list"], ["winnow"]])
def test_a_help_text_that_nobody_reads_is_no_error(words):
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", *words, *([] if "--list" in words else ["--help"])]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, cwd=ROOT, timeout=60)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")
