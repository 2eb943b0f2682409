"""Keys of samples: equal for equal ids in any order, unrelated for other seeds and purposes."""

import numpy as np

from prune.scores.sample_keys import for_purpose, name_keys, sample_keys, uniform

IDS = np.array([f"class{i % 7}/{i:05d}.jpg".encode() for i in range(20_000)])


def correlation(a, b):
    return abs(np.corrcoef(uniform(a), uniform(b))[0, 1])


def test_keys_follow_the_ids_in_any_order_and_in_any_width_of_column():
    order = np.random.default_rng(0).permutation(len(IDS))
    keys = sample_keys(3, ids=IDS)
    assert np.array_equal(sample_keys(3, ids=IDS[order]), keys[order])
    assert np.array_equal(sample_keys(3, ids=IDS.astype("S64")), keys)
    assert len(np.unique(keys)) == len(IDS)


def test_keys_of_other_seeds_and_purposes_are_unrelated():
    # 20,000 pairs: the correlation of independent numbers has a standard deviation of 0.007.
    for ids in (IDS, None):
        keys = [sample_keys(seed, ids=ids, n=len(IDS)) for seed in (0, 1)]
        assert correlation(*keys) < 0.03
        assert correlation(for_purpose(keys[0], "ties"), for_purpose(keys[0], "random")) < 0.03
        assert correlation(keys[0][1:], keys[0][:-1]) < 0.03


def test_without_ids_the_row_numbers_are_the_ids():
    assert np.array_equal(sample_keys(5, n=10)[:6], sample_keys(5, n=6))
    assert not np.array_equal(sample_keys(5, n=6), sample_keys(6, n=6))


def test_uniform_numbers_lie_inside_the_unit_interval_and_fill_it():
    assert 0 < uniform(np.array([0], np.uint64))[0] < 1e-15
    assert 1 - 1e-15 < uniform(np.array([2**64 - 1], np.uint64))[0] < 1
    found = np.bincount((10 * uniform(sample_keys(0, ids=IDS))).astype(int), minlength=10)
    assert np.abs(found - 2000).max() < 200  # standard deviation 42


def test_classes_have_keys_by_name():
    keys = name_keys(0, ["ant", "bee", "cat"], 3)
    assert np.array_equal(name_keys(0, ["cat", "ant", "bee"], 3), keys[[2, 0, 1]])
    assert np.array_equal(name_keys(0, None, 3), sample_keys(0, n=3))
