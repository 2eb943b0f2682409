import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prune.methods import coverage
from prune.methods.coverage import RULES, coverage_places, d2, facility_location, herding, k_center, knn


def line(*values):
    return np.array(values, np.float32)[:, None]


def test_k_center_goes_from_the_middle_to_the_farthest():
    # Mean of 0 1 2 10 11 is 4.8: 2 is nearest. Then 11 (9 away), then 0 (2 away), then 1 and 10 tie at 1: lower row.
    assert k_center(line(0, 1, 2, 10, 11), 5).tolist() == [2, 4, 0, 1, 3]


def test_herding_keeps_the_mean_of_the_picks_at_the_mean_of_all():
    # Values less their mean 4: -4 -3 -1 8. First -1 (row 2, nearest 0). Sum -1: adding 8 gives 7, -3 gives -4, -4 -5:
    # |-4| is least, row 1. Sum -4: -4 gives -8, 8 gives 4: row 3.
    assert herding(line(0, 1, 3, 12), 3).tolist() == [2, 1, 3]


def test_facility_location_picks_what_serves_most():
    # Directions at 0, 10, 20 and 90 degrees. Sums of cosines (with itself): 20 degrees serves 1 + cos 10 + cos 20 +
    # cos 70 = 3.27, 10 degrees 1 + 2 cos 10 + cos 80 = 3.14: row 2 first. Then 90 degrees gains 1 - cos 70 = 0.66 for
    # itself, 0 degrees gains (1 - cos 20) + (cos 10 - cos 10) = 0.06: row 3.
    angles = np.radians([0, 10, 20, 90])
    x = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    assert facility_location(x, 2).tolist() == [2, 3]


def test_lazy_facility_location_equals_the_plain_greedy():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 4)).astype(np.float32)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    likeness, best, picks = np.maximum(unit @ unit.T, 0), np.zeros(40), []
    for _ in range(15):
        gains = np.maximum(likeness - best, 0).sum(axis=1).round(4)
        gains[picks] = -1
        picks.append(int(gains.argmax()))
        best = np.maximum(best, likeness[picks[-1]])
    assert facility_location(x, 15).tolist() == picks


def test_neighbours_leave_out_the_row_itself_even_among_equals():
    square, rows = knn(np.zeros((4, 3), np.float32), 2)
    assert square.tolist() == [[0, 0]] * 4
    assert all(i not in rows[i] for i in range(4))
    square, rows = knn(line(0, 1, 5), 5)
    assert rows.tolist() == [[1, 2], [0, 2], [1, 0]]
    assert square.tolist() == [[1, 25], [1, 16], [16, 25]]


def test_d2_by_hand():
    # Points 0, 1, 3 on a line, one neighbour each: 0-1, 1-0, 3-1 with distances 1, 1, 2; their mean is 4/3, so the
    # edges weigh a = exp(-3/4) = 0.472 (0-1) and b = exp(-3/2) = 0.223 (1-3). Scores 1, 0, 0.5.
    # Forward: 0: 1 + a*0 = 1; 1: 0 + a*1 + b*0.5 = 0.584; 3: 0.5 + b*0 = 0.5. Pick row 0: row 1 falls to 0.584 - a =
    # 0.112. Pick row 2 (0.5), then row 1.
    assert d2(line(0, 1, 3), np.array([1.0, 0.0, 0.5]), 3, neighbours=1).tolist() == [0, 2, 1]


@given(seed=st.integers(0, 10_000))
@settings(max_examples=40)
def test_d2_picks_the_largest_value_at_every_step(seed):
    rng = np.random.default_rng(seed)
    x, score = rng.normal(size=(30, 2)).astype(np.float32), rng.choice([0, 0.25, 0.5, 1.0], 30)
    square, near = knn(x, 3)
    weight = np.exp(-np.sqrt(square) / np.sqrt(square).mean())
    strength = np.zeros((30, 30))
    for row in range(30):
        strength[row, near[row]] = strength[near[row], row] = weight[row]
    value, picks = score + strength @ score, []
    for _ in range(20):
        picks.append(int(value.argmax()))
        value = value - strength[picks[-1]] * max(value[picks[-1]], 0)
        value[picks[-1]] = -np.inf
    ours = d2(x, score, 20, neighbours=3)
    assert ours.tolist()[:10] == picks[:10]


def test_d2_spreads_its_picks_where_scores_alone_would_crowd():
    rng = np.random.default_rng(1)
    x = np.r_[rng.normal(size=(30, 2)), rng.normal(size=(30, 2)) + 50].astype(np.float32)
    score = np.r_[np.full(30, 1.0), np.full(30, 0.8)]
    assert (np.argsort(-score, kind="stable")[:20] < 30).all()
    assert 5 <= (d2(x, score, 20) >= 30).sum() <= 15


@pytest.mark.parametrize("rule", RULES)
@given(seed=st.integers(0, 10_000))
@settings(max_examples=25)
def test_every_rule_meets_its_quotas(rule, seed):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 40))
    features = rng.normal(size=(n + 5, 3))
    rows = np.sort(rng.choice(n + 5, n, replace=False))
    groups, hardness = rng.integers(0, 3, n), rng.uniform(size=n)
    quotas = rng.integers(0, np.bincount(groups, minlength=3) + 1)
    place = coverage_places(rule, features, rows, groups, quotas, hardness)
    assert np.bincount(groups[place < quotas[groups]], minlength=3).tolist() == quotas.tolist()
    assert all(sorted(place[groups == g]) == list(range((groups == g).sum())) for g in range(3))


@pytest.mark.parametrize("rule", ["k-center", "herding", "d2"])
@given(seed=st.integers(0, 10_000))
@settings(max_examples=25)
def test_permuting_the_samples_permutes_the_choice(rule, seed):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(3, 40))  # of two samples neither is nearer to their mean
    features, hardness, order = rng.normal(size=(n, 3)), rng.uniform(size=n), rng.permutation(n)
    group, quotas = np.zeros(n, int), rng.integers(0, n + 1, 1)
    place = coverage_places(rule, features, np.arange(n), group, quotas, hardness)
    moved = coverage_places(rule, features[order], np.arange(n), group, quotas, hardness[order])
    assert (moved < quotas[0]).tolist() == (place < quotas[0])[order].tolist()


@given(seed=st.integers(0, 10_000))
@settings(max_examples=25)
def test_permuting_the_samples_leaves_what_facility_location_serves(seed):
    rng = np.random.default_rng(seed)
    x, order = rng.normal(size=(30, 3)).astype(np.float32), rng.permutation(30)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    likeness = np.maximum(unit @ unit.T, 0)
    served = [
        likeness[picks].max(axis=0).sum() for picks in (facility_location(x, 6), order[facility_location(x[order], 6)])
    ]
    assert served[0] == pytest.approx(served[1], rel=1e-3)  # two that serve each other alone are as good


@pytest.mark.parametrize("rule", RULES)
def test_equal_samples_are_taken_from_the_lower_row_on(rule):
    place = coverage_places(rule, np.ones((6, 2)), np.arange(6), np.zeros(6, int), np.array([3]), np.zeros(6))
    assert set(np.flatnonzero(place < 3)) == {0, 1, 2}


@pytest.mark.parametrize("rule", RULES)
@given(seed=st.integers(0, 10_000))
@settings(max_examples=15)
def test_samples_without_features_come_last_and_change_nothing_among_the_others(rule, seed):
    rng = np.random.default_rng(seed)
    n, total = 12, 30
    held = np.sort(rng.choice(total, n, replace=False))
    features, hardness = rng.normal(size=(n, 3)), rng.uniform(size=total)
    groups, quotas = rng.integers(0, 2, total), np.array([3, 2])
    place = coverage_places(rule, features, np.arange(total), groups, quotas, hardness, held)
    sizes = np.bincount(groups[held], minlength=2)
    alone = coverage_places(rule, features, np.arange(n), groups[held], np.minimum(quotas, sizes), hardness[held])
    assert place[held].tolist() == alone.tolist()
    others = np.setdiff1d(np.arange(total), held)
    for group in range(2):
        assert place[others[groups[others] == group]].tolist() == list(
            range(sizes[group], int((groups == group).sum()))
        )


@pytest.mark.parametrize("rule", ["k-center", "herding", "facility-location"])
def test_large_classes_go_without_the_table_to_the_same_end(rule, monkeypatch):
    x = np.random.default_rng(4).normal(size=(50, 5))
    with_table = coverage_places(rule, x, np.arange(50), np.zeros(50, int), np.array([20]))
    monkeypatch.setattr(coverage, "_DENSE", 10)
    without = coverage_places(rule, x, np.arange(50), np.zeros(50, int), np.array([20]))
    assert ((with_table < 20) == (without < 20)).all()


def test_k_center_covers_within_twice_the_best_radius():
    rng = np.random.default_rng(5)
    centres = rng.uniform(-100, 100, (8, 2))
    x = (centres[rng.integers(0, 8, 400)] + rng.uniform(-1, 1, (400, 2))).astype(np.float32)
    picks = x[k_center(x, 8)]
    radius = np.sqrt(((x[:, None] - picks[None]) ** 2).sum(-1)).min(1).max()
    assert radius <= 2 * np.sqrt(2)  # the eight true centres cover all within sqrt(2)
