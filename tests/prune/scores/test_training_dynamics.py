import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prune.scores.score_table import names
from prune.scores.training_dynamics import (
    all_scores,
    aum,
    aum_probability,
    dual,
    dyn_unc,
    el2n_early,
    epoch_error,
    forgetting,
    packed,
    tdds,
    window_length,
    windows,
)

NAN = np.nan


def column(*values):
    return np.array(values, float)[:, None]


def test_forgetting_counts_falls_from_right_to_wrong():
    # right wrong right wrong: 2 falls. wrong wrong right right: none. never right: the number of epochs.
    correct = np.array([[1, 0, 0], [0, 0, 0], [1, 1, 0], [0, 1, 0]], np.uint8)
    assert forgetting(correct).tolist() == [2, 0, 4]


def test_forgetting_looks_only_at_epochs_that_saw_the_sample():
    # right, unseen, wrong: one fall. Never seen: unknown.
    correct = np.array([[1, 2], [2, 2], [0, 2]], np.uint8)
    found = forgetting(correct)
    assert found[0] == 1
    assert np.isnan(found[1])


def test_aum_averages_every_epoch():
    assert aum(column(1, 2, 6)).tolist() == [3]
    assert aum(column(1, NAN, 6)).tolist() == [3.5]


def test_aum_of_probabilities_averages_the_label_less_the_largest_other_probability():
    # 0.6 against 0.3 (margin ln 2), then 0.3 against 0.6 (margin -ln 2), then unseen: 0.3, -0.3.
    assert aum_probability(column(0.6, 0.3, NAN), column(np.log(2), -np.log(2), NAN))[0] == pytest.approx(0, abs=1e-6)
    assert aum_probability(column(0.6), column(np.log(2)))[0] == pytest.approx(0.3)


@given(st.integers(0, 10_000), st.integers(2, 30))
@settings(max_examples=100)
def test_aum_of_probabilities_is_exact_for_any_number_of_classes(seed, classes):
    z = np.random.default_rng(seed).normal(scale=3, size=(5, classes))
    p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    exact = (p[:, 0] - p[:, 1:].max(axis=1)).mean()
    found = aum_probability(p[:, :1].astype(np.float32), (z[:, :1] - z[:, 1:].max(axis=1, keepdims=True)).astype("f4"))
    assert found[0] == pytest.approx(exact, abs=1e-5)


def test_el2n_from_probability_and_margin_is_exact_for_three_classes():
    # Probabilities 0.6 (label), 0.3, 0.1: margin ln 2. Error vector (-0.4, 0.3, 0.1).
    assert epoch_error(column(0.6), column(np.log(2)), 3)[0, 0] == pytest.approx(np.sqrt(0.26), rel=1e-5)
    # Label is the runner-up, 0.3 against 0.6.
    assert epoch_error(column(0.3), column(-np.log(2)), 3)[0, 0] == pytest.approx(np.sqrt(0.49 + 0.36 + 0.01), rel=1e-5)


@given(st.integers(0, 10_000), st.integers(2, 30))
@settings(max_examples=100)
def test_el2n_from_probability_and_margin_is_a_close_lower_bound(seed, classes):
    z = np.random.default_rng(seed).normal(scale=2, size=classes)
    p = np.exp(z) / np.exp(z).sum()
    # The score sees float32: round the label's probability first, so that both look at the same distribution.
    p[0], others = np.float32(p[0]), p[1:].sum()
    p[1:] *= (1 - p[0]) / others
    exact = np.linalg.norm(p - np.eye(classes)[0])
    found = epoch_error(column(p[0]), column(z[0] - z[1:].max()), classes)[0, 0]
    assert 0.8 * exact <= found <= exact * (1 + 1e-5)


def test_early_el2n_averages_the_first_epochs_alone():
    assert el2n_early(column(1, 3, 100, 100, 100, 100), epochs=2).tolist() == [2]
    assert el2n_early(column(1, 3, 100)).tolist() == [2]  # at most half of a short training, rounded up


def test_windows_slide_by_one_epoch():
    mean, deviation = windows(column(0, 2, 4, 0), 2)
    assert mean[:, 0].tolist() == [1, 3, 2]
    assert np.allclose(deviation[:, 0], [np.sqrt(2), np.sqrt(2), np.sqrt(8)])  # n - 1 below the sum of squares


def test_dyn_unc_averages_the_deviation_over_all_windows():
    assert dyn_unc(column(0, 0.2, 0.4, 0), 2)[0] == pytest.approx((0.02**0.5 + 0.02**0.5 + 0.08**0.5) / 3)


def test_dual_weighs_each_windows_deviation_by_its_difficulty():
    # Window means 0.1, 0.3, 0.2 of deviations as above.
    expected = (0.9 * 0.02**0.5 + 0.7 * 0.02**0.5 + 0.8 * 0.08**0.5) / 3
    assert dual(column(0, 0.2, 0.4, 0), 2)[0] == pytest.approx(expected)


def test_tdds_weighs_the_deviation_of_steps_towards_the_end():
    # Label at 1/2, 3/4, 3/4, 1/2. Steps: 3/4 ln(3/2) + 1/4 ln(1/2) = 0.13081; none; 1/2 ln(2/3) + 1/2 ln 2 = 0.14384.
    # Windows of 3 epochs hold two steps; the norm of the deviations of (a, b) is |a - b| / sqrt 2. Weights 0.9 for the
    # last window and 0.09 for the one before.
    first = 0.75 * np.log(1.5) + 0.25 * np.log(0.5)
    third = 0.5 * np.log(2 / 3) + 0.5 * np.log(2)
    expected = (0.9 * third + 0.09 * first) / np.sqrt(2)
    assert tdds(column(0.5, 0.75, 0.75, 0.5), 3)[0] == pytest.approx(expected, rel=1e-5)


def test_tdds_of_two_classes_is_the_papers_on_whole_predictions():
    # The paper's code path: f(t+1) log(f(t+1) / f(t)) summed over the classes, for every pair of neighbouring epochs.
    p = np.random.default_rng(0).uniform(0.05, 0.95, size=12)
    whole = np.stack([p, 1 - p], axis=1)
    steps = (whole[1:] * np.log(whole[1:] / whole[:-1])).sum(axis=1)
    expected = 0.0
    for start in range(12 - 5 + 1):  # windows of 5 epochs
        inside = steps[start : start + 4]
        expected += 0.9 * 0.1 ** (12 - 5 - start) * np.linalg.norm(inside - inside.mean())
    assert tdds(p[:, None], 5)[0] == pytest.approx(expected, rel=1e-4)


@given(st.integers(0, 10_000), st.integers(2, 30))
@settings(max_examples=50)
def test_a_tdds_step_never_exceeds_the_divergence_of_whole_predictions(seed, classes):
    before, after = np.random.default_rng(seed).dirichlet(np.ones(classes), 2)
    whole = (after * np.log(after / before)).sum()
    p = np.array([before[0], before[0], after[0]])
    # One window of steps 0 and s: the norm of their deviations is s / sqrt 2, weighted 0.9.
    step = tdds(p[:, None], 3)[0] * np.sqrt(2) / 0.9
    assert -1e-6 <= step <= whole * (1 + 1e-3) + 1e-6


def test_a_short_training_gets_a_short_window():
    assert [window_length(e) for e in (2, 6, 8, 20, 200)] == [3, 3, 4, 10, 10]


def test_unseen_epochs_move_to_the_end_in_order():
    p, m = packed(np.array([[NAN, 1], [2, NAN], [3, 5.0]]), np.array([[NAN, 10], [20, NAN], [30, 50.0]]))
    assert p[:2].tolist() == [[2, 1], [3, 5]]
    assert m[:2].tolist() == [[20, 10], [30, 50]]
    assert np.isnan(p[2]).all()


@given(st.integers(0, 10_000), st.integers(2, 12), st.booleans())
@settings(max_examples=60)
def test_scores_follow_the_samples_and_unseen_ones_are_nan(seed, epochs, gaps):
    rng = np.random.default_rng(seed)
    p = rng.uniform(size=(epochs, 9)).astype(np.float16)
    m = rng.normal(size=(epochs, 9)).astype(np.float16)
    correct = rng.integers(0, 2, (epochs, 9)).astype(np.uint8)
    gone = np.zeros((epochs, 9), bool)
    if gaps:
        gone = rng.uniform(size=gone.shape) < 0.3
        gone[:, 0] = True
    p[gone], m[gone], correct[gone] = NAN, NAN, 2
    order = rng.permutation(9)
    found = all_scores(p, m, correct, 5)
    moved = all_scores(p[:, order], m[:, order], correct[:, order], 5)
    assert set(found) <= set(names("dynamics"))
    assert epochs < 3 or set(found) == set(names("dynamics"))
    for name, values in found.items():
        assert values.dtype == np.float32, name
        assert np.array_equal(values[order], moved[name], equal_nan=True), name
        assert np.isnan(values[gone.all(axis=0)]).all(), name
        if not gaps:
            assert np.isfinite(values).all(), name


def test_a_gap_does_not_change_what_the_seen_epochs_say():
    p, m, c = column(0.1, 0.5, 0.2, 0.9), column(-1, 0, -1, 2), np.array([[0], [1], [0], [1]], np.uint8)
    with_gap = [np.insert(a, 2, v, axis=0) for a, v in ((p, NAN), (m, NAN), (c, 2))]
    plain, gapped = all_scores(p, m, c, 4, length=3), all_scores(*with_gap, 4, length=3)
    for name in ("aum", "confidence", "variance", "forgetting", "dyn-unc", "dual", "tdds"):
        assert gapped[name][0] == pytest.approx(plain[name][0], rel=1e-5), name
