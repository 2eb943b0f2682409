import numpy as np
import pytest

from prune.runs.files import InputError
from prune.scores.zcore import _gains, zcore


def by_the_paper(columns, points, rng):
    """Algorithm 1 for one view: all images searched for every point, all neighbours sharing the loss."""
    x = columns.astype(np.float64)
    drawn = np.stack([rng.triangular(c.min(), np.median(c), c.max(), points) for c in x], axis=1)
    gain = np.zeros(x.shape[1])
    for point in drawn:
        covered = np.abs(x.T - point).sum(axis=1).argmin()
        gain[covered] += 1
        apart = np.abs(x.T - x.T[covered]).sum(axis=1)
        others = np.arange(x.shape[1]) != covered
        weight = 1 / apart[others] ** 4
        gain[others] -= weight / weight.sum()
    return gain


def test_gains_are_those_of_the_paper_where_every_image_has_its_own_place():
    columns = np.random.default_rng(0).normal(size=(2, 30)).astype(np.float16)
    found, expected = (f(columns, 200, np.random.default_rng(1)) for f in (_gains, by_the_paper))
    assert np.allclose(found, expected, atol=1e-9)
    assert found.sum() == pytest.approx(0, abs=1e-9)  # each point gives 1 and takes 1


def test_images_at_one_place_gain_nothing_and_share_what_neighbours_lose():
    # Images 0 and 1 share a place; a point that is nearest to it moves nothing. Image 2 covers the others' points.
    columns = np.array([[0.0, 0.0, 1.0], [0.0, 0.0, 1.0]], np.float16)
    found = _gains(columns, 1000, np.random.default_rng(2))
    assert found[2] > 0
    assert found[0] == found[1] == pytest.approx(-found[2] / 2)


def test_rare_images_score_above_crowded_ones():
    rng = np.random.default_rng(3)
    crowd, rare = rng.normal(size=(2000, 8)) * 0.05, rng.uniform(-3, 3, size=(100, 8))
    score = zcore(np.r_[crowd, rare].astype(np.float16), points=40_000, views=20)
    assert (score.min(), score.max()) == (0, 1)
    assert np.mean(np.argsort(-score)[:100] >= 2000) > 0.5  # a twentieth of all images


def test_scores_follow_the_ids_in_any_order_of_the_rows_and_any_number_of_threads():
    rng = np.random.default_rng(4)
    features = np.maximum(rng.normal(size=(400, 6)), 0).astype(np.float16)  # as of a ReLU network: many zeros
    keys, order = rng.integers(0, 2**63, 400, dtype=np.uint64), rng.permutation(400)
    plain = zcore(features, keys=keys, points=5000, views=10, workers=1)
    assert np.array_equal(plain[order], zcore(features[order], keys=keys[order], points=5000, views=10, workers=1))
    assert np.array_equal(plain, zcore(features, keys=keys, points=5000, views=10, workers=3))
    assert not np.array_equal(plain, zcore(features, keys=keys, points=5000, views=10, seed=1))


def test_images_without_features_score_nan_and_change_nothing():
    rng = np.random.default_rng(5)
    features, keys = rng.normal(size=(300, 4)).astype(np.float16), np.arange(300, dtype=np.uint64)
    plain = zcore(features[:200], keys=keys[:200], points=2000, views=5)
    features[200:, 1] = np.nan
    holed = zcore(features, keys=keys, points=2000, views=5)
    assert np.isnan(holed[200:]).all()
    assert np.array_equal(holed[:200], plain)


def test_constant_features_are_left_aside():
    rng = np.random.default_rng(6)
    features = np.c_[np.zeros(50), rng.normal(size=50), np.full(50, -0.0), rng.normal(size=50)].astype(np.float16)
    assert np.isfinite(zcore(features, points=500, views=4)).all()
    with pytest.raises(InputError, match="at least two features"):
        zcore(features[:, :2], points=500)
