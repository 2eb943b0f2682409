"""What is stored of every kind of image, and what a folder is read as."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from PIL import Image

from prune.data.image_listing import list_images
from prune.data.stored_images import Unreadable, decode, prepare, to_rgb
from prune.runs.files import InputError

PIXELS = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)


def encoded(pixels, format="PNG", mode=None, **options) -> bytes:
    buffer = io.BytesIO()
    image = Image.fromarray(pixels)
    (image if mode is None else image.convert(mode)).save(buffer, format, **options)
    return buffer.getvalue()


def test_a_jpeg_keeps_its_bytes():
    for mode in ("RGB", "L"):
        data = encoded(PIXELS, "JPEG", mode)
        stored = prepare(data)
        assert (stored.data, stored.jpeg, stored.height, stored.width) == (data, True, 20, 30)


def test_a_lossless_image_is_stored_as_its_pixels():
    stored = prepare(encoded(PIXELS))
    assert not stored.jpeg
    np.testing.assert_array_equal(decode(stored), PIXELS)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGBA", "CMYK", "YCbCr", "I;16", "I", "F"])
def test_every_mode_becomes_rgb(mode):
    shape = (20, 30)
    image = (
        Image.fromarray(np.full(shape, 257 * 100, np.uint16)) if mode == "I;16"
        else Image.fromarray(np.full(shape, 100, np.int32 if mode == "I" else np.float32)) if mode in "IF"
        else Image.new("RGB", shape[::-1], (100, 100, 100)).convert(mode)
    )  # fmt: skip
    pixels = to_rgb(image)
    assert pixels.shape == (20, 30, 3)
    assert pixels.dtype == np.uint8
    if mode != "1":
        assert abs(int(pixels.mean()) - 100) <= 2


def test_cmyk_becomes_an_rgb_jpeg_that_ffcv_can_decode():
    stored = prepare(encoded(PIXELS, "JPEG", "CMYK"))
    assert stored.jpeg
    assert Image.open(io.BytesIO(stored.data)).mode == "RGB"


def test_the_first_frame_of_an_animation_counts():
    frames = [Image.new("RGB", (9, 9), (v, 0, 0)) for v in (200, 10)]
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    assert abs(int(decode(prepare(buffer.getvalue()))[4, 4, 0]) - 200) < 8


def test_side_shrinks_the_shorter_side_and_never_enlarges():
    assert (lambda s: (s.height, s.width))(prepare(encoded(PIXELS), side=10)) == (10, 15)
    assert (lambda s: (s.height, s.width))(prepare(encoded(PIXELS), side=64)) == (20, 30)
    assert not prepare(encoded(PIXELS), side=10).jpeg
    assert prepare(encoded(PIXELS, "JPEG"), side=10).jpeg


def test_a_lower_quality_takes_fewer_bytes():
    sizes = [len(prepare(encoded(PIXELS), quality=q).data) for q in (95, 50, 10)]
    assert sizes == sorted(sizes, reverse=True)
    assert all(prepare(encoded(PIXELS, "JPEG"), quality=q).jpeg for q in (95, 10))


@pytest.mark.parametrize("data", [b"", b"hello", encoded(PIXELS)[:200], encoded(PIXELS, "JPEG")[:300], b"\xff\xd8\xff"])
def test_what_cannot_be_decoded_is_unreadable_with_a_reason(data):
    with pytest.raises(Unreadable, match=r"\w"):
        prepare(data)


def test_one_pixel_and_very_large_images(tmp_path):
    assert prepare(encoded(PIXELS[:1, :1])).data == PIXELS[:1, :1].tobytes()
    wide = prepare(encoded(np.zeros((1, 20_000, 3), np.uint8)))
    assert (wide.height, wide.width) == (1, 20_000)


def folder(root, names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(encoded(PIXELS))
    return root


def test_a_folder_is_listed_in_the_order_of_its_ids(tmp_path):
    folder(tmp_path, ["b/2.png", "b/sub/1.PNG", "a b/1.png", "a/1.png", "a/.hidden.png", "a/notes.txt", ".git/x.png"])
    listing = list_images(str(tmp_path))
    assert listing.ids == ["a b/1.png", "a/1.png", "b/2.png", "b/sub/1.PNG"]
    assert listing.classes == ["a", "a b", "b"]
    assert listing.labels.tolist() == [1, 0, 2, 2]
    assert listing.read(0) == encoded(PIXELS)


def test_the_class_list_of_another_split_gives_its_labels(tmp_path):
    folder(tmp_path, ["dog/1.png"])
    assert list_images(str(tmp_path), ["cat", "dog"]).labels.tolist() == [1]
    with pytest.raises(InputError, match="'dog'"):
        list_images(str(tmp_path), ["cat", "cow"])


def test_places_without_images_are_named(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    (tmp_path / "hollow/a").mkdir(parents=True)
    for place, words in [("missing", "no such"), ("empty", "no class folders"), ("file", "not a directory"),
                         ("hollow", "no images"), ("x.parquet", "no such file")]:  # fmt: skip
        with pytest.raises(InputError, match=words):
            list_images(str(tmp_path / place))


def idx(place, values):
    """Write an array as MNIST's files have it: two zeros, the type, the dimensions, the bytes."""
    place.parent.mkdir(parents=True, exist_ok=True)
    head = struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape)
    place.write_bytes(head + values.astype(np.uint8).tobytes())


def test_a_torchvision_data_set_whose_labels_are_a_tensor_is_read(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (3, 28, 28))
    for split in ("train", "t10k"):
        idx(tmp_path / f"MNIST/raw/{split}-images-idx3-ubyte", pixels)
        idx(tmp_path / f"MNIST/raw/{split}-labels-idx1-ubyte", np.array([7, 0, 2]))
    listing = list_images(f"torchvision:MNIST:{tmp_path}")
    assert listing.labels.tolist() == [7, 0, 2]
    assert listing.labels.dtype == np.int32
    assert listing.classes[7] == "7 - seven"
    assert listing.ids == ["train/0", "train/1", "train/2"]
    np.testing.assert_array_equal(decode(prepare(listing.read(1)))[..., 0], pixels[1])


@pytest.mark.parametrize("name", ["utils", "CocoDetection", "FakeData", "VisionDataset", "DatasetFolder"])
def test_what_is_no_set_of_labelled_images_on_disk_is_one_clear_line(tmp_path, name):
    with pytest.raises(InputError) as error:
        list_images(f"torchvision:{name}:{tmp_path}")
    assert str(error.value).startswith(f"torchvision:{name}:{tmp_path}: ")
    assert "\n" not in str(error.value)


def test_parquet_files_are_read_and_bad_ones_named(tmp_path):
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    cells = [{"bytes": encoded(PIXELS), "path": None}, {"bytes": encoded(PIXELS[:9]), "path": None}]

    def table(name, labels, images=cells):
        parquet.write_table(arrow.table({"image": images, "label": labels}), tmp_path / name)
        return str(tmp_path / name)

    listing = list_images(table("x.parquet", [1, 0]))
    assert (listing.ids, listing.classes, listing.labels.tolist()) == (["x/0", "x/1"], ["0", "1"], [1, 0])
    assert listing.read(1) == encoded(PIXELS[:9])
    damaged = bytearray((tmp_path / "x.parquet").read_bytes())
    (tmp_path / "cut.parquet").write_bytes(damaged[: len(damaged) // 2])
    bad = [(str(tmp_path / "cut.parquet"), "damaged, or not a parquet file"),
           (table("half.parquet", [1.5, 0]), "column label must hold a whole number"),
           (table("gap.parquet", [1, None]), "1 images? ha(s|ve) no label; every image needs one"),
           (table("below.parquet", [1, -1]), r"1 images? ha(s|ve) no label \(-1\)"),
           (table("none.parquet", arrow.array([], arrow.int64()), []), "holds no images")]  # fmt: skip
    for place, words in bad:
        with pytest.raises(InputError, match=words) as error:
            list_images(place)
        assert "\n" not in str(error.value)


def test_a_torchvision_data_set_is_read_by_name(tmp_path):
    # SVHN, CIFAR and their like need their archives; ImageFolder's sibling FakeData is drawn by torchvision itself.
    with pytest.raises(InputError, match="no such data set"):
        list_images(f"torchvision:Nothing:{tmp_path}")
    with pytest.raises(InputError, match="on disk"):
        list_images(f"torchvision:CIFAR10:{tmp_path}:train")
    folder(tmp_path / "eurosat/2750", ["Forest/1.jpg", "River/1.jpg", "River/2.jpg"])
    listing = list_images(f"torchvision:EuroSAT:{tmp_path}")
    assert listing.ids == ["train/0", "train/1", "train/2"]
    assert listing.classes == ["Forest", "River"]
    assert listing.labels.tolist() == [0, 1, 1]
    np.testing.assert_array_equal(decode(prepare(listing.read(2))), PIXELS)
