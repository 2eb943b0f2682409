"""Near-duplicates whose original may not be kept: one of them takes its place."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from prune.methods.eligibility import removable_copies, surplus_copies

OF = np.array([-1, 4, 4, -1, -1, 4, 3])
"""Rows 1, 2 and 5 nearly duplicate 4, row 6 duplicates 3."""


def without(*rows):
    may = np.ones(len(OF), bool)
    may[list(rows)] = False
    return may


def marked(may, always=None):
    return np.flatnonzero(surplus_copies(OF, may, always)).tolist()


def test_copies_of_an_original_that_may_be_kept_are_marked():
    assert marked(without()) == [1, 2, 5, 6]


def test_the_lowest_copy_that_may_be_kept_takes_the_place_of_a_dropped_original():
    assert marked(without(4)) == [2, 5, 6]
    assert marked(without(4, 1)) == [1, 5, 6]
    assert marked(without(4, 3)) == [2, 5]
    assert marked(without(3, 6)) == [1, 2, 5, 6]  # none is left that may


def test_a_copy_that_is_always_kept_takes_the_place_before_lower_rows():
    always = np.arange(len(OF)) == 5
    assert marked(without(), always) == [1, 2, 6]
    assert marked(without(4), always) == [1, 2, 6]


def test_the_copy_that_takes_the_place_is_the_first_by_the_ties_that_are_given():
    ties = np.array([0, 9, 3, 1, 5, 4, 2])
    assert np.flatnonzero(surplus_copies(OF, without(4), None, ties)).tolist() == [1, 5, 6]


def test_copies_that_a_floor_needs_are_the_first_by_the_ties_that_are_given():
    # One class of seven with a floor of five: of the four copies two must stay.
    copies, may, floor = OF >= 0, np.ones(7, bool), np.array([5])
    out = removable_copies(copies, may, np.zeros(7, int), 5, floor, None, np.array([0, 9, 3, 1, 5, 4, 2]))
    assert np.flatnonzero(out).tolist() == [1, 5]
    # No floor, a budget of six: one of the four stays less.
    out = removable_copies(copies, may, np.zeros(7, int), 6, np.array([0]), None, np.array([0, 9, 3, 1, 5, 4, 2]))
    assert np.flatnonzero(out).tolist() == [1]


@given(st.integers(0, 10_000))
def test_each_group_of_which_any_may_be_kept_keeps_one(seed):
    rng = np.random.default_rng(seed)
    group = rng.integers(0, 6, 20)
    chosen = [rng.permutation(np.flatnonzero(group == g))[:1] for g in range(6)]
    original = np.array([chosen[g][0] for g in group])
    of = np.where(original == np.arange(20), -1, original)
    may = rng.uniform(size=20) < 0.5
    left = may & ~surplus_copies(of, may, None)
    assert np.bincount(group[left], minlength=6).tolist() == (np.bincount(group[may], minlength=6) > 0).tolist()
