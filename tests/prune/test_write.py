"""Tests of `prune write` and `prune verify`: what is written, and which damage is found."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from prune import verify, write
from prune.data.beton import BetonWriter, open_beton
from prune.data.dataset import open_dataset
from prune.data.loader import open_loader
from prune.index.manifest import Manifest, digest, fingerprint, manifest_path
from prune.index.npz import open_arrays, save_arrays
from prune.runs.files import InputError


@pytest.fixture
def images(tmp_path):
    """Four good images of two classes and three bad files."""
    rng = np.random.default_rng(0)
    root = tmp_path / "images"
    for name in ("cat/1.jpg", "cat/2.png", "dog/1.jpg", "dog/3.jpg"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(root / name)
    (root / "cat/0.jpg").write_bytes(b"")
    (root / "dog/2.jpg").write_bytes((root / "dog/1.jpg").read_bytes()[:900])
    (root / "dog/4.png").write_text("<script>alert(1)</script>")
    return root


def written(images, tmp_path, **options):
    out = tmp_path / "out/x.beton"
    write.run(write.Config(images=str(images), out=out, **options))
    return out


def test_good_images_are_stored_and_bad_ones_named_in_the_manifest(images, tmp_path):
    source = open_dataset(written(images, tmp_path))
    assert source.manifest.ids.tolist() == [b"cat/1.jpg", b"cat/2.png", b"dog/1.jpg", b"dog/3.jpg"]
    assert source.manifest.labels.tolist() == [0, 0, 1, 1]
    assert [name for name, _ in source.manifest.meta["skipped"]] == ["cat/0.jpg", "dog/2.jpg", "dog/4.png"]
    assert source.beton.stored(0) == ((images / "cat/1.jpg").read_bytes(), True)
    assert source.beton.stored(1)[1] is False
    assert [int(d) for d in source.manifest.digests] == [digest(source.beton.stored(i)[0]) for i in range(4)]


def test_two_writings_give_the_same_bytes(images, tmp_path):
    first = written(images, tmp_path / "a").read_bytes()
    assert written(images, tmp_path / "b", workers=1).read_bytes() == first


@pytest.mark.slow
def test_the_stock_ffcv_reader_and_loader_open_the_file(images, tmp_path):
    from ffcv.fields.decoders import IntDecoder
    from ffcv.fields.rgb_image import CenterCropRGBImageDecoder
    from ffcv.loader import Loader, OrderOption
    from ffcv.transforms import Squeeze, ToTensor

    path = written(images, tmp_path)
    labels = [IntDecoder(), ToTensor(), Squeeze(1)]
    loader = Loader(str(path), batch_size=4, num_workers=1, order=OrderOption.SEQUENTIAL, drop_last=False,
                    pipelines={"image": [CenterCropRGBImageDecoder((40, 40), 1.0), ToTensor()], "label": labels,
                               "position": [IntDecoder(), ToTensor(), Squeeze(1)]})  # fmt: skip
    ((pictures, label, position),) = list(loader)
    assert label.tolist() == [0, 0, 1, 1]
    assert position.tolist() == [0, 1, 2, 3]
    for row, name in enumerate(("cat/1.jpg", "cat/2.png", "dog/1.jpg", "dog/3.jpg")):
        expected = np.asarray(Image.open(images / name).convert("RGB"))[:, 5:45]
        # FFCV decodes with the fast DCT: up to a few grey levels from Pillow's
        assert np.abs(pictures[row].numpy().astype(int) - expected).max() <= (0 if name.endswith("png") else 6)


def test_pages_are_never_crossed_and_large_images_get_their_own(tmp_path):
    rng = np.random.default_rng(1)
    sides = (800, 300, 800, 10, 836, 5)  # 836 * 836 * 3 = 2,096,688 bytes, just under 2 MiB
    images = [rng.bytes(side * side * 3) for side in sides]
    with BetonWriter(tmp_path / "x.beton", capacity=9, page_size=1 << 21) as writer:
        for side, image in zip(sides, images):
            writer.add(image, jpeg=False, height=side, width=side, label=0)
        with pytest.raises(ValueError, match="do not fit a page"):
            writer.add(bytes(3 * 900 * 900), jpeg=False, height=900, width=900, label=0)
    beton = open_beton(tmp_path / "x.beton")  # checks that no image crosses a page
    assert tuple(beton.heights) == sides
    assert [beton.stored(row)[0] for row in range(len(sides))] == images


def test_the_same_command_returns_at_once_and_another_is_refused(images, tmp_path, capsys):
    out = written(images, tmp_path)
    stamp = out.stat().st_mtime_ns
    written(images, tmp_path)
    assert out.stat().st_mtime_ns == stamp
    with pytest.raises(InputError, match="quality: None -> 50"):
        written(images, tmp_path, quality=50)


def test_another_class_list_over_a_beton_is_refused(images, tmp_path):
    rng = np.random.default_rng(1)
    lists = {}
    for name in ("elk", "cow"):
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(images / "cat/more.png")
        (images / name).mkdir()
        (images / "cat/more.png").rename(images / name / "1.png")
        write.run(write.Config(images=str(images), out=tmp_path / f"{name}.beton"))
        lists[name] = tmp_path / f"{name}.manifest.npz"
    out = written(images, tmp_path, classes=lists["cow"])
    stamp = out.stat().st_mtime_ns
    written(images, tmp_path, classes=lists["cow"])
    assert out.stat().st_mtime_ns == stamp
    for other in (tmp_path / "elk.manifest.npz", None):
        with pytest.raises(InputError, match=r"classes: '[0-9a-f]{32}' -> "):
            written(images, tmp_path, classes=other)


def test_a_beton_of_a_version_without_recorded_class_lists_is_up_to_date_for_its_own_list(images, tmp_path):
    write.run(write.Config(images=str(images), out=tmp_path / "a.beton"))
    out = written(images, tmp_path)
    stamp = out.stat().st_mtime_ns
    written(images, tmp_path, classes=tmp_path / "a.manifest.npz")
    assert out.stat().st_mtime_ns == stamp


@pytest.mark.parametrize("workers", [0, -1])
def test_a_writing_needs_at_least_one_thread(images, tmp_path, workers):
    with pytest.raises(InputError, match=f"--workers {workers}"):
        written(images, tmp_path, workers=workers)
    assert not (tmp_path / "out").exists()


def test_a_writing_that_fails_leaves_nothing(tmp_path):
    (tmp_path / "images/a").mkdir(parents=True)
    (tmp_path / "images/b").mkdir()
    (tmp_path / "images/a/1.png").write_text("no image")
    for options, said in (({}, "'b' has no images"), ({"allow_empty_classes": True}, "none of its 1 image.*'a/1.png'")):
        with pytest.raises(InputError, match=said):
            written(tmp_path / "images", tmp_path, **options)
    assert not (tmp_path / "out").exists()


def test_the_fingerprint_depends_on_content_alone():
    ids, labels, digests = np.array([b"b", b"a", b"cc"]), np.array([1, 0, 1]), np.array([5, 6, 7], np.uint64)
    expected = fingerprint(ids, labels, digests)
    order = [2, 0, 1]
    assert fingerprint(ids[order], labels[order], digests[order]) == expected
    assert fingerprint(ids.astype("S40"), labels.astype("i8"), digests) == expected
    assert fingerprint(ids, labels, digests + np.uint64(1)) != expected
    assert fingerprint(ids, 1 - labels, digests) != expected
    assert fingerprint(np.array([b"bc", b"a", b"c"]), labels, digests) != expected


def test_deep_verification_names_each_damaged_image(images, tmp_path, capsys):
    path = written(images, tmp_path)
    verify.run(verify.Config(path, deep=True))
    assert "sound: 4 images" in capsys.readouterr().out
    beton = open_beton(path)
    whole = bytearray(path.read_bytes())
    for row in (1, 3):
        whole[int(beton.samples["image"]["pointer"][row]) + 700] ^= 1
    path.write_bytes(whole)
    verify.run(verify.Config(path))  # the structure is sound
    assert "sound: 4 images" in capsys.readouterr().out
    with pytest.raises(SystemExit) as end:
        verify.run(verify.Config(path, deep=True))
    assert end.value.code == 1
    assert "2 of 4 images are damaged, first 'cat/2.png' (row 1" in capsys.readouterr().err


def test_a_manifest_whose_fingerprint_does_not_fit_its_columns_is_damaged(images, tmp_path, capsys):
    path = written(images, tmp_path)
    arrays, meta = open_arrays(manifest_path(path), "winnow-manifest/1", mapped=False)
    save_arrays(manifest_path(path), arrays, {**meta, "fingerprint": "0" * 32})
    with pytest.raises(SystemExit) as end:
        verify.run(verify.Config(path))
    assert end.value.code == 1
    assert "the manifest's fingerprint is 000" in capsys.readouterr().err


def test_fewer_than_one_thread_are_refused(images, tmp_path):
    path = written(images, tmp_path)
    for workers in (0, -1):
        with pytest.raises(InputError, match=f"--workers {workers}: at least 1"):
            verify.run(verify.Config(path, workers=workers))


def test_a_jpeg_with_more_pictures_behind_it_keeps_its_bytes_and_is_read_as_its_first(tmp_path):
    rng = np.random.default_rng(0)
    pictures = [Image.fromarray(rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)) for _ in range(3)]
    for name in ("a/1.jpg", "b/1.jpg"):
        (tmp_path / "images" / name).parent.mkdir(parents=True)
        pictures[0].save(tmp_path / "images" / name, "MPO", save_all=True, append_images=pictures[1:], quality=90)
    assert Image.open(tmp_path / "images/a/1.jpg").format == "MPO"
    source = open_dataset(written(tmp_path / "images", tmp_path))
    assert source.beton.stored(0) == ((tmp_path / "images/a/1.jpg").read_bytes(), True)
    expected = np.asarray(Image.open(tmp_path / "images/a/1.jpg").convert("RGB"))[:, 8:56]
    for kind, off in (("torch", 0), ("ffcv", 6)):  # FFCV decodes with the fast DCT
        loader = open_loader(source, resolution=48, batch_size=2, workers=1, loader=kind)
        (batch,) = loader.epoch(np.arange(2))
        loader.close()
        assert np.abs(batch[0][0].permute(1, 2, 0).numpy().astype(int) - expected).max() <= off
    verify.run(verify.Config(source.beton.path, deep=True))


@pytest.mark.slow
def test_five_hundred_damaged_betons_are_refused_or_harmless(images, tmp_path, capsys):
    """Flip, cut, splice in header, records, table and images: one line that names file or image, or the same images."""
    path = written(images, tmp_path, page_mib=2)
    whole, beton = path.read_bytes(), open_beton(path)
    stored = [beton.stored(row) for row in range(4)]
    pointers = beton.samples["image"]["pointer"].astype(int)
    records, table = 24 + 3 * 1041, len(whole) - 4 * 24
    places = {
        "header": np.arange(24),
        "fields": np.concatenate([24 + 1041 * k + np.arange(17) for k in range(3)]),
        "records": records + np.arange(4 * 32),
        "table": table + np.arange(4 * 24),
        "images": np.concatenate([p + np.arange(size) for p, size in zip(pointers, beton.sizes)]),
    }
    rng = np.random.default_rng(2)
    got: dict[str, Counter] = {}
    for case in range(500):
        data, kind = bytearray(whole), (*places, "cut", "splice", "padding")[case % 8]
        if kind == "cut":
            data = data[: int(rng.integers(0, len(data)))]
        elif kind == "splice":  # over the records, perhaps into them from the fields
            at, n = int(rng.integers(24, records + 128)), int(rng.integers(1, 400))
            data[at : at + n] = rng.bytes(n)
        else:
            where = places.get(kind, np.arange(records + 128, pointers[0]))
            at = int(rng.choice(where))
            data[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(data)
        got.setdefault(kind, Counter())[outcome(path, stored)] += 1
    with capsys.disabled():
        print("\ndamaged betons")
        for kind, counts in got.items():
            print(f"  {kind:<8}", ", ".join(f"{count} {what}" for what, count in sorted(counts.items())))
    assert set().union(*got.values()) == {"refused", "image refused", "harmless: images as written"}
    assert got["padding"] == {"harmless: images as written": 62}
    for kind, what in (("cut", "refused"), ("table", "refused"), ("images", "image refused")):
        assert got[kind] == {what: len(range({"cut": 5, "table": 3, "images": 4}[kind], 500, 8))}


def outcome(path: Path, stored: list[tuple[bytes, bool]]) -> str:
    try:
        source = open_dataset(path)
    except InputError as error:
        return "refused" if re.fullmatch(rf"{re.escape(str(path))}: [^\n]+", str(error)) else str(error)
    loader = open_loader(source, resolution=8, batch_size=2, workers=1, loader="torch")
    try:
        list(loader.epoch(np.arange(4)))
    except InputError as error:
        clear = re.fullmatch(rf"{re.escape(str(path))}: image '[^\n]+ is damaged[^\n]+", str(error))
        return "image refused" if clear else str(error)
    assert [source.beton.stored(row) for row in range(4)] == stored
    return "harmless: images as written"


def test_a_manifest_of_another_writing_is_refused(images, tmp_path):
    path = written(images, tmp_path)
    (images / "dog/3.jpg").unlink()
    other = written(images, tmp_path / "other")
    manifest_path(path).write_bytes(manifest_path(other).read_bytes())
    with pytest.raises(InputError, match="holds 4 images, its manifest 3"):
        open_dataset(path)
    manifest_path(path).unlink()
    with pytest.raises(InputError, match="belongs beside its beton"):
        open_dataset(path)


def test_a_manifest_is_checked_column_by_column(images, tmp_path):
    manifest = Manifest.load(manifest_path(written(images, tmp_path)))
    place = tmp_path / "bad.manifest.npz"
    replace(manifest, labels=manifest.labels + 1).save(place)
    with pytest.raises(InputError, match=r"labels outside \[0, 2\)"):
        Manifest.load(place)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"out": "x.bin"}, "must end in .beton"),
        ({"quality": 0}, "--quality 0"),
        ({"side": 0}, "--side 0"),
        ({"page_mib": 3}, "power of two"),
        ({"images": "nowhere"}, "no such directory"),
        ({"classes": "nothing.npz"}, "no such file"),
    ],
)
def test_wrong_values_are_refused_before_anything_is_written(images, tmp_path, options, words):
    defaults = {"images": str(images), "out": tmp_path / "out/x.beton"}
    given = {k: Path(v) if k in ("out", "classes") else v for k, v in options.items()}
    with pytest.raises(InputError, match=words):
        write.run(write.Config(**{**defaults, **given}))
    assert not (tmp_path / "out").exists()


def test_one_class_is_not_enough(images, tmp_path):
    with pytest.raises(InputError, match="one class"):
        written(images.parent, tmp_path)


def test_a_source_that_changed_is_noticed_and_one_that_moved_is_not(images, tmp_path, capsys):
    place = images
    config = write.Config(images=str(place), out=tmp_path / "x.beton", workers=1)
    write.run(config)
    capsys.readouterr()
    write.run(replace(config, images=f"{place}/"))
    assert "up to date" in capsys.readouterr().err
    moved = place.rename(tmp_path / "moved")
    write.run(replace(config, images=str(moved)))
    write.run(config)  # nothing lies there any more
    assert f"not compared with their source ({place}: no such directory" in capsys.readouterr().err
    first = next(p for p in sorted(moved.rglob("*")) if p.is_file())
    first.rename(first.with_name("new" + first.suffix))
    with pytest.raises(InputError, match="1 image came and 1 went since"):
        write.run(replace(config, images=str(moved)))
    (moved / "more").mkdir()
    with pytest.raises(InputError, match=r"its classes changed \(for instance 'more'\)"):
        write.run(replace(config, images=str(moved), dry_run=True))


def test_what_is_no_beton_of_ours_is_not_overwritten(images, tmp_path):
    (tmp_path / "x.beton").write_text("precious")
    with pytest.raises(InputError, match=r"x\.beton: exists without its manifest"):
        write.run(write.Config(images=str(images), out=tmp_path / "x.beton"))
    assert (tmp_path / "x.beton").read_text() == "precious"
    (tmp_path / "d.beton").mkdir()
    with pytest.raises(InputError, match=r"d\.beton: is a directory; it names the beton"):
        write.run(write.Config(images=str(images), out=tmp_path / "d.beton"))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["d.beton", "images", "x.beton"]


def test_ignored_files_are_reported_and_splits_are_no_classes(images, tmp_path, capsys):
    for name in ("cat/5.psd", "dog/notes.txt", "dog/more.txt", "stray.png", "dog/.hidden"):
        (images / name).write_bytes(b"x")
    Image.new("RGB", (8, 8)).save(images / "dog/6.jfif", "JPEG")
    Image.new("RGB", (8, 8)).save(images / "dog/7.avif")
    (images / "elk").mkdir()
    out = written(images, tmp_path, allow_empty_classes=True)
    said = capsys.readouterr().err
    assert "lie outside the class folders: 2 .txt, 1 .png, 1 .psd\n" in said
    assert "1 class has no images (first 'elk')" in said
    assert {b"dog/6.jfif", b"dog/7.avif"} < set(Manifest.load(manifest_path(out)).ids.tolist())
    images.rename(tmp_path / "train")
    (tmp_path / "both").mkdir()
    (tmp_path / "train").rename(tmp_path / "both/train")
    with pytest.raises(InputError, match=r"holds train, not classes: name one of them, as in .*both/train"):
        written(tmp_path / "both", tmp_path / "other")


def test_reasons_hold_no_address_and_a_beton_can_be_given_for_its_manifest(images, tmp_path):
    out = written(images, tmp_path)
    reasons = [reason for _, reason in Manifest.load(manifest_path(out)).meta["skipped"]]
    assert any("cannot identify image file" in reason for reason in reasons)
    assert not any("0x" in reason for reason in reasons)
    write.run(write.Config(images=str(images), out=tmp_path / "y.beton", classes=out))
    assert Manifest.load(tmp_path / "y.manifest.npz").fingerprint == Manifest.load(manifest_path(out)).fingerprint
    with pytest.raises(InputError, match=r"x\.beton: is a beton; a winnow-manifest file is expected"):
        Manifest.load(out)
