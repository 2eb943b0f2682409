"""Values beyond 8 bits: scaled by the range that a file declares, and refused by name where it declares none."""

from __future__ import annotations

import io
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from prune import write
from prune.data.pixel_values import Unreadable
from prune.data.stored_images import decode, prepare
from prune.index.manifest import Manifest

RAMP = np.linspace(0, 1, 24).reshape(4, 6)
"""Shares of white, the last one white itself."""
EXPECTED = np.round(255 * RAMP)


def png(values: np.ndarray, significant: int | None = None) -> bytes:
    """A PNG of 16 bits, with an sBIT chunk where `significant` bits are given."""
    ok, data = cv2.imencode(".png", values if values.ndim == 2 else values[..., ::-1])
    assert ok
    whole = data.tobytes()
    if significant is None:
        return whole
    body = b"sBIT" + bytes([significant] * (1 if values.ndim == 2 else 3))
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    return whole[:33] + chunk + whole[33:]  # behind the header, 8 + 25 bytes


def tiff(values: np.ndarray, **tags: float) -> bytes:
    names = {"least": 340, "most": 341, "photometric": 262}
    info = {names[name]: value for name, value in tags.items()}
    buffer = io.BytesIO()
    image = Image.fromarray(values) if values.dtype != np.int16 else Image.fromarray(values.astype(np.int32))
    image.save(buffer, "TIFF", tiffinfo=info)
    return buffer.getvalue()


def grey(data: bytes, **how) -> np.ndarray:
    pixels = decode(prepare(data, **how))
    assert (pixels == pixels[..., :1]).all()
    return pixels[..., 0].astype(int)


def bits(count: int) -> np.ndarray:
    return np.round(RAMP * (2**count - 1)).astype(np.uint16)


def colours(values: np.ndarray) -> np.ndarray:
    return np.stack([values, values // 2, values // 4], axis=2)


@pytest.mark.parametrize(
    "data",
    [
        png(bits(16)),
        png(bits(12), significant=12),  # 12 bits as they came from the sensor
        png(bits(12) << 4, significant=12),  # spread over 16 bits, as the standard says
        png((bits(12) << 4) | (bits(12) >> 8), significant=12),
        png(bits(10), significant=10),
        tiff(bits(16)),
        tiff(bits(12), most=4095),
        tiff(RAMP.astype(np.float32), least=0.0, most=1.0),
        tiff((1000 * RAMP - 500).astype(np.float32), least=-500.0, most=500.0),
        tiff((RAMP * 70000).astype(np.int32), least=0, most=70000),
        tiff(65535 - bits(16), photometric=0),  # white is zero
        b"P5\n6 4\n4095\n" + bits(12).astype(">u2").tobytes(),
        b"P5\n6 4\n65535\n" + bits(16).astype(">u2").tobytes(),
    ],
)
def test_values_are_scaled_by_the_range_that_the_file_declares(data):
    assert np.abs(grey(data) - EXPECTED).max() <= 1


@pytest.mark.parametrize(
    ("data", "said", "white"),
    [
        (png(bits(12)), "values up to 4095 of 65535, all but black, .* give --white 4095, or 65535", 4095),
        (png(bits(10)), "give --white 1023", 1023),
        (tiff(bits(12)), "give --white 4095", 4095),
        (tiff(RAMP.astype(np.float32)), "holds floats from 0 to 1 and does not declare their range: give --white", 1),
        (tiff((255 * RAMP).astype(np.float32)), "holds floats from 0 to 255", 255),
        (tiff((30000 * RAMP).astype(np.int32)), "holds signed values from 0 to 30000", 30000),
    ],
)
def test_a_range_that_is_not_declared_is_refused_and_can_be_given(data, said, white):
    with pytest.raises(Unreadable, match=said):
        prepare(data)
    assert np.abs(grey(data, white=white) - EXPECTED).max() <= 1
    with pytest.raises(Unreadable, match="--white gives a range from 0 to"):
        prepare(data, white=white / 2)


def test_colours_of_16_bits_are_read_whole_where_the_upper_8_are_not_enough():
    expected = np.stack([EXPECTED, EXPECTED / 2, EXPECTED / 4], axis=2)
    for data, white in (
        (png(colours(bits(16))), None),
        (png(colours(bits(12)), significant=12), None),
        (png(colours(bits(12))), 4095),
    ):
        assert np.abs(decode(prepare(data, white=white)).astype(int) - expected).max() <= 1
    with pytest.raises(Unreadable, match="all but black"):
        prepare(png(colours(bits(12))))
    ok, dark = cv2.imencode(".tif", colours(bits(12))[..., ::-1])
    assert ok
    with pytest.raises(Unreadable, match="all but black"):
        prepare(dark.tobytes())
    assert np.abs(decode(prepare(dark.tobytes(), white=4095)).astype(int) - expected).max() <= 1


def test_a_black_image_is_black_and_a_dark_one_can_be_accepted():
    assert not grey(png(np.zeros((4, 6), np.uint16))).any()
    assert not decode(prepare(png(np.zeros((4, 6, 3), np.uint16)))).any()
    assert grey(png(bits(12)), white=65535).max() == 16


def test_ranges_that_do_not_fit_the_values_and_values_that_are_no_numbers_are_refused():
    with pytest.raises(Unreadable, match="values from 0 to 4095, and it declares a range from 0 to 1000"):
        prepare(tiff(bits(12), most=1000))
    with pytest.raises(Unreadable, match="not finite"):
        prepare(tiff(np.array([[np.nan, 1]], np.float32)), white=1)


def test_such_images_are_named_when_a_beton_is_written_and_counted_with_their_range(tmp_path, capsys):
    for name, data in (("a/1.png", png(bits(16))), ("a/2.png", png(bits(12))), ("b/1.tif", tiff(bits(16)))):
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "images" / name).write_bytes(data)
    write.run(write.Config(images=str(tmp_path / "images"), out=tmp_path / "x.beton"))
    assert "skipped 1 unreadable image, first 'a/2.png' (has values up to 4095" in capsys.readouterr().err
    write.run(write.Config(images=str(tmp_path / "images"), out=tmp_path / "y.beton", white=65535))
    assert Manifest.load(tmp_path / "y.manifest.npz").meta["skipped"] == []
    with pytest.raises(ValueError, match=r"white: None -> 65535"):
        write.run(write.Config(images=str(tmp_path / "images"), out=tmp_path / "x.beton", white=65535))
