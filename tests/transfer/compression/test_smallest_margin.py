"""Which margins a set of n images can test: by hand, and by the acceptance test itself."""

from __future__ import annotations

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from transfer.compression.acceptance import Margins, decide
from transfer.compression.smallest_margin import default_margins_unresolved, smallest_margin, too_few, unresolved


def accepted_with_one_lost(n: int, margin: float, slack: float) -> bool:
    labels = np.zeros(n, np.int64)
    return decide(labels, labels, np.arange(n) == 0, ["newt", "cat"], Margins(margin, None, slack)).accepted


@given(st.integers(1, 400), st.sampled_from([0.0, 0.3, 1.0]))
@example(3, 0.0)
def test_the_smallest_margin_allows_one_lost_image_and_a_smaller_one_does_not(n, slack):
    least = smallest_margin(n, slack)
    assert accepted_with_one_lost(n, least, slack)
    assert least < 0.01 or not accepted_with_one_lost(n, least - 0.011, slack)


@given(st.integers(1, 150), st.sampled_from([0.7, 1.0, 10.0]), st.sampled_from([0.0, 0.3, 1.0]))
@example(99, 1.0, 0.0)
@example(100, 1.0, 0.0)
def test_so_many_images_are_needed_and_one_fewer_is_too_few(n, margin, slack):
    needed = too_few(n, margin, slack)
    assert (needed is None) == accepted_with_one_lost(n, margin, slack)
    if needed is not None:
        assert accepted_with_one_lost(needed, margin, slack)
        assert not accepted_with_one_lost(needed - 1, margin, slack)


def test_no_margin_and_a_margin_of_nothing_need_no_images():
    assert too_few(5, None) is None
    assert too_few(5, 0.0) is None  # asked for: not one image may be lost
    assert too_few(0, 1.0) is None


def test_a_set_classes_and_groups_that_are_too_small_get_a_line_each():
    classes, groups = (
        {"cat": 50, "newt": 4, "eft": 5, "none": 0},
        {"camera=front": (20, 2.0), "camera=back": (39, 10.0)},
    )
    assert unresolved(59, classes, groups, Margins(1.0, 10.0)) == [
        "--margin 1 cannot be tested by a preservation set of 59: a single lost image is 1.69 points. They resolve a "
        "margin of 1.7; for 1, 100 images are needed",
        "--class-margin 10 cannot be tested in 2 classes: in newt a single lost image is 25 points. Its 4 images "
        "resolve a margin of 25; for 10, 10 images are needed",
        "--group-margin 2 cannot be tested in 1 group: in camera=front a single lost image is 5 points. Its 20 images "
        "resolve a margin of 5; for 2, 50 images are needed",
    ]
    assert unresolved(59, classes, groups, Margins(None, None)) == unresolved(59, classes, groups, Margins(1, 10))[2:]
    assert (
        unresolved(59, classes, groups, Margins(1.0, 10.0, slack=1.0)) == []
    )  # a standard error is more than an image


def test_a_new_set_is_measured_by_the_margins_that_a_compression_has_by_default():
    assert default_margins_unresolved(100, 10) is None
    assert default_margins_unresolved(60, 12) == (
        "the margins that `transfer compress` has by default want a larger set: 60 images resolve no margin below 1.67 "
        "points (one image), and --margin 1 needs 100 (--size)"
    )
    assert "the 1 image of the smallest class resolves none below 100, and --class-margin 10 needs 10 (--floor)" in str(
        default_margins_unresolved(100, 1)
    )
