"""Formats: what Pillow reads is read, and what it does not read is named by its content, with the way out."""

from __future__ import annotations

import io
import subprocess
import sys

import cv2
import numpy as np
import pytest
from PIL import Image

from prune import write
from prune.data.foreign_formats import kind_of
from prune.data.image_listing import list_images
from prune.data.stored_images import Unreadable, decode, prepare
from prune.index.manifest import Manifest, manifest_path
from prune.runs.files import InputError

PIXELS = np.random.default_rng(0).integers(0, 256, (64, 80, 3), dtype=np.uint8)
HEIC = bytes.fromhex("00000018667479706865696300000000") + b"mif1heic" + bytes(64)
JXL = bytes.fromhex("0000000c4a584c200d0a870a") + bytes(64)


def encoded(pixels: np.ndarray, format: str, **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("suffix", [".jp2", ".j2k"])
def test_jpeg_2000_and_avif_are_read(tmp_path, suffix):
    for folder in "ab":
        (tmp_path / "images" / folder).mkdir(parents=True)
        Image.fromarray(PIXELS).save(tmp_path / f"images/{folder}/1{suffix}")
        Image.fromarray(PIXELS).save(tmp_path / f"images/{folder}/2.avif", quality=100, subsampling="4:4:4")
    listing = list_images(str(tmp_path / "images"))
    assert listing.ids == [f"a/1{suffix}", "a/2.avif", f"b/1{suffix}", "b/2.avif"]
    np.testing.assert_array_equal(decode(prepare(listing.read(0))), PIXELS)
    assert np.abs(decode(prepare(listing.read(1))).astype(int) - PIXELS).mean() < 2


def test_white_of_a_jpeg_2000_of_16_bits_stays_white():
    wide = np.full((64, 64, 3), 65535, np.uint16)
    wide[:, 32:] = 30000, 0, 65535  # blue, green, red
    lossless = [cv2.IMWRITE_JPEG2000_COMPRESSION_X1000, 1000]
    colour, grey = (decode(prepare(cv2.imencode(".jp2", w, lossless)[1].tobytes())) for w in (wide, wide[..., 0]))
    assert colour[5, 5].tolist() == [255, 255, 255]
    assert colour[5, 60].tolist() == [255, 0, 117]  # 30000 / 257 = 116.7
    assert (grey[5, 5, 0], grey[5, 60, 0]) == (255, 117)


@pytest.mark.parametrize(
    ("data", "kind", "way"),
    [
        (HEIC, "HEIC", "pillow-heif"),
        (JXL, "JPEG XL", "pillow-jxl-plugin"),
        (b"\xff\x0a" + bytes(9), "JPEG XL", "pillow-jxl-plugin"),
        (bytes.fromhex("000000186674797069736f6d00000200") + b"isommp41", "a video", "frames"),
        (bytes.fromhex("0000001866747970637278200000000163727820") + b"isom", "a camera's raw file", "develop"),
        (b"\n<!DOCTYPE html><html>login</html>", "a web page", "fetch"),
        (b'<?xml version="1.0"?>\n<svg xmlns="x"/>', "SVG, a drawing without pixels", "render"),
        (b"%PDF-1.7\n", "PDF", "render"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "a pointer of Git LFS", "git lfs pull"),
    ],
)
def test_what_pillow_does_not_read_is_named_by_its_content_with_the_way_out(data, kind, way, monkeypatch):
    for module in ("pillow_heif", "pi_heif", "pillow_jxl", "jxlpy"):  # this machine may have them
        monkeypatch.setitem(sys.modules, module, None)
    assert kind_of(data) == kind
    with pytest.raises(Unreadable, match=rf"is {kind}, which Pillow does not read here: .*{way}"):
        prepare(data)


def test_unknown_bytes_and_damaged_avif_have_no_kind():
    assert kind_of(b"hello") == kind_of(b"") == kind_of(encoded(PIXELS, "AVIF")[:60]) == ""
    with pytest.raises(Unreadable, match="cannot identify"):
        prepare(b"hello")


def test_a_plug_in_that_is_installed_is_used(tmp_path):
    """A reader of JPEG XL that knows one picture, installed under the name of a plug-in of Pillow."""
    (tmp_path / "pillow_jxl.py").write_text(
        "from PIL import Image, ImageFile\n"
        "class Reader(ImageFile.ImageFile):\n"
        "    format = 'JXL'\n"
        "    def _open(self):\n"
        "        self._size, self._mode = (3, 2), 'RGB'\n"
        "        self.tile = [ImageFile._Tile('raw', (0, 0, 3, 2), 12, 'RGB')]\n"
        "Image.register_open('JXL', Reader, lambda prefix: prefix[4:8] == b'JXL ')\n"
    )
    program = (
        "from prune.data.stored_images import decode, prepare\n"
        f"print(decode(prepare({JXL[:12]!r} + bytes(range(18)))).ravel().tolist())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True,
        env={"PYTHONPATH": f"{tmp_path}:{':'.join(sys.path)}", "PATH": ""},
    )  # fmt: skip
    assert done.stdout.strip() == str(list(range(18)))


def photos(root, **files):
    """A folder of images with these contents, `cat1` being cat/1.jpg."""
    for name, data in files.items():
        place = root / "images" / name[:-1] / f"{name[-1]}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
    return str(root / "images")


GOOD = encoded(PIXELS, "JPEG")


def test_a_class_whose_images_cannot_be_read_is_an_error_unless_allowed(tmp_path, capsys):
    images = photos(tmp_path, cat1=GOOD, cat2=b"x", dog1=HEIC, dog2=HEIC)
    out = tmp_path / "out/x.beton"
    with pytest.raises(InputError, match=r"the class 'dog' has no image that can be read \(last 'dog/2.jpg': is HEIC"):
        write.run(write.Config(images=images, out=out))
    assert not out.parent.exists()
    write.run(write.Config(images=images, out=out, allow_empty_classes=True))
    manifest = Manifest.load(manifest_path(out))
    assert (manifest.ids.tolist(), manifest.classes) == ([b"cat/1.jpg"], ["cat", "dog"])
    write.run(write.Config(images=images, out=out))
    assert "up to date" in capsys.readouterr().err
    with pytest.raises(InputError, match="'dog' has no image that can be read"):  # so in a test split
        write.run(write.Config(images=images, out=tmp_path / "out/y.beton", classes=out))


def test_a_class_without_files_is_refused_before_anything_is_written_and_in_a_dry_run(tmp_path):
    images = photos(tmp_path, cat1=GOOD, dog1=GOOD)
    (tmp_path / "images/elk").mkdir()
    (tmp_path / "images/fox").mkdir()
    for dry_run in (False, True):
        with pytest.raises(InputError, match="the class 'elk' has no images, and 1 other class neither"):
            write.run(write.Config(images=images, out=tmp_path / "x.beton", dry_run=dry_run))
    write.run(write.Config(images=images, out=tmp_path / "x.beton", dry_run=True, allow_empty_classes=True))
    assert not (tmp_path / "x.beton").exists()


def test_a_shard_is_refused_for_a_class_that_it_holds_whole_and_not_for_its_part_of_one(tmp_path):
    images = photos(tmp_path, cat1=GOOD, cat2=b"x", dog1=GOOD, dog2=GOOD, elk1=b"x", elk2=b"x")
    for shard in ("1/6", "2/3"):  # a shard of cat/1.jpg alone, and one of both dogs
        write.run(write.Config(images=images, out=tmp_path / f"{shard[0]}.beton", shard=shard))
    with pytest.raises(InputError, match="none of its 1 image can be read"):  # cat/2.jpg, not the whole class
        write.run(write.Config(images=images, out=tmp_path / "x.beton", shard="2/6"))
    with pytest.raises(InputError, match="'elk' has no image that can be read"):
        write.run(write.Config(images=images, out=tmp_path / "x.beton", shard="3/3"))


def test_a_beton_of_version_0_2_which_left_new_formats_out_is_up_to_date(tmp_path, capsys):
    images = photos(tmp_path, cat1=GOOD, dog1=GOOD)
    out = tmp_path / "x.beton"
    write.run(write.Config(images=images, out=out))
    manifest = Manifest.load(manifest_path(out))
    (tmp_path / "images/cat/2.jp2").write_bytes(encoded(PIXELS, "JPEG2000"))
    with pytest.raises(InputError, match="1 image came and 0 went"):
        write.run(write.Config(images=images, out=out))
    del manifest.meta["suffixes"]
    manifest.save(manifest_path(out))
    write.run(write.Config(images=images, out=out))
    assert "the same as at" in capsys.readouterr().err
