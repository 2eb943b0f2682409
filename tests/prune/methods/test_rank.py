import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prune.methods import rank
from prune.methods.rank import bottom_key, by_key, middle_key, places, stable_order, threshold_quotas, top_key


def test_each_class_keeps_its_smallest_keys():
    key, group = np.array([3.0, 1.0, 2.0, 5.0, 4.0]), np.array([0, 0, 0, 1, 1])
    assert by_key(key, group, [2, 1]).tolist() == [False, True, True, False, True]


def test_ties_go_to_the_lower_row():
    assert by_key(np.zeros(4), np.array([1, 0, 1, 0]), [1, 1]).tolist() == [True, True, False, False]


@given(st.data(), st.sampled_from(["f4", "f8", "u8", "i8"]), st.sampled_from([1, 3, 1 << 20]))
def test_the_order_is_that_of_a_stable_sort_however_many_keys_are_equal(data, kind, step):
    values = [0.0, -0.0, 1.0, np.inf, -np.inf, np.nan] if kind[0] == "f" else [0, 1, 2, 1 << 62]
    some = data.draw(st.integers(0, len(values)))
    count = data.draw(st.sampled_from([0, 1, 2, 17, 300]))
    drawn = np.random.default_rng(data.draw(st.integers(0, 99))).integers(0, max(1, some), count)
    key = np.array(values, kind)[drawn]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rank, "_ROWS", step)
        assert stable_order(key).tolist() == np.argsort(key, kind="stable").tolist()


def test_nan_never_wins():
    score = np.array([np.nan, 1.0, 2.0], np.float32)
    assert by_key(top_key(score), np.zeros(3, int), [2]).tolist() == [False, True, True]
    assert by_key(bottom_key(score), np.zeros(3, int), [2]).tolist() == [False, True, True]


def test_top_and_bottom_take_opposite_ends():
    score = np.array([0.1, 0.9, 0.5])
    assert by_key(top_key(score), np.zeros(3, int), [1]).tolist() == [False, True, False]
    assert by_key(bottom_key(score), np.zeros(3, int), [1]).tolist() == [True, False, False]


def test_middle_takes_the_window_around_each_groups_median():
    # Sorted scores 1 2 3 4 5: the median is 3, then 2 and 4. The second group's 10 and 20 tie: the lower row.
    score, group = np.array([5.0, 1.0, 3.0, 4.0, 2.0, 20.0, 10.0]), np.array([0, 0, 0, 0, 0, 1, 1])
    key = middle_key(score, group)
    assert by_key(key, group, [1, 1]).nonzero()[0].tolist() == [2, 5]
    assert by_key(key, group, [3, 0]).nonzero()[0].tolist() == [2, 3, 4]


def test_threshold_serves_floors_first_and_then_the_best_of_all():
    # Keys of class 0: 1 2 3, of class 1: 7 8. Floor 1 each takes 1 and 7; of the rest 2 and 3 are the smallest.
    key, group = np.array([1.0, 2.0, 3.0, 7.0, 8.0]), np.array([0, 0, 0, 1, 1])
    assert threshold_quotas(key, group, 4, np.array([1, 1])).tolist() == [3, 1]
    assert threshold_quotas(key, group, 2, np.array([0, 0])).tolist() == [2, 0]


@st.composite
def problems(draw):
    n = draw(st.integers(1, 60))
    group = np.array(draw(st.lists(st.integers(0, 4), min_size=n, max_size=n)))
    key = np.array(draw(st.lists(st.integers(0, 6), min_size=n, max_size=n)), np.float64)
    size = np.bincount(group, minlength=5)
    return key, group, np.array([draw(st.integers(0, int(s))) for s in size])


@given(problems())
@settings(max_examples=200)
def test_kept_samples_match_the_quotas_and_no_dropped_one_is_better(problem):
    key, group, quotas = problem
    kept = by_key(key, group, quotas)
    assert np.bincount(group[kept], minlength=5).tolist() == quotas.tolist()
    rows = np.arange(len(key))
    for g in range(5):
        inside, outside = (group == g) & kept, (group == g) & ~kept
        if inside.any() and outside.any():
            assert max(zip(key[inside], rows[inside])) < min(zip(key[outside], rows[outside]))


@given(problems(), st.randoms(use_true_random=False))
@settings(max_examples=100)
def test_permuting_the_samples_permutes_the_choice(problem, random):
    key, group, quotas = problem
    key = key + np.arange(len(key)) / 1000  # all different: with ties the row decides
    order = list(range(len(key)))
    random.shuffle(order)
    assert by_key(key[order], group[order], quotas).tolist() == by_key(key, group, quotas)[order].tolist()


def test_places_count_within_the_group():
    place, size = places(np.array([2.0, 1.0, 9.0]), np.array([0, 0, 1]))
    assert place.tolist() == [1, 0, 0]
    assert size.tolist() == [2, 2, 1]
