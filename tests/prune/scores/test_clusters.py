"""Nearest centres: what faiss proposes is decided by exact sums, so that the answer is that of comparing all."""

import numpy as np
import pytest

from prune.scores import clusters
from prune.scores.clusters import nearest, unit


@pytest.mark.parametrize("cosine", [False, True])
def test_of_many_centres_the_nearest_is_that_of_comparing_all(cosine):
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(clusters._MANY + 40, 12)).astype(np.float32)
    centres[40] = centres[7]  # equally near: the lower number
    centres[41] = centres[8] * np.float32(1 + 1e-7)  # nearer by less than a matrix product can tell
    x = np.r_[rng.normal(size=(300, 12)), centres[[7, 8, 40, 41]]].astype(np.float32)
    x, centres = (unit(x), unit(centres)) if cosine else (x, centres)
    number, distance = nearest(x, centres, cosine)
    exact = x.astype(np.float64) @ centres.astype(np.float64).T
    exact = -exact if cosine else np.square(x.astype(np.float64)[:, None] - centres.astype(np.float64)).sum(axis=2)
    best = exact.argmin(axis=1)
    twins = np.where(np.arange(len(centres)) == 41, 8, np.arange(len(centres)))
    assert np.array_equal(twins[number[:300]], twins[best[:300]])
    assert number[[300, 302]].tolist() == [7, 7]
    assert np.allclose(-distance if cosine else distance, exact.min(axis=1), atol=1e-5)
    other = clusters._nearest(x, centres, cosine)
    assert np.array_equal(number, other[0])
    assert np.array_equal(distance, other[1])
