"""Cross-fitting: folds by id, and scores joined by what each surrogate did not see."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from prune import score
from prune.index.manifest import Manifest
from prune.index.npz import open_arrays
from prune.runs.files import InputError
from prune.scores.ensemble import agreement, mean_of_known
from prune.scores.feature_files import write_features
from prune.scores.folds import fold_numbers, parse_fold
from prune.scores.label_errors import suspects

CLASSES = ["ant", "bee"]


def test_every_image_is_in_one_fold_by_its_id_alone():
    ids = np.array([f"c/{i:05d}.jpg".encode() for i in range(9000)])
    folds, order = fold_numbers(ids, 3), np.random.default_rng(0).permutation(9000)
    assert set(folds) == {1, 2, 3}
    assert np.abs(np.bincount(folds)[1:] - 3000).max() < 200  # standard deviation 45
    assert np.array_equal(fold_numbers(ids[order], 3), folds[order])
    assert np.array_equal(fold_numbers(ids[:5], 3), folds[:5])


@pytest.mark.parametrize("text", ["0/2", "3/2", "1/1", "a/2", "1", "1/2/3", "-1/2"])
def test_folds_that_mean_nothing_are_refused(text):
    with pytest.raises(InputError, match=f"--fold {text}: give K/N"):
        parse_fold(text)
    assert parse_fold("2/3") == (2, 3)


@pytest.fixture
def case(tmp_path):
    """Sixty images; surrogate A is sure of what fold 2 holds and wavers on fold 1, B the other way round.

    Every image of fold 1 whose row is a multiple of 10 looks like the other class to A, and like its own to B.
    """
    rng = np.random.default_rng(0)
    label = np.tile([0, 1], 30)
    manifest = Manifest(
        ids=np.array([f"{CLASSES[k]}/{i:03d}.jpg".encode() for i, k in enumerate(label)]),
        labels=label.astype(np.int32),
        nbytes=np.full(60, 100, np.int32),
        width=np.full(60, 8, np.int32),
        height=np.full(60, 8, np.int32),
        digests=np.arange(60, dtype=np.uint64),
        crc32=np.arange(60, dtype=np.uint32),
        classes=CLASSES,
    )
    place = tmp_path / "s.manifest.npz"
    manifest.save(place)
    folds = fold_numbers(manifest.ids, 2)

    def features(name: str, fold: str | None) -> Path:
        unseen = folds == (1 if name == "a" else 2)
        sure = np.where(unseen, rng.uniform(0.2, 1.5, 60), rng.uniform(4, 6, 60))
        sure[unseen & (np.arange(60) % 10 == 0)] *= -3
        logits = np.where(np.arange(2) == label[:, None], sure[:, None], 0)
        facts = {"arch": "toy", "classes": CLASSES, "fingerprint": name} | ({"fold": fold} if fold else {})
        path = tmp_path / f"{name}-{(fold or 'none').replace('/', '-')}" / "s.features.npz"
        path.parent.mkdir()
        x = rng.normal(size=(60, 4)) + 3 * label[:, None]
        write_features(path, x.astype(np.float16), logits.astype(np.float16), manifest, place, facts)
        return path

    return SimpleNamespace(folder=tmp_path, folds=folds, label=label, features=features, place=place)


def scored(case, *sources, **config):
    out = case.folder / f"{len(list(case.folder.glob('*.npz')))}.scores.npz"
    score.run(score.Config(sources, out, **({"also": ("prototype",)} | config)))
    return open_arrays(out, "winnow-scores/1")


def test_each_image_is_scored_by_the_surrogate_that_did_not_see_it(case):
    a, b = case.features("a", "1/2"), case.features("b", "2/2")
    both, meta = scored(case, a, b)
    # A alone is refused, so its scores are computed from the same logits without a fold.
    alone = [difficulty_of(path, case.label) for path in (a, b)]
    assert both["sample/el2n"] == pytest.approx(np.where(case.folds == 1, *alone), rel=1e-6)
    assert not np.isnan(both["sample/prototype"]).any()
    assert "sample/el2n" not in meta["agreement"]  # no image is scored twice
    turned, _ = scored(case, b, a)
    assert np.array_equal(turned["sample/el2n"], both["sample/el2n"])


def difficulty_of(path, label):
    z = open_arrays(path, "winnow-features/1")[0]["logits"].astype(np.float32)
    p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    return np.linalg.norm(p - np.eye(2)[label], axis=1).astype(np.float32)


def test_suspects_come_from_the_surrogate_that_did_not_see_the_image(case):
    both, _ = scored(case, case.features("a", "1/2"), case.features("b", "2/2"), also=("suspects",))
    assert np.flatnonzero(both["looks_like"] >= 0).tolist() == list(range(0, 60, 10))


def test_thresholds_of_suspects_are_those_of_images_that_the_surrogate_did_not_see():
    # Seen images at 0.99 would raise the threshold of class 1 above the 0.7 of the unseen one that is labelled 0.
    p = np.array([[0.6, 0.4], [0.3, 0.7], [0.4, 0.6], [0.01, 0.99], [0.01, 0.99]])
    label, unseen = np.array([0, 0, 1, 1, 1]), np.array([True, True, True, False, False])
    found = [suspects(np.log(p), label, 2, np.arange(2), 1, mask)[0].tolist() for mask in (None, unseen)]
    assert found == [[-1, -1, -1, -1, -1], [-1, 1, -1, -1, -1]]


def test_folds_are_complete_and_alone(case):
    a, b, c = case.features("a", "1/2"), case.features("b", "2/2"), case.features("c", None)
    with pytest.raises(InputError, match="fold 2/2 is missing"):
        scored(case, a)
    with pytest.raises(InputError, match="left out no fold"):
        scored(case, a, b, c)
    with pytest.raises(InputError, match="give each fold once"):
        scored(case, a, b, case.features("d", "2/2"))
    case.place.unlink()
    with pytest.raises(InputError, match="folds need the source's manifest"):
        scored(case, a, b)


def test_a_mean_by_value_is_over_the_surrogates_that_know_the_sample():
    nan = np.nan
    assert mean_of_known([np.array([1.0, nan, nan]), np.array([3.0, 5.0, nan])]).tolist()[:2] == [2, 5]
    assert np.isnan(mean_of_known([np.array([nan]), np.array([nan])])).all()
    assert np.isnan(agreement([np.array([1.0, nan]), np.array([nan, 2.0])]))


def test_el2n_of_a_surrogate_that_scored_hard_images_alone_stays_high():
    # By rank, the hard images of the second surrogate would be spread over the whole scale.
    easy, hard = np.linspace(0.0, 0.1, 50), np.linspace(1.2, 1.3, 50)
    one, other = np.r_[easy, np.full(50, np.nan)], np.r_[np.full(50, np.nan), hard]
    assert np.allclose(mean_of_known([one, other]), np.r_[easy, hard])
