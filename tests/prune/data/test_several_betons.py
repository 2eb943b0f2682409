"""The same images in one beton or in seven: one source, the same results, and no image is copied."""

from __future__ import annotations

import re
import shlex
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from prune import PrunedIndex, curves, features, materialize, score, selection, show, verify, write
from prune.__main__ import main
from prune.data.dataset import open_dataset
from prune.data.loader import open_loader
from prune.data.several_betons import map_files
from prune.index.manifest import Manifest, manifest_path, open_manifest
from prune.index.npz import open_arrays, save_arrays
from prune.runs.files import InputError, read_json
from prune.scores.feature_files import open_features, order_fingerprint

FACTS = ("ids", "labels", "nbytes", "width", "height", "digests", "crc32")


@pytest.fixture(scope="module")
def seven(toy, tmp_path_factory):
    """The toy's source in one beton, `one`, and in the folder `many` of seven, written in another order than theirs."""
    root = tmp_path_factory.mktemp("seven")
    images = str(toy.root / "data/source/train")
    for k in (3, 7, 1, 2, 6, 5, 4):
        write.run(write.Config(images=images, out=root / f"source/part{8 - k}.beton", shard=f"{k}/7"))
    return SimpleNamespace(one=toy.source, many=root / "source", train=toy.train, images=images)


def test_they_are_one_source_with_the_same_rows_and_fingerprint(seven):
    one, many = open_dataset(seven.one), open_dataset(seven.many)
    assert many.manifest.fingerprint == one.manifest.fingerprint
    assert all(np.array_equal(getattr(many.manifest, fact), getattr(one.manifest, fact)) for fact in FACTS)
    assert order_fingerprint(manifest_path(seven.many)) == order_fingerprint(manifest_path(seven.one))
    rows = range(0, len(one), 37)
    assert [many.beton.stored(row) for row in rows] == [one.beton.stored(row) for row in rows]
    assert (many.name, one.name) == ("source", "source")
    pattern = open_dataset(seven.many / "part*.beton")
    assert pattern.manifest.fingerprint == one.manifest.fingerprint
    assert pattern.name == "part"


def test_the_shards_hold_every_image_once_and_say_which_part_they_are(seven):
    places = sorted(seven.many.glob("*.manifest.npz"))
    parts = [Manifest.load(place) for place in places]
    assert sum(map(len, parts)) == len(open_manifest(seven.one))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert [part.meta["config"]["shard"] for part in parts] == [f"{k}/7" for k in range(7, 0, -1)]
    assert {tuple(part.classes) for part in parts} == {tuple(open_manifest(seven.one).classes)}


@pytest.mark.parametrize("kind", ["ffcv", "torch"])
def test_loaders_read_the_same_pixels(seven, kind):
    batches = []
    for place in (seven.one, seven.many):
        source = open_dataset(place)
        loader = open_loader(source, resolution=16, batch_size=64, workers=2, loader=kind)
        rows = np.random.default_rng(0).permutation(len(source))[:200]
        batches.append([(image.numpy().copy(), label.numpy(), row.numpy()) for image, label, row in loader.epoch(rows)])
        loader.close()
    for ours, theirs in zip(*batches, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(ours, theirs))


def test_features_scores_and_kept_ids_are_the_same(seven, tmp_path):
    kept, arrays = [], []
    for name, source in (("one", seven.one), ("many", seven.many), ("pattern", seven.many / "*.beton")):
        place = tmp_path / name
        features.run(features.Config(betons=(source, seven.train), out=place, thumbnail=True))
        config = score.Config(
            source=(place / "source.features.npz",), targets=(place / "train.features.npz",), out=place / "scores.npz"
        )
        score.run(config)
        index = selection.Config(scores=place / "scores.npz", method="dp4tl-fm", keep=0.3, out=place / "kept.npz")
        selection.run(index)
        found = PrunedIndex.load(place / "kept.npz")
        kept.append((found.ids.tolist(), found.positions.tolist(), found.source))
        with np.load(place / "scores.npz") as scores:
            arrays.append({key: scores[key] for key in scores.files if key != "meta"})
    assert kept[0] == kept[1] == kept[2]
    assert arrays[0].keys() == arrays[1].keys()
    assert all(np.array_equal(value, arrays[1][key], equal_nan=True) for key, value in arrays[0].items())


def test_a_beton_of_what_is_kept_a_page_and_verify_take_them(seven, tmp_path, capsys):
    index = PrunedIndex.from_rows(open_manifest(seven.one), np.arange(5, 600, 7), provenance=[])
    index.save(tmp_path / "kept.npz")
    written = []
    for name, source in (("one", seven.one), ("many", seven.many)):
        materialize.run(materialize.Config(tmp_path / "kept.npz", source, tmp_path / f"{name}.beton"))
        page = tmp_path / f"{name}.html"
        show.run(show.Config(tmp_path / "kept.npz", html=page, source=source, pictures=4))
        written.append(((tmp_path / f"{name}.beton").read_bytes(), page.read_bytes()))
    assert written[0] == written[1]
    with pytest.raises(InputError, match=r"more\.beton: lies in the source's folder"):
        materialize.run(materialize.Config(tmp_path / "kept.npz", seven.many, seven.many / "more.beton"))
    capsys.readouterr()
    verify.run(verify.Config(seven.many, deep=True))
    assert f"sound: {len(open_manifest(seven.one))} images" in capsys.readouterr().out


def test_damage_in_one_of_them_is_named_by_image(seven, tmp_path, capsys):
    for path in seven.many.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    source = open_dataset(tmp_path)
    row = 100
    part = int(np.searchsorted(source.beton.begins, source.beton.samples["image"]["pointer"][row], side="right")) - 1
    path = source.beton.parts[part].path
    whole = bytearray(path.read_bytes())
    whole[int(source.beton.samples["image"]["pointer"][row]) - int(source.beton.begins[part]) + 100] ^= 1
    path.write_bytes(whole)
    with pytest.raises(SystemExit):
        verify.run(verify.Config(tmp_path, deep=True))
    name = bytes(source.manifest.ids[row]).decode()
    assert f"1 of {len(source)} images are damaged, first {name!r} (row {row}" in capsys.readouterr().err


def test_a_manifest_whose_fingerprint_does_not_fit_is_named_among_several(seven, tmp_path, capsys):
    for path in seven.many.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    arrays, meta = open_arrays(tmp_path / "part4.manifest.npz", "winnow-manifest/1", mapped=False)
    save_arrays(tmp_path / "part4.manifest.npz", arrays, {**meta, "fingerprint": "0" * 32})
    with pytest.raises(SystemExit):
        verify.run(verify.Config(tmp_path))
    assert "part4.beton: the manifest's fingerprint is 000" in capsys.readouterr().err


def test_a_shard_that_is_missing_is_named_and_can_be_written_again_alone(seven, tmp_path):
    for path in seven.many.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    gone = tmp_path / "part5.beton"
    before = gone.read_bytes()
    gone.unlink()
    with pytest.raises(InputError, match=r"part5\.manifest\.npz: its beton is not beside it"):
        open_dataset(tmp_path)
    manifest_path(gone).unlink()
    with pytest.raises(InputError, match=r"1 of 7 shards are missing, first 3: write it with `.* --shard 3/7`"):
        open_dataset(tmp_path)
    with pytest.raises(InputError, match="1 of 7 shards are missing"):
        open_manifest(tmp_path)
    write.run(write.Config(images=seven.images, out=gone, shard="3/7"))
    assert gone.read_bytes() == before
    assert open_dataset(tmp_path).manifest.fingerprint == open_manifest(seven.one).fingerprint
    (tmp_path / "again.beton").write_bytes(before)
    (tmp_path / "again.manifest.npz").write_bytes(manifest_path(gone).read_bytes())
    with pytest.raises(InputError, match="shard 3/7 is there twice"):
        open_dataset(tmp_path)


def test_betons_that_are_no_shards_are_one_source_when_they_fit(tmp_path):
    """By class: rows are in the order of the ids, which is not that of the files' names."""
    rng = np.random.default_rng(0)
    images = {f"{c}/{k}.png": rng.integers(0, 256, (9, 7, 3), dtype=np.uint8) for c in ("ant", "bee") for k in range(4)}
    for name, pixels in images.items():
        for root in ("all", f"part-{int(name[-5]) % 2}"):
            (tmp_path / root / name).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(tmp_path / root / name)
    write.run(write.Config(images=str(tmp_path / "all"), out=tmp_path / "all.beton"))
    for k in range(2):
        write.run(write.Config(images=str(tmp_path / f"part-{k}"), out=tmp_path / f"both/{1 - k}.beton"))
    one, both = open_dataset(tmp_path / "all.beton"), open_dataset(tmp_path / "both")
    assert both.manifest.ids.tolist() == one.manifest.ids.tolist()
    assert [both.beton.stored(row) for row in range(8)] == [one.beton.stored(row) for row in range(8)]
    assert both.beton.samples["position"].tolist() == list(range(8))
    write.run(write.Config(images=str(tmp_path / "part-0"), out=tmp_path / "both/again.beton"))
    with pytest.raises(InputError, match=r"both: 4 images are in two betons, first 'ant/0\.png'"):
        open_dataset(tmp_path / "both")
    (tmp_path / "part-0/bee").rename(tmp_path / "part-0/cow")
    write.run(write.Config(images=str(tmp_path / "part-0"), out=tmp_path / "mixed/b.beton"))
    write.run(write.Config(images=str(tmp_path / "part-1"), out=tmp_path / "mixed/a.beton"))
    with pytest.raises(InputError, match=r"b\.beton: has other classes than .*a\.beton: they are not one source"):
        open_dataset(tmp_path / "mixed")


def test_wrong_shards_and_empty_folders_are_one_line(seven, tmp_path):
    config = write.Config(images=seven.images, out=tmp_path / "x.beton")
    for shard in ("0/7", "8/7", "3", "a/b", "1/0"):
        with pytest.raises(InputError, match=f"--shard {shard}: K/N with K from 1 to N is expected"):
            write.run(replace(config, shard=shard))
    with pytest.raises(InputError, match="656 images cannot be divided into 900 shards"):
        write.run(replace(config, shard="3/900"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="empty: no betons in it"):
        open_dataset(tmp_path / "empty")
    with pytest.raises(InputError, match="no file matches"):
        open_dataset(tmp_path / "no-*.beton")
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]
    write.run(replace(config, shard="1/7", dry_run=True))
    write.run(replace(config, shard="1/7"))
    write.run(replace(config, shard="1/7"))
    with pytest.raises(InputError, match="shard: '1/7' -> '2/7'"):
        write.run(replace(config, shard="2/7"))


def test_a_copy_on_the_nodes_disk_is_read_part_by_part(seven, tmp_path, monkeypatch):
    from prune.data.local_copy import on_this_node

    monkeypatch.setenv("WINNOW_LOCAL", str(tmp_path / "local"))
    source = open_dataset(seven.many)
    local = on_this_node(source)
    assert {part.path.parent for part in local.beton.parts} == {tmp_path / "local"}
    assert len(list((tmp_path / "local").glob("*.beton"))) == 7
    for row in range(0, len(source), 60):
        assert local.beton.stored(row) == source.beton.stored(row)


def test_files_are_mapped_at_their_offsets_and_released(tmp_path):
    page = 1 << 16
    contents = [bytes([k]) * (page * k + 5) for k in (1, 2, 3)]
    for k, content in enumerate(contents):
        (tmp_path / str(k)).write_bytes(content)
    begins = np.array([0, 2 * page, 5 * page])
    whole = map_files([tmp_path / str(k) for k in range(3)], begins)
    assert len(whole) == 5 * page + len(contents[2])
    for begin, content in zip(begins, contents):
        assert whole[begin : begin + len(content)].tobytes() == content
    assert not whole.flags.writeable
    address, part = whole.ctypes.data, whole[3:9]

    def mapped() -> bool:
        return any(int(line.split("-")[0], 16) == address for line in Path("/proc/self/maps").read_text().splitlines())

    del whole
    assert mapped()
    assert part.tolist() == [1] * 6
    del part
    assert not mapped()


def test_training_on_them_gives_the_same_network_and_that_the_same_curves(seven, tmp_path):
    from pretrain import train

    weights, measured = [], []
    for name, source in (("one", seven.one), ("many", seven.many)):
        place = tmp_path / name
        train.run(train.Config(source, place, "tiny", epochs=1, sample=0.3, loader="torch", workers=1, threads=1))
        weights.append((place / "model.safetensors").read_bytes())
        assert read_json(place / "model.json")["source"] == open_manifest(seven.one).fingerprint
        out = tmp_path / f"{name}.curves.npz"
        curves.run(curves.Config(source, place, out, qualities=(50,), sample=0.1, workers=1))
        with np.load(out) as arrays:
            measured.append({key: arrays[key] for key in arrays.files if key != "meta"})
    assert weights[0] == weights[1]
    assert measured[0].keys() == measured[1].keys()
    assert all(np.array_equal(value, measured[1][key], equal_nan=True) for key, value in measured[0].items())


def test_the_commands_of_the_page_of_inputs_run_as_they_are_written(toy, tmp_path, monkeypatch):
    page = (Path(__file__).parents[3] / "docs/inputs.md").read_text("utf-8")
    commands = re.findall(r"^prune .+$", page.split("## Several betons, one source")[1], re.MULTILINE)
    assert len(commands) == 4
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").symlink_to(toy.root / "data/signs/train")
    for command in commands:
        assert main(shlex.split(command)[1:]) == 0, command
    assert open_features(tmp_path / "features/photos-parts.features.npz").source == open_manifest(toy.train).fingerprint
