import numpy as np
import pytest

from prune.data.image_likeness import CERTAIN, COPY, cropped, likeness, plain_likeness, turned


def pictures(count, seed=0):
    """Smooth random pictures of 32 x 32 grey levels."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(20, 235, (count, 8, 8))
    return np.repeat(np.repeat(coarse, 4, axis=1), 4, axis=2).astype(np.uint8)


def test_likeness_of_two_by_two_blocks_by_hand():
    # Halves: left dark, right bright. Mirrored it is the opposite, so a picture and its negative are alike only so.
    half = np.zeros((1, 32, 32), np.uint8)
    half[:, :, 16:] = 200
    assert likeness(half, half)[0] == pytest.approx(1, abs=1e-5)
    assert plain_likeness(half, 200 - half)[0] == pytest.approx(1, abs=1e-5)
    top = half.transpose(0, 2, 1)
    assert plain_likeness(half, top)[0] == pytest.approx(0, abs=1e-5)
    # A quarter bright: means 50, correlation with the half: cov = 200 * 200 * (1/4 - 1/8), over sds 100 and 86.6.
    quarter = np.where(np.arange(32)[None, :, None] < 16, half, 0).astype(np.uint8)
    assert plain_likeness(half, quarter)[0] == pytest.approx(5000 / (100 * 86.6), abs=1e-3)


@pytest.mark.parametrize("change", ["brighter", "mirrored", "turned", "cropped", "cropped first"])
def test_changed_copies_are_alike_and_others_are_not(change):
    first = pictures(40)
    second = {
        "brighter": (first * 0.6 + 30).astype(np.uint8),
        "mirrored": first[:, :, ::-1],
        "turned": np.stack([turned(image, 4.0) for image in first]),
        "cropped": np.stack([cropped(image) for image in first]),
        "cropped first": first,
    }[change]
    if change == "cropped first":
        first = np.stack([cropped(image) for image in first])
    assert likeness(first, second).min() >= COPY
    assert likeness(first, np.roll(second, 1, axis=0)).max() < COPY


def test_flat_images_are_alike_only_when_equally_grey():
    flat = np.full((3, 32, 32), 100, np.uint8)
    other = np.stack([np.full((32, 32), 104, np.uint8), np.full((32, 32), 160, np.uint8), pictures(1)[0]])
    for compare in (likeness, plain_likeness):
        assert compare(flat, other).tolist() == [1, 0, 0]


def test_no_pairs_are_no_error_and_a_certain_copy_is_a_copy():
    assert likeness(pictures(0), pictures(0)).shape == (0,)
    assert CERTAIN > COPY
