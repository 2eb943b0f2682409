"""Evidence that holds however often one looks: hand cases, false alarms and power on simulated streams."""

from __future__ import annotations

from math import log

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad

from transfer.watching.sequential_test import (
    by_start,
    log_evidence,
    log_evidence_of_looks,
    log_threshold,
    surely_at_least,
)


def evidence(wrong, images, allowed):
    return float(np.exp(log_evidence(np.array(wrong), np.array(images), np.array(allowed))))


def test_evidence_by_hand():
    # The mean of p / m over (m, 1] is (1 + m) / 2 / m; of (1 - p) / (1 - m) it is 1 / 2.
    assert evidence(1, 1, 0.5) == pytest.approx(1.5)
    assert evidence(1, 1, 0.1) == pytest.approx(5.5)
    assert evidence(0, 1, 0.1) == pytest.approx(0.5)
    assert evidence(0, 0, 0.1) == pytest.approx(1)
    assert evidence(7, 7, 1.0) == 1  # everything is allowed
    assert log_threshold(0.05, 10) == pytest.approx(log(200))


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 40), st.integers(0, 40), st.floats(0.01, 0.9))
def test_evidence_is_the_mean_of_the_likelihood_ratios(wrong, right, m):
    def ratio(p):
        return (p / m) ** wrong * ((1 - p) / (1 - m)) ** right

    expected = quad(ratio, m, 1, limit=200)[0] / (1 - m)
    assert evidence(wrong, wrong + right, m) == pytest.approx(expected, rel=1e-4, abs=1e-9)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 60), st.integers(0, 60), st.floats(0.02, 0.9), st.floats(0.0, 1.0))
def test_the_bet_is_fair_at_most(wrong, right, m, part):
    """Given the past, the capital is not expected to grow at any share that is allowed."""
    n, p = wrong + right, part * m
    after = p * evidence(wrong + 1, n + 1, m) + (1 - p) * evidence(wrong, n + 1, m)
    assert after <= evidence(wrong, n, m) * (1 + 1e-6) + 1e-12


def test_the_confidence_sequence_ends_where_the_evidence_does():
    threshold = log_threshold(0.05, 4)
    low = surely_at_least(30, 100, threshold)
    assert 0.1 < low < 0.3
    assert log_evidence(np.array(30), np.array(100), np.array(low - 1e-6)) >= threshold
    assert log_evidence(np.array(30), np.array(100), np.array(low + 1e-6)) < threshold
    assert surely_at_least(0, 100, threshold) == 0
    # With more images of the same share it comes nearer.
    assert low < surely_at_least(300, 1000, threshold) < 0.3


def test_capital_is_divided_among_the_looks_by_hand():
    # Two looks of one image, the second one wrong, at m = 0.5. From look 1 on: the mean of p (1 - p) / 0.25 over
    # (0.5, 1] is 2 / 3, of which there is a half; from look 2 on 1.5, of which there is a sixth; a third waits.
    wrong, images = np.array([0, 1]), np.array([1, 1])
    parts = np.exp(by_start(wrong, images, np.array(0.5)))
    assert parts == pytest.approx([1 / 3, 1 / 4, 1 / 3])
    assert np.exp(log_evidence_of_looks(wrong, images, np.array(0.5))) == pytest.approx(11 / 12)
    assert np.exp(log_evidence_of_looks(np.zeros((0, 3)), np.zeros((0, 3)), np.full(3, 0.5))) == pytest.approx([1] * 3)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), max_size=6), st.floats(0.02, 0.9), st.floats(0, 1))
def test_one_more_look_is_a_fair_bet_at_most(looks, m, part):
    wrong, images = (np.array(one, int) for one in ([w for w, _ in looks], [w + r for w, r in looks]))
    p = part * m

    def after(error):
        return np.exp(log_evidence_of_looks(np.append(wrong, error), np.append(images, 1), np.array(m)))

    now = np.exp(log_evidence_of_looks(wrong, images, np.array(m)))
    assert p * after(1) + (1 - p) * after(0) <= now * (1 + 1e-6) + 1e-12


def evidence_after_each_look(wrong, images, allowed):
    """(streams, looks) from errors (streams, looks) of looks of `images` images each."""
    every = np.full(wrong.T.shape, images)
    looks = range(1, wrong.shape[1] + 1)
    return np.stack([log_evidence_of_looks(wrong.T[:k], every[:k], np.array(allowed)) for k in looks], axis=1)


def test_false_alarms_of_looks_stay_below_five_percent_with_optional_stopping():
    """Ten classes and all images at exactly what is allowed: 40 looks of 25 images of each class."""
    rng = np.random.default_rng(3)
    wrong = rng.binomial(25, 0.1, (200, 10, 40))
    by_class = evidence_after_each_look(wrong.reshape(2000, 40), 25, 0.1).max(1).reshape(200, 10).max(1)
    over_all = evidence_after_each_look(wrong.sum(1), 250, 0.1).max(1)
    assert np.mean(np.maximum(by_class, over_all) >= log_threshold(0.05, 11)) <= 0.05


def test_a_class_that_breaks_after_a_thousand_sound_images_is_found():
    rng = np.random.default_rng(4)
    share = np.where(np.arange(50) < 40, 0.02, 0.3)
    wrong = rng.binomial(25, share, (200, 50))
    found = evidence_after_each_look(wrong, 25, 0.05)
    limit = log_threshold(0.05, 11)
    assert (found[:, :40] < limit).all()
    assert np.mean(found[:, 44] >= limit) > 0.95  # after 125 more images
    # The same counts without their order: a share of 7.6 % in all, which is hardly more than 5.
    together = log_evidence(wrong.sum(1), np.array(1250), np.array(0.05))
    assert np.mean(together >= limit) < 0.5


def test_false_alarms_stay_below_five_percent_over_many_looks_with_optional_stopping():
    """Ten classes and all images at exactly what is allowed, looked at after every 10 images of each for 2,000."""
    rng = np.random.default_rng(0)
    streams, allowed = 600, 0.1
    wrong = (rng.random((streams, 10, 200, 10)) < allowed).sum(3).cumsum(2)
    images = 10 * np.arange(1, 201)
    threshold = log_threshold(0.05, 11)
    by_class = log_evidence(wrong, images, np.array(allowed)).max((1, 2))
    over_all = log_evidence(wrong.sum(1), 10 * images, np.array(allowed)).max(1)
    # A stream stops at its first alarm: any crossing at any look counts.
    assert np.mean(np.maximum(by_class, over_all) >= threshold) <= 0.05
    # One test alone at 5 %, without the correction: still at most 5 %, and not absurdly careful.
    alone = np.mean(log_evidence(wrong[:, 0], images, np.array(allowed)).max(1) >= log_threshold(0.05, 1))
    assert 0.005 < alone <= 0.05


def test_looking_often_with_a_test_for_one_look_alarms_far_more_often():
    """What the e-process is for: Wilson's interval at every look, as one look would use it."""
    from prune.methods.intervals import wilson

    rng = np.random.default_rng(1)
    wrong = (rng.random((200, 200, 10)) < 0.1).sum(2).cumsum(1)
    alarmed = [any(wilson(int(w), 10 * k, 0.95)[0] > 0.1 for k, w in enumerate(one, 1)) for one in wrong]
    assert np.mean(alarmed) > 0.15


@pytest.mark.parametrize(("share", "images", "found"), [(0.3, 100, 0.95), (0.2, 250, 0.95)])
def test_a_planted_drop_in_one_of_ten_classes_is_found(share, images, found):
    rng = np.random.default_rng(2)
    wrong = (rng.random((400, images)) < share).cumsum(1)
    seen = log_evidence(wrong, np.arange(1, images + 1), np.array(0.05)).max(1) >= log_threshold(0.05, 11)
    assert np.mean(seen) >= found
