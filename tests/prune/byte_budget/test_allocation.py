"""The allocator: never above the budget, floors exact, never worse with more bytes, close to the linear bound."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prune.byte_budget.allocation import DROPPED, allocate, values
from prune.runs.files import InputError


def case(seed: int, n: int, levels: int):
    rng = np.random.default_rng(seed)
    nbytes = rng.integers(1, 200, (n, levels))
    value = rng.uniform(-0.2, 1, (n, levels)).astype(np.float32)
    return nbytes, value, rng.integers(0, 3, n)


def test_steps_are_taken_by_value_per_byte_and_the_finish_fills_what_is_left():
    # First steps: row 0 reaches 6 for 10 bytes (0.6 a byte), row 1 reaches 4 for 10 (0.4). Second steps: row 0 from 6
    # to 9 for 10 more (0.3), row 1 from 4 to 5 for 20 more (0.05). 25 bytes: both first steps; 5 bytes are left over.
    nbytes, value = np.array([[20, 10], [30, 10]]), np.array([[9, 6], [5, 4]], np.float32)
    found = allocate(nbytes, value, 25)
    assert found.level.tolist() == [1, 1]
    assert (found.nbytes, found.value) == (20, 10)
    assert found.bound == pytest.approx(10 + 0.3 * 5)
    assert found.gap == pytest.approx(1.5 / 11.5)
    # 40 bytes: after row 0's second step (30 bytes, 13) row 1's second step does not fit.
    assert allocate(nbytes, value, 40).level.tolist() == [0, 1]
    assert allocate(nbytes, value, 50).level.tolist() == [0, 0]


def test_a_level_below_the_hull_is_passed_over():
    # 5 for 10 bytes lies below the line from nothing to 20 for 20 bytes.
    found = allocate(np.array([[10, 20]]), np.array([[5, 20]], np.float32), 15)
    assert found.level.tolist() == [DROPPED]
    assert allocate(np.array([[10, 20]]), np.array([[5, 20]], np.float32), 20).level.tolist() == [1]


def test_of_equal_samples_the_lower_row_wins_unless_an_order_says_otherwise():
    nbytes, value = np.full((3, 1), 10), np.ones((3, 1), np.float32)
    assert allocate(nbytes, value, 20).level.tolist() == [0, 0, DROPPED]
    assert allocate(nbytes, value, 20, order=np.array([2, 1, 0])).level.tolist() == [DROPPED, 0, 0]


def test_values_charge_what_is_lost_against_leaving_out():
    # 1 - 1/4, 1 - 6/4; a sample worth half; an error of 0 is a loss of 0 whatever leaving out costs.
    got = values(np.array([[0, 1, 6], [0, 1, 0]]), np.array([4, 2]), np.array([1, 0.5]))
    np.testing.assert_allclose(got, [[1, 0.75, -0.5], [0.5, 0.25, 0.5]])


def test_floors_keep_samples_that_are_worth_nothing_and_say_so():
    nbytes, value = np.array([[5], [4], [10]]), np.array([[-1], [-1], [1]], np.float32)
    found = allocate(nbytes, value, 14, labels=np.array([0, 0, 1]), floors=np.array([1, 0]))
    assert found.level.tolist() == [DROPPED, 0, 0]  # row 1 for the floor: with row 0's 5 bytes row 2 would not fit
    assert (found.nbytes, found.value) == (14, 0)
    with pytest.raises(InputError, match="the floors alone need 9"):
        allocate(nbytes, value, 8, labels=np.array([0, 0, 1]), floors=np.array([2, 0]))
    with pytest.raises(InputError, match="class 1 has 1 sample, fewer than its floor of 2"):
        allocate(nbytes, value, 80, labels=np.array([0, 0, 1]), floors=np.array([0, 2]))


@settings(max_examples=60)
@given(st.integers(0, 10**6), st.integers(1, 40), st.integers(1, 6), st.integers(0, 3), st.data())
def test_bytes_fit_floors_hold_and_more_bytes_are_never_worse(seed, n, levels, floor, data):
    nbytes, value, labels = case(seed, n, levels)
    floors = np.minimum(np.bincount(labels, minlength=3), floor)
    least = int(sum(np.sort(nbytes.min(1)[labels == c])[: floors[c]].sum() for c in range(3)))
    budgets = sorted(data.draw(st.lists(st.integers(least, least + 3000), min_size=2, max_size=6)))
    best = -np.inf
    for budget in budgets:
        found = allocate(nbytes, value, budget, labels=labels, floors=floors)
        kept = np.flatnonzero(found.level >= 0)
        assert found.nbytes == nbytes[kept, found.level[kept]].sum() <= budget
        assert found.value == pytest.approx(value[kept, found.level[kept]].sum(), abs=1e-4)
        assert (np.bincount(labels[kept], minlength=3) >= floors).all()
        assert found.value <= found.bound + 1e-6
        assert found.value >= best - 1e-5
        best = found.value


@settings(max_examples=40)
@given(st.integers(0, 10**6), st.integers(1, 4), st.integers(0, 2), st.integers(0, 500))
def test_no_plan_is_above_the_bound_and_the_loss_is_at_most_one_step(seed, n, floor, budget):
    nbytes, value, labels = case(seed, n, 3)
    floors = np.minimum(np.bincount(labels, minlength=3), floor)
    totals = [-np.inf]
    for levels in product((-1, 0, 1, 2), repeat=n):
        chosen = [(i, level) for i, level in enumerate(levels) if level >= 0]
        if (np.bincount(labels[[i for i, _ in chosen]], minlength=3) < floors).any():
            continue
        if sum(int(nbytes[at]) for at in chosen) <= budget:
            totals.append(sum(float(value[at]) for at in chosen))
    if max(totals) == -np.inf:
        with pytest.raises(InputError, match="the floors alone"):
            allocate(nbytes, value, budget, labels=labels, floors=floors)
        return
    found = allocate(nbytes, value, budget, labels=labels, floors=floors)
    assert max(totals) <= found.bound + 1e-5
    if not floors.any():
        assert found.bound - found.value <= max(0, value.max()) + 1e-5


@pytest.mark.parametrize("floor", [0, 40])
@pytest.mark.parametrize("ratio", [0.02, 0.1, 0.4])
def test_the_value_of_many_samples_is_within_a_thousandth_of_the_bound(ratio, floor):
    rng = np.random.default_rng(1)
    n = 20_000
    share = np.array([1, 0.5, 0.3, 0.2, 0.1, 0.05])
    nbytes = (rng.lognormal(8, 0.5, (n, 1)) * share * rng.uniform(0.8, 1.2, (n, 6))).astype(np.int64) + 1
    value = (1 - np.array([0, 0.02, 0.05, 0.1, 0.2, 0.4]) * rng.lognormal(0, 0.6, (n, 1))).astype(np.float32)
    labels, floors = rng.integers(0, 100, n), np.full(100, floor)
    found = allocate(nbytes, value, int(ratio * nbytes[:, 0].sum()), labels=labels, floors=floors)
    assert found.gap <= 1e-3
    assert (np.bincount(labels[found.level >= 0], minlength=100) >= floor).all()
