"""Coverage of a grown preservation set, and the false alarms of its test for unlike images."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prune.methods.coverage import k_center
from prune.runs.files import InputError
from transfer.compression.preservation_growth import (
    alarm_threshold,
    anomalies,
    extended_cover,
    grown,
    neighbour_distances,
)

LINE = np.array([[0.0], [1.0], [2.0], [6.0], [10.0]])


def test_each_choice_is_the_image_farthest_from_the_pool_and_those_chosen_before():
    pool = np.array([True, False, False, False, False])
    # 10 is farthest from 0; then 6 is 4 away from 10, 2 is 2 away from 0.
    assert extended_cover(LINE, pool, np.ones(5, bool), 3).tolist() == [4, 3, 2]
    # 10 may not be chosen; after 6, 2 is 2 away from 0.
    assert extended_cover(LINE, pool, np.array([True, True, True, True, False]), 2).tolist() == [3, 2]


def test_without_a_pool_it_is_k_center_greedy():
    x = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    nothing = np.zeros(40, bool)
    assert extended_cover(x, nothing, ~nothing, 10).tolist() == k_center(x, 10).tolist()


def test_a_class_keeps_its_cases_and_half_of_its_share_may_be_new_ones():
    stays, cases = np.zeros(5, bool), np.zeros(5, bool)
    stays[0] = True
    cases[[1, 2, 3]] = True
    # A share of four: the image at 0 stays, the case at 6 is farthest from it and fills the half; then 10, then 2.
    kept = grown(LINE, np.zeros(5, int), 1, 4, floor=1, stays=stays, cases=cases)
    assert kept.tolist() == [True, False, True, True, True]


def test_a_set_with_room_takes_everything():
    nothing = np.zeros(5, bool)
    assert grown(LINE, np.zeros(5, int), 1, 9, floor=1, stays=nothing, cases=nothing).all()


def test_cases_and_floors_beyond_the_size_are_refused():
    with pytest.raises(InputError, match=r"--size 3: .* the 4 cases that never leave need 4; raise it"):
        grown(LINE, np.zeros(5, int), 1, 3, floor=1, stays=np.arange(5) < 4, cases=np.zeros(5, bool))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(8, 40))
def test_the_size_the_floors_and_the_cases_hold_for_any_set(seed, size):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(size, 60))
    labels, x = rng.integers(0, 3, n), rng.normal(size=(n, 2))
    stays = np.zeros(n, bool)
    stays[:2] = True
    kept = grown(x, labels, 3, size, floor=2, stays=stays, cases=rng.random(n) < 0.3)
    assert kept.sum() == min(size, n)
    assert (kept | ~stays).all()
    assert (np.bincount(labels[kept], minlength=3) >= np.minimum(2, np.bincount(labels, minlength=3))).all()


def test_distances_are_those_of_unit_vectors_to_the_kth_neighbour():
    reference = np.array([[2.0, 0.0], [0.0, 3.0], [-1.0, 0.0]])
    # From (1, 0): 0, then sqrt 2, then 2.
    assert neighbour_distances(np.array([[5.0, 0.0]]), reference, 1) == pytest.approx([0])
    assert neighbour_distances(np.array([[5.0, 0.0]]), reference, 2) == pytest.approx([2**0.5])
    assert neighbour_distances(np.array([[5.0, 0.0]]), reference, 9) == pytest.approx([2])


@pytest.mark.parametrize(("m", "rate", "rank"), [(19, 0.05, 19), (39, 0.05, 38), (99, 0.01, 99), (18, 0.05, None)])
def test_the_threshold_is_the_conformal_rank(m, rate, rank):
    assert alarm_threshold(np.arange(1, m + 1)[::-1], rate) == rank


def test_ordinary_images_alarm_at_most_at_the_stated_rate_and_strangers_nearly_always():
    rng = np.random.default_rng(0)
    alarms, caught = [], []
    for _ in range(300):
        members, new = rng.normal(size=(2, 100, 8)) + 3
        distances, threshold = anomalies(members, new, 0.05)
        alarms.append((distances > threshold).mean())
        strangers, _ = anomalies(members, rng.normal(size=(20, 8)) - 3, 0.05)
        caught.append((strangers > threshold).mean())
    # 2 of 51 by the rank of 50 held-out members, with a standard error of 0.0015 over 300 sets.
    assert 2 / 51 - 0.005 < np.mean(alarms) <= 0.05
    assert np.mean(caught) > 0.99


def test_a_set_chosen_to_cover_alarms_less_on_ordinary_images():
    rng = np.random.default_rng(1)
    alarms = []
    for _ in range(30):
        many = (rng.normal(size=(400, 8)) + 3).astype(np.float32)
        distances, threshold = anomalies(many[k_center(many, 100)], rng.normal(size=(200, 8)) + 3, 0.05)
        alarms.append((distances > threshold).mean())
    assert np.mean(alarms) < 0.03
