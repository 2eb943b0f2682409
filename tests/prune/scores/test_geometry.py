import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prune.scores.clusters import first_centres, gather, kmeans, nearest, rand_index, unit
from prune.scores.geometry import affinity, moderate, prototype, self_prototype
from prune.scores.sample_keys import sample_keys


def test_prototype_distance_is_to_the_own_class_mean():
    # Means (1, 0) and (0, 3): (0,0) and (2,0) lie 1 away, (3,7) lies 5 away from (0,3).
    x, y = np.array([[0, 0], [2, 0], [3, 7.0]]), np.array([0, 0, 1])
    assert prototype(x, y, np.array([[1, 0], [0, 3.0]])).tolist() == [1, 1, 5]


def test_moderate_is_the_distance_to_the_classs_median_distance():
    # Class 0: distances 1 2 6, median 2. Class 1: 4 and 8, median 6. Class 2 is empty.
    found = moderate(np.array([1.0, 4.0, 2.0, 6.0, 8.0]), np.array([0, 1, 0, 0, 1]), 3)
    assert found.tolist() == [1, 2, 0, 4, 2]


def test_affinity_is_the_cosine_to_the_nearest_target_after_centring():
    # Less the centre (1, 1): sources (1, 0), (0, 2), (-1, -1); targets (2, 0) and (0, -3).
    source = np.array([[2, 1], [1, 3], [0, 0.0]])
    centre, targets = np.array([1.0, 1.0]), np.array([[3, 1], [1, -2.0]])
    assert np.allclose(affinity(source, [targets], centre), [1, 0, np.sqrt(0.5)])
    # One target each: the nearest image of any target.
    assert np.allclose(affinity(source, [targets[:1], targets[1:]], centre), [1, 0, np.sqrt(0.5)])


def test_self_prototypes_measure_cosine_to_the_nearest_centre():
    # Two tight bundles of directions and one sample between them: it is the farthest from its centre.
    rng = np.random.default_rng(0)
    x = np.r_[np.tile([1.0, 0.0], (20, 1)), np.tile([0.0, 1.0], (20, 1))] + 0.01 * rng.normal(size=(40, 2))
    x = np.r_[x, [[0.9, 1.0]]]
    found = self_prototype(x, 2)
    assert found.argmax() == 40
    assert found[:40].max() < 0.01
    # 42 degrees from the second bundle, less what the sample itself draws that centre towards it.
    assert found[40] == pytest.approx(1 - np.cos(np.radians(42)), abs=0.04)


def test_self_prototypes_do_not_care_for_the_length_of_a_feature():
    x = np.random.default_rng(1).normal(size=(60, 4))
    scale = np.random.default_rng(2).uniform(0.5, 2, size=(60, 1))
    assert np.allclose(self_prototype(x, 3), self_prototype(x * scale, 3), atol=1e-5)


def test_nearest_names_the_centre_and_the_squared_distance():
    centres = np.array([[0, 0], [10, 0]], np.float32)
    which, square = nearest(np.array([[1, 2], [9, 0]], np.float32), centres)
    assert which.tolist() == [0, 1]
    assert square.tolist() == [5, 1]


def test_kmeans_finds_separate_heaps_and_repeats_with_the_seed():
    rng = np.random.default_rng(3)
    heaps = np.array([[0, 0], [50, 0], [0, 50]], float)
    x = (heaps[rng.integers(0, 3, 300)] + rng.normal(size=(300, 2))).astype(np.float16)
    centres = kmeans(x, 3, seed=5)
    assert np.allclose(np.sort(np.abs(centres), axis=0), np.sort(heaps, axis=0), atol=1)
    assert np.array_equal(centres, kmeans(x, 3, seed=5))


@pytest.mark.parametrize("cosine", [False, True])
def test_the_nearest_centre_does_not_depend_on_the_other_rows_of_a_block(cosine):
    rng = np.random.default_rng(0)
    x, centres = (unit(rng.normal(size=(n, 96))) for n in (300, 40))
    centres[20:30] = centres[5]  # equal centres: the lowest number
    which, value = nearest(x, centres, cosine)
    for rows in (slice(0, 1), slice(7, 10), slice(100, 300)):
        part = nearest(x[rows], centres, cosine)
        assert np.array_equal(part[0], which[rows])
        assert np.array_equal(part[1], value[rows])
    assert not np.isin(which, np.arange(20, 30)).any()
    plain = x @ centres.T if cosine else -((x[:, None] - centres[None]) ** 2).sum(axis=-1)
    assert np.allclose(value, plain.max(axis=1) * (1 if cosine else -1), atol=1e-5)


@pytest.mark.parametrize("cosine", [False, True])
def test_centres_do_not_depend_on_the_order_of_the_rows(cosine):
    rng = np.random.default_rng(4)
    x, order = rng.normal(size=(900, 12)).astype(np.float16), rng.permutation(900)
    keys = sample_keys(2, ids=np.arange(900).astype("S4"))
    for k in (5, 20):  # all rows, and a sample of them
        one = kmeans(x, k, seed=2, keys=keys, cosine=cosine, per_centre=40)
        other = kmeans(x[order], k, seed=2, keys=keys[order], cosine=cosine, per_centre=40)
        assert np.array_equal(one, other)


def test_the_first_centres_are_spread_over_all_heaps():
    # Twenty heaps, far apart: 20 rows drawn at random would miss some 7 of them.
    rng = np.random.default_rng(5)
    heaps = 100 * rng.normal(size=(20, 8))
    x = (heaps[rng.integers(0, 20, 1000)] + rng.normal(size=(1000, 8))).astype(np.float32)
    for seed in range(10):
        start = first_centres(x, 20, np.random.default_rng(seed))
        assert len(np.unique(nearest(start, heaps.astype(np.float32))[0])) == 20
        centres = kmeans(x, 20, seed=seed)
        assert nearest(x, centres)[1].mean() < 10  # 8 where every heap has a centre


def test_fewer_different_rows_than_centres_are_all_taken():
    x = np.repeat(np.eye(2, dtype=np.float32), 4, axis=0)
    start = first_centres(x, 5, np.random.default_rng(0))
    assert len(start) == 5
    assert {tuple(row) for row in start} == {(1, 0), (0, 1)}


def test_the_rand_index_by_hand():
    # Pairs together in both: 1; in the first 2, in the second 1, of 6. By chance 2 * 1 / 6: (1 - 1/3) / (3/2 - 1/3).
    assert rand_index(np.array([0, 0, 1, 1]), np.array([0, 0, 1, 2])) == pytest.approx(4 / 7)
    assert rand_index(np.array([0, 0, 1, 1]), np.array([1, 1, 0, 0])) == 1
    rng = np.random.default_rng(0)
    assert abs(rand_index(rng.integers(0, 5, 5000), rng.integers(0, 5, 5000))) < 0.01


def test_more_centres_than_samples_are_the_samples():
    assert kmeans(np.array([[1.0, 2.0]]), 4).tolist() == [[1, 2]]


def test_unit_rows_have_length_one_and_zero_rows_stay():
    assert unit(np.array([[3, 4], [0, 0.0]])).tolist() == [[np.float32(0.6), np.float32(0.8)], [0, 0]]


@given(st.lists(st.integers(0, 29), min_size=0, max_size=30, unique=True).map(sorted))
@settings(max_examples=50)
def test_gathered_rows_are_the_requested_ones(tmp_path_factory, rows):
    x = np.arange(60, dtype=np.float16).reshape(30, 2)
    place = tmp_path_factory.mktemp("gather") / "x.npy"
    np.save(place, x)
    mapped = np.load(place, mmap_mode="r")
    assert np.array_equal(gather(mapped, np.array(rows, np.int64)), x[rows].astype(np.float32))


@given(st.integers(0, 1000))
@settings(max_examples=25)
def test_permuting_the_samples_permutes_the_scores(seed):
    rng = np.random.default_rng(seed)
    x, y, order = rng.normal(size=(20, 3)), rng.integers(0, 3, 20), rng.permutation(20)
    means = rng.normal(size=(3, 3))
    distance = prototype(x, y, means)
    assert np.allclose(prototype(x[order], y[order], means), distance[order], rtol=1e-5)
    assert np.allclose(moderate(distance[order], y[order], 3), moderate(distance, y, 3)[order])
    centre = x.mean(axis=0)
    assert np.allclose(affinity(x[order], [x[:4]], centre), affinity(x, [x[:4]], centre)[order], atol=1e-6)
