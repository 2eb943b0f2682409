import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prune.methods.sampling import ccs_places
from prune.scores.ensemble import agreement, rank_average, scaled_rank, together

NAN = np.nan


def test_ranks_share_ties_and_leave_the_unknown_out():
    # 5 is first, the two 7s share second and third, 9 is fourth: (1, 2.5, 2.5, 4) - 1/2 over 4.
    assert scaled_rank(np.array([7.0, 5.0, NAN, 7.0, 9.0])).tolist()[:2] == [0.5, 0.125]
    assert np.isnan(scaled_rank(np.array([7.0, NAN]))[1])


def test_the_average_is_over_the_surrogates_that_know_the_sample():
    # Both have mean rank 1/2: half way between 1 and 2, and between 10 and 30.
    found = rank_average([np.array([1.0, 2.0, NAN]), np.array([30.0, 10.0, NAN])])
    assert found[:2].tolist() == [(1.5 + 20) / 2] * 2
    assert np.isnan(found[2])
    # Ranks 1/4 and (3/4 + 1/2) / 2: 1 and 1.75 in the first one's quantiles; the second knows no value but 5.
    assert rank_average([np.array([1.0, 2.0]), np.array([NAN, 5.0])]).tolist() == [(1 + 5) / 2, (1.75 + 5) / 2]
    assert np.isnan(rank_average([np.array([NAN]), np.array([NAN])])).all()


def test_scores_of_two_values_average_to_three():
    assert rank_average([np.array([0.0, 0, 1, 1]), np.array([0.0, 1, 0, 1])]).tolist() == [0, 0.5, 0.5, 1]


def test_surrogates_that_agree_give_back_their_score_so_that_strata_cut_the_same():
    rng = np.random.default_rng(0)
    score = rng.lognormal(size=2000).astype(np.float32)
    assert np.array_equal(rank_average([score, score]), score)
    both, _ = together([{"sample/el2n": score}, {"sample/el2n": 3 * score}])
    groups, quota, draw = np.zeros(2000, int), np.array([200]), rng.random(2000)
    one = ccs_places(score, groups, quota, draw, cut=0.1)
    assert np.array_equal(one, ccs_places(both["sample/el2n"], groups, quota, draw, cut=0.1))


def test_agreement_is_spearmans():
    assert agreement([np.array([1, 2, 3.0]), np.array([10, 100, 1000.0])]) == pytest.approx(1)
    assert agreement([np.array([1, 2, 3.0]), np.array([3, 2, 1.0])]) == pytest.approx(-1)
    # Ranks 1 2 3 and 1 3 2: 1 - 6 * 2 / (3 * 8) = 1/2.
    assert agreement([np.array([1, 2, 3.0]), np.array([1, 9, 5.0])]) == pytest.approx(0.5)
    assert np.isnan(agreement([np.zeros(3), np.arange(3.0)]))


def test_together_averages_what_all_have():
    parts = [
        {"sample/el2n": np.array([0.1, 0.9]), "class/lm/t": np.array([4.0, 0.0]), "duplicate_of": np.array([-1, 0])},
        {"sample/el2n": np.array([5.0, 7.0]), "class/lm/t": np.array([2.0, 2.0]), "sample/odd": np.array([1.0, 2.0])},
    ]
    arrays, agreed = together(parts)
    assert arrays["sample/el2n"].tolist() == pytest.approx([2.55, 3.95])
    assert arrays["class/lm/t"].tolist() == [3, 1]
    assert arrays["duplicate_of"].tolist() == [-1, 0]
    assert "sample/odd" not in arrays
    assert agreed["sample/el2n"] == 1
    assert together(parts[:1]) == (parts[0], {})


@given(st.integers(0, 10_000))
@settings(max_examples=50)
def test_the_average_sees_order_alone_and_follows_the_samples(seed):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=20), rng.integers(0, 4, 20).astype(float)
    found = rank_average([a, b])
    mean = np.round(scaled_rank(a) + scaled_rank(b), 9)
    lower = mean[:, None] < mean[None, :]
    for same_order in (found, rank_average([np.exp(a), 7 * b - 3])):
        assert np.array_equal(same_order[:, None] < same_order[None, :], lower)
    order = rng.permutation(20)
    assert np.allclose(found[order], rank_average([a[order], b[order]]))
