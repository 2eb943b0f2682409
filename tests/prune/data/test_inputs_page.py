"""Every row of the table in docs/inputs.md: its command runs on a small example made here with the real library.

A new row needs one function in EXAMPLES, under the text of the row's first cell.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from prune.__main__ import main
from prune.data.dataset import open_dataset
from prune.data.stored_images import Stored, decode
from prune.index.matching import as_ids
from prune.index.pruned_index import PrunedIndex

PAGE = Path(__file__).parents[3] / "docs/inputs.md"


@dataclass(frozen=True)
class Sample:
    """One image of an example, as the library that others read it with lists it.

    Attributes
    ----------
    name : str
        As in that library's listing: the id, or a path that begins with the example's root.
    number : int
        Which `picture` it is.
    label : str
        Name of its class.
    """

    name: str
    number: int
    label: str


@dataclass(frozen=True)
class Example:
    """The images that the row's last beton must hold, in the other library's order; `root` is cut from their names."""

    samples: Sequence[Sample]
    root: str | None = None


def picture(number: int) -> Image.Image:
    """A grey image that is recognised by its brightness; number 1 to 11."""
    return Image.new("RGB", (16, 16), (20 * number,) * 3)


def saved(path: str, number: int) -> Path:
    """Save `picture(number)` at a path; its suffix says how."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    picture(number).save(path)
    return Path(path)


def number_of(pixels: np.ndarray) -> int:
    return round(pixels.mean() / 20)


def image_folder(root: str) -> Example:
    """What torchvision's ImageFolder lists there."""
    from torchvision.datasets import ImageFolder

    data = ImageFolder(root)
    samples = [Sample(path, number_of(np.asarray(Image.open(path))), data.classes[k]) for path, k in data.samples]
    return Example(samples, root)


def class_folders() -> Example:
    for number, name in enumerate(("cat/1.jpg", "cat/more/2.png", "dog/1.JPEG", "dog/2.webp", "elk/3.tif"), 1):
        saved(f"photos/{name}", number)
    return image_folder("photos")


def class_folders_with_splits() -> Example:
    for number, name in enumerate(("train/cat/1.jpg", "train/dog/1.jpg", "train/elk/1.jpg", "test/cat/2.jpg"), 1):
        saved(f"pets/{name}", number)
    saved("pets/test/elk/2.jpg", 7)
    return image_folder("pets/test")


def torchvision_set() -> Example:
    from torchvision.datasets import Country211

    for number, name in enumerate(("AT/1.jpg", "AT/2.jpg", "BE/1.jpg", "CH/1.jpg"), 1):
        saved(f"sets/country211/test/{name}", number)
    data = Country211("sets", "test")
    images = [(number_of(np.asarray(image)), data.classes[label]) for image, label in data]
    return Example([Sample(f"test/{row}", *image) for row, image in enumerate(images)])


EXAMPLES: dict[str, Callable[[], Example]] = {
    "class folders": class_folders,
    "class folders with splits": class_folders_with_splits,
    "a torchvision set": torchvision_set,
}


def rows() -> dict[str, list[str]]:
    """The commands of every row of the table, by its first cell."""
    lines = re.findall(r"^\| (.+?) \| (.+?) \|.*\|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    return {name: re.findall(r"`((?:prune|transfer) [^`]+)`", cell) for name, cell in lines if name != "input"}


def test_every_row_of_the_page_has_an_example_and_a_command():
    assert set(rows()) == set(EXAMPLES)
    assert all(rows().values())


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Run a row once: its example, and the data set that its last command wrote."""
    done = {}

    def of(name: str):
        if name not in done:
            place = tmp_path_factory.mktemp("row")
            with pytest.MonkeyPatch.context() as patch:
                patch.chdir(place)
                example = EXAMPLES[name]()
                for command in rows()[name]:
                    program, *arguments = shlex.split(command)
                    assert program == "prune"
                    assert main(arguments) == 0, command
                out = place / re.findall(r"--out (\S+)", rows()[name][-1])[0]
            done[name] = example, open_dataset(out)
        return done[name]

    return of


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_command_of_a_row_stores_every_image_under_its_id_and_class(made, name):
    example, source = made(name)
    ids = as_ids([sample.name for sample in example.samples], example.root)
    expected = {(one, s.number, s.label) for one, s in zip(ids.tolist(), example.samples)}
    manifest = source.manifest
    found = [
        (bytes(manifest.ids[row]), numbers(source, row), manifest.classes[manifest.labels[row]])
        for row in range(len(source))
    ]
    assert len(found) == len(example.samples)
    assert set(found) == expected


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_index_finds_the_same_images_in_the_other_librarys_own_listing(made, name):
    example, source = made(name)
    kept = np.arange(0, len(source), 2)
    index = PrunedIndex.from_rows(source.manifest, kept, provenance=[])
    there = [example.samples[row] for row in index.rows([s.name for s in example.samples], root=example.root)]
    assert [s.number for s in there] == [numbers(source, row) for row in kept]
    assert [s.label for s in there] == [index.classes[label] for label in index.labels]


def numbers(source, row: int) -> int:
    data, jpeg = source.beton.stored(row)
    return number_of(decode(Stored(data, jpeg, int(source.beton.heights[row]), int(source.beton.widths[row]))))
