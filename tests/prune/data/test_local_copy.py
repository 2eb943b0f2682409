"""A beton is copied to the node's disk once, under its fingerprint, and never at the price of the run."""

from __future__ import annotations

import os
import shutil
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from prune.data import local_copy
from prune.data.beton import BetonWriter
from prune.data.dataset import open_dataset
from prune.data.loader import open_loader, share_of_cores
from prune.data.local_copy import on_this_node
from prune.index.manifest import Manifest, digest


@pytest.fixture
def source(toy):
    return open_dataset(toy.test)


def test_without_the_variable_a_beton_is_read_where_it_is(source, monkeypatch):
    monkeypatch.delenv("WINNOW_LOCAL", raising=False)
    assert on_this_node(source) is source


def test_images_are_read_from_one_copy_with_variables_filled_in(source, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("NODE", str(tmp_path))
    monkeypatch.setenv("WINNOW_LOCAL", "$NODE/fast")
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(on_this_node, [source] * 4))
    (copy,) = (tmp_path / "fast").glob("*.beton")
    assert {one.beton.path for one in found} == {copy}
    assert copy.read_bytes() == source.beton.path.read_bytes()
    assert capsys.readouterr().err.count("copied to") == 1
    loader = open_loader(source, resolution=16, batch_size=8, workers=1, loader="torch")
    assert loader.source.beton.path == copy
    assert len(next(loader.epoch(np.arange(8)))[0]) == 8


def test_another_beton_of_the_same_name_gets_a_copy_of_its_own(toy, monkeypatch, tmp_path):
    monkeypatch.setenv("WINNOW_LOCAL", str(tmp_path / "fast"))
    for number, beton in enumerate((toy.train, toy.test)):
        folder = tmp_path / str(number)
        folder.mkdir()
        for place in (beton, beton.with_suffix(".manifest.npz")):
            shutil.copy(place, folder / place.name.replace(beton.stem, "same"))
        on_this_node(open_dataset(folder / "same.beton"))
    assert len(list((tmp_path / "fast").glob("*.beton"))) == 2


def reordered(root, rows):
    """Raw images of one size and class, written in the order of `rows`."""
    root.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (4, 6, 6, 3), dtype=np.uint8)
    with BetonWriter(root / "x.beton", 4) as writer:
        for row in rows:
            writer.add(pixels[row].tobytes(), jpeg=False, height=6, width=6, label=0)
    data = [pixels[row].tobytes() for row in rows]
    Manifest(
        np.array([b"%d.png" % row for row in rows]), np.zeros(4, np.int32), np.full(4, 108, np.int32),
        np.full(4, 6, np.int32), np.full(4, 6, np.int32), np.array([digest(d) for d in data], np.uint64),
        np.array([zlib.crc32(d) for d in data], np.uint32), ["a"],
    ).save(root / "x.manifest.npz")  # fmt: skip
    return open_dataset(root / "x.beton")


def test_the_same_images_in_another_order_get_a_copy_of_their_own(monkeypatch, tmp_path):
    monkeypatch.setenv("WINNOW_LOCAL", str(tmp_path / "fast"))
    for place, rows in (("a", [0, 1, 2, 3]), ("b", [2, 0, 3, 1])):
        source = reordered(tmp_path / place, rows)
        loader = open_loader(source, resolution=6, batch_size=4, workers=1, loader="torch")
        (batch,) = loader.epoch(np.arange(4))  # an image of the other order would count as damaged
        stored = np.frombuffer(source.beton.stored(1)[0], np.uint8).reshape(6, 6, 3)
        assert np.array_equal(batch[0][1].permute(1, 2, 0).numpy(), stored)
    assert len(list((tmp_path / "fast").glob("*.beton"))) == 2


@pytest.mark.parametrize("reason", ["no such variable", "a file in the way", "a full disk"])
def test_a_disk_that_cannot_hold_the_copy_is_no_error(source, monkeypatch, tmp_path, capsys, reason):
    place = tmp_path / "fast"
    if reason == "no such variable":
        place = "/scratch/$WINNOW_NO_SUCH_VARIABLE"
    elif reason == "a file in the way":
        place.write_text("")
    else:
        monkeypatch.setattr(local_copy, "SPARE", 1e12)
    monkeypatch.setenv("WINNOW_LOCAL", str(place))
    assert on_this_node(source) is source
    assert "where it is" in capsys.readouterr().err
    assert not list(tmp_path.glob("**/*.beton"))


def test_a_launcher_may_name_the_cores_of_a_process(monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "64")
    monkeypatch.setenv("WINNOW_CORES", "100000")
    assert share_of_cores() == len(os.sched_getaffinity(0))  # no more than there are
    monkeypatch.setenv("WINNOW_CORES", "1")
    assert share_of_cores() == 1
