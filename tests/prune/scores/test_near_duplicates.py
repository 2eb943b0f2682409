import tracemalloc

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from prune.scores import near_duplicates as module
from prune.scores.clusters import unit
from prune.scores.near_duplicates import first_of_equals, groups, near_duplicates, originals
from prune.scores.sample_keys import sample_keys


def at(*degrees):
    angles = np.radians(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def test_originals_take_what_is_near_them_and_make_no_chains():
    # Directions 10 degrees apart are near, 20 are not. 1 follows 0; 2 is near 1 alone, which is no original: 2 is one
    # itself, and 4 follows it. 3 lies elsewhere.
    assert originals(at(0, 10, 20, 90, 30), 0.97, stand_out=False).tolist() == [-1, 0, -1, -1, 2]


def test_a_pair_must_be_similar_and_stand_out_among_its_neighbours():
    # Directions 60 degrees apart with a twin 2 degrees from the first: 1 - cos 2 = 0.0006 against 1 - cos 62 and more.
    alone = at(0, 60, 120, 180, 240, 300, 2)
    assert originals(alone, 0.95).tolist() == [-1, -1, -1, -1, -1, -1, 0]
    assert (originals(alone, 0.9999) < 0).all()
    # In a crowd all cosines are above 0.95, and none of the pairs is nearer than the others.
    crowd = unit(30 * np.eye(1, 32) + np.random.default_rng(0).normal(size=(40, 32)))
    assert (crowd @ crowd.T).min() > 0.9
    assert (originals(crowd, 0.95) < 0).all()


def test_copies_beyond_five_are_found_by_being_all_but_equal():
    x = at(0, 0.5, 1, 1.5, 2, 2.5, 3, 90, 180)
    assert originals(x, 0.95).tolist() == [-1, 0, 0, 0, 0, 0, 0, -1, -1]


def test_pairs_across_blocks_are_found(monkeypatch):

    x = unit(planted(1, n=60, copies=20, noise=0.02)[0])
    whole = originals(x, 0.95)
    assert (whole >= 0).sum() == 20
    monkeypatch.setattr(module, "_SIDE", 7)
    assert np.array_equal(originals(x, 0.95), whole)


def test_groups_list_the_original_first():
    found = [g.tolist() for g in groups(np.array([-1, 4, -1, 0, -1, 4, 0]))]
    assert found == [[0, 3, 6], [4, 1, 5]]
    assert groups(np.array([-1, -1])) == []


def planted(seed, n=2000, copies=200, noise=0.05):
    """Random features of length about sqrt(32), and copies of some with a little noise, shuffled."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 32))
    of = rng.choice(n, copies, replace=False)
    x = np.r_[x, x[of] + noise * rng.normal(size=(copies, 32))]
    twin = np.r_[np.arange(n), of]  # equal numbers are twins
    order = rng.permutation(len(x))
    return x[order].astype(np.float16), twin[order]


def test_planted_near_duplicates_are_found():
    x, twin = planted(0)
    found = near_duplicates(x, x.astype(np.float32).mean(axis=0))
    hits = np.flatnonzero(found >= 0)
    right = twin[hits] == twin[found[hits]]
    precision, recall = right.mean(), right.sum() / 200
    assert precision >= 0.95, f"precision {precision:.3f}, recall {recall:.3f}"
    assert recall >= 0.95, f"precision {precision:.3f}, recall {recall:.3f}"


def test_planted_near_duplicates_are_found_in_two_levels_of_clusters(monkeypatch):
    monkeypatch.setattr(module, "_ONE_LEVEL", 1)
    monkeypatch.setattr(module, "_CLUSTER", 100)
    x, twin = planted(0)
    found = near_duplicates(x, x.astype(np.float32).mean(axis=0))  # 22 clusters: 5 of about 4 each
    hits = np.flatnonzero(found >= 0)
    right = twin[hits] == twin[found[hits]]
    said = f"precision {right.mean():.3f}, recall {right.sum() / 200:.3f}"
    assert right.mean() >= 0.95, said
    assert right.sum() >= 0.95 * 200, said
    assert (found[found[hits]] == -1).all()


def test_of_a_large_source_pairs_on_both_sides_of_a_border_are_found_in_other_clusters(monkeypatch):
    monkeypatch.setattr(module, "_ONE_LEVEL", 1)
    monkeypatch.setattr(module, "_CLUSTER", 25)
    x, twin = planted(0, copies=400, noise=0.15)
    centre, shares = x.astype(np.float32).mean(axis=0), []
    for most in (len(x), 0):
        monkeypatch.setattr(module, "_ONE_PASS", most)
        found = near_duplicates(x, centre)
        hits = np.flatnonzero(found >= 0)
        assert (found[found[hits]] == -1).all()  # no chains, after a second search either
        right = twin[hits] == twin[found[hits]]
        assert right.mean() >= 0.95
        shares.append(right.sum() / 400)
    assert shares[1] > shares[0] + 0.5 * (1 - shares[0]), shares  # at least half of those that were missed
    assert len(set(found[found >= 0])) <= len(hits)


def test_without_stand_out_the_cosine_alone_decides_as_in_the_paper():
    # Five directions, 10 degrees apart: cosines of neighbours 0.985, of the next but one 0.940. In order of precedence
    # 0 leads 1, 2 is too far from 0 and leads 3, 4 leads itself.
    fan = at(0, 10, 20, 30, 40)
    assert originals(fan, 0.95, stand_out=False).tolist() == [-1, 0, -1, 2, -1]
    # In one cluster, whose centre is at 20 degrees, the ends are the farthest and lead; then 1 and 3, but they follow.
    assert near_duplicates(fan, np.zeros(2), 0.95, stand_out=False).tolist() == [-1, 0, -1, 4, -1]
    crowd = unit(30 * np.eye(1, 32) + np.random.default_rng(0).normal(size=(40, 32)))
    assert originals(crowd, 0.9, stand_out=False).tolist() == [-1] + 39 * [0]


@given(st.integers(0, 10_000))
@settings(max_examples=20)
def test_originals_duplicate_nothing_and_order_does_not_matter(seed):
    x, twin = planted(seed, n=60, copies=20, noise=0.02)
    centre = x.astype(np.float32).mean(axis=0)
    found = near_duplicates(x, centre)
    copies = found >= 0
    assert (found[found[copies]] == -1).all()
    order = np.random.default_rng(seed).permutation(len(x))
    moved = near_duplicates(x[order], centre)
    assert sorted(twin[order][moved >= 0]) == sorted(twin[copies])  # which twin is the original may differ


def test_the_first_of_equal_rows_is_named():
    x = np.array([[1, 2], [3, 4], [1, 2], [4, 3], [3, 4.0]], np.float32)
    assert first_of_equals(x).tolist() == [0, 1, 0, 3, 1]


def test_masses_of_one_picture_are_one_group_and_cost_no_pairs(monkeypatch):
    seen = []
    whole = module.originals
    monkeypatch.setattr(module, "originals", lambda x, *more: seen.append(len(x)) or whole(x, *more))
    x = np.random.default_rng(4).normal(size=(5000, 8))
    x[100:4900] = x[7]
    found = near_duplicates(x, x.mean(axis=0), clusters=1)
    one = {7, *range(100, 4900)}
    original = one - set(np.flatnonzero(found >= 0))
    assert len(original) == 1
    assert set(found[list(one - original)]) == original
    assert (found >= 0).sum() == 4800
    assert seen == [200]


def test_a_crowd_that_a_weak_surrogate_makes_is_compared_in_bounded_memory():
    # 6,000 images all but equal: 18 million pairs, more than a gigabyte of them, and one group.
    x = unit(np.eye(1, 16) + 1e-4 * np.random.default_rng(0).normal(size=(6000, 16)))
    tracemalloc.start()
    found = originals(x, 0.95)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found.tolist() == [-1] + 5999 * [0]
    assert peak < 400e6


def test_of_exact_copies_the_one_with_the_smallest_key_stays_in_any_order_of_the_rows():
    x = np.random.default_rng(3).normal(size=(30, 8)).astype(np.float16)
    x[20], x[25] = x[4], x[4]
    centre, order = x.mean(axis=0, dtype=np.float64), np.random.default_rng(4).permutation(30)
    for seed in range(5):
        keys = sample_keys(seed, ids=np.arange(30).astype("S2"))
        found = near_duplicates(x, centre, seed=seed, keys=keys)
        moved = near_duplicates(x[order], centre, seed=seed, keys=keys[order])
        first = min((4, 20, 25), key=lambda row: keys[row])
        assert found[first] == -1
        assert {row for row in (4, 20, 25) if found[row] == first} == {4, 20, 25} - {first}
        assert (found >= 0).sum() == 2
        assert np.array_equal(np.where(moved >= 0, order[moved], -1), found[order])
