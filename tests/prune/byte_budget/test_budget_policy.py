"""The policies of a byte budget: which levels each may use, and that predicted bytes are counted before they count."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from prune.byte_budget.allocation import DROPPED
from prune.byte_budget.budget_policy import StorageOptions, allocate_by_policy, allocate_by_true_bytes
from prune.runs.files import InputError

OPTIONS = StorageOptions(
    level=np.array([0, 50, 10], np.uint8),
    nbytes=np.array([[100, 40, 10], [100, 60, 20]]),
    value=np.array([[1.0, 0.9, 0.3], [1.0, 0.5, 0.4]], np.float32),
    labels=np.array([0, 0]),
    floors=None,
    order=np.array([0, 1]),
)


def test_each_policy_uses_its_own_levels():
    # 60 bytes. Adaptive: 40 + 20 bytes are worth 0.9 + 0.4. Uniform: level 10 twice is worth 0.7, level 50 once 0.9.
    found, columns = allocate_by_policy(OPTIONS, 60, "adaptive")
    assert (columns, found.level.tolist(), found.nbytes) == ([0, 1, 2], [1, 2], 60)
    found, columns = allocate_by_policy(OPTIONS, 60, "uniform")
    assert (columns, found.level.tolist(), found.nbytes) == ([1], [0, DROPPED], 40)
    found, columns = allocate_by_policy(OPTIONS, 60, "uniform", 10)
    assert (columns, found.level.tolist(), found.nbytes) == ([2], [0, 0], 30)
    found, columns = allocate_by_policy(OPTIONS, 100, "drop")
    assert (columns, found.level.tolist()) == ([0], [0, DROPPED])


def test_a_quality_that_was_not_measured_is_refused():
    with pytest.raises(InputError, match="--quality 33: measured are 0 10 50"):
        allocate_by_policy(OPTIONS, 60, "uniform", 33)


def test_a_uniform_quality_at_which_the_floors_do_not_fit_gives_way_to_another():
    # Both samples must stay in 30 bytes: only level 10 fits.
    found, columns = allocate_by_policy(replace(OPTIONS, floors=np.array([2])), 30, "uniform")
    assert (columns, found.nbytes) == ([2], 30)
    with pytest.raises(InputError, match="the floors alone need"):
        allocate_by_policy(replace(OPTIONS, floors=np.array([2])), 29, "uniform")


def test_predicted_bytes_are_counted_until_all_that_is_chosen_is_true():
    true = np.array([[100, 70, 10], [100, 60, 20]])  # sample 0 at level 50 was predicted at 40
    known = np.array([[True, False, False], [True, True, True]])
    asked = []

    def count(rows, levels):
        asked.append(list(zip(rows.tolist(), levels.tolist())))
        return true[rows, [OPTIONS.level.tolist().index(level) for level in levels]]

    found, columns, nbytes = allocate_by_true_bytes(OPTIONS, 60, "adaptive", None, known, count)
    kept = np.flatnonzero(found.level >= 0)
    assert true[kept, np.array(columns)[found.level[kept]]].sum() == found.nbytes <= 60
    assert asked[0] == [(0, 50)]
    assert sum(map(len, asked)) == len({pair for pairs in asked for pair in pairs})  # nothing is encoded twice
    assert nbytes[0].tolist() == [100, 70, 10]
    assert OPTIONS.nbytes[0, 1] == 40  # the predictions of the caller are unchanged


def test_predictions_that_are_never_right_end_in_a_message():
    ladder = StorageOptions(
        level=np.arange(30, dtype=np.uint8),
        nbytes=np.full((1, 30), 10) - np.arange(30)[None] % 2,
        value=np.linspace(1, 0.5, 30, dtype=np.float32)[None],
        labels=np.array([0]),
        floors=None,
        order=np.array([0]),
    )
    with pytest.raises(InputError, match="too far from the true ones"):
        allocate_by_true_bytes(
            ladder, 20, "adaptive", None, np.zeros((1, 30), bool), lambda rows, _: np.full(len(rows), 1000)
        )
