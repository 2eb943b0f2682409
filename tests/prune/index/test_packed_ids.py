"""Packed ids: what is unpacked is what was packed, files of both formats hold the same index, and damage is found."""

import hashlib
import json
import subprocess
import sys
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prune.index import index_file, packed_ids
from prune.index.manifest import Manifest
from prune.index.matching import find
from prune.index.npz import open_arrays, save_arrays
from prune.index.packed_ids import BLOCK, PackedIds, joined, pack, taken
from prune.index.pruned_index import PrunedIndex
from prune.runs.files import InputError

names = st.lists(st.binary(min_size=1, max_size=9).map(lambda b: b.replace(b"\0", b"a")), max_size=40)


def array(ids) -> np.ndarray:
    return np.array(ids, np.bytes_) if len(ids) else np.zeros(0, "S1")


@settings(max_examples=300)
@given(ids=names, cuts=st.lists(st.integers(0, 40), max_size=4), block=st.sampled_from([1, 2, 7, 4096]), data=st.data())
def test_ids_come_back_by_slice_row_and_mask_however_they_were_handed_over(ids, cuts, block, data):
    whole, ends = array(ids), [0, *sorted(cuts), 40]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packed_ids, "BLOCK", block)
        patch.setattr(packed_ids, "_WIDE", data.draw(st.sampled_from([0, 1024])))
        packed = pack(whole[a:b] for a, b in zip(ends, ends[1:]))
        assert np.asarray(packed).tolist() == ids
        assert len(packed) == len(ids)
        low, high = data.draw(st.integers(-45, 45)), data.draw(st.integers(-45, 45))
        assert packed[low:high].tolist() == ids[low:high]
        assert packed[::-2].tolist() == ids[::-2]
        if ids:
            rows = np.array(data.draw(st.lists(st.integers(-len(ids), len(ids) - 1), max_size=50)), np.int64)
            assert packed[rows].tolist() == whole[rows].tolist()
            mask = np.arange(len(ids)) % 3 == 1
            assert packed[mask].tolist() == whole[mask].tolist()
            assert packed[len(ids) - 1] == packed[-1] == ids[-1]


def test_what_is_stored_of_an_id_is_what_the_one_before_it_has_not():
    packed = pack([array([b"cat/01.jpg", b"cat/02.jpg", b"cat/02", b"dog/1.jpg"])])
    assert packed.shared.tolist() == [0, 5, 6, 0]
    assert packed.length.tolist() == [10, 10, 6, 9]
    assert packed.rest.tobytes() == b"cat/01.jpg" + b"2.jpg" + b"" + b"dog/1.jpg"
    assert packed.begin.tolist() == [0, 24]


def test_rows_beyond_the_ids_are_refused():
    packed = pack([array([b"a", b"b"])])
    for rows in (2, -3, np.array([0, 2]), np.array([-3])):
        with pytest.raises(IndexError):
            packed[rows]


def test_ids_longer_than_what_is_shared_at_most_and_than_can_be_stored():
    long = [b"x" * 300 + b"%d" % i for i in range(3)]
    assert pack([array(long)]).shared.tolist() == [0, 255, 255]
    assert np.asarray(pack([array(long)])).tolist() == long
    with pytest.raises(InputError, match="an id of 65536 bytes"):
        pack([array([b"x" * 65536])])


@pytest.mark.parametrize(
    ("shared", "length", "begin", "rest"),
    [
        ([0, 0], [1], [0, 1], b"a"),
        ([0], [1], [0], b"a"),
        ([0], [1], [0, 2], b"a"),
        ([1], [1], [0, 0], b""),  # the first of a block shares nothing
        ([0, 2], [1, 3], [0, 2], b"ab"),  # more than the one before has
        ([0], [2], [0, 1], b"a"),
    ],
)
def test_arrays_that_do_not_fit_together_are_refused(shared, length, begin, rest):
    with pytest.raises(InputError, match="packed ids"):
        np.asarray(
            PackedIds(np.array(shared, "u1"), np.array(length, "u2"), np.array(begin), np.frombuffer(rest, "u1"))
        )


@given(ids=names, other=names, data=st.data())
def test_a_part_and_two_columns_as_one_are_those_of_arrays(ids, other, data):
    first, second = array(ids), array(other)
    order = np.array(data.draw(st.permutations(range(len(ids) + len(other)))), np.int64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packed_ids, "LARGE", 3)
        patch.setattr(packed_ids, "_STEP", 4)
        both = joined(pack([first]), second, order)
        assert np.asarray(both).tolist() == np.concatenate([first, second])[order].tolist()
        assert isinstance(both, np.ndarray) == (len(order) <= 3)
        rows = order[order < len(ids)]
        assert np.asarray(taken(pack([first]), rows)).tolist() == first[rows].tolist()


@given(ids=names, other=names, both=st.booleans())
def test_sorted_columns_are_merged_with_the_result_of_hashing(ids, other, both):
    """The one way reads sorted columns side by side, the other one sorts hashes; shuffled columns take the second."""
    ids, other = sorted(set(ids)), sorted(set(other))
    rng = np.random.default_rng(0)
    turn, place = rng.permutation(len(ids)), rng.permutation(len(other))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("prune.index.matching._ROWS", 3)
        merged, repeated = find(array(ids), pack([array(other)]) if both else array(other))
        hashed, _ = find(array(ids)[turn], array(other)[place])
    where = {name: row for row, name in enumerate(other)}
    assert merged.tolist() == [where.get(name, -1) for name in ids]
    assert not repeated.any()
    assert [int(place[row]) if row >= 0 else -1 for row in hashed] == merged[turn].tolist()


def test_a_sorted_listing_with_a_name_twice_is_not_merged():
    for listing in ([b"a", b"b", b"b", b"c"], [b"a", b"b", b"c", b"c"], [b"a", b"a", b"b", b"c"]):
        rows, repeated = find(array([b"a", b"b", b"c"]), array(listing))
        assert rows.tolist() == [listing.index(name) for name in (b"a", b"b", b"c")]
        assert repeated.tolist() == [listing.count(name) > 1 for name in (b"a", b"b", b"c")]


def source_of(n: int, seed: int = 0, shuffled: bool = False) -> Manifest:
    rng = np.random.default_rng(seed)
    order = rng.permutation(n) if shuffled else np.arange(n)
    small = np.full(n, 8, np.int32)
    ids = np.array([b"part-%02d/%06d-%x.jpg" % (i // 100, i, i * i) for i in range(n)])[order]
    labels = rng.integers(0, 3, n).astype(np.int32)
    digests = rng.integers(0, 50, n).astype(np.uint64)  # many equal ones, whose order the ids decide
    return Manifest(ids, labels, small, small, small, digests, small.astype("u4"), ["a", "b", "c"])


def index_of(source: Manifest, rows, score=None) -> PrunedIndex:
    return PrunedIndex.from_rows(source, np.asarray(rows), score=score, provenance=[{"step": "test"}])


def same(one: PrunedIndex, other: PrunedIndex) -> bool:
    equal = [np.array_equal(np.asarray(a), np.asarray(b), equal_nan=name == "score")
             for (name, a), b in zip(one.columns.items(), other.columns.values())]  # fmt: skip
    left, right = one.meta, other.meta
    return all(equal) and {**left, "format": ""} == {**right, "format": ""}


@pytest.mark.parametrize("shuffled", [False, True])
def test_a_packed_file_is_the_same_index_loaded_and_opened(tmp_path, shuffled):
    source = source_of(2 * BLOCK + 77, shuffled=shuffled)
    index = index_of(source, np.arange(0, len(source), 2), np.arange(len(source) // 2 + 1))
    plain, packed = tmp_path / "plain.index.npz", tmp_path / "packed.index.npz"
    index.save(plain)
    index.save(packed, packed=True)
    if not shuffled:
        assert packed.stat().st_size < plain.stat().st_size
    assert open_arrays(plain, "winnow-index/2")[1]["format"] == "winnow-index/1"  # what older versions read
    assert open_arrays(packed, "winnow-index/2")[1]["format"] == "winnow-index/2"
    for place in (plain, packed):
        for opened in (PrunedIndex.load(place), PrunedIndex.open(place), PrunedIndex.open(place, verify=True)):
            assert same(opened, index)
            assert opened.fingerprint == index.fingerprint == replace(opened).fingerprint  # the second is computed
            assert opened.rows(source.ids).tolist() == opened.positions.tolist()
            assert opened.rows_in(source).tolist() == opened.positions.tolist()
            opened.save(tmp_path / "again.index.npz", packed=place == packed)
            assert (tmp_path / "again.index.npz").read_bytes() == place.read_bytes()
    for opened in (PrunedIndex.load(packed), PrunedIndex.open(packed)):
        opened.save(tmp_path / "again.index.npz", packed=False)
        assert (tmp_path / "again.index.npz").read_bytes() == plain.read_bytes()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(left=st.sets(st.integers(0, 59)), right=st.sets(st.integers(0, 59)), shuffled=st.booleans())
def test_opened_packed_indices_compose_as_loaded_ones(tmp_path, left, right, shuffled):
    source = source_of(60, shuffled=shuffled)
    a, b = (index_of(source, sorted(rows)) for rows in (left, right))
    a.save(tmp_path / "a.index.npz")
    b.save(tmp_path / "b.index.npz", packed=True)
    with pytest.MonkeyPatch.context() as patch:
        for module, name, value in ((packed_ids, "LARGE", 5), (index_file, "LARGE", 5), (packed_ids, "BLOCK", 8)):
            patch.setattr(module, name, value)
        b.save(tmp_path / "b.index.npz")  # packed where it has more than 5 samples
        c, d = PrunedIndex.open(tmp_path / "a.index.npz"), PrunedIndex.open(tmp_path / "b.index.npz")
        found = (c | d, d | c, c & d, c.without(d), d.without(c), d.sample(0.5) if right else d)
        for one, other in zip(found, (a | b, b | a, a & b, a.without(b), b.without(a), b.sample(0.5) if right else b)):
            assert same(one, other)


def test_a_selection_of_many_samples_is_packed_from_the_beginning(tmp_path, monkeypatch):
    monkeypatch.setattr(packed_ids, "LARGE", 10)
    monkeypatch.setattr(index_file, "LARGE", 10)
    source = source_of(40)
    small, large = index_of(source, range(10)), index_of(source, range(11))
    assert isinstance(small.ids, np.ndarray)
    assert isinstance(large.ids, PackedIds)
    assert [one.meta["format"] for one in (small, large)] == ["winnow-index/1", "winnow-index/2"]
    large.save(tmp_path / "large.index.npz")
    assert np.asarray(PrunedIndex.load(tmp_path / "large.index.npz").ids).tolist() == source.ids[:11].tolist()


def test_damage_in_a_packed_file_is_found_by_loading_and_by_verifying(tmp_path):
    index_of(source_of(50), range(30)).save(tmp_path / "a.index.npz", packed=True)
    arrays, meta = open_arrays(tmp_path / "a.index.npz", "winnow-index/2", mapped=False)
    arrays["id_rest"][5] ^= 1
    save_arrays(tmp_path / "b.index.npz", arrays, meta)
    for read in (PrunedIndex.load, lambda path: PrunedIndex.open(path, verify=True)):
        with pytest.raises(InputError, match=r"b\.index\.npz: damaged: the checksum does not match"):
            read(tmp_path / "b.index.npz")
    del arrays["id_begin"]
    save_arrays(tmp_path / "c.index.npz", arrays, meta)
    with pytest.raises(InputError, match=r"c\.index\.npz: not a valid index: column 'id_begin' is missing"):
        PrunedIndex.open(tmp_path / "c.index.npz")


def test_ids_that_would_fill_the_memory_are_not_unpacked(tmp_path):
    """A thousand bytes each by one long id among many short ones, which share all they have."""
    n = 200_000
    ids = pack([np.full(n, b"a"), array([b"b" * 5000])])
    index = index_of(source_of(3), range(3))
    rows = np.arange(n + 1)
    columns = {name: np.resize(column, n + 1) for name, column in index.columns.items()} | {"id": ids}
    meta = {**index.meta, "format": "winnow-index/2", "kept": n + 1} | {"class_kept": [0, 0, 0]}
    meta["source"] = {**meta["source"], "samples": n + 1}
    index_file.write(tmp_path / "bomb.index.npz", columns | {"position": rows}, meta)
    opened, _ = index_file.open_columns(tmp_path / "bomb.index.npz", mapped=True, verify=False)
    assert opened["id"][n][:3] == b"bbb"
    monkey = pytest.MonkeyPatch()
    monkey.setattr(index_file, "check", lambda *_: None)  # the content is an index's as far as is seen before
    try:
        with pytest.raises(InputError, match="made to fill the memory: its ids would take 1,000"):
            index_file.read(tmp_path / "bomb.index.npz")
    finally:
        monkey.undo()


OPENS = """
import json, sys
from pathlib import Path
from prune.index.pruned_index import PrunedIndex
from prune.index.manifest import Manifest
place = Path(sys.argv[1])
def held():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("RssAnon")) / 1024
listing = Manifest.load(place / "s.manifest.npz").ids
before = held()
whole, half = (PrunedIndex.open(place / f"{name}.index.npz") for name in ("whole", "half"))
opened = held() - before
rows = whole.rows(listing)
both = whole & half
print(json.dumps([opened, held() - before, len(rows), len(both)]))
"""


def test_opening_takes_no_memory_and_finding_and_composing_little(tmp_path):
    n = 200_000
    small = np.full(n, 8, np.int32)
    ids = np.array([b"part-%03d/" % (i // 1000) + b"x" * 100 + b"%08d.jpg" % i for i in range(n)])  # 25 MB
    source = Manifest(ids, small * 0, small, small, small, np.arange(n, dtype="u8"), small.astype("u4"), ["a"])
    source.save(tmp_path / "s.manifest.npz")
    index_of(source, range(n)).save(tmp_path / "whole.index.npz", packed=True)
    index_of(source, range(0, n, 2)).save(tmp_path / "half.index.npz", packed=True)
    done = subprocess.run([sys.executable, "-c", OPENS, tmp_path], capture_output=True, text=True, check=True)
    opened, after, rows, both = json.loads(done.stdout)
    assert (rows, both) == (n, n // 2)
    assert opened < 4, f"{opened:.1f} MiB to open two indices"
    assert after < 40, f"{after:.1f} MiB: the rows take 2, the half's columns and ids 15"


def test_an_index_of_very_many_is_loaded_with_its_ids_packed_and_is_the_same(tmp_path, monkeypatch):
    whole = index_of(source_of(30), range(30), score=np.arange(30))
    whole.save(tmp_path / "x.npz", packed=True)
    assert isinstance(PrunedIndex.load(tmp_path / "x.npz").ids, np.ndarray)
    monkeypatch.setattr(index_file, "LARGE", 10)
    loaded = PrunedIndex.load(tmp_path / "x.npz")
    assert isinstance(loaded.ids, PackedIds)
    assert same(loaded, whole)
    assert loaded.rows(whole.ids[::-1]).tolist() == list(range(29, -1, -1))


@pytest.mark.parametrize("step", [1, 3, 1 << 20])
def test_the_fingerprint_is_that_of_the_samples_in_the_order_of_digest_and_id(monkeypatch, step):
    """By its definition, in blocks of rows; 50 digests of 300 samples, so that ids decide many times."""
    index = index_of(source_of(300, shuffled=True), range(300))
    sha = hashlib.sha256(index.source.encode())
    order = sorted(range(300), key=lambda row: (int(index.digests[row]), bytes(index.ids[row])))
    monkeypatch.setattr(index_file, "_ROWS", step)
    monkeypatch.setattr(index_file, "_HELD", 7 * step * index.ids.dtype.itemsize)  # several passes over packed ids
    for begin in range(0, 300, step):
        rows = order[begin : begin + step]
        for column in (index.digests, index.labels, index.quality):
            sha.update(column[rows].tobytes())
        names_here = [bytes(name) for name in index.ids[rows]]
        sha.update(np.array([len(name) for name in names_here], "<i4").tobytes() + b"".join(names_here))
    packed = {**index.columns, "id": pack([index.ids])}
    assert index_file.fingerprint(index.source, index.columns) == sha.hexdigest()[:32]
    assert index_file.fingerprint(index.source, packed) == sha.hexdigest()[:32]


def test_a_growing_column_holds_what_was_added_in_order():
    column, parts = packed_ids._Growing(np.uint16), [np.arange(k, dtype=np.uint16) for k in (0, 9_000, 3, 60_000)]
    for part in parts:
        column.add(part)
    assert len(column) == sum(map(len, parts))
    assert np.array_equal(column.array(), np.concatenate(parts))


def test_packing_never_holds_the_packed_bytes_twice():
    ids = np.array([b"%012d" % (7919 * i % 10**12) for i in range(1_000_000)])
    tracemalloc.start()
    packed = pack(ids[begin : begin + 65_536] for begin in range(0, len(ids), 65_536))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    size = sum(column.nbytes for column in packed.members.values())
    assert peak < 1.45 * size + 8e6, f"{peak / 1e6:.1f} MB for {size / 1e6:.1f}"
