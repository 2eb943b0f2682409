import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from prune.runs.files import InputError
from prune.scores import class_votes
from prune.scores.class_votes import (
    breadth,
    class_means,
    class_sums,
    columns_of,
    combine,
    sharpen,
    spread,
    squared_distances,
    streamed_votes,
    votes,
)


def test_hard_label_votes_count_the_most_likely_source_class():
    # Rows choose 2, 0 and, at a tie of 0 and 1, both by half.
    logits = np.array([[0.0, 1.0, 2.0], [5.0, 1.0, 0.0], [3.0, 3.0, 0.0]])
    assert votes(logits).tolist() == [1.5, 0.5, 1]


def test_hard_votes_do_not_depend_on_the_order_of_the_classes():
    logits = np.random.default_rng(0).integers(0, 3, (50, 6)).astype(np.float16)  # many ties
    assert np.allclose(votes(logits[:, ::-1])[::-1], votes(logits))
    assert np.isclose(votes(logits).sum(), 50)


def test_soft_label_votes_are_the_sum_of_tempered_softmax():
    # At temperature 2 the rows' logits are halved: softmax(ln 3, 0) = 3/4, 1/4 and softmax(0, 0) = 1/2, 1/2.
    logits = np.array([[2 * np.log(3), 0.0], [1.0, 1.0]])
    assert np.allclose(votes(logits, 2.0), [1.25, 0.75])


def test_feature_votes_go_to_the_nearest_class_mean_and_not_to_the_sample():
    # Means (0,0), (4,0), (0,4). Points (1,0), (3,1), (1,3), (3,0) are nearest to classes 0, 1, 2, 1.
    means = np.array([[0, 0], [4, 0], [0, 4]], float)
    points = np.array([[1, 0], [3, 1], [1, 3], [3, 0]], float)
    assert votes(-squared_distances(points, means)).tolist() == [1, 2, 1]


def test_soft_feature_votes_use_squared_distances():
    # Squared distances 1 and 9 at temperature 8: weights 1 and exp(-1).
    found = votes(-squared_distances(np.array([[1.0]]), np.array([[0.0], [4.0]])), 8.0)
    assert np.allclose(found, [1 / (1 + np.exp(-1)), np.exp(-1) / (1 + np.exp(-1))])


def test_a_class_without_samples_gets_no_votes():
    means = np.array([[0.0], [np.nan], [9.0]])
    assert votes(-squared_distances(np.array([[4.0]]), means)).tolist() == [1, 0, 0]
    assert votes(-squared_distances(np.array([[4.0]]), means), 1.0)[1] == 0


def test_class_means_by_hand_and_in_any_order():
    x, y = np.array([[1.0, 0], [5, 5], [3, 2]], np.float16), np.array([0, 2, 0])
    means = class_means(x, y, 3)
    assert means[[0, 2]].tolist() == [[2, 1], [5, 5]]
    assert np.isnan(means[1]).all()
    labels, sums = class_sums(x, y)
    assert labels.tolist() == [0, 2]
    assert sums.tolist() == [[4, 2], [5, 5]]


def test_distances_survive_a_large_common_offset():
    rng = np.random.default_rng(0)
    x, mu = rng.normal(size=(6, 3)), rng.normal(size=(4, 3))
    plain = ((x[:, None] - mu[None]) ** 2).sum(-1)
    assert np.allclose(squared_distances(x + 1e6, mu + 1e6), plain, atol=1e-6)


def test_spread_is_the_mean_standard_deviation_over_classes_that_exist():
    # Rows (0, 2) and (0, 4) have standard deviations 1 and 2; the class without samples does not count.
    assert spread(np.array([[0.0, 2.0, -np.inf], [0.0, 4.0, -np.inf]])) == pytest.approx(1.5)
    assert spread(np.zeros((2, 3))) == 1.0


def test_preferences_that_are_too_many_to_keep_are_computed_again(monkeypatch):

    logits = np.random.default_rng(2).normal(size=(50, 7))
    asked = []

    def preference(rows):
        asked.append(rows)
        return logits[rows]

    kept = streamed_votes(preference, 50, 2.0, rows=20)
    assert len(asked) == 3
    monkeypatch.setattr(class_votes, "_KEPT", 349)
    again = streamed_votes(preference, 50, 2.0, rows=20)
    assert len(asked) == 3 + 6
    assert all(np.array_equal(a, b) for a, b in zip(kept, again))


def test_scaling_the_logits_does_not_change_streamed_soft_votes():
    logits = np.random.default_rng(1).normal(size=(50, 7))
    hard, soft = streamed_votes(lambda rows: logits[rows], 50, 2.0, rows=8)
    hard9, soft9 = streamed_votes(lambda rows: 9 * logits[rows], 50, 2.0, rows=50)
    assert np.array_equal(hard, votes(logits))
    assert np.array_equal(hard, hard9)
    assert np.allclose(soft, soft9)
    assert np.allclose(soft, votes(logits, 2.0 * spread(logits)))


def test_targets_combine_after_each_is_divided_by_its_votes():
    # Shares (1, 0) and (1/4, 3/4): mean (5/8, 3/8); max (1, 3/4) / 1.75; min (1/4, 0) / 0.25.
    votes = [np.array([2.0, 0.0]), np.array([10.0, 30.0])]
    assert np.allclose(combine(votes), [5 / 8, 3 / 8])
    assert np.allclose(combine(votes, "max"), [4 / 7, 3 / 7])
    assert np.allclose(combine(votes, "min"), [1, 0])
    assert np.allclose(combine([np.array([1.0, 0]), np.array([0, 1.0])], "min"), [0.5, 0.5])
    with pytest.raises(InputError, match="median"):
        combine(votes, "median")


def test_breadth_counts_equal_classes_and_weighs_unequal_ones():
    assert breadth(np.array([2, 2, 0, 2])) == pytest.approx(3)
    # Shares 3/4 and 1/4: exp(3/4 ln 4/3 + 1/4 ln 4) = (4/3)^(3/4) * 4^(1/4) = 1.7548.
    assert breadth(np.array([3.0, 1.0])) == pytest.approx(1.7548, abs=1e-4)


def test_sharpened_votes_have_the_order_of_the_soft_and_the_breadth_of_the_hard():
    # Soft shares 0.6 and 0.4; squared they are 0.36 to 0.16, as 9 to 4: the breadth of hard votes 9 and 4.
    found = sharpen(np.array([0.6, 0.4]), np.array([4, 9]))
    assert found == pytest.approx([9 / 13, 4 / 13], abs=1e-6)
    assert sharpen(np.array([9.0, 4.0]), np.array([1, 1])) == pytest.approx([9 / 13, 4 / 13])  # never flattened
    assert sharpen(np.array([0.5, 0.5, 0.0]), np.array([7, 0, 0])) == pytest.approx([0.5, 0.5, 0])


@given(st.integers(0, 10_000))
@settings(max_examples=100)
def test_sharpening_meets_the_breadth_and_keeps_the_order(seed):
    rng = np.random.default_rng(seed)
    soft, hard = rng.dirichlet(np.full(8, 5.0)), rng.dirichlet(np.full(8, 0.3))
    found = sharpen(soft, hard)
    assert found.sum() == pytest.approx(1)
    assert breadth(found) == pytest.approx(min(breadth(soft), breadth(hard)), rel=1e-4)
    assert np.all(np.diff(found[np.argsort(soft)]) >= 0)
    order = rng.permutation(8)
    assert np.allclose(sharpen(soft[order], hard[order]), found[order])


def test_columns_are_found_by_name_and_missing_classes_mean_none():
    assert columns_of(["a", "b", "c"], ["c", "a"]).tolist() == [2, 0]
    assert columns_of(["a", "b"], ["a", "z"]) is None


matrices = st.tuples(st.integers(1, 12), st.integers(1, 6)).flatmap(
    lambda shape: arrays(np.float64, shape, elements=st.floats(-30, 30, width=32))
)


@given(matrices, st.sampled_from([None, 0.5, 3.0]), st.randoms(use_true_random=False))
@settings(max_examples=100)
def test_votes_sum_to_the_images_and_ignore_their_order(logits, temperature, random):
    rows = list(range(len(logits)))
    random.shuffle(rows)
    found = votes(logits, temperature)
    assert found.min() >= 0
    assert found.sum() == pytest.approx(len(logits))
    assert np.allclose(found, votes(logits[rows], temperature))


@given(matrices, st.randoms(use_true_random=False))
@settings(max_examples=100)
def test_permuting_the_classes_permutes_soft_votes(logits, random):
    order = list(range(logits.shape[1]))
    random.shuffle(order)
    assert np.allclose(votes(logits[:, order], 2.0), votes(logits, 2.0)[order])
