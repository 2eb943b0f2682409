"""Tests of prune.data.crops: boxes lie where they must and depend on seed, epoch and position alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prune.data.crops import center_crops, padded_crops, random_resized_crops

sides = st.lists(st.tuples(st.integers(1, 400), st.integers(1, 400)), min_size=1, max_size=40)


@settings(max_examples=100)
@given(sides=sides, seed=st.integers(0, 2**63 - 1), epoch=st.integers(0, 500))
def test_random_resized_crops_lie_inside_the_image(sides, seed, epoch):
    heights, widths = np.array(sides).T
    top, left, h, w = random_resized_crops(heights, widths, seed=seed, epoch=epoch).boxes.T
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (h > 0).all()
    assert (w > 0).all()
    assert (top + h <= heights).all()
    assert (left + w <= widths).all()


def test_the_draw_of_an_image_does_not_depend_on_the_others():
    heights = np.full(100, 50)
    whole = random_resized_crops(heights, heights, seed=3, epoch=1)
    part = random_resized_crops(heights[:10], heights[:10], seed=3, epoch=1)
    np.testing.assert_array_equal(whole.boxes[:10], part.boxes)
    np.testing.assert_array_equal(whole.flip[:10], part.flip)


@pytest.mark.parametrize("draw", [random_resized_crops, padded_crops])
def test_some_rows_get_what_they_would_get_among_all(draw):
    heights, widths = np.arange(20, 120), np.arange(130, 30, -1)
    rows = np.array([70, 3, 99, 3])
    whole, part = draw(heights, widths, seed=3, epoch=1), draw(heights, widths, seed=3, epoch=1, rows=rows)
    np.testing.assert_array_equal(whole.boxes[rows], part.boxes)
    np.testing.assert_array_equal(whole.flip[rows], part.flip)


@pytest.mark.parametrize("draw", [random_resized_crops, padded_crops])
def test_seed_and_epoch_both_change_the_draw(draw):
    heights = np.full(200, 64)
    first = draw(heights, heights, seed=0, epoch=0)
    for other in (draw(heights, heights, seed=1, epoch=0), draw(heights, heights, seed=0, epoch=1)):
        assert (first.boxes != other.boxes).any(axis=1).mean() > 0.9
        assert 0.3 < (first.flip != other.flip).mean() < 0.7


def test_areas_and_aspects_fill_their_ranges_evenly():
    n = 40_000
    top, left, h, w = random_resized_crops(
        np.full(n, 1000), np.full(n, 1000), seed=0, epoch=0, scale=(0.2, 0.6)
    ).boxes.T
    area = h * w / 1e6
    assert area.min() >= 0.199
    assert area.max() <= 0.601
    assert abs(area.mean() - 0.4) < 0.003  # uniform in [0.2, 0.6]; no box of these ranges is ever refused
    assert abs(np.log(w / h).mean()) < 0.005  # log-uniform in [3/4, 4/3] is symmetric about 0
    # the offset is uniform over what the box leaves free: its mean is half of that
    assert abs((top / (1000 - h + 1)).mean() - 0.5) < 0.01
    assert abs((left / (1000 - w + 1)).mean() - 0.5) < 0.01


def test_padded_crops_of_32_pixels_shift_by_up_to_4():
    boxes = padded_crops(np.full(5000, 32), np.full(5000, 32), seed=0, epoch=0).boxes
    assert set(np.unique(boxes[:, :2])) == set(range(-4, 5))
    assert set(np.unique(boxes[:, 2:])) == {32}
    counts = np.bincount(boxes[:, 0] + 4, minlength=9)
    assert counts.min() > 5000 / 9 * 0.85


def test_the_central_crop_is_the_square_in_the_middle():
    boxes = center_crops(np.array([10, 30]), np.array([20, 30]), 1.0).boxes
    np.testing.assert_array_equal(boxes, [[0, 5, 10, 10], [0, 0, 30, 30]])
    np.testing.assert_array_equal(center_crops(np.array([40]), np.array([40]), 0.5).boxes, [[10, 10, 20, 20]])
