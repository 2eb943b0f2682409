"""A beton is copied to the node's disk once, under its fingerprint, and never at the price of the run."""

from __future__ import annotations

import os
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from prune import node_copy
from prune.loading import open_loader, share_of_cores
from prune.node_copy import on_this_node
from prune.source import open_source


@pytest.fixture
def source(toy):
    return open_source(toy.test)


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
        on_this_node(open_source(folder / "same.beton"))
    assert len(list((tmp_path / "fast").glob("*.beton"))) == 2


@pytest.mark.parametrize("reason", ["no such variable", "a file in the way", "a full disk"])
def test_a_disk_that_cannot_hold_the_copy_is_no_error(source, monkeypatch, tmp_path, capsys, reason):
    place = tmp_path / "fast"
    if reason == "no such variable":
        place = "/scratch/$WINNOW_NO_SUCH_VARIABLE"
    elif reason == "a file in the way":
        place.write_text("")
    else:
        monkeypatch.setattr(node_copy, "_SPARE", 1e12)
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
