"""Lists of paths and classes as people and editors write them, and what is said of those that cannot be read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from PIL import Image

from prune import write
from prune.data.image_listing import list_images
from prune.data.listing import Reading
from prune.index.manifest import Manifest
from prune.runs.files import InputError

NAMES = ("a b.png", "cat/1.png", "dog/2.jpg")
LABELS = ["cat", "cat", "dog"]


@pytest.fixture
def images(tmp_path) -> Path:
    for name in NAMES:
        (tmp_path / "im" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (2, 2)).save(tmp_path / "im" / name)
    return tmp_path / "im"


def put(images: Path, text: str | bytes, name: str = "list.csv") -> str:
    path = images / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


def found(place: str, **how) -> list[tuple[str, str]]:
    listing = list_images(place, reading=Reading(**how))
    return [(name, listing.classes[label]) for name, label in zip(listing.ids, listing.labels)]


EXPECTED = list(zip(NAMES, LABELS))
CSV = "path,label\na b.png,cat\ncat/1.png,cat\ndog/2.jpg,dog\n"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("header.csv", CSV),
        ("no_header.csv", CSV.removeprefix("path,label\n")),
        ("semicolons.csv", CSV.replace(",", ";")),
        ("tabs.tsv", CSV.replace(",", "\t")),
        ("tabs.csv", CSV.replace(",", "\t")),
        ("mark.csv", b"\xef\xbb\xbf" + CSV.encode()),
        ("utf16.csv", CSV.encode("utf-16")),
        ("crlf.csv", CSV.replace("\n", "\r\n")),
        ("cr.csv", CSV.replace("\n", "\r")),
        ("blanks.csv", "# made by hand\n\n" + CSV.replace("\n", "\n\n#\n  \n")),
        ("quoted.csv", 'path,label\n"a b.png","cat"\n"cat/1.png",cat\n"dog/2.jpg","dog"\n'),
        ("spaces.csv", CSV.replace(",", " , ")),
        ("no_last_line_end.csv", CSV.rstrip("\n")),
        ("dots.csv", CSV.replace("\na", "\n./a").replace("cat/1", "cat//./1")),
        ("windows.csv", CSV.replace("/", "\\")),
        ("no_suffixes.csv", CSV.replace(".png", "").replace(".jpg", "")),
        ("order.csv", "label,file_name\ndog,dog/2.jpg\ncat,cat/1.png\ncat,a b.png\n"),
        ("more.csv", "width,filename,class,note\n1,dog/2.jpg,dog,x\n1,cat/1.png,cat,y\n1,a b.png,cat,\n"),
        ("repeated.csv", CSV + "cat/1.png,cat\n"),
        ("text.txt", "a b.png cat\ncat/1.png\tcat\ndog/2.jpg  dog\n"),
        ("tabs.txt", "a b.png\tcat\ncat/1.png\tcat\ndog/2.jpg\tdog\n"),
        ("commas.txt", "a b.png,cat\ncat/1.png,cat\ndog/2.jpg,dog\n"),
        ("lines.jsonl", '{"file_name": "a b.png", "label": "cat"}\n\n{"file_name": "cat/1.png", "label": "cat"}\n'
                        '{"label": "dog", "file_name": "dog/2.jpg", "more": [1]}\n'),
        ("boxes.csv", "ImageId,PredictionString\na b,cat 1 2 3 4 \ncat/1,cat 1 2 3 4 cat 5 6 7 8\ndog/2,dog 1 2 3 4\n"),
    ],
)  # fmt: skip
def test_a_list_is_read_alike_however_it_was_written(images, name, text):
    assert found(put(images, text, name)) == EXPECTED


def test_columns_and_delimiter_can_be_named_or_numbered(images):
    place = put(images, "x|p|q\n1|a b.png|cat\n2|cat/1.png|cat\n3|dog/2.jpg|dog\n")
    assert found(place, path_column="p", label_column="q") == EXPECTED
    assert found(place, path_column="2", label_column="3") == EXPECTED
    bare = put(images, "1:a b.png:cat\n2:cat/1.png:cat\n3:dog/2.jpg:dog\n", "bare.csv")
    assert found(bare, path_column="2", label_column="3", delimiter=":") == EXPECTED


def test_the_folder_of_the_images_is_that_of_the_list_or_the_given_one(images):
    elsewhere = images.parent / "lists"
    elsewhere.mkdir()
    place = put(elsewhere, CSV)
    assert found(place, root=images) == found(f"list:{place}:{images}") == EXPECTED
    absolute = put(elsewhere, CSV.replace("\na", f"\n{images}/a"), "absolute.csv")
    assert found(absolute, root=images) == EXPECTED
    assert (
        found(str(Path(place).rename(images / "metadata.csv").with_name("list.csv").parent.joinpath("metadata.csv")))
        == EXPECTED
    )


def test_classes_that_are_numbers_are_in_the_order_of_numbers_and_positions_in_a_given_list(images):
    place = put(images, "a b.png 10\ncat/1.png 10\ndog/2.jpg 9\n", "val.txt")
    assert list_images(place).classes == ["9", "10"]
    given = [f"n{k:02d}" for k in range(11)]
    listing = list_images(place, given)
    assert [given[label] for label in listing.labels] == ["n10", "n10", "n09"]
    assert "its classes are numbers: positions in the given 11 classes" in listing.remarks
    with pytest.raises(InputError, match=r"numbers from 9 to 10, .* positions 0 to 9 \(do they count from 1\?\)"):
        list_images(place, given[:10])


@pytest.mark.parametrize(
    ("text", "how", "said"),
    [
        ("", {}, "lists no images"),
        ("path,label\n", {}, "lists no images"),
        ("a b.png\ncat/1.png\n", {}, "'a b.png' is a path without a class"),
        ("path,label\na b.png,\n", {}, r"image 1 \('a b.png'\) has no class"),
        ("path,label\na b.png,cat\ncat/1.png\n", {}, "1 of 3 lines have fewer cells than the first, such as line 3"),
        (CSV + "cat/1.png,dog\n", {}, "'cat/1.png' has several classes .'cat' and 'dog'."),
        ('path,label\na b.png,"[""cat"", ""dog""]"\n', {}, r"image 1 has several classes \(cat, dog\)"),
        (CSV + "dog/3.png,cat;dog\n", {}, "'cat;dog' are several classes"),
        ("ImageId,PredictionString\na b,cat 1 2 3 4 dog 5 6 7 8\n", {}, r"several classes \(cat, dog\)"),
        ("path,label\na b.png,1\ncat/1.png,2\ndog/2.jpg,3\n", {}, "a running number and not a class"),
        ("name,kind,x\na b.png,cat,1\n", {}, "there are 1 to 3|say which holds the class"),
        ("path,kind,x\na b.png,cat,1\n", {}, "the classes. there are path, kind, x; give --label-column"),
        ("label,kind,x\ncat,a b.png,1\n", {}, "which column holds the paths. .*give --path-column"),
        (CSV, {"label_column": "species"}, "--label-column species: .* no such column; there are path, label"),
        (CSV, {"label_column": "3"}, "--label-column 3"),
        (CSV, {"root": Path("nowhere")}, "--root nowhere: no such directory"),
        ("path,label\n../x.png,cat\n", {}, "leads out of"),
        ("path,label\n/x.png,cat\n", {}, "give --root the folder that paths begin with"),
        ("path,label\n,cat\n", {}, "a class and no path"),
        ("path,label\na\0b.png,cat\n", {}, "no text file"),
        ('path,label\n"a b.png,cat\n', {}, "not a table"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_one_line_that_names_the_way_out(images, text, how, said):
    place = put(images, text)
    with pytest.raises(InputError, match=said) as caught:
        list_images(place, reading=Reading(**how))
    assert "\n" not in str(caught.value)


def test_a_wrong_root_is_found_out_and_the_right_one_named(images):
    outer = put(images.parent, CSV)
    with pytest.raises(InputError, match=rf"none of its 3 images is in .* give --root {images}, or list:"):
        list_images(outer)
    inner = put(images / "cat", CSV)
    with pytest.raises(InputError, match=rf"give --root {images}, or list:"):
        list_images(inner)
    begun = put(images, CSV.replace("\n", "\nim/").removesuffix("im/"))
    with pytest.raises(InputError, match=rf"give --root {images.parent}, or list:"):
        list_images(begun)
    other = put(images, CSV.replace("\n", "\nother/").removesuffix("other/"))
    with pytest.raises(InputError, match=r"has 'a b\.png': the list needs paths relative to it"):
        list_images(other)


def test_images_that_are_not_there_are_counted_and_named_and_pipes_are_left_alone(images, tmp_path, capsys):
    os.mkfifo(images / "pipe.png")
    place = put(images, CSV + "dog/9.jpg,dog\npipe.png,cat\n")
    write.run(write.Config(images=place, out=tmp_path / "x.beton"))
    said = capsys.readouterr().err
    assert "left out 1 name of no regular file (first 'pipe.png')" in said
    assert "1 image not found in" in said
    manifest = Manifest.load(tmp_path / "x.manifest.npz")
    assert [name.decode() for name in manifest.ids.tolist()] == list(NAMES)
    assert manifest.meta["skipped"] == [["dog/9.jpg", "No such file or directory"]]


def test_two_images_of_one_name_are_not_guessed_between(images):
    Image.new("RGB", (2, 2)).save(images / "cat/1.jpg")
    with pytest.raises(InputError, match=r"'cat/1' may be 1\.jpg or 1\.png: the list must name the suffix"):
        list_images(put(images, "a b,cat\ncat/1,cat\n"))


def test_an_image_that_changed_its_class_in_the_list_is_noticed(images, tmp_path):
    place = put(images, CSV)
    write.run(write.Config(images=place, out=tmp_path / "x.beton"))
    put(images, CSV.replace("a b.png,cat", "a b.png,dog"))
    with pytest.raises(InputError, match="1 image changed the class since"):
        write.run(write.Config(images=place, out=tmp_path / "x.beton"))


def test_flags_of_lists_are_refused_for_folders(images, tmp_path):
    with pytest.raises(InputError, match="--label-column and --delimiter are for lists"):
        write.run(write.Config(images=str(images), out=tmp_path / "x.beton", label_column="label"))
