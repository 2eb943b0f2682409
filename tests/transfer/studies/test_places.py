"""Places of sources and targets, and what is said of wrong ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from prune.runs.files import InputError
from transfer.studies.places import (
    Splits,
    counted_splits,
    labels_of,
    moved,
    parse_targets,
    source_splits,
    target_splits,
)


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


def test_a_source_of_several_betons_or_of_shards_is_all_train(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/1.beton").write_bytes(b"")
    pattern = f"{tmp_path}/photos/*.beton"
    assert source_splits(f"{tmp_path}/photos/") == source_splits(pattern) == Splits(pattern, None)
    assert moved(pattern, Path(), tmp_path / "runs") == "../photos/*.beton"
    for place in ("hf://owner/name:train", "x/train-*.parquet", "x/train-{000..010}.tar"):
        assert source_splits(place) == Splits(place, None)
    assert moved("hf://owner/name:train", Path(), tmp_path) == "hf://owner/name:train"


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


def test_a_file_that_is_no_list_and_a_path_with_an_equals_sign_are_told_from_an_absent_directory(tmp_path):
    (tmp_path / "pets.md").write_text("x")
    with pytest.raises(InputError, match=r"is a file that is not read as images: .*\.csv.*\.tar are"):
        source_splits(str(tmp_path / "pets.md"))
    with pytest.raises(InputError, match="is a file; a directory with train/ and test/"):
        target_splits("pets", str(tmp_path / "pets.md"))
    (found,) = parse_targets(("a=b=c",)).items()
    with pytest.raises(InputError, match=r"--targets a=b=c: no such directory; the path is what follows .*, b=c"):
        target_splits(*found)


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


def test_a_flat_val_and_its_list_are_a_validation_split(tmp_path):
    root = tmp_path / "imagenet"
    tree(root / "train", "n01", "n02")
    (root / "test").mkdir()
    (root / "test/1.JPEG").touch()
    (root / "val").mkdir()
    for number in (1, 2):
        (root / f"val/{number}.JPEG").touch()
    assert source_splits(str(root)) == Splits(str(root / "train"), None)
    with pytest.raises(InputError, match=r"test/ holds images: it needs class folders, or a list .*test\.csv"):
        target_splits("im", str(root))
    (root / "val.txt").write_text("1.JPEG 1\n2.JPEG 0\n")
    expected = Splits(str(root / "train"), f"list:{root}/val.txt:{root}/val")
    assert source_splits(str(root)) == target_splits("im", str(root)) == expected
    (root / "LOC_val_solution.csv").write_text("ImageId,PredictionString\n1,n02 1 2 3 4\n2,n01 1 2 3 4\n")
    assert source_splits(str(root)).test == f"list:{root}/LOC_val_solution.csv:{root}/val"
    assert counted_splits("--source", source_splits(str(root)), ("source", "source-val"), Path()) == {
        "source": 2, "source-val": 2,
    }  # fmt: skip


def test_the_solution_file_is_found_where_kaggle_puts_it(tmp_path):
    root = tmp_path / "ILSVRC/Data/CLS-LOC"
    tree(root / "train", "n01", "n02")
    (root / "val").mkdir()
    (root / "val/7.JPEG").touch()
    (tmp_path / "LOC_val_solution.csv").write_text("ImageId,PredictionString\n7,n02 1 2 3 4\n")
    assert source_splits(str(root)).test == f"list:{tmp_path}/LOC_val_solution.csv:{root}/val"


def test_splits_may_have_longer_names_and_be_lists_alone(tmp_path):
    for name in ("training", "validation"):
        tree(tmp_path / "long" / name, "a", "b")
    long = tmp_path / "long"
    assert source_splits(str(long)) == Splits(str(long / "training"), str(long / "validation"))
    (tmp_path / "lists/images").mkdir(parents=True)
    for name in ("1", "2"):
        (tmp_path / f"lists/images/{name}.jpg").touch()
    for split in ("train", "val"):
        (tmp_path / f"lists/{split}.csv").write_text("path,label\nimages/1.jpg,a\nimages/2.jpg,b\n")
    lists = tmp_path / "lists"
    expected = Splits(f"list:{lists}/train.csv:{lists}", f"list:{lists}/val.csv:{lists}")
    assert target_splits("x", str(lists)) == expected


def test_a_list_beside_class_folders_is_no_split(tmp_path):
    tree(tmp_path, "a", "b")
    (tmp_path / "train.csv").write_text("path,label\na/0.jpg,a\n")
    assert source_splits(str(tmp_path)) == Splits(str(tmp_path), None)


def test_places_of_lists_follow_when_their_directory_changes():
    assert (
        moved("list:sets/val.txt:sets/val", Path("/data"), Path("/runs"))
        == "list:../data/sets/val.txt:../data/sets/val"
    )


def test_a_test_split_with_a_class_that_its_train_split_lacks_is_found_while_images_are_counted(tmp_path):
    tree(tmp_path / "pets/train", "cat", "dog")
    tree(tmp_path / "pets/test", "cat", "elk")
    with pytest.raises(
        InputError, match=r"--targets pets: .*/test: 1 class not in the given class list .first 'elk'.*/train"
    ):
        counted_splits(
            "--targets pets", target_splits("pets", str(tmp_path / "pets")), ("pets.train", "pets.test"), Path()
        )


def test_images_of_one_class_are_refused_before_anything_runs(tmp_path):
    tree(tmp_path / "pets/train", "cat")
    (tmp_path / "pets/train/dog").mkdir()
    tree(tmp_path / "pets/test", "cat")
    with pytest.raises(InputError, match=r"--targets pets: .*/train has images of one class"):
        counted_splits(
            "--targets pets", target_splits("pets", str(tmp_path / "pets")), ("pets.train", "pets.test"), Path()
        )


def test_a_test_split_of_the_train_splits_images_is_refused_and_one_that_differs_in_a_byte_is_not(tmp_path):
    for split in ("train", "test"):
        tree(tmp_path / "pets" / split, "cat", "dog")
        for name in ("cat", "dog"):
            (tmp_path / "pets" / split / name / "more.jpg").write_bytes(b"the same")
    splits = target_splits("pets", str(tmp_path / "pets"))
    with pytest.raises(InputError, match=r"--targets pets: .*/test holds the same images as .*/train"):
        counted_splits("--targets pets", splits, ("pets.train", "pets.test"), Path())
    (tmp_path / "pets" / "test" / "dog" / "more.jpg").write_bytes(b"the sane")
    counted = counted_splits("--targets pets", splits, ("pets.train", "pets.test"), Path())
    assert counted["pets.train"] == counted["pets.test"]
