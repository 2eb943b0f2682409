"""`prune leaks`: which test images the source also holds, counted and listed by id."""

from types import SimpleNamespace

import numpy as np
import pytest

from prune import leaks, score
from prune.__main__ import main
from prune.index.manifest import Manifest
from prune.index.npz import open_arrays
from prune.runs.files import InputError, read_json
from prune.scores.feature_files import open_features, write_features
from prune.scores.streaming import as_float16


def features(place, name, x, *, model="one", digests=None):
    n = len(x)
    held = Manifest(
        ids=np.array([f"{name}/{i}.jpg".encode() for i in range(n)], "S32"),
        labels=np.zeros(n, np.int32),
        nbytes=np.full(n, 100, np.int32),
        width=np.full(n, 8, np.int32),
        height=np.full(n, 8, np.int32),
        digests=1000 * len(name) + np.arange(n, dtype=np.uint64) if digests is None else digests,
        crc32=np.arange(n, dtype=np.uint32),
        classes=["x"],
    )
    held.save(place / f"{name}.manifest.npz")
    out = place / f"{name}.features.npz"
    facts = {"arch": model, "classes": ["a", "b"], "fingerprint": model}
    write_features(out, as_float16(x), np.zeros((n, 2), np.float16), held, place / f"{name}.manifest.npz", facts)
    return out


@pytest.fixture
def case(tmp_path):
    """200 source images; a test set of near-copies (rows 100 to 129, row 5 twice) and 8 of its own; a clean one."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 16))
    near = x[[*range(100, 130), 5, 5]] + 0.01 * rng.normal(size=(32, 16))
    return SimpleNamespace(
        x=x,
        folder=tmp_path,
        out=tmp_path / "leaks.json",
        source=features(tmp_path, "s", x),
        leaky=features(tmp_path, "leaky.test", np.r_[near, rng.normal(size=(8, 16))]),
        clean=features(tmp_path, "clean.test", rng.normal(size=(10, 16))),
    )


def made(case, *tests, **more):
    return leaks.run(leaks.Config(case.source, tests or (case.leaky, case.clean), case.out, **more))


def test_a_source_compared_with_itself_is_remarked_on(case, capsys):
    found = made(case, case.source)
    assert "these are the images of --source, so every one has a copy: itself" in capsys.readouterr().err
    assert found["tests"]["s"]["leaked"] == 200
    case.out.unlink()
    made(case)
    assert "images of --source" not in capsys.readouterr().err


def test_test_images_in_the_source_are_counted_and_the_first_listed_by_id(case, capsys):
    found = made(case)
    assert read_json(case.out) == found
    assert found["format"] == "winnow-leaks/1"
    assert found["source"]["images"] == 200
    one = found["tests"]["leaky.test"]
    # 30 and the two of row 5: 32 test images, 31 source images.
    assert (one["images"], one["leaked"], one["source_images"], one["identical"]) == (40, 32, 31, 0)
    assert one["pairs"] == [[f"s/{100 + i}.jpg", f"leaky.test/{i}.jpg"] for i in range(20)]
    clean = found["tests"]["clean.test"]
    assert (clean["images"], clean["leaked"], clean["source_images"], clean["pairs"]) == (10, 0, 0, [])
    (said,) = capsys.readouterr().err.splitlines()
    assert "32 of 40 images of leaky.test have a near-duplicate in the source (31 of its images, 0 identical)" in said
    assert "0 of 10 images of clean.test" in said


def test_examples_are_named_where_a_part_of_the_source_has_features(case):
    """As after `prune features --index`: the odd rows alone, among them 15 of the 30 and row 5."""
    held, odd = Manifest.load(case.folder / "s.manifest.npz"), np.arange(1, 200, 2)
    facts = {"arch": "one", "classes": ["a", "b"], "fingerprint": "one"}
    logits = np.zeros((100, 2), np.float16)
    case.source = case.folder / "s.features.npz"
    write_features(case.source, as_float16(case.x[odd]), logits, held, case.folder / "s.manifest.npz", facts, rows=odd)
    one = made(case, case.leaky)["tests"]["leaky.test"]
    assert (one["leaked"], one["source_images"]) == (17, 16)
    wanted = [[f"s/{100 + i}.jpg", f"leaky.test/{i}.jpg"] for i in range(1, 30, 2)]
    assert one["pairs"] == wanted + [["s/5.jpg", "leaky.test/30.jpg"], ["s/5.jpg", "leaky.test/31.jpg"]]


def test_the_same_source_images_are_found_as_by_prune_score(case):
    score.run(score.Config((case.source,), case.folder / "scores.npz", leaks=(case.leaky, case.clean), also=()))
    arrays, _ = open_arrays(case.folder / "scores.npz", "winnow-scores/1")
    found = made(case)["tests"]
    assert {name: int(arrays[f"leak/{name}"].sum()) for name in found} == {
        name: one["source_images"] for name, one in found.items()
    }
    config, other = leaks.Config(case.source, (), case.out), score.Config((), case.out)
    assert (config.similar, config.stand_out) == (other.similar, other.stand_out)


def test_the_same_call_again_does_nothing_and_another_is_refused(case, capsys):
    first = made(case)
    stamp = case.out.stat().st_mtime_ns
    capsys.readouterr()
    assert made(case) == first
    assert case.out.stat().st_mtime_ns == stamp
    assert "up to date" in capsys.readouterr().err
    with pytest.raises(InputError, match=r"similar: 0\.95 -> 0\.9"):
        made(case, similar=0.9)
    with pytest.raises(InputError, match="tests: "):
        made(case, case.leaky)
    case.source = features(case.folder, "s", case.x + 1)
    with pytest.raises(InputError, match="source: "):
        made(case)
    assert read_json(case.out) == first


def test_identical_images_are_counted_and_listed_first(case):
    # Test images 25 and 31 (of rows 125 and 5) have the bytes of source images; all others those of none.
    digests = 5000 + np.arange(40, dtype=np.uint64)
    digests[[25, 31]] = [125, 5]
    case.source = features(case.folder, "s", case.x, digests=np.arange(200, dtype=np.uint64))
    x = np.asarray(open_features(case.leaky).features)
    case.leaky = features(case.folder, "leaky.test", x, digests=digests)
    one = made(case)["tests"]["leaky.test"]
    assert (one["leaked"], one["identical"]) == (32, 2)
    tests = [25, 31, *range(18)]
    sources = [125, 5, *range(100, 118)]
    assert one["pairs"] == [[f"s/{a}.jpg", f"leaky.test/{b}.jpg"] for a, b in zip(sources, tests)]


def test_a_folder_or_a_pattern_names_the_features_of_a_source_as_for_score(case):
    one = made(case)["tests"]
    folder = case.folder / "parts"
    folder.mkdir()
    held = Manifest.load(case.folder / "s.manifest.npz")
    x = np.asarray(open_features(case.source).features)
    facts = {"arch": "one", "classes": ["a", "b"], "fingerprint": "one"}
    for name, part in (("1", np.arange(120)), ("2", np.arange(120, 200))):
        columns = ("labels", "nbytes", "width", "height", "digests", "crc32", "ids")
        arrays = {column: np.asarray(getattr(held, column))[part] for column in columns}
        Manifest(**arrays, classes=held.classes).save(folder / f"{name}.manifest.npz")
        of_part, place = Manifest.load(folder / f"{name}.manifest.npz"), folder / f"{name}.manifest.npz"
        write_features(folder / f"{name}.features.npz", x[part], np.zeros((len(part), 2), "f2"), of_part, place, facts)
    for number, source in enumerate((folder, folder / "*.features.npz")):
        case.source, case.out = source, case.folder / f"{number}.json"
        found = made(case)["tests"]
        assert found["leaky.test"]["leaked"] == one["leaky.test"]["leaked"] == 32
        assert sorted(found["leaky.test"]["pairs"]) == sorted(one["leaky.test"]["pairs"])
    case.source = case.folder / "nothing*.features.npz"
    with pytest.raises(InputError, match="no file matches"):
        made(case)


def test_without_manifests_images_are_counted_and_not_named(case):
    (case.folder / "s.manifest.npz").unlink()
    one = made(case)["tests"]["leaky.test"]
    assert (one["leaked"], one["identical"], one["pairs"]) == (32, None, [])


def test_a_manifest_of_other_images_names_nothing(case):
    (case.folder / "clean.test.manifest.npz").replace(case.folder / "leaky.test.manifest.npz")
    one = made(case)["tests"]["leaky.test"]
    assert (one["leaked"], one["pairs"]) == (32, [])


def mistakes(case):
    other = features(case.folder, "other", case.x[:9], model="two")
    broken = features(case.folder, "broken", np.where(np.eye(9, 16) > 0, np.nan, 1.0))
    (case.folder / "again").mkdir()
    twice = features(case.folder / "again", "leaky.test", case.x[:9])
    return {
        "another surrogate": ([other], "another surrogate"),
        "narrower features": ([features(case.folder, "narrow", case.x[:9, :4])], "another surrogate"),
        "no images": ([features(case.folder, "empty", case.x[:0])], "no images"),
        "not finite": ([broken], "features that are not finite"),
        "one name": ([case.leaky, twice], "two test sets are named leaky.test"),
    }


@pytest.mark.parametrize("mistake", ["another surrogate", "narrower features", "no images", "not finite", "one name"])
def test_what_cannot_be_compared_is_one_line_and_leaves_nothing(case, mistake, capsys):
    tests, said = mistakes(case)[mistake]
    words = ["leaks", "--source", str(case.source), "--tests", *map(str, tests), "--out", str(case.out)]
    assert main(words) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert said in error
    assert not case.out.exists()


def test_a_foreign_file_is_not_overwritten(case, capsys):
    case.out.write_text('{"mine": 1}')
    assert main(["leaks", "--source", str(case.source), "--tests", str(case.leaky), "--out", str(case.out)]) == 2
    assert "is not a file of `prune leaks`" in capsys.readouterr().err
    assert case.out.read_text() == '{"mine": 1}'
