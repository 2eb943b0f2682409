"""EXIF orientation: pixels that are stored are upright, and the loaders turn JPEGs that kept their bytes."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from prune import materialize, verify, write
from prune.data.crops import Crops, center_crops, render
from prune.data.dataset import open_dataset
from prune.data.loader import open_loader
from prune.data.orientation import orientation_of, upright
from prune.data.stored_images import decode, prepare
from prune.index.pruned_index import PrunedIndex

PIXELS = np.asarray(Image.fromarray(np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)).resize((56, 40)))


def photo(orientation: int, format: str = "JPEG") -> bytes:
    """The picture as a camera stores it that was held in this way."""
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "a maker", orientation
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, format, exif=exif, **({"quality": 95} if format == "JPEG" else {}))
    return buffer.getvalue()


def as_pillow_turns(data: bytes) -> np.ndarray:
    return np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_arrays_turn_as_pillow_turns_images(orientation):
    data = photo(orientation)
    assert orientation_of(data) == orientation
    np.testing.assert_array_equal(upright(np.asarray(Image.open(io.BytesIO(data))), orientation), as_pillow_turns(data))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["PNG", "TIFF", "JPEG"])
def test_stored_pixels_and_new_jpegs_are_upright(orientation, format):
    data = photo(orientation, format)
    expected = as_pillow_turns(data)
    raw = prepare(data) if format != "JPEG" else None
    if raw is not None:
        assert (raw.jpeg, raw.height, raw.width) == (False, *expected.shape[:2])
        np.testing.assert_array_equal(decode(raw), expected)
    again = prepare(data, quality=95)
    assert (orientation_of(again.data), again.height, again.width) == (1, *expected.shape[:2])
    assert np.abs(decode(again).astype(int) - expected).mean() < 6
    shrunk = prepare(data, side=20, quality=95)
    assert (shrunk.height, shrunk.width) == ((20, 28) if orientation < 5 else (28, 20))


def test_a_jpeg_that_keeps_its_bytes_keeps_its_orientation_and_is_decoded_upright():
    data = photo(6)
    stored = prepare(data)
    assert (stored.data, stored.height, stored.width) == (data, 40, 56)
    np.testing.assert_array_equal(decode(stored), as_pillow_turns(data))


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """A beton of the picture in all orientations, as JPEGs with their own bytes."""
    root = tmp_path_factory.mktemp("photos")
    for orientation in range(1, 9):
        path = root / f"images/{'ab'[orientation % 2]}/{orientation}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(photo(orientation))
    write.run(write.Config(images=str(root / "images"), out=root / "x.beton"))
    return root


@pytest.mark.parametrize("loader", ["torch", "ffcv"])
@pytest.mark.parametrize("flip", [False, True])
def test_both_loaders_yield_upright_images(photos, loader, flip):
    source = open_dataset(photos / "x.beton")
    opened = open_loader(source, resolution=20, batch_size=8, workers=1, loader=loader)
    boxes = center_crops(source.beton.heights, source.beton.widths).boxes
    ((images, _, rows),) = opened.epoch(np.arange(8), crops=Crops(boxes, np.full(8, flip)))
    opened.close()
    for image, row in zip(images.permute(0, 2, 3, 1).numpy(), rows.tolist()):
        expected = as_pillow_turns(source.beton.stored(row)[0])
        box = center_crops(np.array([expected.shape[0]]), np.array([expected.shape[1]])).boxes[0]
        difference = np.abs(image.astype(int) - render(expected, box, flip, 20))
        assert difference.max() <= (0 if loader == "torch" else 6)  # FFCV decodes with the fast DCT


def test_a_turned_jpeg_is_sound_and_is_upright_when_it_is_encoded_again(photos):
    verify.run(verify.Config(photos / "x.beton", deep=True))
    manifest = open_dataset(photos / "x.beton").manifest
    for quality, out in ((60, "full"), (160, "half")):
        levels = np.full(8, quality, np.uint8)
        index = PrunedIndex.from_rows(manifest, np.arange(8), quality=levels, provenance=[])
        index.save(photos / f"{out}.index.npz")
        materialize.run(
            materialize.Config(photos / f"{out}.index.npz", source=photos / "x.beton", out=photos / f"{out}.beton")
        )
        made = open_dataset(photos / f"{out}.beton")
        turned = np.array([int(bytes(name)[2:3]) >= 5 for name in made.manifest.ids])
        side = 40 if out == "full" else 20
        assert (made.beton.heights[~turned] == side).all()
        assert (made.beton.widths[turned] == side).all()
        assert {orientation_of(made.beton.stored(row)[0]) for row in range(8)} == {1}


@given(st.data())
def test_a_damaged_segment_never_reads_beyond_it(data):
    photo_bytes = bytearray(photo(6))
    for _ in range(data.draw(st.integers(1, 6))):
        photo_bytes[data.draw(st.integers(2, 60))] = data.draw(st.integers(0, 255))
    whole = bytes(photo_bytes[: data.draw(st.integers(0, len(photo_bytes)))])
    assert 1 <= orientation_of(whole) <= 8
