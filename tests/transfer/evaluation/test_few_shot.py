"""Few images per class: which ones, and what a classifier makes of them."""

from __future__ import annotations

import numpy as np
import pytest

from transfer.evaluation.few_shot import draw, train_few, unit


def test_every_class_gives_as_many_as_it_can_and_every_backbone_gets_the_same():
    labels = np.array([2, 0, 0, 0, 1, 0, 2, 2])
    rows = draw(labels, 2, seed=3)
    assert np.bincount(labels[rows]).tolist() == [2, 1, 2]
    assert rows.tolist() == sorted(set(rows.tolist()))
    np.testing.assert_array_equal(rows, draw(labels, 2, seed=3))
    many = np.repeat(np.arange(3), 50)
    assert draw(many, 5, seed=0).tolist() != draw(many, 5, seed=1).tolist()


def test_rows_have_length_one_and_nothing_stays_nothing():
    # (3, 4) has length 5.
    np.testing.assert_allclose(unit(np.array([[3.0, 4.0], [0.0, 0.0]])), [[0.6, 0.8], [0.0, 0.0]])


def test_one_image_per_class_puts_each_point_with_its_nearest():
    # Two directions as training images: the border lies between them, at 45 degrees.
    model = train_few(np.array([[2.0, 0.0], [0.0, 5.0]]), np.array([4, 7]))
    angle = np.radians([10, 40, 50, 80])
    predicted, confidence = model.predict(unit(np.stack([np.cos(angle), np.sin(angle)], 1)))
    assert predicted.tolist() == [4, 4, 7, 7]
    assert confidence[0] > confidence[1] > 0.5
    with pytest.raises(ValueError, match="one class"):
        train_few(np.eye(2), np.array([1, 1]))
