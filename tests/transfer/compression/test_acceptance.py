"""The acceptance test's decisions on predictions, worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transfer.compression.acceptance import Margins, decide, predicted_classes, standard_error

CLASSES = ["cat", "dog", "newt"]
LABELS = np.array([0] * 10 + [1] * 10 + [2] * 2)


def wrong(*places):
    """Predictions that are correct except at these positions."""
    answers = LABELS.copy()
    answers[list(places)] = (LABELS[list(places)] + 1) % 3
    return answers


def test_one_rare_class_that_is_lost_leads_to_a_rejection_although_the_mean_rises():
    original, candidate = wrong(0, 1, 2, 3), wrong(20, 21)
    decision = decide(LABELS, original, candidate, CLASSES, Margins(1.0, 10.0))
    assert decision.accuracy > np.mean(original == LABELS)  # 20 of 22 after 18 of 22
    assert not decision.accepted
    assert decision.reason == "newt: 100.0 ± 35.4 points lost, 10 are allowed"
    assert decision.nearest == "newt"
    assert decision.class_used == 10.0
    assert decision.overall_used == pytest.approx(-100 * 2 / 22, abs=1e-5)
    assert decision.per_class == (1.0, 1.0, 0.0)


def test_a_loss_equal_to_the_margin_is_within_it():
    # One of ten cats: 10 points; one of 22 images: 4.5 points.
    assert decide(LABELS, LABELS, wrong(0), CLASSES, Margins(100 / 22, 10.0)).accepted
    assert not decide(LABELS, LABELS, wrong(0), CLASSES, Margins(4.5, 10.0)).accepted
    assert decide(LABELS, LABELS, wrong(0), CLASSES, Margins(4.5, 9.0)).reason == (
        "overall: 4.5 ± 5.8 points lost, 4.5 are allowed; cat: 10.0 ± 11.5 points lost, 9 are allowed"
    )


def test_the_standard_error_is_that_of_agresti_and_min():
    # Ten images, one lost: cells of 1.5 and 0.5, 12 in all: sqrt(1.5 + 0.5 - 1 / 12) / 12.
    assert standard_error(10, 1, 0) == pytest.approx(100 * np.sqrt(23 / 12) / 12)
    # 2,000 images, 60 lost and 40 gained: little else than Wald's sqrt(60 + 40 - 20 ** 2 / 2000) / 2000.
    assert standard_error(2000, 60, 40) == pytest.approx(100 * np.sqrt(101 - 20**2 / 2002) / 2002)
    assert standard_error(1, 1, 0) > 40


def test_slack_allows_losses_by_chance_and_not_the_loss_of_a_class():
    # One of ten cats lost: 10 points, 11.5 standard error. Both of two newts: 100 points, 35.4 standard error.
    refused = decide(LABELS, LABELS, wrong(0), CLASSES, Margins(None, 5.0))
    assert (refused.accepted, refused.beyond) == (False, pytest.approx((10 - 5) / 11.537, abs=2e-3))
    allowed = decide(LABELS, LABELS, wrong(0), CLASSES, Margins(None, 5.0, slack=1.0))
    assert (allowed.accepted, allowed.beyond) == (True, None)
    assert allowed.class_used == pytest.approx(10 / (5 + 11.537), abs=1e-4)
    decision = decide(LABELS, LABELS, wrong(20, 21), CLASSES, Margins(None, 10.0, slack=1.0))
    assert decision.reason == "newt: 100.0 ± 35.4 points lost, 45.4 are allowed"
    assert decision.beyond == pytest.approx(90 / 35.355, abs=1e-3)


def test_a_class_may_have_the_name_overall():
    decision = decide(LABELS, LABELS, wrong(0), ["overall", "dog", "newt"], Margins(0.0, 0.0))
    assert decision.reason.count("overall") == 2


def test_without_margins_everything_is_accepted_and_no_share_is_given():
    decision = decide(LABELS, LABELS, np.full(22, -1), CLASSES, Margins(None, None))
    assert decision.accepted
    assert (decision.overall_used, decision.class_used, decision.accuracy) == (None, None, 0.0)


def test_a_class_without_images_has_no_accuracy_and_no_margin():
    decision = decide(np.array([0, 1]), np.array([0, 1]), np.array([0, 1]), CLASSES, Margins(0.0, 0.0))
    assert decision.accepted
    assert decision.per_class == (1.0, 1.0, None)


def test_logits_that_are_not_finite_are_never_correct():
    logits = np.array([[0.0, 2.0], [np.nan, 1.0], [np.inf, 0.0], [3.0, 1.0]])
    assert predicted_classes(logits).tolist() == [1, -1, -1, 0]


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=30))
def test_no_loss_is_always_accepted_and_wider_margins_never_reject_more(rows):
    labels, original, candidate = np.array(rows).T
    assert decide(labels, original, original, CLASSES, Margins(0.0, 0.0)).accepted
    if decide(labels, original, candidate, CLASSES, Margins(2.0, 20.0)).accepted:
        assert decide(labels, original, candidate, CLASSES, Margins(5.0, 30.0)).accepted
        assert decide(labels, original, candidate, CLASSES, Margins(2.0, 20.0, slack=1.0)).accepted


def test_a_rejection_names_the_images_that_every_class_beyond_its_margin_lost():
    labels = np.repeat([0, 1, 2], 4)
    candidate = labels.copy()
    candidate[[0, 4, 5, 8]] = [1, 0, 0, 0]  # 25, 50 and 25 points
    found = decide(labels, labels, candidate, ["a", "b", "c"], Margins(None, 25.0))
    assert found.broke == (4, 5)
    found = decide(labels, labels, candidate, ["a", "b", "c"], Margins(None, 10.0))
    assert found.broke == (0, 4, 5, 8)
    assert decide(labels, labels, candidate, ["a", "b", "c"], Margins(None, None)).broke == ()
    assert decide(labels, labels, candidate, ["a", "b", "c"], Margins(10.0, None)).broke == (0, 4, 5, 8)
