"""Names are found by hashes that propose and bytes that decide."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prune.index import matching
from prune.index.matching import as_ids, find, find_digests, first_repeat, hashes, path_hint, rows_of_ids
from prune.index.whole_files import InputError

names = st.lists(st.binary(min_size=1, max_size=20).filter(lambda name: b"\0" not in name), max_size=30)


def array(found: list[bytes]) -> np.ndarray:
    return np.array(found, np.bytes_) if found else np.zeros(0, "S1")


@settings(max_examples=300)
@given(wanted=names, listing=names, bits=st.sampled_from([0, 1, 3, 64]))
def test_find_agrees_with_a_dictionary_however_bad_the_hash_is(wanted, listing, bits):
    real = matching.hashes
    matching.hashes = lambda ids, seed=0: real(ids, seed) & np.uint64((1 << bits) - 1)
    try:
        rows, repeated = find(array(wanted), array(listing))
    finally:
        matching.hashes = real
    assert rows.tolist() == [listing.index(name) if name in listing else -1 for name in wanted]
    assert repeated.tolist() == [listing.count(name) > 1 for name in wanted]


@given(found=names, padding=st.integers(0, 40), seed=st.integers(0, 9))
def test_the_width_of_a_column_does_not_show_in_the_hash(found, padding, seed):
    ids = array(found)
    wide = ids.astype(f"S{ids.dtype.itemsize + padding}")
    np.testing.assert_array_equal(hashes(ids, seed), hashes(wide, seed))


def test_hashes_of_numbered_names_are_all_different_and_change_with_the_seed():
    ids = np.array([b"n%08d/n%08d_%d.JPEG" % (i % 10, i % 10, i) for i in range(200_000)])
    assert len(np.unique(hashes(ids))) == len(ids)
    assert not np.any(hashes(ids, 0) == hashes(ids, 1))
    # In every bit about half of the hashes are one: 200,000 draws stay within five standard deviations (1,118).
    bits = np.unpackbits(hashes(ids).view(np.uint8).reshape(-1, 8), axis=1).sum(axis=0, dtype=np.int64)
    assert np.abs(bits - 100_000).max() < 1_118


@given(found=names)
def test_the_first_repeated_name_is_found(found):
    again = [row for row, name in enumerate(found) if name in found[:row]]
    assert first_repeat(array(found)) == ((len(again), again[0]) if again else None)


@given(wanted=st.lists(st.integers(0, 6), max_size=12), listing=st.lists(st.integers(0, 6), max_size=12))
def test_equal_digests_are_handed_out_once_each_in_order(wanted, listing):
    left = list(enumerate(listing))
    expected = []
    for value in wanted:
        match = next((pair for pair in left if pair[1] == value), None)
        expected.append(match[0] if match else -1)
        if match:
            left.remove(match)
    assert find_digests(np.array(wanted, np.uint64), np.array(listing, np.uint64)).tolist() == expected


def test_a_root_is_taken_off_with_whatever_slashes_follow_it():
    for root, paths in (
        ("data", ["data/a/1.jpg"]),
        ("data/", ["data/a/1.jpg"]),
        ("data//", ["data//a/1.jpg"]),
        ("/", ["/a/1.jpg"]),
        (".", ["./a/1.jpg"]),
    ):
        assert as_ids(paths, root).tolist() == [b"a/1.jpg"]


def test_names_that_are_not_utf8_keep_their_bytes():
    assert as_ids([b"\xff.jpg".decode("utf-8", "surrogateescape"), "ü"]).tolist() == [b"\xff.jpg", "ü".encode()]


@pytest.mark.parametrize(
    ("listed", "mended"),
    [
        (["data/im/a/1.jpg", "data/im/b/2.jpg"], {"root": "data/im"}),
        (["C:\\im\\a\\1.jpg", "C:\\im\\b\\2.jpg"], {"root": "C:/im", "separator": "\\"}),
        (["a\\1.jpg", "b\\2.jpg"], {"separator": "\\"}),
    ],
)
def test_a_listing_with_another_root_or_separator_is_told_which_arguments_mend_it(listed, mended):
    wanted = np.array([b"b/2.jpg"])
    with pytest.raises(InputError) as caught:
        rows_of_ids(wanted, as_ids(listed))
    words = ", ".join(f"{key}={value!r}" for key, value in mended.items())
    assert str(caught.value).endswith(f": give {words}")
    assert rows_of_ids(wanted, as_ids(listed, **mended)).tolist() == [1]
    assert path_hint(as_ids(["x/y.jpg"]), wanted, flags=True) == ""
