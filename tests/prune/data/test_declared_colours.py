"""Colours that files declare without an ICC profile are converted to sRGB, or named."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from prune import write
from prune.data.declared_colours import HDR, UNKNOWN, code_points, declared
from prune.data.stored_images import decode, prepare
from prune.index.manifest import Manifest, manifest_path
from tests.prune.data.test_colour_profiles import COLOURS, EXPECTED, P3, encoded, profile

P3_POINTS = bytes([12, 13, 0, 1])
SRGB_CHRM = struct.pack(">8I", 31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)


def with_chunks(png: bytes, **chunks: bytes) -> bytes:
    """A PNG with more chunks behind its header."""
    more = b"".join(
        struct.pack(">I4s", len(content), name.encode())
        + content
        + struct.pack(">I", zlib.crc32(name.encode() + content))
        for name, content in chunks.items()
    )
    return png[:33] + more + png[33:]


def stored(pixels: np.ndarray, icc: bytes | None = None, **chunks: bytes) -> tuple[np.ndarray, str]:
    found = prepare(with_chunks(encoded(pixels, "PNG", icc), **chunks))
    return decode(found).astype(int), found.profile


def test_a_png_that_declares_display_p3_by_code_points_is_converted_as_its_definition_says():
    found, left = stored(COLOURS, cICP=P3_POINTS)
    assert np.abs(found - EXPECTED).max() <= 1
    assert left == ""


def test_code_points_of_srgb_change_nothing_and_come_before_a_profile():
    found, left = stored(COLOURS, profile(P3), cICP=bytes([1, 13, 0, 1]))
    np.testing.assert_array_equal(found, COLOURS)
    assert left == ""


@pytest.mark.parametrize(
    ("points", "name"),
    [((9, 16, 0, 1), HDR), ((9, 18, 0, 1), HDR), ((77, 13, 0, 1), UNKNOWN), ((12, 13, 0, 0), UNKNOWN)],
)
def test_what_cannot_be_converted_is_named_and_a_profile_beside_it_is_used(points, name):
    found, left = stored(COLOURS, cICP=bytes(points))
    np.testing.assert_array_equal(found, COLOURS)
    assert left == name
    found, left = stored(COLOURS, profile(P3), cICP=bytes(points))
    assert np.abs(found - EXPECTED).max() <= 1
    assert left == ""


def test_values_that_a_png_declares_as_light_itself_become_those_of_srgb():
    light = np.array([0, 26, 51, 128, 255], np.uint8)  # 128 / 255 of the light is 188 in sRGB
    pixels = np.broadcast_to(light[None, :, None], (4, 5, 3)).copy()
    found, _ = stored(pixels, gAMA=struct.pack(">I", 100000))
    share = light / 255
    wanted = 255 * np.where(share <= 0.0031308, 12.92 * share, 1.055 * share ** (1 / 2.4) - 0.055)
    assert np.abs(found[0, :, 0] - wanted).max() <= 1
    assert found[0, 3, 0] == 188


@pytest.mark.parametrize(
    "chunks",
    [
        {"gAMA": struct.pack(">I", 45455)},
        {"gAMA": struct.pack(">I", 45455), "cHRM": SRGB_CHRM},
        {"cHRM": SRGB_CHRM},
        {"gAMA": struct.pack(">I", 100000), "sRGB": b"\0"},  # the chunk sRGB counts
    ],
)
def test_the_usual_gamma_and_an_srgb_chunk_change_nothing(chunks):
    found, left = stored(COLOURS, **chunks)
    np.testing.assert_array_equal(found, COLOURS)
    assert left == ""


def test_primaries_in_a_png_are_those_of_its_definition():
    display_p3 = struct.pack(">8I", 31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000)
    found, _ = stored(COLOURS, gAMA=struct.pack(">I", 45455), cHRM=display_p3)
    assert np.abs(found - EXPECTED).max() <= 1


@pytest.mark.parametrize("chunks", [{"gAMA": bytes(4)}, {"cHRM": bytes(32)}, {"cHRM": struct.pack(">8I", *[1] * 8)}])
def test_a_declaration_without_meaning_is_named(chunks):
    found, left = stored(COLOURS, **chunks)
    np.testing.assert_array_equal(found, COLOURS)
    assert left == UNKNOWN


def test_an_avif_that_declares_display_p3_by_code_points_is_converted():
    data = encoded(COLOURS, "AVIF", None, quality=100, subsampling="4:4:4")
    at = data.index(b"colrnclx") + 8
    as_p3 = data[:at] + struct.pack(">H", 12) + data[at + 2 :]
    assert code_points("AVIF", as_p3)[:2] == (12, 13)
    middles = decode(prepare(as_p3))[8::16, 8::16].astype(int)
    assert np.abs(middles - EXPECTED[8::16, 8::16]).max() <= 3
    assert np.abs(decode(prepare(data))[8::16, 8::16].astype(int) - COLOURS[8::16, 8::16]).max() <= 2


@pytest.mark.parametrize("data", [b"", bytes(7), bytes(8) + b"\xff\xff\xff\xffIHDR", bytes(8) + b"\0\0\0\4cICP\1"])
def test_files_that_end_early_declare_nothing_and_raise_nothing(data):
    assert code_points("PNG", data) in (None, (1, 0, 0, False))
    assert declared("AVIF", {}, data) == b""


def test_a_writing_counts_images_of_high_dynamic_range(tmp_path, capsys):
    for name, points in (("cat/1.png", (9, 16, 0, 1)), ("dog/1.png", (12, 13, 0, 1))):
        (tmp_path / "images" / name).parent.mkdir(parents=True)
        (tmp_path / "images" / name).write_bytes(with_chunks(encoded(COLOURS, "PNG", None), cICP=bytes(points)))
    config = write.Config(images=str(tmp_path / "images"), out=tmp_path / "x.beton")
    write.run(config)
    assert f"1 image with a colour profile that is {HDR}: taken as sRGB" in capsys.readouterr().err
    assert Manifest.load(manifest_path(config.out)).meta["profiles"] == {HDR: 1}


def test_grey_and_palette_images_are_converted_too():
    grey = Image.fromarray(np.full((4, 4), 128, np.uint8))
    for image in (grey, grey.convert("P"), grey.convert("LA")):
        file = io.BytesIO()
        image.save(file, "PNG")
        assert decode(prepare(with_chunks(file.getvalue(), gAMA=struct.pack(">I", 100000))))[0, 0, 0] == 188
