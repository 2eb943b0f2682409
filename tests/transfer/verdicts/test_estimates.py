from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transfer.verdicts import estimates
from transfer.verdicts.estimates import (
    Estimate,
    RunTable,
    holm,
    mean_of_targets,
    paired_difference,
    run_table,
    seed_variance,
    verdict_against_full,
)


def of_seeds(*values: list[float]) -> RunTable:
    """Conditions that differ by seed alone: the test images bring no variance."""
    c = len(values)
    return RunTable(np.array(values), np.zeros((c, c)), np.zeros(c))


def test_a_difference_over_three_seeds_worked_by_hand():
    # Paired differences .71-.70, .72-.70, .75-.72 = .01, .02, .03: mean .02, standard deviation .01.
    # Standard error .01 / sqrt(3) = .0057735; t(2 degrees, 97.5 %) = 4.3027: .02 +- .024841.
    # t = .02 / .0057735 = 3.4641, two-sided p with 2 degrees of freedom: .0742.
    found = paired_difference(of_seeds([0.71, 0.72, 0.75], [0.70, 0.70, 0.72]), 0, 1)
    assert found is not None
    assert found.value == pytest.approx(0.02)
    assert found.low == pytest.approx(0.02 - 0.024841, abs=0.001)
    assert found.high == pytest.approx(0.02 + 0.024841, abs=0.001)
    assert found.p == pytest.approx(0.0742, abs=0.004)
    assert found.seeds == 3


def test_two_seeds_alone_give_the_interval_of_one_degree_of_freedom():
    # Differences .01 and .03: mean .02, standard error .01; t(1 degree, 97.5 %) = 12.706: half width .127.
    found = paired_difference(of_seeds([0.71, 0.75], [0.70, 0.72]), 0, 1)
    assert found is not None
    assert (found.high - found.low) / 2 == pytest.approx(0.127, rel=0.1)


def test_seed_variance_is_pooled_over_conditions_worked_by_hand():
    # Row means 11, 21, 32; column means 20, 22 2/3; mean 21 1/3. Residuals +-1/3, +-1/3, +-2/3:
    # sum of squares 2 (1/9 + 1/9 + 4/9) = 4/3 over (3-1)(2-1) = 2 degrees of freedom: 2/3.
    # Each residual shows (2/3)(1/2) = 1/3 of its run's variance, so the third condition's own is (8/9) / (2/3) = 4/3.
    variance, freedom = seed_variance(np.array([[10.0, 12.0], [20.0, 22.0], [30.0, 34.0]]))
    assert freedom == 2
    np.testing.assert_allclose(variance, [2 / 3, 2 / 3, 4 / 3])


def test_what_a_seed_adds_to_all_conditions_is_no_variance_of_a_difference():
    variance, _ = seed_variance(np.array([[0.5, 0.6, 0.8], [0.55, 0.65, 0.85]]))
    np.testing.assert_allclose(variance, 0, atol=1e-15)


def test_missing_runs_leave_the_pairs_that_are_there():
    nan = float("nan")
    found = paired_difference(of_seeds([0.71, 0.72, 0.75, 0.9], [0.70, 0.70, 0.72, nan]), 0, 1)
    assert found is not None
    assert found.value == pytest.approx(0.02)
    assert found.seeds == 3
    assert paired_difference(of_seeds([0.7, nan], [nan, 0.7]), 0, 1) is None


def test_one_seed_leaves_the_images_worked_by_hand():
    # Right or wrong by image: (1, 1, 1, 0) against (1, 0, 0, 0). Differences 0, 1, 1, 0: mean 1/2, variance 1/3,
    # standard error sqrt(1/3 / 4) = .28868: half width 1.96 * .28868 = .5658.
    right = [[np.array([1, 1, 1, 0], bool)], [np.array([1, 0, 0, 0], bool)]]
    found = paired_difference(run_table(np.array([[0.75], [0.25]]), right, 4), 0, 1)
    assert found is not None
    assert found.value == pytest.approx(0.5)
    assert (found.high - found.low) / 2 == pytest.approx(0.5658, rel=0.03)
    assert found.p is None
    assert verdict_against_full(found, 0.0) == "undecided"


def test_images_that_flip_from_seed_to_seed_are_counted_once():
    # Runs (1, 0) and (1, 1): image means 1 and 1/2 with variance 1/8. The second image flips with variance 1/2, on
    # average 1/4; over two seeds that explains 1/4 / 2 = 1/8, so nothing is left to the choice of images.
    runs = run_table(np.array([[0.5, 1.0]]), [[np.array([1, 0], bool), np.array([1, 1], bool)]], 2)
    assert runs.images[0, 0] == pytest.approx(0)
    assert runs.floor[0] == pytest.approx(0.25 / 2)


def test_accuracies_without_predictions_count_their_images_as_independent():
    runs = run_table(np.array([[0.8, 0.8], [0.5, 0.5]]), [None, None], 100)
    # Binomial: .8 * .2 / 100 and .5 * .5 / 100.
    np.testing.assert_allclose(runs.images, np.diag([0.0016, 0.0025]))


def test_the_mean_over_targets_averages_values_and_adds_image_variances():
    one, other = (RunTable(np.full((1, 1), value), np.full((1, 1), 0.04), np.zeros(1)) for value in (0.4, 0.6))
    mean = mean_of_targets([one, other])
    assert mean.values[0, 0] == pytest.approx(0.5)
    assert mean.images[0, 0] == pytest.approx(0.02)  # (.04 + .04) / 2^2


@pytest.mark.parametrize(
    ("low", "high", "seeds", "expected"),
    [
        (-0.004, 0.001, 3, "holds"),
        (-0.02, -0.006, 3, "loses"),
        (-0.02, 0.02, 3, "undecided"),
        (-0.007, -0.001, 3, "undecided"),
        (0.01, 0.02, 1, "undecided"),
    ],
)
def test_verdicts_against_a_margin_of_half_a_point(low: float, high: float, seeds: int, expected: str):
    assert verdict_against_full(Estimate((low + high) / 2, low, high, 0.5, seeds), 0.005) == expected


def test_no_full_data_means_no_verdict():
    assert verdict_against_full(None, 0.005) is None


def test_holm_worked_by_hand():
    # In order .01 * 3 = .03, .03 * 2 = .06, .04 * 1 = .04, which may not fall below the one before: .06.
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])


@given(st.lists(st.floats(0, 1), max_size=20))
def test_holm_never_makes_a_claim_easier_and_keeps_the_order(p: list[float]):
    adjusted = np.array(holm(p))
    assert np.all(adjusted >= np.array(p))
    assert np.all(adjusted <= 1)
    assert np.all(np.diff(adjusted[np.argsort(p, kind="stable")]) >= 0)


def simulated(rng: np.random.Generator, lead: float, seeds: int, conditions: int = 6, n: int = 600) -> RunTable:
    """Backbones that differ in how much seeds move them, on images of different ease; all but the first lead."""
    ease = rng.normal(1.0, 1.5, n)
    moved = rng.choice([0.02, 0.05, 0.15], conditions)  # some conditions vary much more than others
    together = rng.normal(0, 0.05, seeds)  # what a seed does to all of them
    right = []
    for c in range(conditions):
        level = [moved[c] * rng.standard_normal() + together[s] + lead * (c > 0) for s in range(seeds)]
        right.append([ease + one + rng.logistic(0, 0.5, n) > 0 for one in level])
    return run_table(np.array([[one.mean() for one in runs] for runs in right]), right, n)


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_without_an_effect_random_is_beaten_in_at_most_five_percent_of_conditions(monkeypatch, seeds: int):
    monkeypatch.setattr(estimates, "DRAWS", 2000)
    rng = np.random.default_rng(seeds)
    plain = corrected = covered = compared = 0
    for _ in range(120):
        runs = simulated(rng, 0.0, seeds)
        found = [paired_difference(runs, c, 0) for c in range(1, 6)]
        adjusted = holm([one.p for one in found])
        plain += sum(one.p < 0.05 and one.value > 0 for one in found)
        corrected += sum(p < 0.05 and one.value > 0 for p, one in zip(adjusted, found))
        covered += sum(one.low <= 0 <= one.high for one in found)
        compared += 5
    assert plain / compared <= 0.05
    assert corrected / compared <= 0.01
    assert covered / compared >= 0.94


@pytest.mark.parametrize("seeds", [5, 7])
def test_from_five_seeds_on_a_condition_that_varies_wildly_does_not_widen_the_others(monkeypatch, seeds: int):
    monkeypatch.setattr(estimates, "DRAWS", 4000)
    rng = np.random.default_rng(seeds)
    covered, widths, tried = 0, [], 300
    for _ in range(tried):
        values = 0.8 + 0.01 * rng.standard_normal((4, seeds)) * np.array([1.0, 1.0, 1.0, 12.0])[:, None]
        runs = estimates.RunTable(values, np.zeros((4, 4)), np.zeros(4))
        found = paired_difference(runs, 1, 0)
        covered += found.low <= 0 <= found.high
        widths.append(found.high - found.low)
    # 95 % less two standard errors of 300 draws; the width is that of a paired t-test, 2 t sd sqrt(2 / seeds).
    assert 0.925 <= covered / tried <= 0.975
    assert np.median(widths) < 2 * 2.8 * 0.01 * np.sqrt(2 / seeds)


def test_five_seeds_give_the_interval_of_a_paired_t_test_by_hand():
    # Differences 1, 2, 3, 4, 5 points: mean 3, standard error sqrt(2.5 / 5) = 0.707, t(4) = 2.776: 1.04 to 4.96.
    values = np.array([[0.50, 0.51, 0.49, 0.52, 0.48], [0.51, 0.53, 0.52, 0.56, 0.53], [0.1, 0.9, 0.2, 0.8, 0.5]])
    found = paired_difference(estimates.RunTable(values, np.zeros((3, 3)), np.zeros(3)), 1, 0)
    assert found.value == pytest.approx(0.03)
    assert (found.low, found.high) == pytest.approx((0.0104, 0.0496), abs=0.001)


def test_a_real_effect_is_found_with_three_seeds(monkeypatch):
    monkeypatch.setattr(estimates, "DRAWS", 2000)
    rng = np.random.default_rng(1)
    found = []
    for _ in range(20):
        runs = simulated(rng, 0.7, 3)  # about nine points
        found += [holm([paired_difference(runs, c, 0).p for c in range(1, 6)])]
    assert np.mean(np.array(found) < 0.05) > 0.8
