import numpy as np
import pytest

from prune.scores.chance_votes import linear_head, votes_against_chance
from prune.scores.class_votes import squared_distances


def means_of(centres):
    return lambda x: -squared_distances(x, centres)


def test_votes_by_chance_keep_each_feature_and_break_up_the_images():
    # Images lie at (0, 0) and (1, 1); shuffled, half of them lie at (0, 1) and (1, 0), where no image is.
    images = np.repeat([[0.0, 0.0], [1.0, 1.0]], 500, axis=0)
    found = votes_against_chance(images, means_of(np.array([[0, 0], [1, 1], [0, 1], [1, 0]])), seed=1)
    assert found.votes == pytest.approx([250, 250, 250, 250], abs=20)
    assert found.votes.sum() == 1000
    assert found.distance == pytest.approx(0.5, abs=0.04)
    assert found.meaningful


def test_votes_of_images_without_structure_mean_nothing():
    rng = np.random.default_rng(2)
    meaning = [
        votes_against_chance(rng.normal(size=(400, 8)), means_of(rng.normal(size=(30, 8))), seed=k).meaningful
        for k in range(20)
    ]
    assert sum(meaning) <= 1


def test_votes_of_images_of_two_kinds_mean_something():
    rng = np.random.default_rng(3)
    middles = rng.normal(size=(30, 8))
    images = middles[rng.integers(0, 2, 400)] + rng.normal(size=(400, 8))
    assert votes_against_chance(images, means_of(middles), seed=0).meaningful


def test_equal_seeds_give_equal_votes():
    images, middles = np.random.default_rng(4).normal(size=(90, 5)), np.eye(5)
    one, two, other = (votes_against_chance(images, means_of(middles), seed=seed) for seed in (0, 0, 1))
    assert np.array_equal(one.votes, two.votes)
    assert not np.array_equal(one.votes, other.votes)


def test_the_head_is_found_from_half_floats():
    rng = np.random.default_rng(5)
    weights, constants = rng.normal(size=(16, 7)), rng.normal(size=7)
    features = np.abs(rng.normal(size=(2000, 16))).astype(np.float16)
    features[:, 3] = 0  # a dead unit
    logits = (features.astype(float) @ weights + constants).astype(np.float16)
    found, rest = linear_head(features, logits)
    assert np.abs(features.astype(float) @ found + rest - logits).max() < 0.02
