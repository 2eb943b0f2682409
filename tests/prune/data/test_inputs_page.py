"""Every row of the table in docs/inputs.md: its command runs on a small example made here with the real library.

A new row needs one function in EXAMPLES, under the text of the row's first cell.
"""

from __future__ import annotations

import os
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


def ilsvrc(*lines: str, list_name: str) -> Example:
    """Training folders, a flat val/ of three images, and a list of their classes."""
    for number, wnid in enumerate(("n01440764", "n01443537", "n01484850"), 1):
        saved(f"imagenet/train/{wnid}/{wnid}_1.JPEG", number)
    for number in (1, 2, 3):
        saved(f"imagenet/val/ILSVRC2012_val_0000000{number}.JPEG", 5 + number)
    Path("imagenet", list_name).write_text("".join(f"{line}\n" for line in lines))
    labels = ("n01484850", "n01440764", "n01484850")
    names = sorted(str(path) for path in Path("imagenet/val").iterdir())
    return Example([Sample(n, 5 + k, label) for k, (n, label) in enumerate(zip(names, labels), 1)], "imagenet/val")


def solution_file() -> Example:
    return ilsvrc(
        "ImageId,PredictionString",
        "ILSVRC2012_val_00000003,n01484850 85 1 499 272 ",
        "ILSVRC2012_val_00000001,n01484850 85 1 499 272 n01484850 3 1 30 20 ",
        "ILSVRC2012_val_00000002,n01440764 111 108 404 354 ",
        list_name="LOC_val_solution.csv",
    )


def numbered_list() -> Example:
    lines = (f"ILSVRC2012_val_0000000{number}.JPEG {label}" for number, label in ((1, 2), (2, 0), (3, 2)))
    return ilsvrc(*lines, list_name="val.txt")


BIRDS = {"a/1.jpg": (1, "wren"), "a/2.jpg": (2, "crow"), "3.png": (3, "wren")}


def table() -> Example:
    import pandas

    for name, (number, _) in BIRDS.items():
        saved(f"photos/{name}", number)
    rows = [{"seen": 2026, "picture": name, "species": label} for name, (_, label) in BIRDS.items()]
    pandas.DataFrame(rows).to_csv("birds.csv", index=False)
    read = pandas.read_csv("birds.csv")
    return Example([Sample(name, BIRDS[name][0], label) for name, label in zip(read.picture, read.species)])


def text_list() -> Example:
    for name, (number, _) in BIRDS.items():
        saved(name, number)
    Path("birds.txt").write_text("".join(f"{name} {label}\r\n" for name, (_, label) in BIRDS.items()))
    return Example([Sample(name, number, label) for name, (number, label) in BIRDS.items()])


def metadata_table() -> Example:
    from datasets import load_dataset

    for name, (number, _) in BIRDS.items():
        saved(f"birds/{name}", number)
    lines = [f"{name},{label}\n" for name, (_, label) in BIRDS.items()]
    Path("birds/metadata.csv").write_text("".join(["file_name,kind\n", *lines]))
    data = load_dataset("imagefolder", data_dir="birds", split="train", cache_dir="cache")
    samples = [
        Sample(os.path.relpath(row["image"].filename, "birds"), number_of(np.asarray(row["image"])), row["kind"])
        for row in data
    ]
    return Example(samples)


def torchvision_set() -> Example:
    from torchvision.datasets import Country211

    for number, name in enumerate(("AT/1.jpg", "AT/2.jpg", "BE/1.jpg", "CH/1.jpg"), 1):
        saved(f"sets/country211/test/{name}", number)
    data = Country211("sets", "test")
    images = [(number_of(np.asarray(image)), data.classes[label]) for image, label in data]
    return Example([Sample(f"test/{row}", *image) for row, image in enumerate(images)])


def animals():
    """Four grey images as a data set of Hugging Face."""
    import datasets

    datasets.disable_progress_bars()
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
    images = [picture(number) for number in range(1, 5)]
    return datasets.Dataset.from_dict({"image": images, "label": [0, 1, 1, 0]}, features)


def listed(data, names: Sequence[str]) -> Example:
    """What `datasets` lists, whose rows have no names of their own."""
    samples = [
        Sample(name, number_of(np.asarray(row["image"])), data.features["label"].int2str(row["label"]))
        for name, row in zip(names, data)
    ]
    return Example(samples)


def parquet_files() -> Example:
    import datasets

    Path("animals/data").mkdir(parents=True)
    for k in range(2):
        animals().shard(2, k).to_parquet(f"animals/data/train-{k:05d}-of-00002.parquet")
        animals().to_parquet(f"animals/data/test-{k:05d}-of-00002.parquet")
    data = datasets.load_dataset("animals", split="train", cache_dir="cache")
    return listed(data, [f"train-{k:05d}-of-00002/{row}" for k in range(2) for row in range(2)])


def folder_of_parquet_files() -> Example:
    import pyarrow as pa
    import pyarrow.parquet

    data = animals()
    texts = [data.features["label"].int2str(label) for label in data["label"]]
    images = data.data.column("image").combine_chunks().field("bytes")
    for k in range(2):
        Path(f"tables/{k}").mkdir(parents=True)
        part = pa.table({"image": images[2 * k : 2 * k + 2], "label": texts[2 * k : 2 * k + 2]})
        pa.parquet.write_table(part, f"tables/{k}/part.parquet")
    return listed(data, [f"{k}/part/{row}" for k in range(2) for row in range(2)])


def saved_to_disk() -> Example:
    import datasets

    datasets.DatasetDict({"train": animals(), "test": animals()}).save_to_disk("saved")
    return listed(datasets.load_from_disk("saved/train"), [f"data/{row}" for row in range(4)])


def webdataset_shards() -> Example:
    import webdataset

    Path("shards").mkdir()
    with webdataset.ShardWriter("shards/train-%06d.tar", maxcount=2, verbose=0) as sink:
        for number, (key, label) in enumerate((("x/1", "cat"), ("x/2", "dog"), ("x/1", "dog"), ("y/1", "cat")), 1):
            sink.write({"__key__": key, "png": picture(number), "cls": label})
    samples = [
        Sample(f"{Path(s['__url__']).stem}/{s['__key__']}", number_of(np.asarray(s["png"])), s["cls"].decode())
        for s in webdataset.WebDataset("shards/train-{000000..000001}.tar", shardshuffle=False).decode(
            "pil", only="png"
        )
    ]
    return Example([Sample(s.name, s.number, s.label) for s in samples])


EXAMPLES: dict[str, Callable[[], Example]] = {
    "class folders": class_folders,
    "class folders with splits": class_folders_with_splits,
    "ILSVRC: a flat `val/` and its solution file": solution_file,
    "a flat `val/` and a `val.txt` of numbers": numbered_list,
    "a table with columns of any name": table,
    "a text list of paths and classes": text_list,
    "`metadata.csv` of Hugging Face's imagefolder": metadata_table,
    "a torchvision set": torchvision_set,
    "parquet files of Hugging Face": parquet_files,
    "a folder of parquet files": folder_of_parquet_files,
    "a folder of `save_to_disk`": saved_to_disk,
    "WebDataset shards": webdataset_shards,
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
