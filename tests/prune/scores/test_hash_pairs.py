import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from prune.scores import hash_pairs as module
from prune.scores.hash_pairs import CROWD, crowded, hash_pairs, one_original


def near_hashes(n, seed, columns=2):
    """Random hashes, a third of them a few bits away from an earlier one."""
    rng = np.random.default_rng(seed)
    found = rng.integers(0, 2**64, (n, columns), dtype=np.uint64)
    for row in range(1, n, 3):
        mask = np.uint64(sum(1 << int(bit) for bit in rng.choice(64, rng.integers(1, 13), replace=False)))
        found[row, 0] = found[rng.integers(0, row), rng.integers(0, columns)] ^ mask
    return found


@given(st.integers(0, 1000))
@settings(max_examples=20)
def test_pairs_are_those_of_comparing_all_with_all(seed):
    hashes = near_hashes(60, seed)
    distance = np.bitwise_count(hashes[:, :, None] ^ hashes[None, None, :, 0].reshape(1, 1, -1))
    near = (distance.min(axis=1) <= 10) & ~np.eye(60, dtype=bool)
    wanted = {tuple(sorted(map(int, pair))) for pair in np.argwhere(near)}
    assert set(map(tuple, hash_pairs(hashes).tolist())) == wanted


def test_equal_hashes_are_joined_to_the_first_alone():
    hashes = np.zeros((500, 1), np.uint64)
    assert hash_pairs(hashes).tolist() == [[0, k] for k in range(1, 500)]


def test_an_inverted_file_finds_nearly_all_of_the_pairs(monkeypatch):
    hashes = near_hashes(6000, 1)
    exact = set(map(tuple, hash_pairs(hashes).tolist()))
    monkeypatch.setattr(module, "EXACT", 100)
    found = set(map(tuple, hash_pairs(hashes).tolist()))
    assert found <= exact
    assert len(found) > 0.8 * len(exact)


def test_crowds_are_images_with_many_partners():
    star = np.array([[0, k] for k in range(1, CROWD + 2)])
    assert crowded(np.r_[star, [[20, 21]]], 30).tolist() == [True] * (CROWD + 1) + [False]


def test_originals_are_copies_of_nothing_and_follow_the_keys_in_any_order_of_the_rows():
    pairs = np.array([[0, 1], [1, 2], [2, 3], [5, 6]])
    keys = np.array([4, 0, 5, 1, 9, 3, 2], np.uint64)
    found = one_original(pairs, 7, keys)
    # Row 1 comes first: 0 and 2 are its copies. Row 3 is next; 2 is taken. Row 6 before row 5.
    assert found.tolist() == [1, -1, 1, -1, -1, 6, -1]
    order = np.random.default_rng(0).permutation(7)
    place = np.argsort(order)
    again = one_original(np.sort(place[pairs], axis=1), 7, keys[order])
    assert np.where(again >= 0, order[again], -1)[place].tolist() == found.tolist()
    assert one_original(np.empty((0, 2), np.int64), 3, keys[:3]).tolist() == [-1, -1, -1]
