"""The preservation set: which images are in it, worked out by hand and through the command."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from prune import write
from prune.data.dataset import open_dataset
from prune.index.pruned_index import REASONS, PrunedIndex
from prune.models import networks
from prune.runs.files import InputError
from transfer.compression.preservation_set import preserve
from transfer.preserve import Config, run

SPEC = {
    "arch": "resnet18",
    "kwargs": {"channels": [8, 8, 8, 8], "layers": [1, 1, 1, 1]},
    "stem": "half",
    "classes": ["green", "red"],
    "resolution": 16,
    "mean": networks.MEAN,
    "std": networks.STD,
}


def test_half_of_a_class_s_share_covers_it_and_half_is_hard_or_uncertain():
    # One class of six, four to choose. Features on a line: their mean is 3, so row 2 is first, row 5 farthest from it.
    features = np.array([[0.0], [1.0], [3.0], [4.0], [3.5], [6.5]])
    # Row 0 is certain and wrong: the highest EL2N. Row 1 is uncertain: the highest entropy. The others are right.
    logits = np.array([[0.0, 9.0], [0.1, 0.0], [9.0, 0.0], [8.0, 0.0], [7.0, 0.0], [9.0, 0.0]])
    rows, reason, _ = preserve(features, logits, np.zeros(6, int), 1, 4, floor=0, mistakes=True)
    assert rows.tolist() == [0, 1, 2, 5]
    assert [REASONS[r] for r in reason] == ["quota", "quota", "coverage", "coverage"]
    # Without labels: row 1 is the most uncertain, then row 4, whose logits differ by 7.
    rows, reason, _ = preserve(features, logits, np.zeros(6, int), 1, 4, floor=0)
    assert rows.tolist() == [1, 2, 4, 5]
    assert [REASONS[r] for r in reason] == ["quota", "coverage", "quota", "coverage"]


def test_classes_share_equally_and_small_ones_are_taken_whole():
    draw = np.random.default_rng(0)
    labels = np.array([0] * 20 + [1] * 20 + [2] * 3)
    rows, _, _ = preserve(draw.random((43, 4)), draw.random((43, 3)), labels, 3, 17, floor=5)
    assert np.bincount(labels[rows]).tolist() == [7, 7, 3]


def test_listed_cases_are_in_and_count():
    draw = np.random.default_rng(0)
    labels, always = np.array([0] * 10 + [1] * 10), np.zeros(20, bool)
    always[[0, 1, 2, 3, 4]] = True
    rows, reason, _ = preserve(draw.random((20, 2)), draw.random((20, 2)), labels, 2, 8, floor=2, always=always)
    assert set(range(5)) <= set(rows.tolist())
    assert np.bincount(labels[rows]).tolist() == [5, 3]
    assert [REASONS[r] for r in reason[:5]] == ["imported"] * 5


@pytest.mark.parametrize(("size", "floor", "said"), [(21, 0, "only 20 images"), (8, 5, "need 10")])
def test_impossible_sizes_are_refused(size, floor, said):
    with pytest.raises(InputError, match=said):
        preserve(np.zeros((20, 1)), np.zeros((20, 2)), np.array([0, 1] * 10), 2, size, floor=floor)


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    root = tmp_path_factory.mktemp("preserve")
    draw = np.random.default_rng(0)
    for name, colour, count in (("green", (30, 200, 30), 14), ("red", (200, 30, 30), 9)):
        (root / "images" / name).mkdir(parents=True)
        for i in range(count):
            pixels = np.clip(colour + draw.normal(0, 40, (16, 16, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / "images" / name / f"{i:02d}.png")
    write.run(write.Config(images=str(root / "images"), out=root / "pets.train.beton", workers=1))
    (root / "wrong.txt").write_text("green/00.png\ngreen/99.png\n")
    torch.manual_seed(0)
    networks.save_model(root / "model", networks.build(SPEC), SPEC)
    return root


def made(case, out, **more):
    return PrunedIndex.load(run(Config(**{"train": case / "pets.train.beton", "out": out, **more})))


def test_the_command_writes_an_index_of_the_train_split_and_the_same_bytes_again(case, tmp_path, capsys):
    one = made(case, tmp_path / "a.index.npz", model=case / "model", size=10, floor=4)
    assert one.per_class()[0].tolist() == [5, 5]
    assert one.source == open_dataset(case / "pets.train.beton").manifest.fingerprint
    assert set(np.array(one.reason_names)[one.reasons]) == {"coverage", "quota"}
    made(case, tmp_path / "b.index.npz", model=case / "model", size=10, floor=4)
    assert (tmp_path / "a.index.npz").read_bytes() == (tmp_path / "b.index.npz").read_bytes()
    made(case, tmp_path / "a.index.npz", model=case / "model", size=10, floor=4)
    said = capsys.readouterr().err
    assert "up to date" in said
    assert said.count("10 images resolve no margin below 10 points (one image), and --margin 1 needs 100 (--size)") == 2
    assert said.count("5 images of the smallest class resolve none below 20, and --class-margin 10 needs 10") == 2
    with pytest.raises(InputError, match=r"size: 10 -> 12"):
        made(case, tmp_path / "a.index.npz", model=case / "model", size=12, floor=4)


def test_the_user_s_list_is_the_set_or_its_beginning(case, tmp_path):
    (tmp_path / "must.txt").write_text("green/03.png\nred/00.png\n")
    alone = made(case, tmp_path / "alone.index.npz", list=tmp_path / "must.txt", size=0)
    assert [bytes(i).decode() for i in alone.ids] == ["green/03.png", "red/00.png"]
    more = made(case, tmp_path / "more.index.npz", list=tmp_path / "must.txt", size=8, floor=2, model=case / "model")
    assert len(more) == 8
    assert {b"green/03.png", b"red/00.png"} <= {bytes(i) for i in more.ids}
    again = made(case, tmp_path / "again.index.npz", list=tmp_path / "alone.index.npz", size=0)
    assert again.fingerprint == alone.fingerprint


def test_the_rest_is_what_the_set_leaves_to_train_on(case, tmp_path):
    more = {"model": case / "model", "size": 10, "floor": 4, "rest": tmp_path / "rest.index.npz"}
    chosen = made(case, tmp_path / "x.index.npz", **more)
    rest = PrunedIndex.load(tmp_path / "rest.index.npz")
    assert sorted([*chosen.positions.tolist(), *rest.positions.tolist()]) == list(range(23))
    (tmp_path / "rest.index.npz").unlink()
    made(case, tmp_path / "x.index.npz", **more)  # the set is up to date, the rest is missing
    assert PrunedIndex.load(tmp_path / "rest.index.npz").fingerprint == rest.fingerprint
    made(case, tmp_path / "x.index.npz", **more)
    with pytest.raises(InputError, match="--rest"):
        made(case, tmp_path / "y.index.npz", **{**more, "rest": tmp_path / "y.index.npz"})


def test_only_images_held_back_can_be_chosen(case, tmp_path):
    manifest = open_dataset(case / "pets.train.beton").manifest
    PrunedIndex.from_rows(manifest, np.arange(0, 23, 2), provenance=[]).save(tmp_path / "pool.index.npz")
    found = made(
        case, tmp_path / "x.index.npz", model=case / "model", size=6, floor=2, index=tmp_path / "pool.index.npz"
    )
    assert set(found.positions.tolist()) <= set(range(0, 23, 2))


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"size": 5}, "choosing images needs a model"),
        ({"size": 0}, "give --list"),
        ({"size": -1}, "0 or more"),
        ({"model": "images", "size": 5}, "not a trained model"),
        ({"list": "absent.txt", "size": 0}, "no such file"),
        ({"list": "wrong.txt", "size": 0}, "1 of 2 samples are not in the source .*; take them out of the list"),
        ({"model": "model", "size": 50}, "only 23 images"),
    ],
)
def test_mistakes_get_one_line_and_nothing_is_written(case, tmp_path, more, said):
    more = {k: case / v if isinstance(v, str) else v for k, v in more.items()}
    with pytest.raises(InputError, match=said) as error:
        made(case, tmp_path / "x.index.npz", **more)
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []
