"""Logistic regression against scikit-learn and against values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from transfer.evaluation import logistic


def blobs(n, d, classes, seed, spread=1.0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    means = np.random.default_rng(99).normal(size=(classes, d))
    return (means[labels] + spread * rng.normal(size=(n, d))).astype(np.float32), labels


@pytest.mark.parametrize("strength", [1.0, 1e-2])
def test_fit_agrees_with_scikit_learn(strength):
    x, y = blobs(300, 6, 4, 0)
    theta = logistic.fit(torch.from_numpy(x).double(), torch.from_numpy(y), 4, strength)
    other = LogisticRegression(C=1 / (len(x) * strength), tol=1e-8, max_iter=2000).fit(x.astype(np.float64), y)
    np.testing.assert_allclose(theta[:, :-1], other.coef_, atol=2e-3)
    # The bias is free, so only differences between classes are determined.
    bias = theta[:, -1] - theta[:, -1].mean()
    np.testing.assert_allclose(bias, other.intercept_ - other.intercept_.mean(), atol=2e-3)


def test_features_that_say_nothing_leave_the_class_frequencies():
    # 6 of class 0 and 2 of class 1: the best bias has b0 - b1 = log(6 / 2) = 1.0986.
    y = torch.tensor([0] * 6 + [1] * 2)
    theta = logistic.fit(torch.zeros(8, 3, dtype=torch.float64), y, 2, 1e-3)
    assert theta[0, -1] - theta[1, -1] == pytest.approx(np.log(3), abs=1e-3)
    assert np.abs(theta[:, :-1]).max() == 0


def test_single_precision_and_pieces_change_nothing_that_matters(monkeypatch):
    x, y = blobs(500, 8, 3, 1)
    whole = logistic.fit(torch.from_numpy(x).double(), torch.from_numpy(y), 3, 1e-2)
    monkeypatch.setattr(logistic, "_ROWS", 64)
    pieces = logistic.fit(torch.from_numpy(x), torch.from_numpy(y), 3, 1e-2)
    np.testing.assert_allclose(pieces[:, :-1], whole[:, :-1], atol=5e-3)


def test_where_most_features_are_noise_weak_regularisation_is_not_chosen():
    rng = np.random.default_rng(5)
    x, y = rng.normal(size=(300, 100)).astype(np.float32), rng.integers(0, 2, 300)
    x_held, y_held = rng.normal(size=(4000, 100)).astype(np.float32), np.zeros(4000, np.int64)
    y_held[:2000] = 1
    # One feature carries a weak truth, so that some strength is best; the weakest one fits the 99 others as well.
    x[:, 0] += 1.5 * (2 * y - 1)
    x_held[:, 0] += 1.5 * (2 * y_held - 1)
    best = logistic.best_strength(*map(torch.from_numpy, (x, y, x_held, y_held)), 2, (1.0, 1e-1, 1e-6))
    assert best > 1e-6


def test_a_clear_case_is_learnt_and_a_class_without_training_images_never_predicted():
    x, y = blobs(600, 5, 3, 2, spread=0.2)
    y = np.array([0, 2, 7])[y]
    model, strength = logistic.train_linear(x[:400], y[:400], seed=0)
    predicted, confidence = model.predict(x[400:])
    assert (predicted == y[400:]).mean() > 0.99
    assert set(np.unique(predicted)) <= {0, 2, 7}
    assert strength in logistic.STRENGTHS
    assert predicted.dtype == np.int32
    assert confidence.min() > 1 / 3 - 1e-6
    assert confidence.max() <= 1


def test_training_is_the_same_twice_and_features_may_be_half_precision():
    x, y = blobs(200, 5, 3, 3)
    first, _ = logistic.train_linear(x.astype(np.float16), y, seed=1)
    again, _ = logistic.train_linear(x.astype(np.float16), y, seed=1)
    np.testing.assert_array_equal(first.weight, again.weight)


def test_one_class_is_refused():
    with pytest.raises(ValueError, match="one class"):
        logistic.train_linear(np.zeros((4, 2), np.float32), np.zeros(4, np.int64), seed=0)


def test_moments_leave_a_constant_feature_alone():
    mean, scale = logistic.moments(np.array([[1, 5], [3, 5]], np.float16))
    # Column 0: mean 2, deviations -1 and 1, so the standard deviation is 1. Column 1 is constant.
    assert mean.tolist() == [2, 5]
    assert scale.tolist() == [1, 1]
    assert logistic.moments(np.array([[0.0], [4.0]]))[1].tolist() == [2]


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.integers(0, 3))
def test_a_stratified_part_takes_its_share_of_every_class_and_never_all(labels, seed):
    labels = np.array(labels)
    marked = logistic.stratified_part(labels, 0.2, np.random.default_rng(seed))
    for name in np.unique(labels):
        size, taken = (labels == name).sum(), marked[labels == name].sum()
        assert taken < size
        assert abs(taken - 0.2 * size) <= 0.5 or size == 1


def test_every_class_gives_as_many_shots_as_it_has_and_every_model_gets_the_same():
    labels = np.array([2, 0, 0, 0, 1, 0, 2, 2])
    rows = logistic.draw_shots(labels, 2, seed=3)
    assert np.bincount(labels[rows]).tolist() == [2, 1, 2]
    assert rows.tolist() == sorted(set(rows.tolist()))
    np.testing.assert_array_equal(rows, logistic.draw_shots(labels, 2, seed=3))
    many = np.repeat(np.arange(3), 50)
    assert logistic.draw_shots(many, 5, seed=0).tolist() != logistic.draw_shots(many, 5, seed=1).tolist()


def test_rows_are_scaled_to_length_one_and_zeros_stay_zeros():
    # (3, 4) has length 5.
    np.testing.assert_allclose(logistic.unit_length(np.array([[3.0, 4.0], [0.0, 0.0]])), [[0.6, 0.8], [0.0, 0.0]])


def test_with_one_image_per_class_the_border_lies_between_the_two():
    # Two directions as training images: the border lies between them, at 45 degrees.
    model = logistic.train_few_shot(np.array([[2.0, 0.0], [0.0, 5.0]]), np.array([4, 7]))
    angle = np.radians([10, 40, 50, 80])
    predicted, confidence = model.predict(logistic.unit_length(np.stack([np.cos(angle), np.sin(angle)], 1)))
    assert predicted.tolist() == [4, 4, 7, 7]
    assert confidence[0] > confidence[1] > 0.5
    with pytest.raises(ValueError, match="one class"):
        logistic.train_few_shot(np.eye(2), np.array([1, 1]))
