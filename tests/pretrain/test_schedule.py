"""Schedules are tables: every value here is worked out by hand."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pretrain.schedule import Budget, learning_rate, ramp, resolution


def test_learning_rate_warms_up_linearly_then_falls_as_half_a_cosine():
    # Warm-up over the first quarter: 0.01 + 0.99 * 0.125/0.25 = 0.505. After it, progress 0.625 is the middle of the
    # cosine: half of the peak. Progress 0.4375 is a quarter of it: (1 + cos(pi/4)) / 2.
    table = {0.0: 0.02, 0.125: 1.01, 0.25: 2.0, 0.4375: 1 + math.cos(math.pi / 4), 0.625: 1.0, 1.0: 0.0}
    for progress, expected in table.items():
        assert learning_rate(progress, peak=2.0, warmup=0.25) == pytest.approx(expected, abs=1e-12)


def test_learning_rate_may_fall_along_a_straight_line_instead():
    table = {0.0: 0.02, 0.25: 2.0, 0.4375: 1.5, 0.625: 1.0, 1.0: 0.0}
    for progress, expected in table.items():
        assert learning_rate(progress, peak=2.0, warmup=0.25, fall="linear") == pytest.approx(expected, abs=1e-12)


def test_learning_rate_without_warm_up_begins_at_the_peak_and_ends_at_the_final_value():
    assert learning_rate(0.0, peak=0.5, warmup=0.0, final=0.1) == 0.5
    assert learning_rate(0.5, peak=0.5, warmup=0.0, final=0.1) == pytest.approx(0.3)
    assert learning_rate(1.0, peak=0.5, warmup=0.0, final=0.1) == pytest.approx(0.1)


def test_resolution_grows_in_steps_of_32_between_the_two_shares():
    # 16 epochs, growing from epoch 11 to 13: at epoch 12 half of the way from 128 to 224 is 176, and 176/32 = 5.5
    # rounds to even: 192 = 6 * 32.
    table = {0: 128, 11: 128, 12: 192, 13: 224, 15: 224}
    for epoch, expected in table.items():
        assert resolution(epoch / 16, 128, 224, 11 / 16, 13 / 16) == expected


def test_resolution_never_exceeds_the_end_even_when_the_start_is_larger():
    assert resolution(0.0, 64, 32, 0.2, 0.8) == 32
    assert resolution(0.9, 64, 32, 0.2, 0.8) == 32


def test_ramp_rises_to_one_and_stays():
    assert [ramp(p, 0.5) for p in (0.0, 0.25, 0.5, 0.9)] == [0.0, 0.5, 1.0, 1.0]
    assert ramp(0.0, 0.0) == 1.0


@pytest.mark.parametrize(
    ("budget", "spent"),
    [(Budget(epochs=4), 0.375), (Budget(steps=60), 0.25), (Budget(seconds=150.0), 0.2)],
)
def test_progress_is_the_share_of_whatever_the_budget_counts(budget, spent):
    # 1.5 of 4 epochs, 15 of 60 steps, 30 of 150 seconds.
    assert budget.spent(epoch=1.5, step=15, seconds=30.0) == pytest.approx(spent)


def test_a_budget_counts_exactly_one_thing():
    for wrong in ({}, {"epochs": 1, "steps": 1}, {"epochs": 0}, {"seconds": -1.0}, {"seconds": float("nan")}):
        with pytest.raises(ValueError, match="budget"):
            Budget(**wrong)


@given(st.integers(1, 50), st.integers(1, 3000))
def test_an_epoch_budget_is_spent_exactly_after_its_last_step(epochs, steps):
    budget = Budget(epochs=epochs)
    assert budget.spent(epochs - 1 + steps / steps, 0, 0) == 1.0
    assert budget.spent(epochs - 1 + (steps - 1) / steps, 0, 0) < 1.0
