import io

import numpy as np
import pytest
from PIL import Image

from prune.data.dataset import open_dataset
from prune.data.stored_images import Stored
from prune.data.thumbnail_features import DIMENSIONS, SIDE, describe, small, square, thumbnail, thumbnails

CELLS, GREYS, COLOURS, LENGTHS = slice(0, 192), slice(192, 208), slice(208, 216), slice(216, 224)
EDGES = slice(224, 256)


def picture(seed, height=SIDE, width=SIDE):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_a_plain_image_by_hand():
    # Grey level (77 * 255) >> 8 = 76, in bin 4 of 16 levels each; 255 between the channels: the last bin; no gradient.
    red = np.zeros((40, 40, 3), np.uint8)
    red[..., 0] = 255
    found = thumbnail(red)
    assert found.shape == (DIMENSIONS,)
    assert found[CELLS].reshape(64, 3).tolist() == [[1.0, 0.0, 0.0]] * 64
    assert found[GREYS].tolist() == [float(bin == 4) for bin in range(16)]
    assert found[COLOURS].tolist() == [0.0] * 7 + [1.0]
    assert found[LENGTHS].tolist() == [1.0] + [0.0] * 7
    assert found[EDGES].tolist() == [0.0] * 32


def test_an_edge_by_hand():
    # Black left, grey level 100 right: two of 30 columns have a gradient of 100 to the right, direction 0.
    pixels = np.zeros((SIDE, SIDE, 3), np.uint8)
    pixels[:, 16:] = 100
    found = thumbnail(pixels)
    assert np.allclose(found[CELLS].reshape(8, 8, 3)[:, :4], 0)
    assert np.allclose(found[CELLS].reshape(8, 8, 3)[:, 4:], 100 / 255)
    assert found[GREYS][[0, 6]].tolist() == [0.5, 0.5]
    assert np.allclose(found[LENGTHS], [28 / 30, 0, 0, 0, 0, 0, 2 / 30, 0])  # 64 up to 128
    # Half of either edge column lies in each row of quarters, one column in each column of quarters.
    assert found[EDGES].reshape(4, 8).tolist() == [[0.25] + [0.0] * 7] * 4


@pytest.mark.parametrize(("angle", "turn"), [(0, 0), (45, 2), (90, 4), (135, 6)])
def test_gradients_are_counted_by_direction_and_opposite_ones_as_one(angle, turn):
    y, x = np.mgrid[:SIDE, :SIDE]
    slope = np.cos(np.deg2rad(angle)) * x + np.sin(np.deg2rad(angle)) * y
    grey = np.round(127 + 3.5 * (slope - slope.mean())).astype(np.uint8)
    for pixels in (grey, 255 - grey):
        edges = thumbnail(np.repeat(pixels[:, :, None], 3, axis=2))[EDGES].reshape(4, 8)
        assert edges.sum() == pytest.approx(1.0)
        assert edges[:, turn].sum() > 0.95


def test_the_batch_gives_what_single_images_give():
    pictures = np.stack([picture(seed) for seed in range(7)])
    found = describe(pictures)
    assert found.dtype == np.float32
    assert found.min() >= 0
    assert found.max() <= 1
    assert all(np.array_equal(row, thumbnail(pixels)) for row, pixels in zip(found, pictures))


def test_the_central_square_counts():
    wide = picture(1, 48, 96)
    middle = wide[:, 24:72]
    assert np.array_equal(square(wide), square(middle))
    # 96 to 32 pixels: each is the mean of 3 x 3.
    large = picture(2, 96, 96)
    means = large.reshape(32, 3, 32, 3, 3).mean(axis=(1, 3))
    assert np.abs(square(large) - means).max() <= 0.51


def test_small_images_are_enlarged():
    assert np.allclose(square(np.full((5, 9, 3), 77, np.uint8)), 77)
    assert thumbnail(picture(3, 1, 1)).shape == (DIMENSIONS,)


def test_a_large_jpeg_is_decoded_small_and_shows_the_same():
    y, x = np.mgrid[:300, :400]
    smooth = np.stack([x * 0.6, y * 0.8, 255 - x * 0.3], axis=-1).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(smooth).save(buffer, "JPEG", quality=95)
    pixels = small(Stored(buffer.getvalue(), True, 300, 400))
    assert pixels.shape == (38, 50, 3)
    assert np.abs(thumbnail(pixels)[CELLS] - thumbnail(smooth)[CELLS]).max() < 0.03


def test_a_grey_jpeg_and_a_small_one_keep_their_size():
    for mode, side in (("L", 32), ("RGB", 40)):
        buffer = io.BytesIO()
        Image.fromarray(picture(4, side, side)).convert(mode).save(buffer, "JPEG")
        assert small(Stored(buffer.getvalue(), True, side, side)).shape == (side, side, 3)


def test_features_of_a_beton_do_not_depend_on_threads_or_order(toy):
    source = open_dataset(toy.source)
    plain = np.concatenate([block for _, block in thumbnails(source, workers=1)])
    assert plain.shape == (len(source), DIMENSIONS)
    assert np.array_equal(plain, np.concatenate([block for _, block in thumbnails(source, workers=3)]))
    rows = np.random.default_rng(0).permutation(len(source))[:300]
    places, blocks = zip(*thumbnails(source, rows, workers=2))
    assert np.array_equal(np.concatenate(blocks), plain[rows])
    assert [(part.start, part.stop) for part in places] == [(0, 256), (256, 300)]
