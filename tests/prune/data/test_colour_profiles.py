"""Colours: profiles that are not sRGB are converted where pixels are stored, and counted where bytes are kept."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from PIL import Image, ImageCms

from prune import write
from prune.data.colour_profiles import UNUSABLE, jp2_profile
from prune.data.stored_images import decode, prepare
from prune.index.manifest import Manifest, manifest_path

P3 = np.array([[0.51512, 0.29198, 0.15710], [0.24120, 0.69225, 0.06657], [-0.00105, 0.04189, 0.78407]])
"""Display P3's primaries as XYZ under D50, one a column; and those of sRGB."""
SRGB = np.array([[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061], [0.01392, 0.09708, 0.71410]])
COLOURS = np.array(
    [[[200, 100, 100], [90, 160, 90], [60, 70, 140]], [[128, 128, 128], [30, 30, 30], [220, 200, 160]]], np.uint8
).repeat(16, 0).repeat(16, 1)  # fmt: skip


def linear(values: np.ndarray) -> np.ndarray:
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def profile(primaries: np.ndarray, name: str = "Display P3") -> bytes:
    """An ICC profile of version 2: primaries, the white of D50, and sRGB's curve as a table."""

    def fixed(values) -> bytes:
        return b"".join(struct.pack(">i", round(float(v) * 65536)) for v in values)

    curve = (linear(np.linspace(0, 1, 1024)) * 65535).round().astype(">u2").tobytes()
    tags = {
        b"desc": b"desc" + bytes(4) + struct.pack(">I", len(name) + 1) + name.encode() + bytes(1 + 78),
        b"cprt": b"text" + bytes(4) + b"CC0\0",
        b"wtpt": b"XYZ " + bytes(4) + fixed((0.9642, 1, 0.8249)),
    }
    for colour, column in zip((b"r", b"g", b"b"), primaries.T):
        tags[colour + b"XYZ"] = b"XYZ " + bytes(4) + fixed(column)
        tags[colour + b"TRC"] = b"curv" + bytes(4) + struct.pack(">I", 1024) + curve
    at, table, body = 128 + 4 + 12 * len(tags), b"", b""
    for tag, data in tags.items():
        table += tag + struct.pack(">II", at + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    size = at + len(body)
    head = struct.pack(">I4sI4s4s4s", size, b"\0" * 4, 0x02400000, b"mntr", b"RGB ", b"XYZ ") + bytes(12) + b"acsp"
    head = head.ljust(68, b"\0") + fixed((0.9642, 1, 0.8249))
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body


def encoded(pixels: np.ndarray, format: str, icc: bytes | None, **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format, **({"icc_profile": icc} if icc else {}), **options)
    return buffer.getvalue()


def by_the_matrices(pixels: np.ndarray) -> np.ndarray:
    """Display P3 to sRGB as the definitions of both have it."""
    light = np.clip(linear(pixels / 255) @ (np.linalg.inv(SRGB) @ P3).T, 0, 1)
    return 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


EXPECTED = by_the_matrices(COLOURS)
assert np.abs(EXPECTED - COLOURS).max() > 15  # so that a conversion left out is seen


@pytest.mark.parametrize(
    ("format", "options", "how", "apart"),
    [
        ("PNG", {}, {}, 1),
        ("TIFF", {}, {}, 1),
        ("WEBP", {"lossless": True}, {}, 1),
        ("AVIF", {"quality": 100, "subsampling": "4:4:4"}, {}, 3),
        ("PNG", {}, {"quality": 95}, 12),
        ("JPEG", {"quality": 100, "subsampling": 0}, {"quality": 95}, 12),
        ("JPEG", {"quality": 100, "subsampling": 0}, {"srgb": True}, 12),
        ("JPEG", {"quality": 100, "subsampling": 0}, {"side": 31}, 12),
    ],
)
def test_pixels_that_are_stored_are_converted_from_display_p3_as_its_definition_says(format, options, how, apart):
    stored = prepare(encoded(COLOURS, format, profile(P3), **options), **how)
    middles = decode(stored)[8::16, 8::16][:2, :3].astype(float)  # away from edges, where codecs differ
    assert np.abs(middles - EXPECTED[8::16, 8::16]).max() <= apart
    assert stored.profile == ""


def test_a_jpeg_keeps_its_bytes_and_names_its_profile_and_one_in_srgb_is_left_alone():
    data = encoded(COLOURS, "JPEG", profile(P3))
    assert (prepare(data).data, prepare(data).profile) == (data, "Display P3")
    for icc in (None, profile(SRGB, "c2"), ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()):
        data = encoded(COLOURS, "JPEG", icc)
        for how in ({}, {"srgb": True}):
            assert (prepare(data, **how).data, prepare(data, **how).profile) == (data, "")
        np.testing.assert_array_equal(decode(prepare(encoded(COLOURS, "PNG", icc))), COLOURS)


def test_transparency_palettes_and_greys_are_converted_too():
    icc = profile(P3)
    for mode in ("RGBA", "P"):
        buffer = io.BytesIO()
        image = Image.fromarray(COLOURS)
        image = image.quantize(16) if mode == "P" else image.convert(mode)
        image.save(buffer, "PNG", icc_profile=icc)
        assert np.abs(decode(prepare(buffer.getvalue())) - EXPECTED).max() <= 1.5
    grey = np.arange(256, dtype=np.uint8)[None].repeat(3, 0)
    found = decode(prepare(encoded(grey, "PNG", icc)))  # its neutral axis is that of sRGB
    assert np.abs(found[..., 0].astype(int) - grey).max() <= 1


@pytest.mark.parametrize("icc", [b"no profile", profile(P3)[:300], profile(P3).replace(b"RGB ", b"CMYK", 1)])
def test_a_profile_that_cannot_be_applied_is_said_and_changes_nothing(icc):
    stored = prepare(encoded(COLOURS, "PNG", icc))
    np.testing.assert_array_equal(decode(stored), COLOURS)
    assert stored.profile == UNUSABLE
    data = encoded(COLOURS, "JPEG", icc)
    assert (prepare(data, srgb=True).data, prepare(data, srgb=True).profile) == (data, UNUSABLE)


def test_a_profile_in_the_header_of_a_jp2_is_found():
    data = encoded(COLOURS, "JPEG2000", None)
    at = data.index(b"jp2h") - 4
    old, size = data.index(b"colr") - 4, int.from_bytes(data[at : at + 4], "big")
    box = b"colr" + bytes([2, 0, 0]) + profile(P3)
    box = (len(box) + 4).to_bytes(4, "big") + box
    data = (
        data[:at] + (size - 15 + len(box)).to_bytes(4, "big") + data[at + 4 : old] + box + data[old + 15 :]
    )  # an enumerated colr box has 15 bytes
    assert jp2_profile(data) == profile(P3)
    assert np.abs(decode(prepare(data)) - EXPECTED).max() <= 1.5
    np.testing.assert_array_equal(decode(prepare(encoded(COLOURS, "JPEG2000", None))), COLOURS)


def test_a_writing_counts_the_profiles_that_it_keeps_and_converts_them_with_srgb(tmp_path, capsys):
    for name, format, icc in (
        ("cat/1.jpg", "JPEG", profile(P3)),
        ("cat/2.png", "PNG", profile(P3)),
        ("dog/1.jpg", "JPEG", profile(P3)),
        ("dog/2.jpg", "JPEG", None),
        ("dog/3.png", "PNG", b"torn"),
    ):
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "images" / name).write_bytes(encoded(COLOURS, format, icc))
    config = write.Config(images=str(tmp_path / "images"), out=tmp_path / "x.beton")
    write.run(config)
    said = capsys.readouterr().err
    assert "the bytes of 2 JPEGs are kept with a colour profile that is not sRGB (2 Display P3)" in said
    assert "written anew with --srgb" in said
    assert f"1 image with a colour profile that is {UNUSABLE}" in said
    assert Manifest.load(manifest_path(config.out)).meta["profiles"] == {"Display P3": 2, UNUSABLE: 1}
    write.run(write.Config(images=config.images, out=tmp_path / "y.beton", srgb=True))
    assert "kept with" not in capsys.readouterr().err
    sizes = [Manifest.load(manifest_path(tmp_path / f"{name}.beton")).nbytes for name in "xy"]
    assert (sizes[0] != sizes[1]).tolist() == [True, False, True, False, False]
