"""Features in shards are one source: scores and selections are those of one file, and a shard that lacks is named."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prune import score, selection
from prune.index.joined_rows import JoinedRows
from prune.index.manifest import Manifest, merged
from prune.index.npz import array_crc32, open_arrays
from prune.index.pruned_index import PrunedIndex
from prune.runs.files import InputError
from prune.scores.feature_files import open_features, order_fingerprint, write_features
from prune.scores.streaming import as_float16, read_rows, read_scattered

CLASSES = [f"class {k}" for k in range(4)]
MODEL = {"arch": "any", "classes": CLASSES, "fingerprint": "any"}


@given(
    sizes=st.lists(st.integers(0, 9), min_size=1, max_size=5),
    turned=st.booleans(),
    data=st.data(),
)
def test_joined_rows_are_read_like_the_array(sizes, turned, data):
    n = sum(sizes)
    whole = np.arange(3 * n, dtype=np.float32).reshape(n, 3)
    parts = np.split(whole, np.cumsum(sizes)[:-1])
    order = np.random.default_rng(n).permutation(n) if turned else None
    rows, whole = JoinedRows(parts, order), whole if order is None else whole[order]
    assert (rows.shape, rows.ndim, rows.dtype, len(rows)) == (whole.shape, 2, whole.dtype, n)
    assert np.array_equal(np.asarray(rows), whole)
    low, high = data.draw(st.integers(-n, n)), data.draw(st.integers(-n, n))
    assert np.array_equal(rows[low:high], whole[low:high])
    assert np.array_equal(rows[low:high:-2], whole[low:high:-2])
    assert np.array_equal(read_rows(rows, slice(min(3, n), n)), whole[min(3, n) :])
    if n:
        some = np.array(data.draw(st.lists(st.integers(-n, n - 1), max_size=20)), np.int64)
        assert np.array_equal(rows[some], whole[some])
        assert np.array_equal(read_scattered(rows, some % n), whole[some])
        assert np.array_equal(rows[whole[:, 0] > n], whole[whole[:, 0] > n])
        assert np.array_equal(rows[n - 1], whole[-1])
        for beyond in (n, -n - 1, np.array([0, n])):
            with pytest.raises(IndexError):
                rows[beyond]


def manifest_of(ids, labels, shard=None) -> Manifest:
    n = len(ids)
    small = np.full(n, 8, np.int32)
    digests = np.array([hash_of(name) for name in ids], np.uint64)
    meta = {"config": {"shard": shard} if shard else {}}
    return Manifest(np.array(ids), labels.astype("i4"), small, small, small, digests, small.astype("u4"), CLASSES, meta)


def hash_of(name: bytes) -> int:
    return int.from_bytes(name[-9:-1], "little")


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    """600 images, whole, in 11 shards whose names sort otherwise than their images, and mixed among three betons."""
    root = tmp_path_factory.mktemp("shards")
    rng = np.random.default_rng(0)
    n = 600
    labels = np.sort(rng.integers(0, 4, n))
    ids = [b"%d/%05d-%s.jpg" % (k, i, b"x" * (i % 5)) for i, k in enumerate(labels)]
    x = as_float16(3 * np.eye(4, 16)[labels] + rng.normal(size=(n, 16)))
    x[1::40] = x[0::40]  # near-duplicates, in other shards some of them
    z = as_float16(x[:, :4] * 2)

    def write(place, name, rows, shard=None):
        part = manifest_of([ids[row] for row in rows], labels[rows], shard)
        part.save(root / place / f"{name}.manifest.npz")
        held = Manifest.load(root / place / f"{name}.manifest.npz")
        out = root / f"features-{place}" / f"{name}.features.npz"
        write_features(out, x[rows], z[rows], held, root / place / f"{name}.manifest.npz", MODEL)

    write("one", "photos", np.arange(n))
    for k in range(11):
        write("shards", str(k + 1), np.arange(n * k // 11, n * (k + 1) // 11), f"{k + 1}/11")
    for k in range(3):
        write("mixed", str(k), np.arange(k, n, 3))
    t = np.arange(40)
    part = manifest_of([b"t/%05d.jpg" % i for i in t], t % 2)
    part.save(root / "t.train.manifest.npz")
    write_features(
        root / "t.train.features.npz", as_float16(3 * np.eye(4, 16)[t % 2] + rng.normal(size=(40, 16))),
        as_float16(rng.normal(size=(40, 4))), Manifest.load(root / "t.train.manifest.npz"),
        root / "t.train.manifest.npz", MODEL,
    )  # fmt: skip
    return SimpleNamespace(root=root, one=root / "features-one" / "photos.features.npz", n=n)


def scored(case, source, name):
    out = case.root / f"{name}.scores.npz"
    also = ("prototype", "duplicates", "suspects", "domain", "influence", "self-prototype", "affinity")
    score.run(score.Config((source,), out, (case.root / "t.train.features.npz",), also=also, workers=1))
    return out


@pytest.mark.parametrize("place", ["shards", "mixed"])
def test_scores_and_selections_of_shards_are_those_of_one_file_byte_for_byte(case, place):
    whole, shards = scored(case, case.one, "one"), scored(case, case.root / f"features-{place}", place)
    (one, meta), (several, other) = (open_arrays(path, score.FORMAT) for path in (whole, shards))
    assert one.keys() == several.keys()
    for name, values in one.items():
        assert values.tobytes() == several[name].tobytes(), name
    for key in ("fingerprint", "order", "classes", "gates", "votes", "seed_agreement"):
        assert meta[key] == other[key], key
    for flags in ({"method": "winnow"}, {"method": "k-center"}, {"method": "el2n"}):
        found = []
        for scores in (whole, shards):
            out = case.root / f"{scores.name}-{flags['method']}.index.npz"
            selection.run(selection.Config(out, scores, keep=(0.3,), **flags))
            found.append(PrunedIndex.load(out))
        assert found[0].fingerprint == found[1].fingerprint
        for column, values in found[0].columns.items():
            assert values.tobytes() == found[1].columns[column].tobytes(), column


def test_shards_are_opened_as_one_source_with_its_name_labels_and_ids(case):
    whole = open_features(case.one)
    for place in (case.root / "features-shards", case.root / "features-shards" / "*.features.npz"):
        found = open_features(place)
        assert (found.name, found.source, found.order) == ("features-shards", whole.source, whole.order)
        assert found.label.tolist() == whole.label.tolist()
        assert found.ids().tolist() == whole.ids().tolist()
        assert found.manifest == (case.root / "shards" / "*.manifest.npz").resolve()
        assert np.array_equal(np.asarray(found.features), whole.features)


def test_a_folder_with_one_file_of_a_whole_source_is_read_like_the_file(case, tmp_path):
    held = Manifest.load(case.root / "shards" / "*.manifest.npz")
    whole = open_features(case.one)
    x, z = np.asarray(whole.features), np.asarray(whole.logits)
    place = case.root / "features-of-parts" / "parts.features.npz"
    write_features(place, x, z, held, case.root / "shards" / "*.manifest.npz", MODEL)
    for path, file in ((place.parent, place), (place.parent / "p*.features.npz", place), (case.one.parent, case.one)):
        one, several = open_features(file), open_features(path)
        assert (several.source, several.order, several.total) == (one.source, one.order, one.total)
        assert several.ids().tolist() == one.ids().tolist()
        assert np.array_equal(np.asarray(several.features), x)
    (place.parent / "t.features.npz").write_bytes((case.root / "t.train.features.npz").read_bytes())
    message = r"parts\.features\.npz holds the features of several betons, and .* name one of them, such as .*parts"
    with pytest.raises(InputError, match=message):
        open_features(place.parent)
    (place.parent / "t.features.npz").unlink()


def test_a_shard_without_features_or_of_another_surrogate_is_named(case, tmp_path):
    folder = tmp_path / "features-shards"
    folder.mkdir()
    (tmp_path / "shards").symlink_to(case.root / "shards")
    for k in range(1, 12):
        if k != 7:
            (folder / f"{k}.features.npz").write_bytes((case.root / f"features-shards/{k}.features.npz").read_bytes())
    with pytest.raises(InputError, match=r"1 of 11 shards are missing, first 7|1 beton of .* first 7\.beton"):
        open_features(folder)
    held = Manifest.load(case.root / "shards/7.manifest.npz")
    n = len(held)
    write_features(folder / "7.features.npz", np.zeros((n, 16), "f2"), np.zeros((n, 4), "f2"), held,
                   tmp_path / "shards/7.manifest.npz", MODEL | {"fingerprint": "other"})  # fmt: skip
    with pytest.raises(InputError, match=r"features\.npz: another surrogate than .*1\.features\.npz's"):
        open_features(folder)
    with pytest.raises(InputError, match="no features in it"):
        open_features(case.root / "shards")
    with pytest.raises(InputError, match="no file matches"):
        open_features(case.root / "none*.features.npz")


def test_features_of_a_beton_that_was_written_again_are_refused(case, tmp_path):
    for k in (1, 2):
        held = manifest_of([b"%d/%05d.jpg" % (k, i) for i in range(5)], np.zeros(5, int), f"{k}/2")
        held.save(tmp_path / f"{k}.manifest.npz")
        place = tmp_path / f"{k}.manifest.npz"
        x, z = np.zeros((5, 2), np.float16), np.zeros((5, 4), np.float16)
        write_features(tmp_path / f"f/{k}.features.npz", x, z, Manifest.load(place), place, MODEL)
    assert len(open_features(tmp_path / "f")) == 10
    manifest_of([b"2/%05d-new.jpg" % i for i in range(5)], np.zeros(5, int), "2/2").save(tmp_path / "2.manifest.npz")
    with pytest.raises(InputError, match=r"2\.features\.npz: .* run `prune features` again with this beton"):
        open_features(tmp_path / "f")


def test_many_shards_are_merged_without_sorting_and_ids_of_millions_stay_apart(case, monkeypatch):
    places = sorted((case.root / "shards").glob("*.manifest.npz"))
    parts = [Manifest.load(place) for place in places]
    whole = Manifest.load(case.root / "one" / "photos.manifest.npz")
    monkeypatch.setattr("prune.index.manifest.LARGE", 100)
    found, order = merged(parts, places)
    assert isinstance(found.ids, JoinedRows)
    assert np.asarray(found.ids).tolist() == whole.ids.tolist()
    assert np.concatenate([part.labels for part in parts])[order].tolist() == whole.labels.tolist()
    assert found.fingerprint == whole.fingerprint
    assert f"{array_crc32(found.ids):08x}" == order_fingerprint(case.root / "one" / "photos.manifest.npz")
    assert json.dumps(found.meta["config"]) == "{}"
