"""A run that is killed at any moment, or stopped by a signal, ends as if nothing had happened.

WINNOW_KILLS sets the number of random moments (4 by default; 20 is what the promise was checked with).
"""

import json
import os
from pathlib import Path

import numpy as np
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.processes]

KILLS = int(os.environ.get("WINNOW_KILLS", "4"))
CLOCKS = ("seconds", "images_per_second", "waited")


@pytest.fixture(scope="module")
def settings(beton, val_beton) -> dict:
    """Two epochs with everything that has a state: averaged weights, InfoBatch, dynamics, dropped paths."""
    return {
        "beton": str(beton),
        "val": str(val_beton),
        "recipe": "tiny-stateful",
        "loader": "torch",
        "workers": 1,
        "dynamics": True,
        "checkpoint_minutes": 0.0,
    }


@pytest.fixture(scope="module")
def undisturbed(fork, settings, tmp_path_factory) -> tuple[Path, list[int]]:
    """The run to compare with, and how many calls each rank made."""
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    answer = fork(2, {**settings, "out": str(out)})
    assert answer["codes"] == [0, 0]
    return out, answer["calls"]


def metrics(out: Path) -> list[dict]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in CLOCKS} for line in lines]


def assert_same(out: Path, other: Path) -> None:
    assert (out / "model.safetensors").read_bytes() == (other / "model.safetensors").read_bytes()
    assert metrics(out) == metrics(other)
    assert (out / "dynamics.npz").read_bytes() == (other / "dynamics.npz").read_bytes()
    left = sorted(p.name for p in out.iterdir())
    assert left == sorted(p.name for p in other.iterdir())  # no checkpoint, no partial file


@pytest.mark.parametrize("number", range(KILLS))
def test_a_run_killed_at_a_random_moment_ends_with_the_same_weights_and_lines(
    fork, settings, undisturbed, tmp_path, number
):
    out, calls = undisturbed
    draw = np.random.default_rng((2024, number))
    rank = int(draw.integers(2))
    # Every second kill with rare checkpoints, so that several steps are done again.
    config = {**settings, "out": str(tmp_path / "run"), "checkpoint_minutes": 0.005 * (number % 2)}
    codes = fork(2, config, kill={"rank": rank, "call": int(draw.integers(1, calls[rank]))})["codes"]
    if number % 2 == 0:
        assert codes[rank] == -9
    assert fork(2, config, count=False)["codes"] == [0, 0]
    assert_same(tmp_path / "run", out)


def test_a_killed_run_on_the_ffcv_loader_ends_as_the_undisturbed_one_on_the_torch_loader(
    fork, settings, undisturbed, tmp_path
):
    # Raw pixels, cut and padded but not resized: both loaders give the same bytes, so the runs must be the same.
    config = {**settings, "out": str(tmp_path / "run"), "loader": "ffcv", "workers": 2}
    assert fork(2, config, kill={"rank": 1, "function": "_note", "call": 6})["codes"][1] == -9
    assert fork(2, config, count=False)["codes"] == [0, 0]
    assert_same(tmp_path / "run", undisturbed[0])


WRITES = ("save_model", "_digest", "_sync", "write_epoch", "finish")


@pytest.mark.parametrize("function", WRITES if KILLS >= 20 else WRITES[:1])
def test_a_run_killed_while_it_writes_ends_with_the_same_weights_and_lines(
    fork, settings, undisturbed, tmp_path, function
):
    config = {**settings, "out": str(tmp_path / "run")}
    assert fork(2, config, kill={"rank": 0, "function": function, "call": 1})["codes"][0] == -9
    assert fork(2, config, count=False)["codes"] == [0, 0]
    assert_same(tmp_path / "run", undisturbed[0])


def test_a_signal_to_one_rank_stops_all_within_a_step_with_code_85_and_the_run_resumes(
    fork, settings, undisturbed, tmp_path
):
    out, _ = undisturbed
    config = {**settings, "out": str(tmp_path / "run"), "checkpoint_minutes": 60.0}
    # `_note` runs once in each step, between the gradients and the optimiser.
    answer = fork(2, config, signal={"rank": 1, "function": "_note", "call": 3}, log=str(tmp_path))
    assert answer["codes"] == [85, 85]
    steps = [len((tmp_path / f"{rank}.log").read_text().splitlines()) for rank in (0, 1)]
    assert steps == [3, 3]  # both ranks ended the step in which the signal came, and none began another
    assert [place.name for place in (tmp_path / "run" / "checkpoint").iterdir()] == ["000000003"]
    assert fork(2, config, count=False)["codes"] == [0, 0]
    assert_same(tmp_path / "run", out)


def test_the_noise_of_free_adversarial_training_survives_a_stop(fork, settings, tmp_path):
    outs = [tmp_path / "whole", tmp_path / "stopped"]
    configs = [{**settings, "recipe": "tiny-free", "dynamics": False, "out": str(out)} for out in outs]
    assert fork(1, configs[0], count=False)["codes"] == [0]
    assert fork(1, configs[1], signal={"rank": 0, "function": "_note", "call": 6})["codes"] == [85]
    assert fork(1, configs[1], count=False)["codes"] == [0]
    assert (outs[0] / "model.safetensors").read_bytes() == (outs[1] / "model.safetensors").read_bytes()


def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before_it(fork, settings, undisturbed, tmp_path):
    out, _ = undisturbed
    config = {**settings, "out": str(tmp_path / "run")}
    assert fork(2, config, signal={"rank": 0, "function": "_note", "call": 5})["codes"] == [85, 85]
    places = sorted((tmp_path / "run" / "checkpoint").glob("0*"))
    assert len(places) == 2  # the last two are kept
    file = places[-1] / "shared.safetensors"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    assert fork(2, config, count=False)["codes"] == [0, 0]
    assert_same(tmp_path / "run", out)


def test_two_processes_then_one_then_two_see_each_image_exactly_once_an_epoch(fork, settings, tmp_path):
    config = {**settings, "out": str(tmp_path / "run"), "recipe": "tiny", "dynamics": False}
    assert fork(2, config, signal={"rank": 0, "function": "_note", "call": 3}, log=str(tmp_path))["codes"] == [85, 85]
    # One process accumulates what were two ranks' parts: `_note` runs twice a step. Stops in step 3 + 4, in epoch 2.
    assert fork(1, config, signal={"rank": 0, "function": "_note", "call": 8}, log=str(tmp_path))["codes"] == [85]
    assert fork(2, config, log=str(tmp_path), count=False)["codes"] == [0, 0]
    lines = [line.split() for rank in (0, 1) for line in (tmp_path / f"{rank}.log").read_text().splitlines()]
    assert {line[0] for line in lines} == {"1", "2"}
    for epoch in ("0", "1", "2", "3"):
        rows = [int(row) for line in lines if line[1] == epoch for row in line[3:]]
        assert len(rows) == 256  # 300 images are four whole batches of 64
        assert len(set(rows)) == 256
    whole = tmp_path / "whole"
    whole.mkdir()
    assert fork(1, {**config, "out": str(whole / "run")}, log=str(whole), count=False)["codes"] == [0]
    order = [set(line.split()[3:]) for line in (whole / "0.log").read_text().splitlines()]
    steps: dict[int, set] = {}
    for line in lines:
        steps.setdefault(int(line[2]), set()).update(line[3:])
    assert [steps[k] for k in sorted(steps)] == order  # the same global batches as one undisturbed process
    assert json.loads((tmp_path / "run/provenance.json").read_text())["processes_changed"] == [[0, 2], [3, 1], [7, 2]]
    assert "processes_changed" not in json.loads((whole / "run/provenance.json").read_text())
