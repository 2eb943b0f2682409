"""`prune adopt`: features and logits from elsewhere become a features file, in the manifest's order."""

import tracemalloc

import numpy as np
import pytest

from prune import adopt, score, selection
from prune.__main__ import main
from prune.index.manifest import Manifest
from prune.index.npz import open_arrays
from prune.index.pruned_index import PrunedIndex
from prune.runs.files import InputError
from prune.scores.feature_files import open_features

LABEL = np.array([1, 0, 1, 2, 0, 2])
FEATURES = np.array([[0, 5], [5, 0], [0, 4], [9, 9], [4, 0], [9, 8.0]])
LOGITS = 6 * np.eye(3)[LABEL]


@pytest.fixture
def manifests(tmp_path):
    """A source of six images in three classes, a target of two."""
    for name, labels, classes in (("s", LABEL, ["ant", "bee", "cat"]), ("t.train", np.array([0, 0]), ["x"])):
        n = len(labels)
        Manifest(
            ids=np.array([f"{i}.jpg".encode() for i in range(n)], "S8"),
            labels=labels.astype(np.int32),
            nbytes=np.full(n, 10, np.int32),
            width=np.full(n, 8, np.int32),
            height=np.full(n, 8, np.int32),
            digests=np.arange(n, dtype=np.uint64),
            crc32=np.zeros(n, np.uint32),
            classes=classes,
        ).save(tmp_path / f"{name}.manifest.npz")
    return tmp_path


def adopted(folder, name="s", **arrays):
    np.savez(folder / "given.npz", **arrays)
    options = {"names": folder / "names.txt"} if (folder / "names.txt").exists() else {}
    out = folder / f"{name}.features.npz"
    return adopt.run(adopt.Config(folder / "given.npz", folder / f"{name}.manifest.npz", "clip", out, **options))


def test_rows_named_by_id_come_into_the_manifests_order(manifests):
    order = np.array([3, 0, 5, 1, 4, 2])
    ids = np.array([f"{i}.jpg" for i in order])
    found = open_features(adopted(manifests, features=FEATURES[order], logits=LOGITS[order], id=ids))
    assert found.features.tolist() == FEATURES.tolist()
    assert found.logits.tolist() == LOGITS.tolist()
    assert found.label.tolist() == LABEL.tolist()
    assert found.model["classes"] == ["ant", "bee", "cat"]
    assert found.name == "s"


def test_features_without_logits_serve_fm_through_the_public_commands(manifests):
    np.savez(manifests / "a.npz", features=FEATURES)
    np.savez(manifests / "b.npz", features=np.array([[9, 8.5], [0, 4.5]]))
    for given, name in (("a.npz", "s"), ("b.npz", "t.train")):
        words = ["adopt", "--arrays", manifests / given, "--manifest", manifests / f"{name}.manifest.npz",
                 "--model", "clip", "--out", manifests / f"{name}.features.npz"]  # fmt: skip
        assert main([str(word) for word in words]) == 0
    place = score.run(
        score.Config((manifests / "s.features.npz",), manifests / "scores.npz", (manifests / "t.train.features.npz",))
    )
    arrays, _ = open_arrays(place, score.FORMAT)
    assert arrays["class/fm/t.train"].tolist() == [0, 1, 1]
    assert {name for name in arrays if name.startswith("sample/")} == {"sample/prototype", "sample/moderate"}
    selection.run(selection.Config(scores=place, out=manifests / "i.index.npz", method="dp4tl-fm", budget=4))
    assert PrunedIndex.load(manifests / "i.index.npz").positions.tolist() == [0, 2, 3, 5]


def test_names_are_the_classes_of_the_logits(manifests):
    (manifests / "names.txt").write_text("cat\nbee\nant\nemu\n")
    logits = np.c_[LOGITS[:, ::-1], np.zeros(6)]
    found = open_features(adopted(manifests, features=FEATURES, logits=logits))
    assert found.columns(["ant", "bee", "cat"]).tolist() == [2, 1, 0]
    (manifests / "s.features.npz").unlink()
    (manifests / "names.txt").write_text("cat\nbee\n")
    with pytest.raises(InputError, match="4 logits, and 2 class names"):
        adopted(manifests, features=FEATURES, logits=logits)


def test_names_that_are_no_text_are_one_clear_line(manifests):
    (manifests / "names.txt").write_bytes("bär\n".encode("latin-1"))
    with pytest.raises(InputError, match=r"names\.txt: not UTF-8 text \(byte 1\)"):
        adopted(manifests, features=FEATURES, logits=LOGITS)
    assert not (manifests / "s.features.npz").exists()


def test_compressed_and_transposed_archives_are_taken_over_alike(manifests):
    given = {"features": FEATURES, "logits": LOGITS, "id": np.array([f"{i}.jpg" for i in range(6)])}
    whole = adopted(manifests, **given)
    expected = {name: array.tolist() for name, array in open_arrays(whole, "winnow-features/1")[0].items()}
    for save, arrays in ((np.savez_compressed, given), (np.savez, given | {"features": np.asfortranarray(FEATURES)})):
        whole.unlink()
        save(manifests / "given.npz", **arrays)
        adopt.run(adopt.Config(manifests / "given.npz", manifests / "s.manifest.npz", "clip", whole))
        found = open_arrays(whole, "winnow-features/1")[0]
        assert {name: array.tolist() for name, array in found.items()} == expected


def test_a_damaged_archive_is_named(manifests):
    adopted(manifests, features=FEATURES).unlink()
    place = manifests / "given.npz"
    data = bytearray(place.read_bytes())
    data[data.index(FEATURES.tobytes()) + 9] ^= 1
    place.write_bytes(data)
    with pytest.raises(InputError, match=r"given\.npz: not a plain \.npz archive .*CRC"):
        adopt.run(adopt.Config(place, manifests / "s.manifest.npz", "clip", manifests / "s.features.npz"))


@pytest.mark.parametrize("shuffled", [False, True])
def test_large_tables_are_never_held_whole(tmp_path, shuffled):
    n, d = 40_000, 400
    Manifest(
        ids=np.array([f"{i:05d}.jpg".encode() for i in range(n)]),
        labels=(np.arange(n) % 2).astype(np.int32),
        nbytes=np.full(n, 10, np.int32),
        width=np.full(n, 8, np.int32),
        height=np.full(n, 8, np.int32),
        digests=np.arange(n, dtype=np.uint64),
        crc32=np.zeros(n, np.uint32),
        classes=["a", "b"],
    ).save(tmp_path / "s.manifest.npz")
    order = np.random.default_rng(0).permutation(n)
    features = np.arange(n * d, dtype=np.float64).reshape(n, d) % 2048
    ids = np.array([f"{i:05d}.jpg".encode() for i in order])
    arrays = {"features": features[order], "id": ids} if shuffled else {"features": features}
    np.savez(tmp_path / "a.npz", **arrays)
    del arrays
    out = tmp_path / "s.features.npz"
    tracemalloc.start()
    adopt.run(adopt.Config(tmp_path / "a.npz", tmp_path / "s.manifest.npz", "clip", out))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert np.array_equal(open_features(out).features, features.astype(np.float16))
    assert [entry.name for entry in sorted(tmp_path.iterdir())] == ["a.npz", "s.features.npz", "s.manifest.npz"]
    assert peak < features.nbytes / 4  # 32 MB, less than the half floats alone


def test_numbers_beyond_half_floats_become_their_largest(manifests):
    found = open_features(adopted(manifests, features=FEATURES * 1e6))
    assert found.features.max() == 65504


def test_same_arrays_return_at_once_and_others_are_refused(manifests, capsys):
    place = adopted(manifests, features=FEATURES)
    stamp = place.stat().st_mtime_ns
    adopted(manifests, features=FEATURES)
    assert place.stat().st_mtime_ns == stamp
    assert "up to date" in capsys.readouterr().err
    with pytest.raises(InputError, match="arrays"):
        adopted(manifests, features=FEATURES + 1)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"logits": LOGITS}, "'features' is missing"),
        ({"features": FEATURES[:5]}, "5 rows, and the manifest lists 6"),
        ({"features": FEATURES[:, 0]}, "not a table"),
        ({"features": np.where(FEATURES == 9, np.nan, FEATURES)}, "not finite, first in row 3"),
        ({"features": FEATURES, "id": np.arange(6)}, "'id' must be 6 strings"),
        ({"features": FEATURES, "id": np.array([f"{i}.png" for i in range(6)])}, r"6 images .* the first is 0\.jpg"),
        ({"features": FEATURES, "id": np.array(["0.jpg"] * 6)}, r"5 images .* the first is 1\.jpg"),
    ],
)
def test_arrays_that_do_not_fit_are_named_and_write_nothing(manifests, arrays, message):
    with pytest.raises(InputError, match=message):
        adopted(manifests, **arrays)
    assert not (manifests / "s.features.npz").exists()


def test_a_file_that_is_no_archive_is_one_clear_line(manifests):
    (manifests / "given.npz").write_text("text")
    config = adopt.Config(manifests / "given.npz", manifests / "s.manifest.npz", "clip", manifests / "s.features.npz")
    with pytest.raises(InputError, match=r"not a plain \.npz"):
        adopt.run(config)
    np.savez(manifests / "given.npz", features=np.array([[{}]]))
    with pytest.raises(InputError, match=r"not a plain \.npz"):
        adopt.run(config)
