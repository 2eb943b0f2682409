"""Accuracy by class and calibration, worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from transfer.evaluation import metrics


def test_accuracy_inside_each_class():
    # Class 0: 1 of 2 right; class 1: nothing there; class 2: 2 of 3.
    found = metrics.per_class(np.array([0, 0, 2, 2, 2]), np.array([0, 2, 2, 2, 0]), 3)
    np.testing.assert_allclose(found, [0.5, np.nan, 2 / 3])


def test_calibration_error_by_hand():
    # Two bins. (0, .5]: .4 and .5, one right: |1 - .9| = .1. (.5, 1]: .8 and 1.0, both right: |2 - 1.8| = .2.
    confidence = np.array([0.4, 0.5, 0.8, 1.0])
    correct = np.array([True, False, True, True])
    assert metrics.calibration_error(confidence, correct, bins=2) == pytest.approx((0.1 + 0.2) / 4)
    assert metrics.calibration_error(np.ones(3), np.ones(3, bool)) == 0
