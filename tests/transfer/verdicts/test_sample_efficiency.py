from __future__ import annotations

import numpy as np
import pytest

from transfer.verdicts.estimates import RunTable
from transfer.verdicts.sample_efficiency import keep_reaching, sample_efficiency

KEEPS = {0.1: 1, 0.2: 2, 0.4: 3}  # rows of random; row 0 is the method


def runs_with(method: float, spread: float = 0.0) -> RunTable:
    """A method, and random at 0.1, 0.2 and 0.4 with 50, 60 and 70 %, over three seeds that differ by `spread`."""
    seeds = np.array([-spread, 0.0, spread])
    values = np.array([method, 0.5, 0.6, 0.7])[:, None] + seeds * np.array([[1.0], [-1.0], [1.0], [-1.0]])
    return RunTable(values, np.zeros((4, 4)), np.zeros(4))


def test_reach_is_straight_between_measured_keeps_on_a_logarithmic_axis():
    # Half way from 60 to 70 % is half way from 0.2 to 0.4 in logarithms: sqrt(0.2 * 0.4) = 0.28284.
    at = keep_reaching(np.array([0.1, 0.2, 0.4]), np.array([[0.5, 0.6, 0.7]] * 4), np.array([0.65, 0.6, 0.4, 0.8]))
    np.testing.assert_allclose(at, [0.28284, 0.2, 0.0, np.inf], atol=1e-5)


def test_reach_takes_the_first_crossing_of_a_curve_that_falls_again():
    at = keep_reaching(np.array([0.1, 0.2, 0.4, 0.8]), np.array([[0.5, 0.7, 0.6, 0.9]]), np.array([0.65]))
    # From 50 to 70 %: three quarters of the way from 0.1 to 0.2 in logarithms, 0.1 * 2 ** 0.75.
    assert at[0] == pytest.approx(0.1 * 2**0.75)


def test_efficiency_divides_by_the_keep_used():
    found = sample_efficiency(runs_with(0.65), 0, 0.1, KEEPS)
    assert found is not None
    assert found.value == pytest.approx(2.8284, abs=1e-4)
    assert (found.open, found.low_open, found.high_open) == ("", False, False)


def test_efficiency_has_an_interval_around_it():
    found = sample_efficiency(runs_with(0.65, spread=0.003), 0, 0.1, KEEPS)
    assert found is not None
    assert 2 < found.low < 2.83 < found.high < 4


def test_what_lies_beyond_the_measured_keeps_is_marked_open():
    above = sample_efficiency(runs_with(0.75, spread=0.003), 0, 0.2, KEEPS)
    below = sample_efficiency(runs_with(0.45, spread=0.003), 0, 0.2, KEEPS)
    assert above is not None
    assert below is not None
    assert (above.value, above.open, above.high_open) == (pytest.approx(2.0), "above", True)  # at least 0.4 / 0.2
    assert (below.value, below.open, below.low_open) == (pytest.approx(0.5), "below", True)  # at most 0.1 / 0.2


def test_one_keep_of_random_is_no_curve():
    assert sample_efficiency(runs_with(0.65), 0, 0.1, {0.1: 1}) is None
