import cv2
import numpy as np
import pytest

from prune.data.image_likeness import cropped, turned
from prune.data.perceptual_hash import VARIANTS, hashes


def pictures(count, seed=0):
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(0, 255, (count, 6, 6, 3)).astype(np.float32)
    found = np.stack([cv2.resize(image, (32, 32), interpolation=cv2.INTER_CUBIC) for image in coarse])
    return np.clip(found, 0, 255).astype(np.uint8)


def apart(a, b):
    return np.bitwise_count(a ^ b)


def test_one_wave_sets_the_bit_of_its_frequency_by_hand():
    # A cosine of two half periods across: of the 64 lowest coefficients only (0, 2) and the mean (0, 0) are not zero,
    # so the median is zero and exactly these two bits are set: the first and the third of the first byte.
    wave = 128 + 100 * np.cos(np.pi * 2 * (2 * np.arange(32) + 1) / 64)
    square = np.broadcast_to(np.round(wave)[None, None, :, None], (1, 32, 32, 3)).astype(np.uint8)
    assert int(hashes(square)[0, 0]) >> 56 & 0b10100000 == 0b10100000


def test_brightness_and_contrast_change_few_bits_and_another_image_many():
    x = pictures(60)
    found = hashes(x)
    changed = hashes((x * 0.7 + 40).astype(np.uint8))
    assert np.median(apart(found[:, 0], changed[:, 0])) <= 2
    assert apart(found[:, 0], np.roll(found[:, 0], 1)).min() > 10


@pytest.mark.parametrize("column", range(1, len(VARIANTS)))
def test_a_variants_hash_is_near_the_plain_hash_of_a_copy_changed_so(column):
    x = pictures(60, seed=column)
    change = [
        lambda image: image[:, ::-1],
        lambda image: turned(image, 4.0),
        lambda image: turned(image, -4.0),
        cropped,
    ][column - 1]
    copies = np.stack([change(image) for image in x])
    distance = apart(hashes(x)[:, column], hashes(copies)[:, 0])
    assert (distance <= 10).mean() > 0.95


def test_hashes_do_not_depend_on_the_block():
    x = pictures(10)
    assert np.array_equal(hashes(x), np.concatenate([hashes(x[:3]), hashes(x[3:])]))
    assert hashes(x[:0]).shape == (0, len(VARIANTS))
