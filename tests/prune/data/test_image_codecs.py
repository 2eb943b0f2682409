"""Short JPEGs: what stock decoders make of them, what they cost, and what is refused."""

from __future__ import annotations

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from prune.data import image_codecs
from prune.data.image_codecs import Unreadable, decode, encode, encode_level, fixed_bytes, halved

RNG = np.random.default_rng(0)


def picture(height: int, width: int) -> np.ndarray:
    """Smooth colours with some noise."""
    coarse = Image.fromarray(RNG.integers(0, 256, (4, 4, 3), dtype=np.uint8)).resize((width, height), Image.BICUBIC)
    return np.clip(np.asarray(coarse) + RNG.normal(0, 6, (height, width, 3)), 0, 255).astype(np.uint8)


IMAGES = {
    "32 px": picture(32, 32),
    "one pixel": picture(1, 1),
    "grey": np.repeat(picture(20, 31)[..., :1], 3, axis=2),
    "wide": picture(1, 20_000),
    "300 px": picture(300, 301),
}


@pytest.mark.parametrize("name", IMAGES)
@pytest.mark.parametrize("quality", [1, 10, 60, 95, 100])
def test_stock_decoders_agree_on_a_short_jpeg(name, quality):
    data = encode(IMAGES[name], "jpeg", quality)
    got = decode(data)
    assert got.shape == IMAGES[name].shape
    assert Image.open(io.BytesIO(data)).mode == ("L" if name == "grey" else "RGB")
    other = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert np.abs(other.astype(int) - got).max() <= 2


def test_torchvision_reads_a_short_jpeg():
    torch, io_of = pytest.importorskip("torch"), pytest.importorskip("torchvision.io")
    data = encode(IMAGES["32 px"], "jpeg", 30)
    got = io_of.decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8)).permute(1, 2, 0).numpy()
    assert np.abs(got.astype(int) - decode(data)).max() <= 2


def test_the_headers_of_a_small_jpeg_are_106_bytes_and_of_a_grey_one_96():
    # Start 2, table 4 + 65, frame 4 + 6 + 3 a component, scan 4 + 4 + 2 a component, end 2.
    small = encode(IMAGES["32 px"], "jpeg", 10)
    assert fixed_bytes(small) == 2 + 69 + 19 + 14 + 2
    assert fixed_bytes(encode(IMAGES["grey"], "jpeg", 10)) == 2 + 69 + 13 + 10 + 2
    buffer = io.BytesIO()
    Image.fromarray(IMAGES["32 px"]).save(buffer, "JPEG", quality=10)
    assert fixed_bytes(buffer.getvalue()) == 625
    assert len(small) < len(buffer.getvalue()) - 450


def test_a_quality_means_what_it_means_to_libjpeg():
    for quality in (1, 10, 49, 50, 75, 95, 100):
        buffer = io.BytesIO()
        Image.fromarray(IMAGES["32 px"]).save(buffer, "JPEG", quality=quality)
        stock = Image.open(io.BytesIO(buffer.getvalue())).quantization[0]
        assert list(Image.open(io.BytesIO(encode(IMAGES["32 px"], "jpeg", quality))).quantization[0]) == list(stock)


@pytest.mark.parametrize("codec", image_codecs.CODECS)
def test_equal_pixels_give_equal_bytes_and_lower_qualities_fewer(codec):
    image = IMAGES["300 px"][:64, :64]
    sizes = [len(encode(image, codec, quality)) for quality in (90, 50, 10)]
    assert sizes == sorted(sizes, reverse=True)
    assert encode(image, codec, 50) == encode(image.copy(), codec, 50)
    assert np.abs(decode(encode(image, codec, 90)).astype(int) - image).mean() < 8


def test_levels_above_100_are_at_half_the_resolution_rounded_up():
    image = IMAGES["300 px"]
    assert halved(image).shape == (150, 151, 3)
    assert decode(encode_level(image, 160)).shape == (150, 151, 3)
    assert encode_level(image, 60) == encode(image, "jpeg", 60)
    assert decode(encode_level(IMAGES["one pixel"], 110)).shape == (1, 1, 3)


@pytest.mark.parametrize(("codec", "quality"), [("jpeg", 0), ("jpeg", 101), ("webp", -1), ("png", 50)])
def test_other_codecs_and_qualities_are_refused(codec, quality):
    with pytest.raises(ValueError, match="possible"):
        encode(IMAGES["32 px"], codec, quality)


def corrupted() -> list[bytes]:
    data = encode(IMAGES["300 px"], "jpeg", 60)
    return [b"", b"\xff\xd8", data[:90], data[: len(data) // 2], b"\xff\xd8\xff\xd9", b"GIF89a"]


@pytest.mark.parametrize("data", corrupted())
def test_what_is_cut_short_is_unreadable_with_a_reason(data):
    with pytest.raises(Unreadable, match=r"\w"):
        decode(data)


@pytest.mark.parametrize(
    ("image", "format", "options"),
    [
        (Image.new("CMYK", (9, 7), (10, 20, 30, 40)), "JPEG", {}),
        (Image.fromarray(np.full((7, 9), 257 * 100, np.uint16)), "PNG", {}),
        (Image.new("P", (9, 7)), "GIF", {"save_all": True, "append_images": [Image.new("P", (9, 7), 1)]}),
        (Image.new("RGBA", (9, 7), (1, 2, 3, 4)), "WEBP", {}),
    ],
)
def test_odd_images_are_decoded_and_encoded(image, format, options):
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    pixels = decode(buffer.getvalue())
    assert pixels.shape == (7, 9, 3)
    assert np.abs(decode(encode(pixels, "jpeg", 95)).astype(int) - pixels).mean() < 6
