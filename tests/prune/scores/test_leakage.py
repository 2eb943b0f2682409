import tracemalloc

import numpy as np
import pytest

from prune.scores.clusters import unit
from prune.scores.leakage import both_sides, leaks, mean_feature


def at(*degrees):
    angles = np.radians(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def test_leaks_name_the_test_image_and_ignore_look_alikes():
    rng = np.random.default_rng(2)
    x = rng.normal(size=(3000, 32))
    tests = np.r_[rng.normal(size=(5, 32)), x[[7, 2500]] + 0.05 * rng.normal(size=(2, 32))]
    found = leaks(x.astype(np.float16), tests, x.mean(axis=0))
    assert {int(r): int(found[r]) for r in np.flatnonzero(found >= 0)} == {7: 5, 2500: 6}


def test_a_crowd_of_leaks_costs_no_memory_for_its_pairs():
    # All 2,000 x 2,000 cosines are above 0.95: as index and cosine of each pair they would take 80 MB.
    rng = np.random.default_rng(5)
    crowd = 30 * np.eye(1, 32) + rng.normal(size=(2000, 32))
    tests = np.r_[crowd[[1500]] + 0.001, 30 * np.eye(1, 32) + rng.normal(size=(1999, 32))]
    tracemalloc.start()
    found = leaks(crowd.astype(np.float32), tests, np.zeros(32), 0.9)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert {int(r): int(found[r]) for r in np.flatnonzero(found >= 0)} == {1500: 0}
    assert peak < 60e6


def test_a_leak_is_judged_by_neighbours_that_come_later():
    # 1 - cosine to the fifth neighbour falls from 1 to that of 9 degrees: 8 degrees stood out of it, and do no more.
    first, later = at(8, *[90] * 2000), at(*[9] * 6)
    assert leaks(first, at(0), np.zeros(2)).tolist()[0] == 0
    assert (leaks(np.r_[first, later], at(0), np.zeros(2)) == -1).all()


def test_the_most_alike_of_several_test_images_is_named():
    x, tests = at(0, 40, 80, 120, 160, 200), at(41, 40.5, 40.5, 300)
    assert leaks(x, tests, np.zeros(2), 0.99).tolist() == [-1, 1, -1, -1, -1, -1]
    assert leaks(x, tests, np.zeros(2), 0.99, stand_out=False).tolist() == [-1, 1, -1, -1, -1, -1]
    assert leaks(x, tests[:0], np.zeros(2)).tolist() == [-1] * 6


def test_without_stand_out_the_cosine_alone_decides():
    crowd = unit(30 * np.eye(1, 32) + np.random.default_rng(0).normal(size=(40, 32)))
    assert (leaks(crowd[1:], crowd[:1], np.zeros(32), 0.9, stand_out=False) == 0).all()
    assert (leaks(crowd[1:], crowd[:1], np.zeros(32), 0.9) == -1).all()


@pytest.mark.parametrize("stand_out", [True, False])
def test_both_sides_count_a_test_image_that_is_there_twice(stand_out):
    # Row 1 (40 degrees) is nearest to test 2 and nearly duplicates tests 0 and 1 as well; row 3 (120) has test 3.
    x, tests = at(0, 40, 80, 120, 160, 200), at(41, 40.5, 40.2, 120, 300)
    of_source, of_test = both_sides(x, tests, np.zeros(2), 0.99, stand_out)
    assert of_source.tolist() == [-1, 2, -1, 3, -1, -1]
    assert of_test.tolist() == [1, 1, 1, 3, -1]
    assert [len(side) for side in both_sides(x, tests[:0], np.zeros(2))] == [6, 0]


def test_both_sides_name_the_most_alike_source_image_and_of_equals_the_first():
    x = at(0, 40, 40.4, 80, 120, 120, 160, 200, 240, 280)
    of_source, of_test = both_sides(x, at(40.3, 120), np.zeros(2), 0.99)
    assert of_source.tolist() == [-1, 0, 0, -1, 1, 1, -1, -1, -1, -1]
    assert of_test.tolist() == [2, 4]


def test_both_sides_agree_across_blocks_of_half_floats():
    # 1,300 test images with a copy each; two copies more at the end, of test 0 a worse one and of test 1 a better one.
    rng = np.random.default_rng(3)
    x = rng.normal(size=(2000, 32))
    tests = np.r_[x[:1300] + 0.02 * rng.normal(size=(1300, 32)), rng.normal(size=(100, 32))]
    x = np.r_[x, tests[[0]] + 0.05 * rng.normal(size=(1, 32)), tests[[1]]].astype(np.float16)
    of_source, of_test = both_sides(x, tests, mean_feature(x))
    assert of_test.tolist() == [0, 2001, *range(2, 1300), *[-1] * 100]
    assert of_source.tolist() == [*range(1300), *[-1] * 700, 0, 1]


def test_the_mean_of_half_floats_is_exact():
    x = np.full((5000, 2), 60000, np.float16)  # their sum is beyond half floats
    assert mean_feature(x).tolist() == [float(x[0, 0])] * 2
