"""Pairs that features or hashes propose are copies only when the images agree: real betons, hashes and scores."""

import csv
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from PIL import Image

from prune import features, leaks, score, write
from prune.index.manifest import Manifest
from prune.index.npz import open_arrays
from prune.runs.files import InputError, read_json
from prune.scores.feature_files import open_features, write_features


def pictures(count, seed):
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(0, 255, (count, 7, 7, 3)).astype(np.float32)
    found = np.stack([cv2.resize(image, (40, 40), interpolation=cv2.INTER_CUBIC) for image in coarse])
    return np.clip(found, 0, 255).astype(np.uint8)


def beton(folder, name, images):
    """A beton of named images of class x, stored as they are, and one of class y, since two classes are the least."""
    place = folder / f"{name}-images/x"
    place.mkdir(parents=True)
    for stem, image in images.items():
        Image.fromarray(image).save(place / f"{stem}.png")
    (place.parent / "y").mkdir()
    Image.fromarray(pictures(1, len(images))[0]).save(place.parent / "y/other.png")
    out = folder / f"{name}.beton"
    write.run(write.Config(images=str(folder / f"{name}-images"), out=out))
    return out


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    x = pictures(60, 0)
    images = {f"a{k:02d}": image for k, image in enumerate(x)}
    images |= {f"mirrored{k:02d}": x[k][:, ::-1] for k in range(10)}
    images |= {f"brighter{k:02d}": np.clip(x[k] * 0.8 + 40, 0, 255).astype(np.uint8) for k in range(10, 20)}
    tests = {f"t{k}": x[k][:, ::-1] for k in range(20, 25)} | {f"u{k}": i for k, i in enumerate(pictures(5, 9))}
    source, test = beton(folder, "s", images), beton(folder, "t", tests)
    out = folder / "thumbnails"
    features.run(features.Config(betons=(source, test), out=out, thumbnail=True))
    return SimpleNamespace(folder=folder, thumbs=out / "s.features.npz", test=out / "t.features.npz")


def scored(case, name, **more):
    out = case.folder / f"{name}.npz"
    score.run(score.Config((case.thumbs,), out, also=("duplicates",), **more))
    return open_arrays(out, "winnow-scores/1")[0]


def test_hashes_find_the_copies_that_features_miss_and_the_findings_say_by_what(case):
    found = scored(case, "hash", hashes=case.thumbs, findings=case.folder / "found.csv")
    of, ids = found["duplicate_of"], open_features(case.thumbs).ids()
    pairs = {frozenset((ids[row].decode(), ids[of[row]].decode())) for row in np.flatnonzero(of >= 0)}
    planted = {frozenset((f"x/a{k:02d}.png", f"x/mirrored{k:02d}.png")) for k in range(10)}
    planted |= {frozenset((f"x/a{k:02d}.png", f"x/brighter{k:02d}.png")) for k in range(10, 20)}
    assert pairs == planted
    assert set(found["duplicate_by"][of < 0]) == {0}
    assert (found["duplicate_by"][of >= 0] & 2).all()
    alone = scored(case, "alone")["duplicate_of"]
    assert (alone >= 0).sum() < 20
    rows = list(csv.DictReader((case.folder / "found.csv").open()))
    assert len(rows) == 20
    assert {row["by"] for row in rows} <= {"hash", "features and hash"}


@pytest.fixture
def blind(case, tmp_path):
    """Features of a surrogate to which all images of the source and of the test are the same."""
    facts = {"arch": "blind", "classes": [], "fingerprint": "blind"}
    made = {}
    for name in ("s", "t"):
        held = Manifest.load(case.folder / f"{name}.manifest.npz")
        rng = np.random.default_rng(1)
        x = np.zeros((len(held), 8), np.float16)
        # Test image k looks exactly like source image 20 + k to the features; of five the images agree, mirrored.
        place = np.arange(81) if name == "s" else np.r_[20:30, 90]
        x[:] = rng.normal(size=(91, 8))[place]
        made[name] = tmp_path / f"{name}.features.npz"
        nothing = np.empty((len(held), 0), np.float16)
        write_features(made[name], x, nothing, held, case.folder / f"{name}.manifest.npz", facts)
    return SimpleNamespace(**made, out=tmp_path)


def test_test_images_that_only_look_alike_to_the_surrogate_are_no_leaks(case, blind, capsys):
    leaks.run(leaks.Config(blind.s, (blind.t,), blind.out / "leaks.json"))
    (one,) = read_json(blind.out / "leaks.json")["tests"].values()
    assert (one["leaked"], one["similar"], one["source_images"], one["compared"]) == (5, 5, 5, True)
    assert [pair[0] for pair in one["pairs"]] == [f"x/a{k}.png" for k in range(20, 25)]
    assert len(one["closest"]) == 10
    assert all(uri.startswith("data:image/png;base64,") for pair in one["closest"] for uri in pair["images"])
    likeness = [pair["likeness"] for pair in one["closest"]]
    assert likeness == sorted(likeness, reverse=True)
    assert min(likeness[:5]) > 0.99 > 0.9 > max(likeness[5:])
    assert "5 of 11 images of t have a copy in the source" in (said := capsys.readouterr().err)
    assert "5 more only look alike" in said
    score.run(score.Config((blind.s,), blind.out / "scores.npz", also=(), leaks=(blind.t,)))
    marked = open_arrays(blind.out / "scores.npz", "winnow-scores/1")[0]["leak/t"]
    assert np.flatnonzero(marked).tolist() == list(range(20, 25))


def test_hashes_of_another_source_or_a_file_without_them_are_refused(case, blind):
    with pytest.raises(InputError, match="another source"):
        scored(case, "other", hashes=case.test)
    with pytest.raises(InputError, match="holds no hashes"):
        scored(case, "none", hashes=blind.s)
    with pytest.raises(InputError, match="--also duplicates"):
        score.run(score.Config((case.thumbs,), case.folder / "z.npz", also=(), hashes=case.thumbs))
