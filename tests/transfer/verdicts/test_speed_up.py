from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transfer.verdicts import estimates
from transfer.verdicts.estimates import RunTable
from transfer.verdicts.speed_up import (
    compute_per_use,
    compute_reaching,
    isotonic,
    speed_up,
    speed_up_curve,
    speed_up_within,
)

FULL = {1.0: 0, 2.0: 1, 4.0: 2}
"""Rows 0 to 2: all data at compute 1, 2 and 4, with 50, 60 and 70 %: a straight line over the logarithm."""


def runs_of(*methods: float, spread: float = 0.0, full: tuple[float, ...] = (0.5, 0.6, 0.7)) -> RunTable:
    """All data, then conditions, over three seeds that differ by `spread` and in no common direction."""
    means = np.array([*full, *methods])[:, None]
    signs = np.array([[1, 0, -1], [-1, 1, 0], [0, -1, 1]])[np.arange(len(means)) % 3]
    return RunTable(means + spread * signs, np.zeros((len(means),) * 2), np.zeros(len(means)))


def test_a_curve_that_falls_is_levelled_worked_by_hand():
    # 3 and 1 fall: their mean is 2; the 2 that follows does not fall below it. 4, 3, 2 fall throughout: 3.
    np.testing.assert_allclose(isotonic(np.array([[3.0, 1, 2, 5], [4.0, 3, 2, 9]])), [[2, 2, 2, 5], [3, 3, 3, 9]])


@given(st.lists(st.floats(0, 1), min_size=2, max_size=7))
def test_a_levelled_curve_never_falls_keeps_its_mean_and_is_left_alone_when_levelled_again(values: list[float]):
    level = isotonic(np.array([values]))
    assert np.all(np.diff(level) >= -1e-12)
    assert level.mean() == pytest.approx(np.mean(values))
    np.testing.assert_allclose(isotonic(level), level, atol=1e-12)


def test_two_lengths_are_joined_by_a_straight_line_over_the_logarithm_of_compute():
    # A quarter of the way from 50 to 70 % is a quarter of the way from 1 to 16 in logarithms: 16 ** 0.25 = 2.
    at = compute_reaching(np.array([1.0, 16.0]), np.array([[0.5, 0.7]] * 4), np.array([0.55, 0.5, 0.7, 0.6]))
    np.testing.assert_allclose(at, [2, 1, 16, 4])


def test_between_points_on_a_line_the_curve_is_that_line():
    at = compute_reaching(np.array([1.0, 2.0, 4.0]), np.array([[0.5, 0.6, 0.7]] * 2), np.array([0.55, 0.65]))
    np.testing.assert_allclose(at, [2**0.5, 2**1.5])


def test_beyond_the_measured_accuracies_no_compute_is_made_up():
    at = compute_reaching(np.array([1.0, 4.0]), np.array([[0.5, 0.7]] * 2), np.array([0.49, 0.71]))
    assert at.tolist() == [0.0, np.inf]


def test_on_a_plateau_the_least_compute_counts():
    at = compute_reaching(np.array([1.0, 2.0, 4.0, 8.0]), np.array([[0.5, 0.6, 0.6, 0.7]]), np.array([0.6]))
    assert at[0] == pytest.approx(2)


def test_a_curve_that_flattens_is_followed_more_closely_than_by_straight_lines():
    def accuracy(compute):
        return 0.6 - 0.1 * compute**-0.5

    lengths, wanted = np.array([0.125, 0.25, 0.5, 1.0]), np.array([0.18, 0.35, 0.7])
    at = compute_reaching(lengths, np.tile(accuracy(lengths), (3, 1)), accuracy(wanted))
    straight = np.exp(np.interp(accuracy(wanted), accuracy(lengths), np.log(lengths)))
    assert np.all(np.abs(at / wanted - 1) < np.abs(straight / wanted - 1))
    np.testing.assert_allclose(at, wanted, rtol=0.03)


@given(st.lists(st.floats(0, 1), min_size=3, max_size=3), st.floats(0, 1), st.floats(0, 1))
def test_a_higher_accuracy_never_needs_less_compute(curve: list[float], one: float, other: float):
    low, high = compute_reaching(np.array([1.0, 3.0, 9.0]), np.array([curve] * 2), np.array(sorted((one, other))))
    assert low <= high + 1e-9


def test_speed_up_divides_by_everything_the_condition_costs():
    # 65 % takes all data 2 ** 1.5 = 2.83. The condition: 0.6 once, shared by the uses, and 0.4 each time.
    for uses, cost in ((1, 1.0), (3, 0.6), (10, 0.46)):
        assert compute_per_use(0.6, 0.4, uses) == pytest.approx(cost)
        found = speed_up(runs_of(0.65), 3, compute_per_use(0.6, 0.4, uses), FULL)
        assert found is not None
        assert found.value == pytest.approx(2**1.5 / cost)
        assert (found.open, found.low_open, found.high_open) == ("", False, False)


def test_without_scatter_the_interval_is_the_value():
    found = speed_up(runs_of(0.65), 3, 1.0, FULL)
    assert found is not None
    assert (found.low, found.high) == (pytest.approx(2**1.5), pytest.approx(2**1.5))


def test_one_seed_of_scatter_in_images_is_worked_by_hand():
    # Only the condition's images vary, with a standard error of 1 point: 65 % +- 1.96 points. On the line, 10 points
    # are a factor of 2, so the limits are 2 ** (1.5 -+ 0.196).
    images = np.zeros((4, 4))
    images[3, 3] = 0.01**2
    runs = RunTable(np.array([[0.5], [0.6], [0.7], [0.65]]), images, np.zeros(4))
    found = speed_up(runs, 3, 1.0, FULL)
    assert found is not None
    assert found.low == pytest.approx(2**1.304, rel=0.01)
    assert found.high == pytest.approx(2**1.696, rel=0.01)


def test_scatter_of_all_data_widens_the_interval_as_that_of_the_condition_does():
    quiet = RunTable(np.array([[0.5] * 3, [0.6] * 3, [0.7] * 3, [0.65] * 3]), np.zeros((4, 4)), np.zeros(4))
    for row in (1, 2, 3):
        floor = np.zeros(4)
        floor[row] = 0.01**2
        values = quiet.values.copy()
        values[0] += [1e-6, 0, -1e-6]  # so that there is something to draw
        found = speed_up(RunTable(values, quiet.images, floor), 3, 1.0, FULL)
        assert found is not None
        assert found.low < 2**1.5 * 0.99
        assert found.high > 2**1.5 * 1.01


def test_outside_the_measured_lengths_a_speed_up_is_a_bound():
    above, below = (speed_up(runs_of(value), 3, 0.5, FULL) for value in (0.8, 0.4))
    assert above is not None
    assert below is not None
    assert (above.value, above.open, above.low, above.high_open) == (8.0, "above", 8.0, True)  # at least 4 / 0.5
    assert (below.value, below.open, below.high, below.low_open) == (2.0, "below", 2.0, True)  # at most 1 / 0.5


def test_a_bound_keeps_the_limit_that_was_measured():
    found = speed_up(runs_of(0.701, spread=0.004), 3, 1.0, FULL)
    assert found is not None
    assert (found.value, found.open, found.high_open, found.low_open) == (4.0, "above", True, False)
    assert 2 < found.low < 4


def test_no_speed_up_without_a_curve_a_cost_or_a_shared_seed():
    runs = runs_of(0.65)
    assert speed_up(runs, 3, 1.0, {4.0: 2}) is None
    assert speed_up(runs, 3, 0.0, FULL) is None
    assert speed_up(runs, 2, 1.0, FULL) is None
    nan = float("nan")
    values = np.array([[0.5, nan], [0.6, nan], [nan, 0.65]])
    assert speed_up(RunTable(values, np.zeros((3, 3)), np.zeros(3)), 2, 1.0, {1.0: 0, 2.0: 1}) is None


def test_within_some_points_the_cheapest_condition_that_gets_there_counts():
    # All data end at 70 %. Within 5 points: 65 %, which takes them 2 ** 1.5. Rows 4 and 5 get there, row 5 for less.
    runs = runs_of(0.60, 0.69, 0.66)
    found = speed_up_within(runs, {3: 0.2, 4: 1.0, 5: 0.8}, FULL, 0.05)
    assert found is not None
    assert found.condition == 5
    assert found.speed_up.value == pytest.approx(2**1.5 / 0.8)
    assert found.speed_up.low == pytest.approx(2**1.5 / 0.8)


def test_within_some_points_nothing_is_said_where_no_condition_gets_there():
    assert speed_up_within(runs_of(0.60), {3: 0.2}, FULL, 0.05) is None


def test_a_condition_that_gets_there_by_luck_alone_has_no_lower_limit():
    found = speed_up_within(runs_of(0.651, spread=0.01), {3: 1.0}, FULL, 0.05)
    assert found is not None
    assert found.speed_up.low == 0
    assert found.speed_up.high > 2


def test_the_interval_within_some_points_knows_that_another_condition_may_be_the_cheapest():
    near = speed_up_within(runs_of(0.651, 0.69, spread=0.004), {3: 0.5, 4: 2.0}, FULL, 0.05)
    assert near is not None
    assert near.condition == 3
    assert near.speed_up.low < 2**1.5 / 2.0 * 1.1  # the dear one, in draws where the cheap one misses
    assert near.speed_up.high > 2**1.5 / 0.5 * 0.95


def test_the_curve_of_speed_up_leaves_out_what_costs_more_and_is_no_better():
    runs = runs_of(0.55, 0.65, 0.64, 0.75)
    curve = speed_up_curve(runs, {3: 0.25, 4: 0.5, 5: 1.0, 6: 2.0}, FULL)
    assert [point.condition for point in curve] == [3, 4, 6]
    assert [point.accuracy for point in curve] == pytest.approx([0.55, 0.65, 0.75])
    assert [point.speed_up.value for point in curve] == pytest.approx([2**0.5 / 0.25, 2**1.5 / 0.5, 4 / 2.0])
    assert [point.speed_up.open for point in curve] == ["", "", "above"]


def accuracy_of_all_data(compute: np.ndarray | float) -> np.ndarray | float:
    return 0.62 - 0.12 * np.asarray(compute) ** -0.45


def simulated(rng: np.random.Generator, truth: np.ndarray, seeds: int, n: int = 1000) -> RunTable:
    """Runs of known accuracies; seeds and test images vary, and some runs vary more from seed to seed than others."""
    from scipy.stats import norm

    ease, together = rng.normal(0, 1, n), rng.normal(0, 0.02, seeds)
    right = []
    for one in truth:
        own, moved = rng.normal(0, 0.3, n), rng.uniform(0.03, 0.09)
        level = norm.ppf(one) * np.sqrt(1 + 0.3**2 + 0.5**2 + moved**2 + 0.02**2)
        draws = [rng.normal(0, 0.5, n) + together[s] + moved * rng.standard_normal() for s in range(seeds)]
        right.append([ease + own + draw > -level for draw in draws])
    return estimates.run_table(np.array([[one.mean() for one in runs] for runs in right]), right, n)


@pytest.mark.parametrize("seeds", [3, 5])
def test_intervals_of_95_percent_cover_the_true_speed_up_in_93_to_97_percent(monkeypatch, seeds: int):
    monkeypatch.setattr(estimates, "DRAWS", 1000)
    rng = np.random.default_rng(seeds)
    lengths = np.array([0.125, 0.25, 0.5, 1.0])
    covered = []
    for _ in range(200):
        for needed in (0.2, 0.3, 0.45):  # the compute that all data truly need
            truth = np.array([*accuracy_of_all_data(lengths), accuracy_of_all_data(needed)])
            runs = simulated(rng, truth, seeds)
            found = speed_up(runs, 4, 0.1, {compute: row for row, compute in enumerate(lengths)})
            assert found is not None
            above = found.low_open or found.low <= needed / 0.1
            covered.append(above and (found.high_open or needed / 0.1 <= found.high))
    assert 0.93 <= np.mean(covered) <= 0.97


@pytest.mark.parametrize("seeds", [3, 5])
def test_where_a_condition_comes_within_some_points_the_interval_covers_the_truth_in_at_least_93_percent(
    monkeypatch, seeds: int
):
    monkeypatch.setattr(estimates, "DRAWS", 500)
    rng = np.random.default_rng(seeds)
    lengths = np.array([0.125, 0.25, 0.5, 1.0])
    # Within 2 points of 0.62 - 0.12 all data are where 0.12 * compute ** -0.45 is 0.14.
    truth = (0.14 / 0.12) ** (-1 / 0.45) / 0.1
    covered = []
    for _ in range(150):
        runs = simulated(rng, np.array([*accuracy_of_all_data(lengths), 0.52]), seeds)
        found = speed_up_within(runs, {4: 0.1}, {compute: row for row, compute in enumerate(lengths)}, 0.02)
        if found is not None:
            one = found.speed_up
            covered.append((one.low_open or one.low <= truth) and (one.high_open or truth <= one.high))
    assert len(covered) > 140
    assert np.mean(covered) >= 0.93
