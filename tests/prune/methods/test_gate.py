import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prune.methods.gate import describe, gate_width, hold_open, passes
from prune.methods.quota import budget_of
from prune.runs.files import InputError
from prune.scores.domain import domain_scores


@pytest.mark.parametrize("share", [0.05, 0.25, 0.4, 0.6])
@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_the_gate_finds_the_share_of_the_source_that_is_of_the_target_s_domain(share, shift):
    # The target's domain is shifted in the target, as natural images of one set differ from those of another.
    rng = np.random.default_rng(0)
    domain = np.where(rng.random(6000) < share, 0, rng.integers(1, 4, 6000))
    middles = np.zeros((4, 16))
    middles[[1, 2, 3], [0, 1, 2]] = 24
    source = rng.normal(size=(6000, 16)) + middles[domain]
    target = rng.normal(size=(1500, 16)) + shift * np.eye(16)[5]
    scores = domain_scores(source, {"pets": target})
    gate = gate_width(scores.source["domain"], scores.targets["domain"])
    assert gate.reason == "shut"
    assert gate.width == pytest.approx((domain == 0).mean(), abs=0.04)
    assert gate.narrow <= gate.width <= gate.wide
    kept = passes(scores.source["domain"], gate.width)
    assert (kept & (domain > 0)).mean() < 0.03
    assert kept[domain == 0].mean() > 0.9


@pytest.mark.parametrize("shift", [0.0, 0.5, 1.0])
def test_the_gate_stays_open_where_source_and_target_are_of_one_domain(shift):
    rng = np.random.default_rng(1)
    source, target = rng.normal(size=(4000, 16)), rng.normal(size=(900, 16)) + shift * np.eye(16)[5]
    scores = domain_scores(source, {"pets": target})
    gate = gate_width(scores.source["domain"], scores.targets["domain"])
    assert (gate.width, gate.odds, gate.reason) == (1.0, -np.inf, "alike")
    assert passes(scores.source["domain"], gate.width).all()
    assert "stays open" in describe(gate)


def test_the_gate_stays_open_where_nothing_in_the_source_looks_like_the_target():
    rng = np.random.default_rng(2)
    source, target = rng.normal(size=(4000, 16)), rng.normal(size=(900, 16)) + 9
    scores = domain_scores(source, {"pets": target})
    gate = gate_width(scores.source["domain"], scores.targets["domain"])
    assert (gate.width, gate.reason) == (1.0, "nothing alike")
    assert gate.area > 0.99
    assert "nothing in the source looks like" in describe(gate)


def test_the_gate_stays_open_where_it_would_shut_out_much_of_the_target():
    # A tenth of the target lies among the half of the source that would be shut out.
    source, target = np.repeat([1.0, -3.0], 50), np.repeat([1.0, -3.0], [90, 10])
    gate = gate_width(source, target)
    assert (gate.width, gate.reason, gate.lost) == (1.0, "uncertain", pytest.approx(0.1))
    assert gate_width(source, target, np.repeat([1.0, 0.1], [90, 10])).reason == "shut"


def test_width_is_the_share_above_a_tenth_by_hand():
    # exp(-2.2) is above a tenth, exp(-2.4) below; at half the evidence the first falls too, at twice both pass.
    gate = gate_width(np.repeat([0.0, -2.2, -2.4, -9.0], [2, 3, 4, 11]), np.zeros(9))
    assert (gate.width, gate.narrow, gate.wide) == (0.25, 0.1, 0.45)
    assert gate.odds == pytest.approx(-np.log(10))
    assert "25.0%" in describe(gate)


def test_images_without_features_do_not_pass_and_count_for_the_width():
    odds = np.array([1.0, np.nan, np.nan, np.nan, -9.0, -9.0, np.nan, np.nan])
    gate = gate_width(odds, np.array([1.0, np.nan]))
    assert gate.width == 1 / 8
    assert passes(odds, 0.5).tolist() == [True, False, False, False, True, True, False, False]
    with pytest.raises(InputError, match="at least one"):
        gate_width(np.full(3, np.nan), np.zeros(2))


@given(st.lists(st.floats(-9, 9, width=16), min_size=1, max_size=40), st.floats(0.02, 1), st.randoms())
def test_the_best_pass_and_the_order_of_the_rows_does_not_matter(values, width, random):
    odds, keys = np.array(values), np.arange(len(values)) * 7 % 41
    found = passes(odds, width, keys)
    assert found.sum() == max(1, int(np.floor(width * len(values) + 0.5)))
    assert odds[found].min() >= odds[~found].max(initial=-np.inf)
    order = np.array(random.sample(range(len(values)), len(values)))
    assert np.array_equal(passes(odds[order], width, keys[order]), found[order])


def test_ties_pass_by_their_keys():
    assert passes(np.zeros(4), 0.5, np.array([3, 1, 2, 0])).tolist() == [False, True, False, True]
    assert passes(np.zeros(4), 0.5).tolist() == [True, True, False, False]


def test_samples_that_the_user_requires_pass_whatever_the_gate_decides():
    label = np.array([0, 0, 1, 1, 1, 2, 2])
    odds = np.array([5.0, 4.0, -1.0, -3.0, np.nan, -2.0, -4.0])
    passing = np.array([True, True, False, False, False, False, False])
    floors = np.array([1, 2, 0])
    assert np.flatnonzero(hold_open(passing, odds, label, floors)).tolist() == [0, 1, 2, 3]
    whole = np.array([False, False, True])
    assert np.flatnonzero(hold_open(passing, odds, label, floors * 0, whole)).tolist() == [0, 1, 5, 6]
    always = np.array([False, False, False, True, False, False, False])
    # The one that is always kept counts for the floor, and the better of the others joins it.
    assert np.flatnonzero(hold_open(passing, odds, label, floors, None, always)).tolist() == [0, 1, 2, 3]
    # Without features: only where the floor needs it.
    assert np.flatnonzero(hold_open(passing, odds, label, np.array([0, 3, 0]))).tolist() == [0, 1, 2, 3, 4]


def test_floors_take_the_smallest_key_among_equal_odds():
    found = hold_open(np.zeros(3, bool), np.zeros(3), np.zeros(3, int), np.array([1]), keys=np.array([2, 0, 1]))
    assert found.tolist() == [False, True, False]


@given(seed=st.integers(0, 9999), width=st.floats(0.05, 1), missing=st.sampled_from([0.0, 0.3, 1.0]))
def test_the_gate_and_its_floors_are_those_of_an_order_of_all_images_by_odds_and_key(seed, width, missing):
    rng = np.random.default_rng(seed)
    odds = rng.integers(-2, 3, 40).astype(np.float32)  # many are equal
    odds[rng.random(40) < missing] = np.nan
    keys, label, floor = rng.integers(0, 9, 40), rng.integers(0, 4, 40), rng.integers(0, 14, 4)
    order = sorted(
        range(40), key=lambda row: (np.isnan(odds[row]), -odds[row] if odds[row] == odds[row] else 0, keys[row], row)
    )
    known = [row for row in order if odds[row] == odds[row]]
    through = passes(odds, width, keys)
    if width < 1:
        assert np.flatnonzero(through).tolist() == sorted(known[: budget_of(width, 40)])
    wanted = through.copy()
    for row in order:
        wanted[row] |= wanted[label == label[row]].sum() < floor[label[row]]
    assert hold_open(through, odds, label, floor, keys=keys).tolist() == wanted.tolist()
