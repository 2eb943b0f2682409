import numpy as np
import pytest

from prune.runs.files import InputError
from prune.scores.domain import area_under_curve, domain_scores


def world(share, *, n=6000, m=1500, far=24.0, shift=0.5, d=16, seed=0):
    """A source of which `share` is the target's domain and the rest lies in three others; and the target."""
    rng = np.random.default_rng(seed)
    domain = np.where(rng.random(n) < share, 0, rng.integers(1, 4, n))
    middles = np.zeros((4, d))
    middles[[1, 2, 3], [0, 1, 2]] = far
    source = rng.normal(size=(n, d)) + middles[domain]
    target = rng.normal(size=(m, d)) + shift * np.eye(d)[5]
    return source.astype(np.float16), target.astype(np.float16), domain


def test_area_under_the_curve_counts_pairs_and_halves_ties():
    # Of the four pairs, 1 > 0, 2 > 0 and 2 > 1, and 1 ties with 1.
    assert area_under_curve(np.array([0.0, 1.0]), np.array([1.0, 2.0]))[0] == pytest.approx(3.5 / 4)
    # The image at 1 beats three quarters, the one at 2 all: three to one.
    weighted = area_under_curve(np.array([0.0, 1.0]), np.array([1.0, 2.0]), np.array([3.0, 1.0]))[0]
    assert weighted == pytest.approx(0.75 * 0.75 + 0.25)
    assert area_under_curve(np.array([0.0, np.nan]), np.array([np.nan, -1.0]))[0] == 0.0


def test_standard_error_of_the_area_is_that_of_repeated_draws():
    rng = np.random.default_rng(1)
    found = [area_under_curve(rng.normal(size=80), 1 + rng.normal(size=40)) for _ in range(300)]
    areas, errors = np.array(found).T
    assert errors.mean() == pytest.approx(areas.std(), rel=0.15)


def test_odds_are_the_log_density_ratio_where_it_is_known():
    # Two normal distributions a distance of 1 apart: the log ratio of their densities is x - 1/2 along it.
    rng = np.random.default_rng(0)
    source, target = rng.normal(size=(8000, 4)), rng.normal(size=(8000, 4)) + np.eye(4)[0]
    odds = domain_scores(source, {"pets": target}).source["domain/pets"]
    slope, constant = np.polyfit(source[:, 0] - 0.5, odds, 1)
    assert (slope, constant) == pytest.approx((1.0, 0.0), abs=0.08)
    assert np.corrcoef(source[:, 0], odds)[0, 1] > 0.99


def test_images_are_scored_by_models_that_did_not_see_them():
    # More features than images: a model tells apart what it saw however alike the sets are.
    rng = np.random.default_rng(0)
    source, target = rng.normal(size=(150, 400)), rng.normal(size=(150, 400))
    scores = domain_scores(source, {"pets": target})
    area, error = area_under_curve(scores.source["domain"], scores.targets["domain"])
    assert abs(area - 0.5) < 3 * error


def test_the_target_s_domain_scores_above_the_others():
    source, target, domain = world(0.3)
    odds = domain_scores(source, {"pets": target}).source["domain"]
    assert area_under_curve(odds[domain > 0], odds[domain == 0])[0] > 0.99


def test_a_source_image_that_looks_like_one_target_is_not_outvoted_by_the_others():
    source, target, domain = world(0.3)
    signs = target.astype(np.float32)
    signs[:, 7:9] += 15.0  # like nothing in the source
    scores = domain_scores(source, {"pets": target, "signs": signs, "more signs": signs[::-1]})
    each = np.stack([scores.source[f"domain/{name}"] for name in ("pets", "signs", "more signs")])
    assert np.allclose(scores.source["domain"], np.log(np.exp(each.astype(np.float64)).mean(axis=0)), atol=1e-4)
    assert area_under_curve(scores.source["domain"][domain > 0], scores.source["domain"][domain == 0])[0] > 0.99


def test_targets_count_the_same_whatever_their_size():
    source, target, _ = world(0.5, n=400)
    weights = domain_scores(source, {"a": target[:30], "b": target}).weights["domain"]
    assert weights.sum() == pytest.approx(1.0)
    assert weights[:30].sum() == pytest.approx(0.5)


def test_scores_follow_the_ids_in_any_order_of_the_rows():
    source, target, _ = world(0.4, n=3000, m=700)
    keys = np.random.default_rng(3).integers(0, 2**63, len(source), dtype=np.uint64)
    target_keys = np.arange(len(target), dtype=np.uint64)
    there, back = np.random.default_rng(4).permutation(len(source)), np.random.default_rng(5).permutation(len(target))
    plain = domain_scores(source, {"t": target}, keys=keys, target_keys={"t": target_keys}, sample=500)
    mixed = domain_scores(
        source[there], {"t": target[back]}, keys=keys[there], target_keys={"t": target_keys[back]}, sample=500
    )
    assert np.allclose(plain.source["domain"][there], mixed.source["domain"], atol=1e-5)
    assert np.allclose(plain.targets["domain"][back], mixed.targets["domain"], atol=1e-5)


def test_scores_do_not_depend_on_the_number_of_threads():
    source, target, _ = world(0.4, n=5000)
    one, three = (domain_scores(source, {"t": target}, workers=k).source["domain"] for k in (1, 3))
    assert np.array_equal(one, three)


def test_images_without_features_score_nan_and_change_nothing_for_the_others():
    source, target, _ = world(0.4, n=900)
    keys = np.arange(900, dtype=np.uint64)
    plain = domain_scores(source[:600], {"t": target}, keys=keys[:600])
    source[600:] = np.nan
    holed = domain_scores(source, {"t": target}, keys=keys)
    assert np.isnan(holed.source["domain"][600:]).all()
    assert np.isfinite(holed.source["domain"][:600]).all()
    assert np.corrcoef(plain.source["domain"], holed.source["domain"][:600])[0, 1] > 0.98  # other folds


def test_constant_features_and_large_offsets_do_no_harm():
    source, target, domain = world(0.4, n=2000)
    wide = [
        np.c_[x.astype(np.float32), np.full(len(x), 7.0), x[:, :1].astype(np.float32) + 3000] for x in (source, target)
    ]
    odds = domain_scores(wide[0], {"t": wide[1]}).source["domain"]
    assert area_under_curve(odds[domain > 0], odds[domain == 0])[0] > 0.99


def test_what_cannot_be_scored_is_refused():
    source, target, _ = world(0.4, n=50)
    with pytest.raises(InputError, match="--targets"):
        domain_scores(source, {})
    with pytest.raises(InputError, match="target t: 3 images"):
        domain_scores(source, {"t": target[:3]})
    with pytest.raises(InputError, match="target t: 15 features, the source has 16"):
        domain_scores(source, {"t": target[:, :15]})
    with pytest.raises(InputError, match="1 folds"):
        domain_scores(source, {"t": target}, folds=1)
    with pytest.raises(InputError, match="at least 4 source images"):
        domain_scores(np.full((9, 16), np.nan), {"t": target})
