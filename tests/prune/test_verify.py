"""`prune verify` beside its checks of damage: what could not be read, and another program's listing compared."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from prune.__main__ import main


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with hidden, unreadable and odd images, and its beton."""
    root = tmp_path_factory.mktemp("verify")
    names = ("cat/1.png", "cat/2.png", "dog/1.gif", "dog/2.png", "cat/._1.png", "dog/@eaDir/2.png", "loose.png")
    for name in names:
        (root / "im" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(root / "im" / name)
    (root / "im/dog/0.png").write_bytes(b"")
    assert main(["write", "--images", str(root / "im"), "--out", str(root / "x.beton")]) == 0
    return root


def verified(place: Path, capsys, text: str | None = None, *flags: str, name: str = "list.txt") -> tuple[int, str]:
    if text is not None:
        (place / name).write_text(text)
        flags = ("--listing", str(place / name), *flags)
    capsys.readouterr()
    try:
        code = main(["verify", str(place / "x.beton"), *flags])
    except SystemExit as end:
        code = end.code
    return code, capsys.readouterr().out


def test_what_could_not_be_read_is_printed_with_its_reason(place, capsys):
    code, out = verified(place, capsys)
    assert code == 0
    assert "x.beton: 1 image could not be read when it was written\n  dog/0.png: empty file\n" in out
    assert json.loads(verified(place, capsys, None, "--json")[1])["unreadable"] == [
        {"id": "dog/0.png", "reason": "empty file"}
    ]


def test_the_same_images_in_any_order_are_the_same(place, capsys):
    names = ["cat/1.png", "cat/2.png", "dog/1.gif", "dog/2.png"]
    code, out = verified(place, capsys, "\n".join(names))
    assert (code, "list.txt: 4 images of 4 are in both, in the same order" in out) == (0, True)
    code, out = verified(
        place, capsys, "".join(f"{place}/im/{name}\n" for name in names[::-1]), "--root", f"{place}/im"
    )
    assert (code, "in another order: its rows are not those of the beton" in out) == (0, True)
    np.save(place / "list.npy", np.array(names))
    assert verified(place, capsys, None, "--listing", str(place / "list.npy"))[0] == 0


def test_image_folders_listing_differs_and_each_difference_has_its_reason(place, capsys):
    from torchvision.datasets import ImageFolder

    listed = [path for path, _ in ImageFolder(str(place / "im")).samples]
    listed += [f"{place}/im/loose.png", f"{place}/im/cat/9.png"]
    code, out = verified(place, capsys, "\n".join(listed), "--root", f"{place}/im")
    assert code == 1
    assert "3 images of 4 are in both" in out
    for reason in ("1 hidden ('cat/._1.png')", "1 in a folder of tools ('dog/@eaDir/2.png')",
                   "1 unreadable: empty file ('dog/0.png')", "1 in no class folder ('loose.png')",
                   "1 not known here ('cat/9.png')"):  # fmt: skip
        assert reason in out
    assert "in the beton alone: 1 .gif (first 'dog/1.gif')" in out


def test_classes_of_a_table_are_compared_too_and_repeated_lines_counted(place, capsys):
    rows = ["cat/1.png,cat", "cat/2.png,dog", "dog/1.gif,dog", "dog/2.png,dog", "dog/2.png,dog"]
    code, out = verified(place, capsys, "\n".join(["path,label", *rows]), name="list.csv")
    assert code == 1
    assert "of another class: 1 (first 'cat/2.png': 'cat' here, 'dog' there)" in out
    assert "listed again: 1 name" in out


def test_a_text_list_of_paths_and_classes_is_read_as_prune_write_reads_it(place, capsys):
    lines = ["cat/1.png cat", "cat/2.png cat", "dog/1.gif dog", "dog/2.png cat"]
    code, out = verified(place, capsys, "\n".join(lines))
    assert code == 1
    assert "4 images of 4 are in both, in the same order" in out
    assert "of another class: 1 (first 'dog/2.png': 'dog' here, 'cat' there)" in out


def test_a_listing_with_another_root_is_told_the_flag_that_mends_it(place, capsys):
    code, out = verified(place, capsys, "/data/im/cat/1.png\n/data/im/dog/2.png\n")
    assert (code, "give --root '/data/im'" in out) == (1, True)
    assert json.loads(verified(place, capsys, "D:\\cat\\1.png", "--json")[1])["listing"]["same"] is False
    assert verified(place, capsys, None, "--root", "x")[0] == 2
