from __future__ import annotations

import numpy as np
import pytest

from prune.scores.score_extrapolation import extrapolate, predict, quality, spread_like

KEYS = np.random.default_rng(1).permutation(600).astype(np.uint64)


def world(seed: int = 0):
    """600 images of three classes in two dimensions; a score that follows place and class, and one that is chance."""
    rng = np.random.default_rng(seed)
    label = np.repeat([0, 1, 2], 200)
    place = rng.normal(size=(600, 2))
    smooth = place[:, 0] * np.array([1.0, -1.0, 0.5])[label] + 2 * label
    return place, label, smooth, rng.normal(size=600)


def hidden(values: np.ndarray, share: float = 0.8) -> tuple[np.ndarray, np.ndarray]:
    unknown = np.random.default_rng(2).random(len(values)) < share
    return np.where(unknown, np.nan, values).astype(np.float32), unknown


def test_the_nearest_of_the_own_class_decides_and_other_classes_do_not_count():
    place = np.array([[0.0], [10.0], [1.0], [9.0], [1.0]])
    label = np.array([0, 0, 1, 0, 1])
    known, wanted = np.array([0, 1, 2]), np.array([3, 4])
    found = predict(place, label, known, wanted, np.array([[1.0], [2.0], [7.0]]), k=1)
    assert found[:, 0].tolist() == [
        2.0,
        7.0,
    ]  # row 4: row 2 alone is of its class


def test_predictions_take_the_distribution_of_what_is_known_in_their_own_order():
    known = np.array([0.0, 10.0, 20.0, 30.0])
    assert spread_like(np.array([5.1, np.nan, 5.0, 5.3, 5.2]), known).tolist()[0] == 10.0
    found = spread_like(np.array([0.1, 0.2]), known)  # the quarter and three quarters of the way
    assert found.tolist() == [5.0, 25.0]


def test_a_score_that_follows_the_features_is_predicted_and_one_by_chance_is_left_out():
    place, label, smooth, noise = world()
    scores = {"a": hidden(smooth)[0], "b": hidden(noise)[0]}
    filled, told = extrapolate(place, label, scores, KEYS, k=8, keep=0.2)
    assert list(filled) == ["a"]
    unknown = np.isnan(scores["a"])
    assert np.array_equal(filled["a"][~unknown], scores["a"][~unknown])
    assert np.isfinite(filled["a"]).all()
    true = quality(filled["a"][unknown], smooth[unknown], 0.2)
    assert true.correlation > 0.95
    assert abs(told["a"].correlation - true.correlation) < 0.05
    assert told["a"].better
    assert not told["b"].better


def test_what_the_class_alone_tells_stands_beside_what_neighbours_tell():
    place, label, smooth, _ = world()
    by_class = 2.0 * label + 1e-3 * np.random.default_rng(3).normal(size=600)  # the class is all there is to know
    scores = {"place": hidden(place[:, 0])[0], "class": hidden(by_class)[0], "both": hidden(smooth)[0]}
    _, told = extrapolate(place, label, scores, KEYS, k=8, keep=0.2)
    assert abs(told["place"].class_correlation) < 0.35 < 0.9 < told["place"].correlation
    assert told["class"].class_correlation > 0.9
    # Three classes of a third each: of the true fifth at either end a draw from its class finds 0.2 / 0.333.
    assert told["class"].class_highest == pytest.approx(0.6, abs=0.3)
    assert told["class"].class_lowest == pytest.approx(0.6, abs=0.3)
    assert 0.5 < told["both"].class_correlation < told["both"].correlation


def test_one_class_tells_nothing_by_itself():
    place, _, _, _ = world()
    _, told = extrapolate(place, np.zeros(600, int), {"a": hidden(place[:, 0])[0]}, KEYS, k=8, keep=0.2)
    assert (told["a"].class_correlation, told["a"].class_highest, told["a"].class_lowest) == (0.0, 0.2, 0.2)


@pytest.mark.parametrize("seed", range(12))
def test_chance_is_hardly_ever_taken_for_a_prediction(seed):
    place, label, _, noise = world(seed)
    filled, _ = extrapolate(place, label, {"b": hidden(noise)[0]}, np.roll(KEYS, seed), k=8, keep=0.2)
    assert not filled


def test_a_class_without_a_scored_image_stays_without_a_score():
    place, label, smooth, _ = world()
    score = np.where(label == 2, np.nan, hidden(smooth)[0]).astype(np.float32)
    filled, _ = extrapolate(place, label, {"a": score}, KEYS, k=8, keep=0.2)
    assert np.isnan(filled["a"][label == 2]).all()
    assert np.isfinite(filled["a"][label != 2]).all()


def test_quality_counts_both_ends_by_hand():
    true = np.arange(10.0)
    predicted = true.copy()
    predicted[[9, 4]] = [4, 9]  # the highest changes places with one of the middle
    one = quality(predicted, true, 0.2)
    assert (one.highest, one.lowest, one.by_chance) == (0.5, 1.0, 0.2)
