"""Messages about a wrong input: they name the flag, the line or the file, and the way out that they print works."""

from __future__ import annotations

import re

import numpy as np
import pytest
from PIL import Image

from prune.__main__ import main


def refused(words: list[str], capsys) -> str:
    """The one line that a command prints when it refuses."""
    capsys.readouterr()
    assert main(words) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()[-1:]
    return line


def draw(folder, names: str) -> None:
    folder.mkdir(parents=True)
    for place, name in enumerate(names):
        shade = np.random.default_rng(place).integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(shade).save(folder / f"{name}.png")


def test_images_without_labels_in_two_folders_become_clusters(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    draw(tmp_path / "one/all", "abcdefgh")
    line = refused(["write", "--images", "one", "--out", "one.beton"], capsys)
    assert line.endswith("divide them among two folders, and give `prune score --clusters 100`")
    draw(tmp_path / "two/first", "abcd")
    draw(tmp_path / "two/second", "efgh")
    draw(tmp_path / "pets/cat", "ij")
    draw(tmp_path / "pets/dog", "kl")
    for name in ("two", "pets"):
        assert main(["write", "--images", name, "--out", f"{name}.beton"]) == 0
    assert main(["features", "--thumbnail", "--betons", "two.beton", "pets.beton", "--out", "f"]) == 0
    files = ["--source", "f/two.features.npz", "--targets", "f/pets.features.npz"]
    assert main(["score", *files, "--clusters", "3", "--also", "prototype", "--out", "s.npz"]) == 0
    assert main(["select", "--scores", "s.npz", "--keep", "0.5", "--out", "half.index.npz"]) == 0


def test_an_archive_without_features_is_told_how_to_be_written(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    draw(tmp_path / "photos/cat", "ab")
    draw(tmp_path / "photos/dog", "cd")
    assert main(["write", "--images", "photos", "--out", "photos.beton"]) == 0
    ARRAY = np.random.default_rng(0).random((4, 3), np.float32)
    np.savez("mine.npz", other=ARRAY)
    adopt = ["adopt", "--arrays", "mine.npz", "--manifest", "photos.manifest.npz", "--model", "dino"]
    adopt += ["--out", "photos.features.npz"]
    call = re.search(r"numpy\.(savez\(.*?\))", refused(adopt, capsys))
    assert call
    eval(f"np.{call[1]}", {"np": np, "ARRAY": ARRAY})
    assert main(adopt) == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('path,label\na.png,cat\n"b.png,dog\nc.png,cat\n', "not a table from line 3 on (unexpected end of data)"),
        (
            "path,label\na.png,cat\n,dog\n",
            "image 2 of the list has a class and no path: write its path, or remove the line",
        ),
        ("path,label\n", "lists no images; a line has the path of an image and its class"),
    ],
)
def test_a_list_names_the_line_that_is_wrong(tmp_path, capsys, text, message):
    draw(tmp_path / "images", "abc")
    (tmp_path / "list.csv").write_text(text)
    words = ["write", "--images", str(tmp_path / "list.csv"), "--root", str(tmp_path / "images")]
    assert message in refused([*words, "--out", str(tmp_path / "x.beton")], capsys)
    assert not (tmp_path / "x.beton").exists()


@pytest.mark.parametrize(
    ("flag", "value", "message"),
    [
        ("--per-class", "4", "--per-class 4: at least 8 is needed"),
        ("--target-test", "0", "--target-test 0: at least 1 is needed"),
        ("--mislabelled", "0.5", "--mislabelled 0.5: a share from 0 to less than 0.5 is needed"),
    ],
)
def test_a_number_that_a_drawing_cannot_have_is_named_by_its_flag(tmp_path, capsys, flag, value, message):
    assert message in refused(["generate", "--out", str(tmp_path / "g"), flag, value], capsys)
    assert not (tmp_path / "g").exists()
