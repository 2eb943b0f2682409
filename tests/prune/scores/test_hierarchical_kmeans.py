import numpy as np
import pytest

from prune.runs.files import InputError
from prune.scores.hierarchical_kmeans import balance, balanced_order, default_counts, hierarchical_kmeans


def blobs(sizes, seed=0, d=6):
    rng = np.random.default_rng(seed)
    middles = 20 * rng.normal(size=(len(sizes), d))
    label = np.repeat(np.arange(len(sizes)), sizes)
    order = rng.permutation(len(label))
    return (middles[label] + rng.normal(size=(len(label), d)))[order].astype(np.float32), label[order]


def test_order_takes_turns_by_hand():
    # Two top clusters: A holds lowest clusters 0 (rows 0 to 2) and 1 (row 3), B holds 2 (rows 4 and 5).
    parents = [np.array([0, 0, 0, 1, 2, 2]), np.array([0, 0, 1])]
    keys = np.array([2, 0, 1, 0, 1, 0])
    # A by turns of its clusters: row 1, row 3, row 2, row 0. B: row 5, row 4. Top: 1, 5, 3, 4, 2, 0.
    assert np.argsort(balanced_order(parents, keys)).tolist() == [1, 5, 3, 4, 2, 0]


def test_any_budget_is_shared_evenly_as_far_as_the_clusters_reach():
    rng = np.random.default_rng(1)
    parents = [rng.integers(0, 40, 2000) ** 2 // 40, rng.integers(0, 5, 40)]
    order = balanced_order(parents, rng.integers(0, 2**60, 2000, dtype=np.uint64))
    assert sorted(order.tolist()) == list(range(2000))
    top = parents[1][parents[0]]
    sizes = np.bincount(top, minlength=5)
    for budget in (0, 7, 100, 800, 1999, 2000):
        taken = np.bincount(top[order < budget], minlength=5)
        assert taken.sum() == budget
        short = taken < sizes  # clusters that have some left gave as many as any other, up to one
        assert (taken[short] >= taken.max() - 1).all()
        for cluster in range(5):
            inside = top == cluster
            lowest = np.bincount(parents[0][inside & (order < budget)], minlength=40)
            room = np.bincount(parents[0][inside], minlength=40)
            left = lowest < room
            assert (lowest[left] >= lowest.max() - 1).all()


def test_samples_that_may_not_be_taken_or_have_no_cluster_come_last():
    parents = [np.array([0, -1, 1, 0, 1])]
    may = np.array([True, True, False, True, True])
    order = balanced_order(parents, np.array([1, 0, 0, 2, 3]), may)
    assert np.argsort(order).tolist() == [0, 4, 3, 1, 2]


def test_rare_groups_get_their_share_without_labels():
    # One group of 8,000 and nine of 120: by chance a rare one gets 1.3 % of the budget, evenly it gets 10 %.
    features, label = blobs([8000] + [120] * 9)
    tree = hierarchical_kmeans(features, (128, 10))
    share = np.bincount(label[balanced_order(tree.parents) < 600], minlength=10) / 600
    assert share[1:].min() > 0.07
    assert share[0] < 0.2


def test_resampling_brings_centres_nearer_to_even():
    # The halves of a line hold nine tenths and a tenth of the points: centres go with the cube root of the density,
    # 2.1 to 1, which leaves 6.5 of 20 to the thin half.
    rng = np.random.default_rng(2)
    line = np.r_[rng.uniform(0, 1, 18000), rng.uniform(1, 2, 2000)][:, None]
    plain, even = (hierarchical_kmeans(line, (20,), resamples=rounds).centres[0] for rounds in (0, 10))
    assert (plain > 1).sum() in (6, 7)
    assert (even > 1).sum() in (8, 9, 10)


def test_clusters_follow_the_ids_in_any_order_of_the_rows():
    features, _ = blobs([300, 100, 50, 50], seed=3)
    keys = np.random.default_rng(4).integers(0, 2**63, 500, dtype=np.uint64)
    order = np.random.default_rng(5).permutation(500)
    plain = hierarchical_kmeans(features, (40, 4), keys=keys)
    mixed = hierarchical_kmeans(features[order], (40, 4), keys=keys[order])
    assert np.array_equal(plain.parents[0][order], mixed.parents[0])
    assert np.array_equal(plain.parents[1], mixed.parents[1])
    taken = balanced_order(plain.parents, keys) < 77
    assert np.array_equal(taken[order], balanced_order(mixed.parents, keys[order]) < 77)


def test_images_without_features_have_no_cluster():
    features, _ = blobs([60, 60], seed=6)
    features[[3, 70]] = np.nan
    tree = hierarchical_kmeans(features, (4,), workers=2)
    assert np.flatnonzero(tree.parents[0] < 0).tolist() == [3, 70]
    assert set(np.argsort(balanced_order(tree.parents))[-2:].tolist()) == {3, 70}


def test_cosine_looks_at_directions_alone():
    rng = np.random.default_rng(7)
    angle, length = np.repeat([0.2, 1.4], 200) + 0.02 * rng.normal(size=400), rng.uniform(0.1, 50, 400)
    features = length[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    found = hierarchical_kmeans(features, (2,), cosine=True).parents[0]
    assert len(set(found[:200])) == len(set(found[200:])) == 1
    assert found[0] != found[-1]


def test_counts_descend_and_are_checked():
    assert default_counts(10) == (1,)
    assert all(a > b for a, b in zip(default_counts(10**6), default_counts(10**6)[1:]))
    features = np.random.default_rng(0).normal(size=(20, 3))
    with pytest.raises(InputError, match=r"\[4, 4\]"):
        hierarchical_kmeans(features, (4, 4))
    with pytest.raises(InputError, match="30 clusters: 20 samples"):
        hierarchical_kmeans(features, (30,))


def test_balance_is_the_order_of_taking_turns_as_a_share_of_all():
    features, label = blobs([3000] + [60] * 7, seed=8)
    features[5] = np.nan
    score = balance(features, seed=1)
    known = np.isfinite(score)
    assert np.flatnonzero(~known).tolist() == [5]
    assert np.allclose(np.sort(score[known]), np.arange(len(features) - 1) / len(features))
    rare = np.bincount(label[np.argsort(score)[:300]], minlength=8)[1:]
    assert rare.sum() > 2 * 300 * 420 / 3420  # more than twice what chance gives the seven rare groups
    assert np.array_equal(score, balance(features, seed=1, workers=2), equal_nan=True)
