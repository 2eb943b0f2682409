"""A beton is copied to the node's disk once, under its fingerprint, and never at the price of the run."""

from __future__ import annotations

import os
import shutil
import zlib
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

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


def shared_folder(place, mode=0o1777):
    place.mkdir()
    place.chmod(mode)
    return place


def test_in_a_folder_that_others_may_write_the_copy_lies_in_one_of_ours_alone(source, monkeypatch, tmp_path):
    monkeypatch.setenv("WINNOW_LOCAL", str(shared_folder(tmp_path / "scratch")))
    copy = on_this_node(source).beton.path
    assert copy.parent == tmp_path / "scratch" / f"winnow-{os.geteuid()}"
    assert copy.parent.stat().st_mode & 0o777 == 0o700
    assert copy.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("kind", ["link", "foreign owner", "file"])
def test_what_another_user_has_put_in_the_way_is_not_used(source, monkeypatch, tmp_path, capsys, kind):
    scratch, victim = shared_folder(tmp_path / "scratch"), tmp_path / "victim"
    victim.mkdir()
    planted = scratch / f"winnow-{os.geteuid()}"
    if kind == "link":
        planted.symlink_to(victim)
    elif kind == "file":
        planted.write_text("")
    else:
        planted.mkdir()
        monkeypatch.setattr(type(planted), "lstat", lambda path: SimpleNamespace(st_mode=0o40700, st_uid=-1))
    monkeypatch.setenv("WINNOW_LOCAL", str(scratch))
    assert on_this_node(source) is source
    assert "is not a folder of ours; reading" in capsys.readouterr().err
    assert not list(victim.iterdir())


def test_a_folder_whose_files_others_may_rename_is_not_used(source, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("WINNOW_LOCAL", str(shared_folder(tmp_path / "open", 0o777)))
    assert on_this_node(source) is source
    assert "sticky bit" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["cut", "a flipped bit", "foreign", "a link to a file of ours"])
def test_a_bad_copy_is_made_anew_with_one_note(source, toy, monkeypatch, tmp_path, capsys, kind):
    monkeypatch.setenv("WINNOW_LOCAL", str(tmp_path / "fast"))
    copy, whole, victim = on_this_node(source).beton.path, source.beton.path.read_bytes(), tmp_path / "victim"
    capsys.readouterr()
    if kind == "cut":
        copy.write_bytes(whole[:-1])
    elif kind == "foreign":
        copy.write_bytes(toy.train.read_bytes())
    elif kind == "a flipped bit":
        changed = bytearray(whole)
        changed[int(source.beton.samples["image"]["pointer"][3]) + 50] ^= 1
        copy.write_bytes(changed)
    else:
        victim.write_text("keep")
        copy.unlink()
        copy.symlink_to(victim)
    assert on_this_node(source).beton.path == copy
    assert copy.read_bytes() == whole
    assert not copy.is_symlink()
    assert not victim.exists() or victim.read_text() == "keep"
    assert capsys.readouterr().err.count("it is copied again") == 1
    assert on_this_node(source).beton.path == copy
    assert capsys.readouterr().err == ""


def test_a_copy_that_was_checked_is_not_read_again(source, monkeypatch, tmp_path):
    monkeypatch.setenv("WINNOW_LOCAL", str(tmp_path / "fast"))
    on_this_node(source)
    monkeypatch.setattr(local_copy, "open_beton", lambda path: pytest.fail(f"{path} was read"))
    on_this_node(source)


def test_a_launcher_may_name_the_cores_of_a_process(monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "64")
    monkeypatch.setenv("WINNOW_CORES", "100000")
    assert share_of_cores() == len(os.sched_getaffinity(0))  # no more than there are
    monkeypatch.setenv("WINNOW_CORES", "1")
    assert share_of_cores() == 1
