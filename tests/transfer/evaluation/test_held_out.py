"""Accuracy on held-out training images, by which a search chooses without a test image."""

from __future__ import annotations

import numpy as np
import pytest

from transfer.evaluation.held_out import held_out_accuracy


def blobs(distance: float, n: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """Two classes around two points of a circle; the larger the distance, the easier."""
    rng = np.random.default_rng(0)
    labels = np.arange(n) % 2
    centres = np.array([[1.0, distance / 2], [1.0, -distance / 2]])
    return centres[labels] + rng.normal(0, 0.2, (n, 2)), labels


def test_classes_far_apart_are_told_apart_and_equal_ones_are_guessed():
    assert held_out_accuracy(*blobs(2.0)) > 0.99
    assert held_out_accuracy(*blobs(0.0)) == pytest.approx(0.5, abs=0.08)
    assert held_out_accuracy(*blobs(2.0)) > held_out_accuracy(*blobs(0.5)) > held_out_accuracy(*blobs(0.1))


def test_labels_that_mean_nothing_are_not_learned_by_heart():
    rng = np.random.default_rng(1)
    features, labels = rng.normal(size=(60, 200)), rng.integers(0, 2, 60)
    assert held_out_accuracy(features, labels) < 0.75


def test_the_same_features_give_the_same_accuracy():
    assert held_out_accuracy(*blobs(0.3)) == held_out_accuracy(*blobs(0.3))
