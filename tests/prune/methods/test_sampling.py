import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prune.methods.rank import by_key
from prune.methods.sampling import beta_key, ccs_places


def drawn(hardness, groups, quotas, seed=0, **options):
    quotas = np.asarray(quotas)
    draw = np.random.default_rng(seed).random(len(hardness))
    place = ccs_places(np.asarray(hardness, float), np.asarray(groups), quotas, draw, **options)
    return place < quotas[groups]


def test_ccs_cuts_the_hardest_and_deals_evenly_over_strata():
    # Of 10 samples the hardest, 99, is cut. 0..4 and 9: two strata [0, 4.5) and [4.5, 9] hold 8 and 1 samples. Of 3,
    # the smaller stratum gets its one and the larger the other two.
    hardness = np.array([0, 1, 2, 3, 4, 1, 2, 3, 9, 99.0])
    for seed in range(10):
        kept = drawn(hardness, np.zeros(10, int), [3], seed, cut=0.1, strata=2)
        assert kept.sum() == 3
        assert kept[8]
        assert not kept[9]


def test_ccs_cuts_less_where_the_quota_needs_the_hard_ones():
    assert drawn(np.arange(4.0), np.zeros(4, int), [4], cut=0.5).all()
    assert drawn(np.arange(4.0), np.zeros(4, int), [3], cut=0.5).tolist() == [True, True, True, False]


def test_ccs_takes_unknown_samples_last():
    hardness = np.array([np.nan, 1, 2, np.nan])
    assert drawn(hardness, np.zeros(4, int), [2], cut=0.0).tolist() == [False, True, True, False]
    assert drawn(hardness, np.zeros(4, int), [4], cut=0.0).all()


@given(st.integers(0, 10_000), st.floats(0, 0.9), st.integers(1, 60))
@settings(max_examples=150)
def test_ccs_meets_every_quota_exactly(seed, cut, strata):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 80))
    groups = rng.integers(0, 4, n)
    hardness = rng.choice([0.0, 0.5, 1.0, np.nan], n) + rng.integers(0, 2) * rng.uniform(size=n)
    sizes = np.bincount(groups, minlength=4)
    quotas = rng.integers(0, sizes + 1)
    kept = drawn(hardness, groups, quotas, seed, cut=cut, strata=strata)
    assert np.bincount(groups[kept], minlength=4).tolist() == quotas.tolist()


@given(st.integers(0, 10_000))
@settings(max_examples=50)
def test_ccs_spreads_over_the_strata_as_evenly_as_their_sizes_allow(seed):
    rng = np.random.default_rng(seed)
    hardness = rng.beta(0.5, 3, 200)
    kept = drawn(hardness, np.zeros(200, int), [60], seed, cut=0.0, strata=5)
    edge = np.floor((hardness - hardness.min()) / np.ptp(hardness) * 5).clip(0, 4).astype(int)
    size, taken = np.bincount(edge, minlength=5), np.bincount(edge[kept], minlength=5)
    # A stratum below the largest share is empty: it gave all that it had.
    assert all(taken[s] == size[s] or taken[s] >= taken.max() - 1 for s in range(5))


def test_beta_draws_easy_samples_under_strong_pruning_and_harder_ones_under_mild():
    rng = np.random.default_rng(0)
    confidence = rng.uniform(size=5000)
    score = np.full(5000, 0.1)
    score[np.argsort(np.abs(confidence - 0.3))[:10]] = 0.5  # the best scores are at a confidence of 0.3
    groups = np.zeros(5000, int)
    means = []
    for keep in (0.05, 0.3, 0.7):
        kept = by_key(beta_key(score, confidence, keep, np.random.default_rng(1).random(5000)), groups, [250])
        means.append(confidence[kept].mean())
    assert means[0] > means[1] > means[2]
    # beta = 15 * 0.7 * (1 - 0.7^4) = 7.98 at keep 0.3: the density's mean is 1 - beta / 16 = 0.50.
    assert means[1] == pytest.approx(1 - 15 * 0.7 * (1 - 0.7**4) / 16, abs=0.03)


def test_beta_weighs_by_the_score():
    confidence, score = np.full(2000, 0.5), np.r_[np.full(1000, 0.1), np.full(1000, 0.3)]
    kept = by_key(beta_key(score, confidence, 0.3, np.random.default_rng(2).random(2000)), np.zeros(2000, int), [100])
    assert 60 <= kept[1000:].sum() <= 90  # three quarters expected


def test_beta_takes_unknown_and_worthless_samples_last():
    score, confidence = np.array([np.nan, 0.2, 0.0, 0.1]), np.array([0.5, 0.5, 0.5, 0.5])
    kept = by_key(beta_key(score, confidence, 0.5, np.full(4, 0.5)), np.zeros(4, int), [2])
    assert kept.tolist() == [False, True, False, True]
