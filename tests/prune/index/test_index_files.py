"""The index file: its exact format, and every reason to refuse one, in one line."""

import hashlib
import json
import struct
import zipfile

import numpy as np
import pytest

from prune.index import index_file
from prune.index.manifest import Manifest
from prune.index.npz import save_arrays
from prune.index.provenance import record
from prune.index.pruned_index import PrunedIndex
from prune.runs.files import InputError


def an_index() -> PrunedIndex:
    source = Manifest(
        ids=np.array([b"a/1.jpg", b"a/2.jpg", b"b/1.jpg", "b/ü.jpg".encode()]),
        labels=np.array([0, 0, 1, 1], np.int32),
        nbytes=np.array([10, 20, 30, 40], np.int32),
        width=np.full(4, 8, np.int32),
        height=np.full(4, 8, np.int32),
        digests=np.array([7, 5, 5, 1 << 63], np.uint64),
        crc32=np.zeros(4, np.uint32),
        classes=["a", "<b>"],
    )
    step = record("select", {"keep": 0.75}, {"source": source.fingerprint})
    return PrunedIndex.from_rows(
        source, np.array([1, 2, 3]), score=[0.5, np.nan, -2], reason=[0, 1, 4], provenance=[step]
    )


@pytest.fixture
def place(tmp_path):
    path = tmp_path / "x.index.npz"
    an_index().save(path)
    return path


def members(path) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """Read a .npz as the README describes it, by the standard library alone: name to (type, shape, bytes)."""
    found = {}
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            assert info.compress_type == zipfile.ZIP_STORED
            data = archive.read(info)
            assert data[:8] == b"\x93NUMPY\x01\x00"
            (length,) = struct.unpack_from("<H", data, 8)
            head = eval(data[10 : 10 + length], {"__builtins__": {}})
            assert not head["fortran_order"]
            found[info.filename.removesuffix(".npy")] = (head["descr"], head["shape"], data[10 + length :])
    return found


def test_the_file_can_be_read_and_verified_without_this_package(place):
    found = members(place)
    assert list(found) == [
        "meta", "id", "label", "score", "reason", "quality", "nbytes", "position", "digest", "checksum"
    ]  # fmt: skip
    assert {name: found[name][0] for name in found} == {
        "meta": "|u1", "id": "|S8", "label": "<i4", "score": "<f4", "reason": "|u1", "quality": "|u1",
        "nbytes": "<i4", "position": "<i8", "digest": "<u8", "checksum": "|u1",
    }  # fmt: skip
    meta = json.loads(found["meta"][2])
    assert meta["format"] == "winnow-index/1"
    assert meta["kept"] == 3
    assert meta["classes"] == ["a", "<b>"]
    assert (meta["class_kept"], meta["class_total"]) == ([1, 2], [2, 2])
    assert meta["source"] == {"fingerprint": an_index().source, "samples": 4, "nbytes": 100}
    ids = [found["id"][2][8 * i : 8 * i + 8].rstrip(b"\0").decode() for i in range(3)]
    assert ids == ["a/2.jpg", "b/1.jpg", "b/ü.jpg"]
    assert struct.unpack("<3i", found["label"][2]) == (0, 1, 1)
    assert struct.unpack("<3q", found["position"][2]) == (1, 2, 3)
    assert struct.unpack("<3Q", found["digest"][2]) == (5, 5, 1 << 63)

    checksum = hashlib.sha256(b"meta:%d\n" % len(found["meta"][2]) + found["meta"][2])
    for name in sorted(found.keys() - {"meta", "checksum"}):
        descr, shape, data = found[name]
        checksum.update(f"\n{name}:{descr}:{shape[0]}\n".encode() + data)
    assert found["checksum"][2] == checksum.digest()

    order = sorted(range(3), key=lambda i: (struct.unpack("<3Q", found["digest"][2])[i], ids[i].encode()))
    fingerprint = hashlib.sha256(meta["source"]["fingerprint"].encode())
    names = [ids[i].encode() for i in order]
    for kind, column in (("Q", "digest"), ("i", "label"), ("B", "quality")):
        values = struct.unpack(f"<3{kind}", found[column][2])
        fingerprint.update(struct.pack(f"<3{kind}", *(values[i] for i in order)))
    fingerprint.update(struct.pack("<3i", *map(len, names)) + b"".join(names))
    assert meta["fingerprint"] == fingerprint.hexdigest()[:32]


def test_numpy_alone_opens_the_file_and_arrays_begin_at_multiples_of_64(place):
    with np.load(place) as archive:
        assert archive["id"].tolist() == an_index().ids.tolist()
    data = place.read_bytes()
    for name, (_, _, content) in members(place).items():
        if name != "checksum" and len(content) > 8:
            assert data.find(content) % 64 == 0


def test_a_missing_file_and_a_directory_are_refused(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        PrunedIndex.load(tmp_path / "none.index.npz")
    with pytest.raises(InputError, match="is a directory"):
        PrunedIndex.load(tmp_path)


def test_what_is_not_an_index_is_refused_by_name(tmp_path, place):
    bare, text, scores = tmp_path / "rows.npy", tmp_path / "rows.txt", tmp_path / "scores.npz"
    np.save(bare, np.arange(3))
    with pytest.raises(InputError, match=r"bare array .* prune import"):
        PrunedIndex.load(bare)
    text.write_text("1\n2\n")
    with pytest.raises(InputError, match="damaged, or not a winnow-index file"):
        PrunedIndex.load(text)
    save_arrays(scores, {}, {"format": "winnow-scores/1"})
    with pytest.raises(InputError, match="is a winnow-scores/1 file; winnow-index is expected"):
        PrunedIndex.load(scores)
    np.savez(tmp_path / "foreign.npz", id=np.array([b"a"]))
    with pytest.raises(InputError, match="not a winnow-index file"):
        PrunedIndex.load(tmp_path / "foreign.npz")


def test_a_newer_format_is_refused_as_newer(tmp_path):
    index = an_index()
    index_file.write(tmp_path / "new.index.npz", index.columns, {**index.meta, "format": "winnow-index/3"})
    with pytest.raises(InputError, match="winnow-index/3 is newer than this program reads"):
        PrunedIndex.load(tmp_path / "new.index.npz")


def test_a_file_cut_anywhere_is_refused(place):
    whole = place.read_bytes()
    for length in range(0, len(whole), 97):
        place.write_bytes(whole[:length])
        with pytest.raises(InputError, match="damaged, or not a winnow-index file") as caught:
            PrunedIndex.load(place)
        assert "\n" not in str(caught.value)


def test_a_changed_value_is_found_by_the_checksum_even_where_the_archive_is_sound(tmp_path, place):
    with np.load(place) as archive:
        arrays = dict(archive)
    for name, array in arrays.items():
        changed = array.copy()
        changed.view(np.uint8)[-1] ^= 1
        if name == "meta":  # still JSON of this format: the number of bytes of the source is another
            changed = np.frombuffer(array.tobytes().replace(b'"nbytes": 100', b'"nbytes": 101'), np.uint8)
        np.savez(tmp_path / "bent.npz", **{**arrays, name: changed})
        with pytest.raises(InputError, match="the checksum does not match"):
            PrunedIndex.load(tmp_path / "bent.npz")
    np.savez(tmp_path / "stock.npz", **arrays)
    assert PrunedIndex.load(tmp_path / "stock.npz").meta == an_index().meta
    np.savez_compressed(tmp_path / "small.npz", **arrays)
    assert PrunedIndex.load(tmp_path / "small.npz").meta == an_index().meta


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("label", [0, 1, 2], r"1 sample has a label outside \[0, 2\) \(first: 'b/ü.jpg', 2\)"),
        ("label", [-1, 1, 1], r"1 sample has a label outside \[0, 2\) \(first: 'a/2.jpg', -1\)"),
        ("label", [1, 1, 1], "do not add up to the counts per class"),
        ("position", [-2, 2, 3], r"1 sample has a row outside \[0, 4\)"),
        ("position", [1, 2, 4], r"1 sample has a row outside \[0, 4\) \(first: 'b/ü.jpg', 4\)"),
        ("position", [3, 2, 3], r"1 repeated rows \(first: row 3\)"),
        ("id", [b"b/1.jpg", b"a", b"b/1.jpg"], r"1 repeated ids \(first: 'b/1.jpg'\)"),
        ("id", [b"a", b"", b"b"], r"1 sample has an empty id"),
        ("reason", [0, 6, 7], r"2 samples have a reason without a name \(first: 'b/1.jpg', 6\)"),
        ("quality", [0, 0, 201], "a quality above 200"),
        ("nbytes", [1, -1, 1], "a negative size"),
        ("score", [1.0, 2.0], "the columns differ in length"),
    ],
)
def test_a_content_that_no_index_can_have_is_refused_although_its_checksum_is_right(tmp_path, column, values, message):
    index = an_index()
    path = tmp_path / "odd.index.npz"
    index_file.write(path, {**index.columns, column: np.array(values)}, index.meta)
    with pytest.raises(InputError, match=message) as caught:
        PrunedIndex.load(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kept": 4}, "the columns differ in length"),
        ({"kept": True}, "the meta's kept is missing or malformed"),
        ({"classes": "ab"}, "the meta's classes"),
        ({"classes": None, "source": {"samples": -1}}, "the meta's source, classes, class_kept, class_total are"),
        ({"class_kept": [3, 0]}, "do not add up"),
        ({"class_total": [0, 2]}, "a class keeps more samples than it has"),
        ({"provenance": [1]}, "the meta's provenance is missing or malformed"),
        ({"reasons": [1, 2]}, "the meta's reasons"),
        ({"fingerprint": "0" * 32}, "the fingerprint does not belong to the samples"),
        ({"source": {"fingerprint": "f", "samples": 2, "nbytes": 100}}, "keeps 3 samples of a source with 2"),
    ],
)
def test_a_meta_that_contradicts_the_columns_is_refused(tmp_path, change, message):
    index = an_index()
    index_file.write(tmp_path / "odd.index.npz", index.columns, {**index.meta, **change})
    with pytest.raises(InputError, match=message):
        PrunedIndex.load(tmp_path / "odd.index.npz")


def test_a_column_of_another_type_is_refused(tmp_path):
    index = an_index()
    ready = {**index.columns, "label": index.labels.astype("<i8")}
    text = json.dumps(index.meta, sort_keys=True, ensure_ascii=False).encode()
    save_arrays(tmp_path / "odd.npz", {**ready, "checksum": index_file._checksum(text, ready)}, index.meta)
    with pytest.raises(InputError, match="column 'label' is missing or of another type"):
        PrunedIndex.load(tmp_path / "odd.npz")


def test_a_column_that_a_later_writer_adds_is_verified_and_ignored(tmp_path):
    index = an_index()
    text = json.dumps(index.meta, sort_keys=True, ensure_ascii=False).encode()
    ready = {**index.columns, "weight": np.ones(3, "<f4")}
    save_arrays(tmp_path / "more.npz", {**ready, "checksum": index_file._checksum(text, ready)}, index.meta)
    assert PrunedIndex.load(tmp_path / "more.npz").fingerprint == index.fingerprint


def test_a_failed_save_leaves_the_old_file_and_nothing_else(place, monkeypatch):
    before = place.read_bytes()
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("no")))
    with pytest.raises(OSError, match="no"):
        an_index().sample(0.5).save(place)
    assert place.read_bytes() == before
    assert [entry.name for entry in place.parent.iterdir()] == [place.name]
