"""The pruned index: what it holds, and where its samples are in other listings."""

import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prune.index import index_file
from prune.index.index_file import read_meta
from prune.index.manifest import Manifest, digest
from prune.index.provenance import record
from prune.index.pruned_index import REASONS, PrunedIndex
from prune.runs.files import InputError
from prune.runs.outputs import claim_file, index_record

IDS = [b"ant/1.jpg", b"ant/2.jpg", b"bee/1.jpg", b"bee/2.jpg", b"bee/3.jpg", "çat/1.jpg".encode()]


def manifest_of(ids, labels, digests, classes, nbytes=None) -> Manifest:
    n = len(ids)
    return Manifest(
        ids=np.array(ids, np.bytes_) if n else np.zeros(0, "S1"),
        labels=np.asarray(labels, np.int32),
        nbytes=np.asarray(range(100, 100 + n) if nbytes is None else nbytes, np.int32),
        width=np.full(n, 8, np.int32),
        height=np.full(n, 8, np.int32),
        digests=np.asarray(digests, np.uint64),
        crc32=np.zeros(n, np.uint32),
        classes=list(classes),
    )


def six() -> Manifest:
    return manifest_of(IDS, [0, 0, 1, 1, 1, 2], [11, 12, 13, 14, 14, 16], ["ant", "bee", "çat"])


def kept(rows=(1, 2, 4), **columns) -> PrunedIndex:
    return PrunedIndex.from_rows(six(), np.array(rows), provenance=[record("select", {"keep": 0.5}, {})], **columns)


names = st.lists(
    st.text(st.characters(min_codepoint=33, max_codepoint=0x2FFF, exclude_categories=["Cs"]), min_size=1, max_size=12),
    max_size=25,
    unique=True,
).map(lambda found: [name.encode() for name in found])


@st.composite
def indices(draw) -> PrunedIndex:
    ids = draw(names)
    n, c = len(ids), draw(st.integers(1, 4))
    rng = np.random.default_rng(draw(st.integers(0, 1 << 30)))
    source = manifest_of(ids, rng.integers(0, c, n), rng.integers(0, 8, n), [f"c{i}" for i in range(c)])
    rows = np.flatnonzero(rng.random(n) < draw(st.floats(0, 1)))
    k = len(rows)
    scores = rng.choice(np.array([np.nan, np.inf, -0.0, 0.25, 1e-30], np.float32), k)
    columns = {"score": scores, "reason": rng.integers(0, 5, k), "quality": rng.integers(0, 101, k)}
    return PrunedIndex.from_rows(source, rows, **columns, provenance=[record("select", {"seed": 1}, {"a": "b"})])


@settings(max_examples=1000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(index=indices(), padding=st.integers(0, 9))
def test_a_saved_index_comes_back_whole_and_equal_content_gives_equal_bytes(tmp_path, monkeypatch, index, padding):
    monkeypatch.setattr("os.fsync", lambda file: None)  # two thousand files; what a power cut leaves is not the matter
    one, other = tmp_path / "one.index.npz", tmp_path / "other.index.npz"
    index.save(one)
    back = PrunedIndex.load(one)
    for name, column in index.columns.items():
        np.testing.assert_array_equal(back.columns[name], column)
    assert back.meta == index.meta
    # The width of the id column is a matter of storage; so is whether the arrays came from a file.
    replace(back, ids=back.ids.astype(f"S{back.ids.dtype.itemsize + padding}")).save(other)
    assert one.read_bytes() == other.read_bytes()


def test_an_index_describes_the_kept_rows_of_its_source():
    index = kept(score=[0.5, np.nan, -1], reason=[0, 1, 4], quality=[0, 0, 75], nbytes=[101, 102, 60])
    assert index.ids.tolist() == [IDS[1], IDS[2], IDS[4]]
    assert index.labels.tolist() == [0, 1, 1]
    assert index.positions.tolist() == [1, 2, 4]
    assert index.digests.tolist() == [12, 13, 14]
    assert [REASONS[code] for code in index.reasons] == ["quota", "floor", "random"]
    assert index.nbytes.tolist() == [101, 102, 60]
    assert [counts.tolist() for counts in index.per_class()] == [[1, 2, 0], [2, 3, 1]]
    assert index.source == six().fingerprint
    assert index.meta["source"] == {"fingerprint": six().fingerprint, "samples": 6, "nbytes": 615}  # 100 + ... + 105
    assert "KEEP" in index.meta["meaning"]
    assert len(index) == 3


@pytest.mark.parametrize(
    ("rows", "columns", "message"),
    [
        ([-1, 2], {}, r"1 row is negative \(first: -1\)"),
        ([2, 2, 3, 3], {}, r"2 rows are repeated \(first: 2\)"),
        ([3, 1], {}, r"1 row is not in ascending order \(first: 1\)"),
        ([1, 6, 9], {}, r"2 rows are beyond the 6 samples of the source \(first: 6\)"),
        ([0.5, 1.5], {}, "whole numbers"),
        ([1, 2], {"score": [0.5]}, "column 'score' has the shape"),
        ([1, 2], {"reason": [0, 9]}, r"1 sample has a reason without a name \(first: 'bee/1.jpg', 9\)"),
        ([1, 2], {"reason": [0, 256]}, "'reason': 256"),
        ([1, 2], {"quality": [0, 201]}, "a quality above 200"),
        ([1, 2], {"nbytes": [5, -5]}, r"a negative size \(first: 'bee/1.jpg', -5\)"),
    ],
)
def test_rows_and_columns_that_no_index_can_have_are_refused(rows, columns, message):
    with pytest.raises(InputError, match=message):
        kept(rows, **columns)


def test_a_source_that_lists_an_id_twice_is_refused():
    twice = manifest_of([b"a", b"b", b"a"], [0, 0, 0], [1, 2, 3], ["x"])
    with pytest.raises(InputError, match=r"1 repeated ids \(first: 'a'\)"):
        PrunedIndex.from_rows(twice, np.array([0, 1, 2]), provenance=[])


def test_rows_are_places_in_the_listing_in_the_order_of_the_index():
    names = [name.decode() for name in IDS]
    listing = [names[5], names[4], "new/0.jpg", names[2], names[0], names[1], names[3]]
    for form in (listing, [n.encode() for n in listing], [Path(n) for n in listing], np.array(listing)):
        assert kept().rows(form).tolist() == [5, 3, 1]
    below = [f"/data/train/{name}" for name in listing]
    assert kept().rows(below, root="/data/train").tolist() == [5, 3, 1]
    assert kept().rows(below, root=Path("/data/train/")).tolist() == [5, 3, 1]
    assert kept((5,)).rows(iter(listing)).tolist() == [0]


def test_a_listing_that_lacks_samples_is_refused_with_their_number_and_the_first():
    with pytest.raises(InputError, match=r"2 of 3 kept samples .* \(first: 'ant/2.jpg'\); the listing begins with 'x'"):
        kept().rows(["x", "bee/1.jpg"])
    with pytest.raises(InputError, match="the listing is empty"):
        kept().rows([])
    with pytest.raises(ValueError, match="does not begin with '/data/'"):
        kept().rows(["/data/ant/1.jpg", "/other/ant/2.jpg"], root="/data")
    with pytest.raises(TypeError, match="a single one"):
        kept().rows("ant/2.jpg")


def test_a_listing_with_a_kept_sample_twice_is_refused_and_other_repetitions_do_no_harm():
    names = [name.decode() for name in IDS]
    with pytest.raises(InputError, match=r"1 kept sample is in the listing more than once \(first: 'bee/1.jpg'\)"):
        kept().rows([*names, "bee/1.jpg", "bee/1.jpg"])
    assert kept().rows([*names, "ant/1.jpg"]).tolist() == [1, 2, 4]


def test_samples_are_found_by_their_bytes_under_other_names():
    index = kept((0, 3, 4))  # digests 11, 14, 14: two samples with equal bytes
    assert index.rows_by_digest(np.array([14, 99, 14, 11, 14], np.uint64)).tolist() == [3, 0, 2]
    assert index.rows_by_digest(iter([11, 14, 14])).tolist() == [0, 1, 2]
    with pytest.raises(InputError, match=r"1 of 3 kept samples have no file .* \(first: 'bee/3.jpg', 000000000000000e"):
        index.rows_by_digest([11, 14])  # one file cannot stand for two samples
    with pytest.raises(InputError, match="64-bit"):
        index.rows_by_digest(np.array([11.0]))


def test_digests_in_signed_integers_are_the_same_digests():
    high = digest(b"4")
    assert high >= 1 << 63  # so that a signed column holds a negative number
    source = manifest_of([b"a"], [0], [high], ["x"])
    index = PrunedIndex.from_rows(source, np.array([0]), provenance=[])
    assert index.rows_by_digest(np.array([5, high], np.uint64).view(np.int64)).tolist() == [1]


@settings(max_examples=300)
@given(index=indices(), seed=st.integers(0, 1 << 30))
def test_rows_undo_any_shuffle_of_the_listing(index, seed):
    rng = np.random.default_rng(seed)
    others = np.array([b"other/%d" % i for i in range(5)])
    listing = np.concatenate([index.ids, others])
    order = rng.permutation(len(listing))
    assert listing[order][index.rows(listing[order])].tolist() == index.ids.tolist()
    digests = np.concatenate([index.digests, np.arange(100, 105, dtype=np.uint64)])[order]
    found = index.rows_by_digest(digests)
    np.testing.assert_array_equal(digests[found], index.digests)
    assert len(set(found.tolist())) == len(index)


def reordered(source: Manifest, order) -> Manifest:
    columns = (source.ids, source.labels, source.nbytes, source.width, source.height, source.digests, source.crc32)
    return Manifest(*(column[order] for column in columns), source.classes)


def test_rows_in_a_manifest_follow_its_order():
    source, order = six(), np.array([5, 3, 4, 0, 1, 2])
    assert kept().rows_in(source).tolist() == [1, 2, 4]
    assert kept().rows_in(reordered(source, order)).tolist() == [4, 5, 2]  # 1, 2 and 4 in `order`
    unknown = replace(kept(), positions=np.full(3, -1))
    assert unknown.rows_in(source).tolist() == [1, 2, 4]
    assert kept().rebased(reordered(source, order)).positions.tolist() == [2, 4, 5]


def test_another_source_is_refused_with_counts_and_taken_as_far_as_it_goes_when_the_user_insists():
    # Without ant/2.jpg, and with other bytes of bee/1.jpg.
    other = manifest_of(IDS[:1] + IDS[2:], [0, 1, 1, 1, 2], [11, 99, 14, 14, 16], ["ant", "bee", "çat"])
    said = (
        r"another source: .* with 6 images, not .* with 5; of its 3 samples 1 are missing here "
        r"\(first: 'ant/2.jpg'\) and 1 have other bytes"
    )
    with pytest.raises(InputError, match=said + "; --allow-changed uses the others$"):
        kept().rows_in(other, allow_changed=False)
    with pytest.raises(InputError, match=said + "$"):  # of a caller without that flag
        kept().rows_in(other)
    assert kept().rows_in(other, allow_changed=True).tolist() == [1, 3]
    planned = kept(score=[0.1, 0.2, 0.3], quality=[0, 0, 50], nbytes=[101, 102, 60])
    moved = planned.rebased(other, allow_changed=True)
    assert moved.source == other.fingerprint
    assert moved.ids.tolist() == [IDS[2], IDS[4]]
    np.testing.assert_array_equal(moved.scores, np.array([0.2, 0.3], np.float32))
    assert moved.digests.tolist() == [99, 14]
    assert moved.quality.tolist() == [0, 50]
    assert moved.nbytes.tolist() == [101, 60]  # the other source's size of bee/1.jpg, and the planned one
    assert [entry["step"] for entry in moved.provenance] == ["select", "rebase"]
    assert (moved.provenance[1]["missing"], moved.provenance[1]["other_bytes"]) == (1, 1)
    assert moved.provenance[1]["config"] == {"allow_changed": True}
    strangers = manifest_of([b"x", b"y"], [0, 1], [1, 2], ["ant", "bee"])
    with pytest.raises(InputError, match="of its 3 samples 3 are missing here"):
        kept().rows_in(strangers, allow_changed=True)


def test_the_fingerprint_tells_what_is_kept_and_nothing_else():
    index = kept()
    order = np.array([5, 3, 4, 0, 1, 2])
    # The same samples from a manifest in another order, with other scores and reasons: ids 1, 2, 4 at rows 4, 5, 2.
    same = PrunedIndex.from_rows(
        reordered(six(), order), np.array([2, 4, 5]), score=[1, 2, 3], reason=[1, 1, 1], provenance=[]
    )
    assert same.fingerprint == index.fingerprint
    assert kept((1, 2, 3)).fingerprint != index.fingerprint  # bee/2.jpg for bee/3.jpg: equal digests, other id
    assert kept(quality=[0, 0, 50]).fingerprint != index.fingerprint
    assert kept((1, 2)).fingerprint != index.fingerprint
    elsewhere = manifest_of(IDS, [0, 0, 1, 1, 1, 0], [11, 12, 13, 14, 14, 16], ["ant", "bee", "çat"])
    assert PrunedIndex.from_rows(elsewhere, np.array([1, 2, 4]), provenance=[]).fingerprint != index.fingerprint


def test_an_empty_selection_is_an_index_too(tmp_path):
    index = kept(())
    index.save(tmp_path / "empty.index.npz")
    back = PrunedIndex.load(tmp_path / "empty.index.npz")
    assert len(back) == 0
    assert back.rows(["a"]).tolist() == []
    assert back.rows_in(six()).tolist() == []


def test_provenance_names_no_place_on_a_disk(tmp_path):
    from prune.combine import Config
    from prune.runs.identity import identity

    config = Config((tmp_path / "a", tmp_path / "b"), tmp_path / "c", source=tmp_path / "d")
    assert record("combine", identity(config), {})["config"] == {"allow_changed": False, "how": "union"}


def test_the_provenance_of_a_file_is_read_without_its_columns(tmp_path):
    place = tmp_path / "a.index.npz"
    kept().save(place)
    whole = bytearray(place.read_bytes())
    whole[whole.rindex(np.int64(kept().positions[-1]).tobytes())] ^= 1  # damage in a column
    place.write_bytes(whole)
    assert read_meta(place)["provenance"] == kept().provenance
    with pytest.raises(InputError, match="damaged"):
        PrunedIndex.load(place)


@pytest.mark.parametrize("change", [{"provenance": [1]}, {"kept": -1}, {"format": "winnow-index/3"}])
def test_a_meta_that_no_index_can_have_is_refused_when_it_is_read_alone(tmp_path, change):
    place = tmp_path / "a.index.npz"
    index_file.write(place, kept().columns, {**kept().meta, **change})
    with pytest.raises(InputError, match=r"a\.index\.npz"):
        read_meta(place)


def test_an_output_of_other_settings_is_refused(tmp_path):
    @dataclass(frozen=True)
    class Config:
        keep: float

    place, inputs = tmp_path / "a.index.npz", {"step": "select"}
    with claim_file(place, index_record, Config(0.5), inputs) as done:
        assert not done
        kept().save(place)
    with claim_file(place, index_record, Config(0.5), inputs) as done:
        assert done
    with pytest.raises(InputError, match=r"keep: 0\.5 -> 0\.2"), claim_file(place, index_record, Config(0.2), inputs):
        pass
    inputs["scores"] = "abc"
    with (
        pytest.raises(InputError, match="scores: None -> 'abc'"),
        claim_file(place, index_record, Config(0.5), inputs),
    ):
        pass


def test_the_index_needs_numpy_alone():
    code = (
        "import sys, numpy; before = set(sys.modules); from prune import PrunedIndex; PrunedIndex.load\n"
        "new = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "print(sorted(new - set(sys.stdlib_module_names) - {'numpy', 'prune'}))"
    )
    root = Path(__file__).parents[3]
    result = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
