"""Quota `evidence` through the public commands: votes by chance in the scores file, and the index that follows."""

from __future__ import annotations

import numpy as np
import pytest

from prune import score, selection
from prune.index.manifest import Manifest
from prune.index.npz import open_arrays, save_arrays
from prune.index.pruned_index import PrunedIndex
from prune.runs.files import InputError
from prune.scores.feature_files import write_features

CLASSES = ["ant", "bee", "cat", "dog"]
SIZES = [40, 30, 20, 10]
MODEL = {"arch": "toy", "classes": CLASSES, "fingerprint": "m"}


def written(folder, name, features, logits, label, classes, order=None):
    """A features file and its manifest, the images in another order where one is given."""
    n = len(label)
    ids = np.array([f"{classes[k]}/{i:04d}.jpg".encode() for i, k in enumerate(label)], dtype="S16")
    order = np.arange(n) if order is None else order
    sizes = {name: np.full(n, 8, np.int32) for name in ("nbytes", "width", "height")}
    manifest = Manifest(
        ids=ids[order],
        labels=np.asarray(label, np.int32)[order],
        digests=np.arange(n, dtype=np.uint64)[order],
        crc32=np.arange(n, dtype=np.uint32)[order],
        classes=classes,
        **sizes,
    )
    place = folder / f"{name}.manifest.npz"
    manifest.save(place)
    path = folder / f"{name}.features.npz"
    both = (np.asarray(x, np.float16)[order] for x in (features, logits))
    write_features(path, *both, manifest, place, MODEL)
    return path


class Case:
    """A source of 100 images in four classes, a target of nine like bees and three like cats, and their scores."""

    def __init__(self, folder, order=None, **config):
        rng = np.random.default_rng(0)
        label, like = np.repeat(np.arange(4), SIZES), np.array([1] * 9 + [2] * 3)
        centres, head = 6 * np.eye(4, 8), rng.normal(size=(8, 4))
        x, y = centres[label] + rng.normal(size=(100, 8)), centres[like] + 0.1 * rng.normal(size=(12, 8))
        head[:4] += 2 * np.eye(4)
        self.folder, self.label = folder, label
        self.source = written(folder, "s", x, x @ head, label, CLASSES, order)
        self.target = written(folder, "t.train", y, y @ head, like - 1, ["x", "y"])
        self.scores = folder / "scores.npz"
        score.run(score.Config(**{"source": (self.source,), "out": self.scores, "targets": (self.target,)} | config))

    def edit(self, votes=None, odds=None, meaning=True):
        """Set votes of both kinds, odds, and whether the votes mean anything; each class has 25 votes by chance."""
        arrays, meta = open_arrays(self.scores, "winnow-scores/1", mapped=False)
        for rule in ("lm", "fm"):
            arrays[f"class/{rule}/t.train"] = np.array(votes, np.float32)
            arrays[f"class/{rule}-chance/t.train"] = np.full(4, 25, np.float32)
            meta["votes"]["t.train"][rule]["meaningful"] = meaning
        if odds is not None:
            arrays["sample/domain"] = np.asarray(odds, np.float32)
        save_arrays(self.scores, arrays, meta)

    def kept(self, name="a", **config):
        out = self.folder / f"{name}.index.npz"
        selection.run(
            selection.Config(**{"scores": self.scores, "out": out, "method": "evidence", "keep": 0.6} | config)
        )
        return PrunedIndex.load(out)


@pytest.fixture
def case(tmp_path):
    return Case(tmp_path)


VOTES = [1, 60, 39, 0]
"""Chance explains none of them: dog has none, and a quarter of the votes by chance."""


def test_scores_hold_votes_by_chance_and_whether_the_votes_mean_anything(case):
    arrays, meta = open_arrays(case.scores, "winnow-scores/1")
    for rule in ("lm", "fm"):
        chance = arrays[f"class/{rule}-chance/t.train"]
        assert chance.shape == (4,)
        assert chance.sum() == pytest.approx(12)
        said = meta["votes"]["t.train"][rule]
        assert set(said) == {"distance", "by_chance", "error", "meaningful"}
        assert said["meaningful"] == (said["distance"] > said["by_chance"] + 3 * said["error"])
    assert not [name for name in arrays if "apart" in name]


def test_votes_by_chance_are_the_same_in_whatever_order_the_images_come(case, tmp_path):
    (tmp_path / "other").mkdir()
    other = Case(tmp_path / "other", np.random.default_rng(3).permutation(100))
    one, two = (open_arrays(c.scores, "winnow-scores/1") for c in (case, other))
    for rule in ("lm", "fm"):
        name = f"class/{rule}-chance/t.train"
        assert np.array_equal(one[0][name], two[0][name])
    assert one[1]["votes"] == two[1]["votes"]


def test_votes_of_a_target_without_structure_are_said_to_mean_little(tmp_path, capsys):
    noise = np.random.default_rng(5).normal(size=(40, 8))
    target = written(tmp_path, "noise", noise, noise[:, :4], [0] * 40, ["x"])
    made = Case(tmp_path, targets=(target,))
    meta = open_arrays(made.scores, "winnow-scores/1")[1]
    assert not meta["votes"]["noise"]["fm"]["meaningful"]
    assert "FM votes of noise mean little" in capsys.readouterr().err


def test_classes_are_kept_by_evidence_up_to_ten_times_their_votes_and_the_rest_by_odds(case):
    # Shares of votes with the prior: ant (2 + 0.5) / 202. It may have 10 * 0.0124 * 60 = 7.4 images; bee and cat are
    # kept whole. The 3 that are left go to the best odds: dogs, the last first.
    case.edit(VOTES, np.where(case.label == 3, np.arange(100), -np.arange(100)))
    index = case.kept(gate="open")
    assert index.per_class()[0].tolist() == [7, 30, 20, 3]
    assert index.positions[index.labels == 3].tolist() == [97, 98, 99]


def test_without_odds_the_rest_is_drawn_at_random(case):
    case.edit(VOTES)
    found = [case.kept(f"a{seed}", seed=seed) for seed in range(4)]
    for index in found:
        ant, bee, cat, dog = index.per_class()[0].tolist()
        assert (bee, cat, ant + dog) == (30, 20, 10)
        assert ant >= 7
        assert {index.reason_names[code] for code in index.reasons[index.labels == 3]} <= {"random"}
    assert len({index.fingerprint for index in found}) == 4


def test_votes_count_by_the_part_of_a_class_that_passes_the_gate(case):
    # Half of the source passes: 20 ants, 10 bees, all cats. Of bee's 60 votes 20 count, fewer than cat's 39.
    place = np.concatenate([np.arange(size) for size in SIZES])
    case.edit(VOTES, np.where(place < np.array([20, 10, 20, 0])[case.label], 1.0, -1.0))
    assert case.kept("open", keep=0.2, gate="open").per_class()[0].tolist() == [0, 20, 0, 0]
    assert case.kept("shut", keep=0.2, gate="domain:0.5").per_class()[0].tolist() == [0, 0, 20, 0]
    # 30 images: cat whole, then the ten bees that pass.
    assert case.kept("more", keep=0.3, gate="domain:0.5").per_class()[0].tolist() == [0, 10, 20, 0]


def test_floors_protected_classes_and_images_that_are_always_kept_hold(case):
    case.edit(VOTES)
    ids = Manifest.load(case.folder / "s.manifest.npz").ids
    (case.folder / "always.txt").write_bytes(ids[5] + b"\n")
    index = case.kept(keep=0.3, floor=2, protect=("dog",), always=case.folder / "always.txt")
    # 10 dogs, 2 of ant and cat each, and bee gets what is left of 30.
    assert index.per_class()[0].tolist() == [2, 16, 2, 10]
    assert 5 in index.positions


def test_odds_that_are_not_known_come_last(case):
    case.edit(VOTES, np.where(case.label == 3, np.nan, 0.0))
    assert case.kept(gate="open").per_class()[0].tolist() == [10, 30, 20, 0]
    assert len(case.kept("all", gate="open", keep=1.0)) == 100


def test_select_warns_of_votes_that_mean_nothing_and_where_kept_images_part_from_votes(case, capsys):
    case.edit(VOTES)
    case.kept(keep=0.3)
    assert "too weak" not in capsys.readouterr().err
    # All votes for dog, which has 10 images: of 90 that are kept 80 are of classes without a vote.
    case.edit([0, 0, 0, 100], meaning=False)
    case.kept("b", keep=0.9)
    told = capsys.readouterr().err
    assert "votes of t.train are those of shuffled features" in told
    assert "89% of the kept images are beyond" in told


def test_scores_without_votes_by_chance_or_without_targets_are_refused_with_the_way_out(case):
    arrays, meta = open_arrays(case.scores, "winnow-scores/1", mapped=False)
    save_arrays(case.scores, {k: v for k, v in arrays.items() if "-chance/" not in k}, meta)
    with pytest.raises(InputError, match=r"run `prune score` again, with another --out"):
        case.kept()
    save_arrays(case.scores, {k: v for k, v in arrays.items() if not k.startswith("class/")}, meta | {"targets": []})
    with pytest.raises(InputError, match="class votes need targets"):
        case.kept()
    assert not (case.folder / "a.index.npz").exists()
