"""Places of sources and targets, and what is said of wrong ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from prune.runs.files import InputError
from transfer.studies.places import Splits, labels_of, moved, parse_targets, source_splits, target_splits


def tree(root, *classes, images=1):
    for name in classes:
        (root / name).mkdir(parents=True)
        for i in range(images):
            (root / name / f"{i}.jpg").touch()  # listed by name; nothing here reads it
    return root


def test_targets_are_named_or_take_the_name_of_their_directory():
    assert parse_targets(("pets=/data/x", "/data/birds")) == {"pets": "/data/x", "birds": "/data/birds"}


@pytest.mark.parametrize(
    ("texts", "said"),
    [(("a b=x",), "a b=x"), (("=x",), "=x"), (("pets=",), "pets="), (("a=x", "a=y"), "named twice"),
     (("source=x",), "taken by the source"), (("source-val=x",), "taken by the source"), (("../=x",), "'_'")],
)  # fmt: skip
def test_a_name_that_cannot_be_a_file_name_is_refused(texts, said):
    with pytest.raises(InputError, match=said):
        parse_targets(texts)


def test_a_source_is_one_tree_or_has_splits(tmp_path):
    plain = str(tree(tmp_path / "plain", "a", "b"))
    assert source_splits(plain) == Splits(plain, None)
    for name in ("train", "test"):
        tree(tmp_path / "split" / name, "a", "b")
    split = tmp_path / "split"
    assert source_splits(str(split)) == Splits(str(split / "train"), str(split / "test"))
    assert source_splits("x.beton") == Splits("x.beton", None)


def test_a_class_that_is_called_train_is_no_train_split(tmp_path):
    place = str(tree(tmp_path / "vehicles", "train", "car"))
    assert source_splits(place) == Splits(place, None)


def test_a_target_needs_both_splits(tmp_path):
    tree(tmp_path / "pets" / "train", "a", "b")
    with pytest.raises(InputError, match="train/ and test/"):
        target_splits("pets", str(tmp_path / "pets"))
    tree(tmp_path / "pets" / "val", "a", "b")
    assert target_splits("pets", str(tmp_path / "pets")).test == str(tmp_path / "pets" / "val")
    with pytest.raises(InputError, match="no such directory"):
        target_splits("pets", str(tmp_path / "cats"))


def test_a_target_may_be_two_betons(tmp_path):
    for split in ("train", "test"):
        (tmp_path / f"pets.{split}.beton").touch()
    parts = Splits(str(tmp_path / "pets.train.beton"), str(tmp_path / "pets.test.beton"))
    assert target_splits("pets", str(tmp_path / "pets")) == parts
    assert target_splits("pets", str(tmp_path / "pets.train.beton")) == parts
    (tmp_path / "pets.test.beton").unlink()
    with pytest.raises(InputError, match=r"no such file: .*pets\.test\.beton"):
        target_splits("pets", str(tmp_path / "pets"))


def test_torchvision_sets_have_splits_by_name():
    assert target_splits("c", "torchvision:CIFAR10:data") == Splits(
        "torchvision:CIFAR10:data:train", "torchvision:CIFAR10:data:test"
    )


def test_places_follow_when_the_directory_that_names_them_changes():
    assert moved("photos", Path("/data"), Path("/data/runs/s")) == "../../photos"
    assert moved("../../photos", Path("/data/runs/s"), Path("/data")) == "photos"
    assert moved("torchvision:CIFAR10:sets:test", Path("/data"), Path("/runs")) == (
        "torchvision:CIFAR10:../data/sets:test"
    )


def test_labels_are_counted_without_reading_images(tmp_path):
    place = str(tree(tmp_path / "x", "a", "b", images=3))
    assert labels_of(place).tolist() == [0, 0, 0, 1, 1, 1]
    with pytest.raises(InputError, match="one class, 'a'"):
        labels_of(str(tree(tmp_path / "y", "a")))
