"""Votes of neighbours, worked by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from transfer.evaluation import nearest_neighbours
from transfer.evaluation.nearest_neighbours import classify


def at(*degrees: float) -> np.ndarray:
    """Vectors of different lengths in the plane, at these angles."""
    angle = np.radians(degrees)
    return np.stack([np.cos(angle), np.sin(angle)], 1) * np.arange(1, len(degrees) + 1)[:, None]


def test_votes_are_weighted_by_cosine_worked_by_hand():
    # Neighbours at 0 (class 0), 60 and 60 degrees (class 1): cosines 1, 1/2, 1/2. At temperature 1 the votes are
    # e^1 = 2.718 against 2 e^0.5 = 3.297: class 1 with 3.297 / 6.016 = 0.5481. At 0.5: e^2 = 7.389 against 2 e = 5.437.
    train, labels, test = at(0, 60, -60), np.array([0, 1, 1]), at(0)
    predicted, confidence = classify(train, labels, test, classes=2, k=3, temperature=1.0)
    assert predicted.tolist() == [1]
    assert confidence[0] == pytest.approx(2 * math.exp(0.5) / (math.e + 2 * math.exp(0.5)), abs=1e-6)
    predicted, confidence = classify(train, labels, test, classes=2, k=3, temperature=0.5)
    assert predicted.tolist() == [0]
    assert confidence[0] == pytest.approx(math.e**2 / (math.e**2 + 2 * math.e), abs=1e-6)


def test_only_the_nearest_vote_and_lengths_do_not_count():
    train, labels = at(0, 10, 20, 90, 91), np.array([0, 0, 0, 1, 1])
    predicted, confidence = classify(train, labels, at(50), classes=3, k=1)
    assert (predicted.tolist(), confidence.tolist()) == ([0], [1.0])  # 20 degrees is 30 away, 90 is 40
    assert classify(train, labels, at(50), classes=3, k=99)[0].tolist() == [0]


def test_training_images_in_blocks_vote_as_in_one(monkeypatch):
    rng = np.random.default_rng(0)
    train, labels, test = rng.normal(size=(50, 4)), rng.integers(0, 3, 50), rng.normal(size=(9, 4))
    whole = classify(train, labels, test, classes=3, k=7)
    monkeypatch.setattr(nearest_neighbours, "_COLUMNS", 8)
    monkeypatch.setattr(nearest_neighbours, "_ROWS", 4)
    parts = classify(train, labels, test, classes=3, k=7)
    np.testing.assert_array_equal(whole[0], parts[0])
    np.testing.assert_allclose(whole[1], parts[1], rtol=1e-5)
