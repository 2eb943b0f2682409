"""Folders of images as people keep them: splits, tools' folders, links, pipes and names that are no text."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
from PIL import Image

from prune import write
from prune.__main__ import main
from prune.data.image_listing import list_images
from prune.data.listing import Reading
from prune.index.manifest import Manifest
from prune.runs.files import InputError


def tree(root: Path, *names: str) -> Path:
    """Images of 4 pixels, one at each name."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (2, 2)).save(root / name, "PNG")
    return root


def remarks(root: Path) -> str:
    return "\n".join(list_images(str(root)).remarks)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("train/cat/1.png", "train/dog/1.png", "val/1.png"),
         "holds train, not classes: name one of them, as in R/train"),
        (("train/cat/1.png", "train/dog/1.png", "val/1.png"),
         "val has no class folders: give a list of its classes, as in list:LABELS.csv:R/val"),
        (("train/cat/1.png", "val/cat/1.png", "extra/cat/1.png"), "holds extra, train, val, not classes"),
        (("Validation/cat/1.png", "Training/cat/1.png"), "as in R/Training"),
        (("train/cat/1.png", "train/cat/2.png", "train/stray.png", "notes/1.png"), "holds train, not classes"),
        (("real/cat/1.png", "real/dog/1.png", "sketch/cat/1.png", "sketch/dog/1.png"),
         "real, sketch hold the same folders ('cat' and others)"),
    ],
)  # fmt: skip
def test_folders_that_hold_splits_are_no_classes_and_the_message_names_what_to_give(tmp_path, names, said):
    with pytest.raises(InputError) as caught:
        list_images(str(tree(tmp_path, *names)))
    assert said.replace("R/", f"{tmp_path}/") in str(caught.value)
    assert "give --nested" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_classes_that_look_like_splits_are_classes_when_the_user_says_so(tmp_path):
    tree(tmp_path, "train/goods/1.png", "car/vans/1.png", "test/x/1.png")
    listing = list_images(str(tmp_path), reading=Reading(nested=True))
    assert listing.classes == ["car", "test", "train"]
    assert listing.ids == ["car/vans/1.png", "test/x/1.png", "train/goods/1.png"]
    write.run(write.Config(images=str(tmp_path), out=tmp_path / "x.beton", nested=True))
    assert Manifest.load(tmp_path / "x.manifest.npz").classes == ["car", "test", "train"]


def test_a_class_called_train_with_its_images_in_it_is_a_class(tmp_path):
    assert list_images(str(tree(tmp_path, "train/1.png", "car/1.png"))).classes == ["car", "train"]


def test_classes_whose_images_lie_a_level_deeper_are_remarked_on(tmp_path):
    tree(tmp_path, "dog/poodle/1.png", "dog/boxer/1.png", "cat/1.png")
    assert list_images(str(tmp_path)).classes == ["cat", "dog"]
    assert (
        "in 1 of 2 classes all images lie in folders inside, as in dog/boxer/: they are of the class 'dog'"
        in remarks(tmp_path)
    )


def test_a_folder_around_the_class_folders_is_named(tmp_path):
    tree(tmp_path, "photos/cat/1.png", "photos/dog/1.png")
    with pytest.raises(InputError, match=rf"one class, 'photos'.* give {tmp_path}/photos"):
        write.run(write.Config(images=str(tmp_path), out=tmp_path / "x.beton"))


def test_what_image_folder_would_list_and_we_do_not_is_named_and_the_other_way_round(tmp_path):
    from torchvision.datasets import ImageFolder

    ours = tree(tmp_path, "cat/1.png", "dog/1.gif", "dog/2.png")
    tree(tmp_path, ".cache/1.png", "@eaDir/1.png", "cat/._1.png", "cat/@eaDir/1.png", "dog/.ipynb_checkpoints/2.png")
    listing = list_images(str(ours))
    assert (listing.ids, listing.classes) == (["cat/1.png", "dog/1.gif", "dog/2.png"], ["cat", "dog"])
    assert set(listing.remarks) == {
        "left out, where torchvision's ImageFolder would look for images: 2 hidden folders (first '.cache'), "
        "2 folders of tools (first '@eaDir'), 1 hidden file (first 'cat/._1.png')",
        "listed, though torchvision's ImageFolder leaves them out by their names: 1 .gif",
    }
    theirs = {str(Path(path).relative_to(tmp_path)) for path, _ in ImageFolder(str(tmp_path)).samples}
    assert theirs - set(listing.ids) == {
        ".cache/1.png", "@eaDir/1.png", "cat/._1.png", "cat/@eaDir/1.png", "dog/.ipynb_checkpoints/2.png",
    }  # fmt: skip
    assert set(listing.ids) - theirs == {"dog/1.gif"}


def test_pipes_sockets_and_devices_are_left_alone_and_counted(tmp_path):
    tree(tmp_path, "cat/1.png", "dog/1.png")
    os.mkfifo(tmp_path / "cat/pipe.png")
    os.symlink("/dev/zero", tmp_path / "dog/zero.png")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s"))
        os.rename(tmp_path / "s", tmp_path / "cat/socket.jpg")
        listing = list_images(str(tmp_path))
    assert listing.ids == ["cat/1.png", "dog/1.png"]
    assert "3 pipes, sockets and devices (first 'cat/pipe.png')" in listing.remarks[0]


def test_a_folder_is_read_once_however_many_links_lead_to_it(tmp_path):
    tree(tmp_path, "cat/1.png", "cat/b/2.png", "dog/1.png")
    os.symlink("..", tmp_path / "cat/up")  # a circle through the root
    os.symlink("b", tmp_path / "cat/a")  # sorts before the folder itself
    os.symlink("here", tmp_path / "cat/here")  # leads nowhere
    os.symlink(tmp_path, tmp_path / "dog/all")
    for number in range(12):  # each way through these would be a path of its own: 12! of them
        os.makedirs(tmp_path / f"elk/{number}")
        for other in range(12):
            os.symlink(f"../{other}", tmp_path / f"elk/{number}/to{other}")
    tree(tmp_path, "elk/3/1.png")
    listing = list_images(str(tmp_path))
    assert listing.ids == ["cat/1.png", "cat/b/2.png", "dog/1.png", "elk/3/1.png"]
    assert "links to folders that were read before (first 'cat/a')" in listing.remarks[0] + listing.remarks[1]


def test_links_to_images_and_folders_elsewhere_are_followed(tmp_path):
    tree(tmp_path / "store", "x/1.png", "y/2.png")
    (tmp_path / "images/cat").mkdir(parents=True)
    os.symlink(tmp_path / "store/x", tmp_path / "images/dog")
    os.symlink(tmp_path / "store/y/2.png", tmp_path / "images/cat/3.png")
    assert list_images(str(tmp_path / "images")).ids == ["cat/3.png", "dog/1.png"]


def test_a_class_name_that_is_not_utf8_is_refused_before_an_image_is_read(tmp_path, capsys):
    tree(tmp_path / "images", "cat/1.png")
    tree(Path(os.fsdecode(os.fsencode(tmp_path) + b"/images/caf\xe9")), "1.png")
    assert main(["write", "--images", str(tmp_path / "images"), "--out", str(tmp_path / "x.beton")]) == 2
    assert r"the class name 'caf\xe9' is not UTF-8: rename it" in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["images"]


def test_file_names_that_are_not_utf8_keep_their_bytes_readable_or_not(tmp_path, capsys):
    from prune.index.pruned_index import PrunedIndex

    tree(tmp_path / "images", "cat/1.png", "dog/1.png")
    folder = os.fsencode(tmp_path / "images/cat")
    os.rename(folder + b"/1.png", folder + b"/\xe9.png")
    with open(folder + b"/\xff.png", "wb") as file:
        file.write(b"no image")
    assert main(["write", "--images", str(tmp_path / "images"), "--out", str(tmp_path / "x.beton")]) == 0
    assert r"skipped 1 unreadable image, first 'cat/\xff.png'" in capsys.readouterr().err
    manifest = Manifest.load(tmp_path / "x.manifest.npz")
    assert manifest.ids.tolist() == [b"cat/\xe9.png", b"dog/1.png"]
    assert [name for name, _ in manifest.meta["skipped"]] == [os.fsdecode(b"cat/\xff.png")]
    listed = [
        os.path.relpath(os.path.join(at, n), tmp_path / "images")
        for at, _, ns in os.walk(tmp_path / "images")
        for n in ns
    ]
    index = PrunedIndex.from_rows(manifest, [0, 1], provenance=[])
    assert [listed[row] for row in index.rows(listed)] == [os.fsdecode(b"cat/\xe9.png"), "dog/1.png"]
    assert main(["write", "--images", str(tmp_path / "images"), "--out", str(tmp_path / "x.beton")]) == 0
    assert "the same as at" in capsys.readouterr().err
