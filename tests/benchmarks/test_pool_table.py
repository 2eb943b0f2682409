"""The tables of the benchmark of mixed pools: all data at equal compute, costs, and what two seeds show."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import pool_table
from pool_arms import TARGETS, Arm

ARMS = {
    "full-0.25": Arm("all data", 1.0, 0.25),
    "full-1": Arm("all data", 1.0, 1.0),
    "gate-0.1": Arm("gate", 0.1, 1, ("--gate", "auto"), "gate"),
    "gate-0.5": Arm("gate", 0.5, 1, ("--gate", "auto"), "gate"),
    "never-run": Arm("never run", 0.5, 1, ("--gate", "auto"), "gate"),
}
IMAGES = 1000


def write_probe(place: Path, right: int) -> None:
    """A probe's files in which the first `right` images are right."""
    place.mkdir(parents=True)
    label = np.zeros(IMAGES, np.int32)
    predicted = (np.arange(IMAGES) >= right).astype(np.int32)
    np.savez(place / "predictions.npz", label=label, predicted=predicted)
    (place / "result.json").write_text(json.dumps({"value": right / IMAGES}))


@pytest.fixture
def found(tmp_path: Path) -> pool_table.Measured:
    right = {"full-0.25": 300, "full-1": 500, "gate-0.1": 350, "gate-0.5": 460}
    for name, count in right.items():
        for seed in (0, 1):
            for target in TARGETS:
                write_probe(tmp_path / f"probes/{name}-s{seed}/{target}", count + 2 * seed)
    return pool_table.measured([tmp_path], ARMS, [0, 1, 2])


def test_all_data_for_an_arms_compute_lie_on_a_line_over_the_logarithm_of_compute(found):
    # Half of all passes lies halfway between a quarter and all: 0.5 * (0.301 + 0.501) = 0.401.
    for table in found.targets.values():
        assert np.nanmean(table.values[found.equal["gate-0.5"]]) == pytest.approx(0.401)


def test_an_arm_cheaper_than_the_shortest_run_is_compared_with_that_run_and_marked(found):
    assert found.beyond == {"gate-0.1"}
    assert np.nanmean(found.mean().values[found.equal["gate-0.1"]]) == pytest.approx(0.301)
    lines = pool_table.tables(found)
    assert any("| < 10% | 2 | +5.0 [" in line for line in lines)
    assert any("| 50% | 2 | +6.0 [" in line for line in lines)


def test_an_arm_that_was_not_run_has_no_row(found):
    assert list(found.arms) == ["full-0.25", "full-1", "gate-0.1", "gate-0.5"]


def test_other_draws_are_read_by_their_seeds(found, tmp_path):
    other = tmp_path / "other"
    for name, count in {"full-0.25": 320, "full-1": 520}.items():
        for target in TARGETS:
            write_probe(other / f"probes/{name}-s3/{target}", count)
    both = pool_table.measured([tmp_path, other], ARMS, [0, 1, 2, 3])
    assert both.mean().values[0] == pytest.approx([0.300, 0.302, np.nan, 0.320], nan_ok=True)
    assert both.mean().values[2] == pytest.approx([0.350, 0.352, np.nan, np.nan], nan_ok=True)


def test_a_gate_on_thumbnails_costs_no_pretraining(found):
    assert found.costs["gate-0.1"] == (0.0, 0.1)


def test_the_speed_up_is_what_all_data_need_over_what_the_arm_costs(found):
    # All data reach 0.351 after 0.25 * 4 ** 0.25 = 0.354, a quarter of the way (two points leave a line).
    row = next(line for line in pool_table.tables(found) if line.startswith("| gate | 0.1 |"))
    assert "| 3.5 [" in row


def test_the_ends_of_the_ladder_stand_alone():
    assert pool_table.mixture(0.1, [0.25, 1.0]) == [(0.25, 1.0)]
    assert pool_table.mixture(1.5, [0.25, 1.0]) == [(1.0, 1.0)]
