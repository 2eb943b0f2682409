"""The check of a GPU runs on a CPU too, so that it never rots; and it never calls passed what it did not check."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def report_module():
    sys.path.insert(0, str(ROOT))
    try:
        yield importlib.import_module("tests.gpu_check.report")
    finally:
        sys.path.remove(str(ROOT))


def check(*words: str) -> subprocess.CompletedProcess[str]:
    """Run the check as a user does, with one thread of torch: small networks gain nothing by more."""
    command = [sys.executable, "-m", "tests.gpu_check", "--device", "cpu", "--tiny", *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=570)


@pytest.mark.slow
@pytest.mark.processes
def test_all_parts_run_on_a_cpu_and_what_needs_a_gpu_is_not_called_passed(tmp_path):
    done = check()
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    rows = [line.split(None, 1) for line in done.stdout.splitlines()]
    parts = ("facts", "data", "loader", "step", "variants", "resume", "numbers", "features", "transfer")
    for part in parts:
        assert any(row[:1] == [part] and " passed" in row[1] for row in rows), part
    assert "fp16" in done.stdout
    unchecked = [line for line in done.stdout.splitlines() if " not checked " in line]
    assert {"needs CUDA", "nothing is compiled here"} <= {line.split(" not checked ")[1] for line in unchecked}


@pytest.mark.slow
def test_it_starts_where_little_is_installed_and_lists_what_is_missing(tmp_path):
    hidden = ["cv2", "scipy", "faiss", "ffcv", "numba", "llvmlite", "rich", "onnx", "onnxruntime", "onnxscript"]
    done = check("--out", str(tmp_path), "--parts", "facts", "features", "--without", *hidden)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    found = json.loads((tmp_path / "check.json").read_text())
    assert set(found["seconds"]) == {"facts", "data", "features"}
    kinds = {(result["part"], result["name"]): result["kind"] for result in found["results"]}
    for name in ("cv2", "scipy", "ffcv", "onnx"):
        assert kinds["facts", name] == "not checked"
    assert kinds["features", "every image has features"] == "passed"


def test_a_failed_check_an_error_and_a_missing_module_are_three_things(report_module, tmp_path, capsys):
    report = report_module.Report(tmp_path)

    def work() -> None:
        report.must("holds", True)
        report.speed("slow", 1.0, "images/s", goal=100.0)
        with report.trying("imports"):
            raise ModuleNotFoundError("no faiss", name="faiss")
        with report.trying("ends"):
            raise SystemExit(2)

    report.run("first", 30, work)
    assert report.failed
    kinds = {result.name: result.kind for result in report.results}
    assert kinds == {"holds": "passed", "slow": "speed", "imports": "not checked", "ends": "FAILED"}
    assert "goal 100: missed" in report.table()
    assert json.loads((tmp_path / "check.json").read_text())["results"][2]["text"] == "faiss is not installed"


def test_a_missed_speed_fails_nothing_and_a_part_beyond_its_time_does(report_module, tmp_path, capsys):
    report = report_module.Report(tmp_path)
    report.run("slow", 30, lambda: report.speed("slow", 1.0, "images/s", goal=100.0))
    assert not report.failed
    report.run("endless", 0.2, lambda: time.sleep(20))
    assert report.failed
    assert report.results[-1].text == "took longer than 0 s"
    assert list(report.seconds) == ["slow", "endless"]


def test_a_machine_whose_gpu_cannot_be_used_is_refused_in_one_line():
    command = [sys.executable, "-m", "tests.gpu_check", "--device", "auto", "--tiny"]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "97"}  # there is no such card
    environment.pop("WINNOW_DEVICE", None)
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2, done.stderr
    assert "was given a GPU, which cannot be used" in done.stderr
    assert len(done.stderr.splitlines()) == 1
