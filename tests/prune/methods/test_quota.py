import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prune.methods.quota import budget_of, floors_of, largest_floor, quota, whole_classes
from prune.runs.files import InputError


def test_quota_gives_largest_remainders_by_hand():
    # 7 over weights 3:2:2 is 3, 2, 2 exactly; 8 gives 3.43, 2.29, 2.29: the largest remainder is class 0's.
    assert quota([3, 2, 2], [9, 9, 9], 7).tolist() == [3, 2, 2]
    assert quota([3, 2, 2], [9, 9, 9], 8).tolist() == [4, 2, 2]


def test_quota_fills_small_classes_and_passes_the_rest_on():
    # Weights 6:3:1 over 10 would be 6, 3, 1; class 0 has 2 samples, and 3:1 over the other 8 is 6, 2.
    assert quota([6, 3, 1], [2, 9, 9], 10).tolist() == [2, 6, 2]


def test_quota_raises_classes_to_their_floor_and_takes_it_from_the_others():
    # Weights 3:1:0 over 9 with a floor of 1: class 2 is at its floor; 3:1 over 8 is 6, 2.
    assert quota([3, 1, 0], [10, 10, 10], 9, floor=1).tolist() == [6, 2, 1]


def test_classes_of_weight_zero_share_by_size_what_full_classes_leave():
    # Class 0 is full at 2; 6 are left for sizes 8 and 4: 4 and 2.
    assert quota([1, 0, 0], [2, 8, 4], 8).tolist() == [2, 4, 2]


def test_equal_remainders_go_to_the_lower_class():
    assert quota([1, 1, 1], [5, 5, 5], 4).tolist() == [2, 1, 1]
    assert quota([0.1, 0.1, 0.1], [5, 5, 5], 5).tolist() == [2, 2, 1]


def test_equal_remainders_go_by_the_ties_that_are_given():
    assert quota([1, 1, 1], [5, 5, 5], 4, ties=np.array([3, 1, 2])).tolist() == [1, 2, 1]
    assert quota([1, 1, 1], [5, 5, 5], 5, ties=np.array([3, 1, 2])).tolist() == [1, 2, 2]
    assert whole_classes([2, 2], [1, 1], [4, 4], 4, ties=np.array([2, 1])).tolist() == [0, 4]


def test_floors_above_the_budget_name_the_largest_that_fits():
    # Sizes 2, 5, 9 and budget 9: min(f, size) sums to 2 + 3 + 3 = 8 at f = 3 and to 10 at f = 4.
    with pytest.raises(InputError, match="largest floor that fits every class is 3"):
        quota([1, 1, 1], [2, 5, 9], 9, floor=5)
    assert largest_floor([2, 5, 9], 9) == 3


@pytest.mark.parametrize("weight", [[1, -1], [1, np.nan], [np.inf, 1], [1, 1, 1]])
def test_weights_that_mean_nothing_are_refused(weight):
    with pytest.raises(InputError, match="weights"):
        quota(weight, [5, 5], 4)


@pytest.mark.parametrize("floor", [float("nan"), float("inf"), -0.5, 1.5])
def test_floors_that_mean_nothing_are_refused(floor):
    with pytest.raises(InputError, match=f"floor {floor} is neither"):
        floors_of(floor, [5, 5])
    assert floors_of(1e30, [5, 3]).tolist() == [5, 3]


def test_a_budget_above_the_samples_is_refused():
    with pytest.raises(InputError, match="a budget of 11 samples, but 10"):
        quota([1, 1], [5, 5], 11)


@st.composite
def problems(draw):
    c = draw(st.integers(1, 12))
    size = draw(st.lists(st.integers(0, 40), min_size=c, max_size=c))
    weight = draw(st.lists(st.one_of(st.just(0.0), st.floats(1e-12, 1e6)), min_size=c, max_size=c))
    floor = draw(st.lists(st.integers(0, 10), min_size=c, max_size=c))
    size, weight, floor = np.array(size), np.array(weight), np.array(floor)
    low = int(np.minimum(size, floor).sum())
    return weight, size, draw(st.integers(low, int(size.sum()))), floor


@given(problems())
@settings(max_examples=300)
def test_quotas_sum_to_the_budget_between_floor_and_size(problem):
    weight, size, budget, floor = problem
    found = quota(weight, size, budget, floor)
    assert found.dtype == np.int64
    assert found.sum() == budget
    assert np.all(found <= size)
    assert np.all(found >= np.minimum(floor, size))


@given(problems())
@settings(max_examples=200)
def test_quotas_stay_within_one_of_a_common_level(problem):
    weight, size, budget, floor = problem
    found = quota(weight, size, budget, floor)
    # One level serves all: where a class is between its bounds, (found - 1) / weight < level < (found + 1) / weight.
    free = (found > np.minimum(floor, size)) & (found < size) & (weight > 0)
    if weight[size > 0].any() and free.sum() > 1 and weight.max() > 0:
        live = free & (weight > 1e-9 * weight.max())
        if live.any() and found[(weight > 0)].sum() + np.minimum(floor, size)[weight == 0].sum() == budget:
            assert ((found[live] - 1) / weight[live]).max() <= ((found[live] + 1) / weight[live]).min() * (1 + 1e-6)


@given(problems(), st.randoms(use_true_random=False))
@settings(max_examples=200)
def test_permuting_the_classes_permutes_the_quotas_up_to_ties(problem, random):
    weight, size, budget, floor = problem
    order = list(range(len(size)))
    random.shuffle(order)
    found, moved = quota(weight, size, budget, floor), quota(weight[order], size[order], budget, floor[order])
    assert np.abs(moved - found[order]).max() <= 1  # equal remainders go to the lower class


@given(problems())
@settings(max_examples=200)
def test_whole_classes_leaves_at_most_one_class_partly_filled(problem):
    weight, size, budget, floor = problem
    found = whole_classes(weight, weight, size, budget, 0)
    assert found.sum() == budget
    assert ((found > 0) & (found < size)).sum() <= 1
    with_floor = whole_classes(weight, weight, size, budget, floor)
    assert with_floor.sum() == budget
    assert np.all((with_floor >= np.minimum(floor, size)) & (with_floor <= size))


def test_whole_classes_go_by_votes_then_soft_votes_then_class():
    # Order: class 2 (5 votes); 0, 1 and 3 tie at 2 votes, soft votes put 1 first, then 0 before 3.
    votes, soft, size = [2, 2, 5, 2], [0.5, 0.7, 0.1, 0.5], [4, 4, 4, 4]
    assert whole_classes(votes, soft, size, 4).tolist() == [0, 0, 4, 0]
    assert whole_classes(votes, soft, size, 10).tolist() == [2, 4, 4, 0]
    assert whole_classes(votes, soft, size, 10, floor=1).tolist() == [1, 4, 4, 1]


def test_trimmed_classes_are_filled_up_when_all_others_are_trimmed_full():
    # A quarter of 8, 5 and 4 rounded down is 2, 1 and 1: classes are full at 6, 4 and 3, in the order 1, 0, 2.
    votes, size = [2, 3, 1], [8, 5, 4]
    assert whole_classes(votes, votes, size, 12, trim=0.25).tolist() == [6, 4, 2]
    assert whole_classes(votes, votes, size, 14, trim=0.25).tolist() == [6, 5, 3]
    assert whole_classes(votes, votes, size, 12, floor=4, trim=0.25).tolist() == [4, 4, 4]


@given(problems(), st.floats(0, 0.99))
@settings(max_examples=200)
def test_trimmed_whole_classes_spend_the_budget_and_keep_the_floors(problem, trim):
    weight, size, budget, floor = problem
    found = whole_classes(weight, weight, size, budget, floor, trim)
    assert found.sum() == budget
    assert np.all((found >= np.minimum(floor, size)) & (found <= size))


@pytest.mark.parametrize(
    ("keep", "n", "kept"),
    [(0.5, 3, 2), (0.5, 5, 3), (0.3, 10, 3), (0.285, 1000, 285), (0.1, 3, 1), (1.0, 7, 7), (1e-9, 7, 1), (0.25, 10, 3)],
)
def test_budget_rounds_halves_up_and_is_never_empty(keep, n, kept):
    assert budget_of(keep, n) == kept


@pytest.mark.parametrize("keep", [0.0, -0.1, 1.01, float("nan")])
def test_keep_outside_its_range_is_refused(keep):
    with pytest.raises(InputError, match="outside"):
        budget_of(keep, 10)


def test_floors_are_counts_from_one_and_fractions_below():
    assert floors_of(3, [2, 5]).tolist() == [2, 3]
    assert floors_of(0.1, [10, 11, 0]).tolist() == [1, 2, 0]  # 1.0 and 1.1, rounded up
    with pytest.raises(InputError, match="neither"):
        floors_of(1.5, [2])
