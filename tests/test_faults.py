"""A few of the disturbances of tests/benchmarks/faults.py: after them the same command ends as if nothing had been."""

import importlib.util
import sys
from pathlib import Path

import pytest

_SPEC = importlib.util.spec_from_file_location("faults", Path(__file__).parent / "benchmarks/faults.py")
faults = importlib.util.module_from_spec(_SPEC)
sys.modules["faults"] = faults  # dataclasses look their module up
_SPEC.loader.exec_module(faults)

pytestmark = [pytest.mark.slow, pytest.mark.processes]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faults")
    faults.prepare(folder, ("data", "x.beton"))
    return folder


@pytest.fixture(scope="module")
def writing(inputs):
    return faults.undisturbed("prune write", inputs)


@pytest.fixture(scope="module")
def training(inputs):
    return faults.undisturbed("pretrain", inputs)


@pytest.mark.parametrize(("fault", "share"), [("full", 0.5), ("TERM", 0.8), ("INT", 0.8), ("HUP", 0.8)])
def test_a_disturbed_beton_is_written_by_the_same_command_and_nothing_is_left(inputs, writing, fault, share, tmp_path):
    mount = faults.can_mount(tmp_path / "tmpfs")
    found = faults.disturbed("prune write", fault, inputs, writing, share, mount=mount)
    assert found.wrong == "", found


@pytest.mark.parametrize(("fault", "share"), [("full", 0.6), ("INT", 0.9)])
def test_a_disturbed_training_resumes_to_the_same_bytes(inputs, training, fault, share, tmp_path):
    mount = faults.can_mount(tmp_path / "tmpfs")
    found = faults.disturbed("pretrain", fault, inputs, training, share, mount=mount)
    assert found.wrong == "", found


def test_without_a_disk_of_its_own_a_limit_on_files_shows_the_same(inputs, writing):
    found = faults.disturbed("prune write", "full", inputs, writing, 0.5, mount=False)
    assert (found.code, found.wrong) == (2, "")
    assert "ulimit" in found.last


def test_an_output_that_differs_or_a_file_that_is_left_is_found(tmp_path):
    (tmp_path / "a.bin").write_bytes(b"1")
    wanted = faults.content(tmp_path)
    (tmp_path / ".b.partial").write_bytes(b"")
    assert "left over, first .b.partial" in faults.difference(faults.content(tmp_path), wanted)
    (tmp_path / ".b.partial").unlink()
    (tmp_path / "a.bin").write_bytes(b"2")
    assert faults.difference(faults.content(tmp_path), wanted) == "a.bin differs"
