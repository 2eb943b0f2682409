import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prune.methods.class_vote_shrinkage import (
    beyond_votes,
    evidence,
    explained,
    fill_rest,
    passing_votes,
    shrunk_shares,
    vote_quotas,
    warnings,
)
from prune.methods.gate import gate_width, passes
from prune.methods.quota import whole_classes
from prune.methods.rank import places
from prune.runs.files import InputError
from prune.scores.chance_votes import votes_against_chance
from prune.scores.class_votes import class_means, squared_distances, votes
from prune.scores.domain import domain_scores


def test_what_chance_explains_is_taken_off():
    # Ratios 0.5, 0.5 and 3: a quarter of the 100 chance votes lies at 0.5. Left are 30 - 30, 10 - 10 and 60 - 10.
    lm, by_chance = np.array([30.0, 10, 60]), np.array([60.0, 20, 20])
    assert explained(lm, by_chance) == 0.5
    assert evidence({"lm": lm}, {"lm": by_chance}) == pytest.approx(np.array([3, 1, 50]) / 54)
    assert evidence({"lm": lm}, {}) == pytest.approx(lm / 100)


def test_chance_explains_at_most_all_and_nothing_where_it_is_unknown():
    assert explained(np.array([80.0, 20]), np.array([50.0, 50])) == pytest.approx(0.4)
    assert explained(np.array([100.0, 100]), np.array([50.0, 50])) == 1.0
    assert explained(np.array([5.0, 5]), np.array([2.0, 2])) == 0.0


def test_what_both_kinds_of_votes_name_comes_before_what_one_names_and_that_before_nothing():
    found = evidence({"lm": np.array([50.0, 50, 0, 0]), "fm": np.array([50.0, 0, 50, 0])}, {})
    assert found[0] > found[1] == pytest.approx(found[2])
    assert found[2] > found[3] == 0
    assert found.sum() == pytest.approx(1.0)


def test_few_votes_are_shrunk_much_and_many_little():
    # Four classes: the prior counts for two votes, 0.5 for each.
    assert shrunk_shares(np.array([2.0, 0, 0, 0]), np.ones(4)) == pytest.approx([0.625, 0.125, 0.125, 0.125])
    many = shrunk_shares(np.array([2000.0, 0, 0, 0]), np.ones(4))
    assert many[0] == pytest.approx(2000.5 / 2002)
    assert shrunk_shares(np.array([1.0, 1]), np.array([3.0, 1]), strength=2) == pytest.approx([2.5 / 4, 1.5 / 4])
    assert shrunk_shares(np.zeros(2), np.array([3.0, 1])) == pytest.approx([0.75, 0.25])


def test_no_class_comes_in_whole_on_a_handful_of_votes():
    # 3 of 1,000 votes: 10 times 0.3 % of 1,000 images are 30, of a class of 5,000.
    counted = np.array([900.0, 97, 3])
    quotas = vote_quotas(counted / 1000, counted / 1000, np.array([200, 300, 5000]), 1000)
    assert quotas.tolist() == [200, 300, 30]
    assert whole_classes(counted, counted, np.array([200, 300, 5000]), 1000).tolist() == [200, 300, 500]


def test_quotas_serve_floors_first_and_stop_at_the_budget():
    found, sizes = np.array([0.5, 0.3, 0.2, 0.0]), np.array([50, 50, 50, 50])
    assert vote_quotas(found, found, sizes, 70).tolist() == [50, 20, 0, 0]
    assert vote_quotas(found, found, sizes, 70, floor=5).tolist() == [50, 10, 5, 5]
    assert vote_quotas(found, found, sizes, 70, multiple=1).tolist() == [35, 21, 14, 0]
    assert vote_quotas(np.ones(2), np.ones(2), np.array([9, 9]), 9, ties=np.array([1, 0])).tolist() == [0, 9]
    with pytest.raises(InputError, match="floors need 200"):
        vote_quotas(found, found, sizes, 70, floor=50)


@given(
    st.lists(st.tuples(st.integers(0, 60), st.integers(0, 30)), min_size=1, max_size=12),
    st.floats(0, 1),
    st.floats(1, 20),
    st.integers(0, 3),
)
def test_quotas_lie_between_floors_and_the_multiple_of_the_votes(classes, share, multiple, floor):
    size, counted = np.array(classes).T
    floors = np.minimum(size, floor)
    budget = int(floors.sum() + share * (size.sum() - floors.sum()))
    shares = shrunk_shares(counted, size + 1.0)
    quotas = vote_quotas(evidence({"lm": counted.astype(float)}, {}), shares, size, budget, floor, multiple=multiple)
    assert quotas.sum() <= budget
    assert (quotas >= floors).all()
    assert (quotas <= np.maximum(floors, np.minimum(size, multiple * shares * budget + 1e-6))).all()


def test_the_rest_goes_to_the_best_images_of_any_class():
    kept = np.array([True, False, False, False, False])
    criterion = np.array([9.0, 1.0, np.nan, 3.0, 1.0])
    assert np.flatnonzero(fill_rest(kept, criterion, 2)).tolist() == [0, 3]
    assert np.flatnonzero(fill_rest(kept, criterion, 3, keys=np.array([0, 2, 0, 0, 1]))).tolist() == [0, 3, 4]
    may = np.array([True, True, True, False, True])
    assert np.flatnonzero(fill_rest(kept, criterion, 4, may)).tolist() == [0, 1, 2, 4]
    assert fill_rest(kept, criterion, 1).tolist() == kept.tolist()


def test_votes_count_by_the_part_of_the_class_that_passes_the_gate():
    assert passing_votes(np.array([10, 10, 4]), np.array([100, 50, 0]), np.array([100, 5, 0])).tolist() == [10, 1, 0]


def test_a_report_says_where_votes_and_kept_images_part():
    # Class "digits" has 1 % of the votes and 60 % of the images: 50 % are beyond ten times its votes.
    assert beyond_votes(np.array([99.0, 1]), np.array([40, 60])).tolist() == pytest.approx([0, 0.5])
    (text,) = warnings(np.array([99.0, 1]), np.array([40, 60]), ["cats", "digits"])
    assert "50% of the kept images" in text
    assert "digits" in text
    assert warnings(np.array([90.0, 10]), np.array([40, 60]), ["cats", "digits"]) == []
    (weak,) = warnings(np.array([1.0]), np.array([1]), ["cats"], ["pets"])
    assert "pets" in weak
    assert "too weak" in weak


# Simulated pools: what a kept image is worth is known.

NATURAL, RELEVANT = 0.4, 1.0
"""Worth of an image of the target's domain and of one of its classes; images of other domains are worth nothing."""


def pool(seed, apart, large):
    """A pool of 60 classes in four domains, features of a surrogate, and a target of ten of the classes.

    Sizes are drawn over three decades. `apart` is the distance of classes of one domain in standard deviations of the
    features, and decides how often the surrogate errs. `large`: classes of other domains are larger than natural ones.
    2 % of the target's images are of any class.
    """
    rng = np.random.default_rng(seed)
    c, d, m = 60, 24, 600
    domain = np.where(np.arange(c) < 24, 0, 1 + np.arange(c) % 3)
    middles = rng.normal(size=(4, d))
    middles *= 40 / np.linalg.norm(middles, axis=1, keepdims=True)
    middles = middles[domain] + apart * rng.normal(size=(c, d))
    low, high = (np.where(domain == 0, 2, 60), np.where(domain == 0, 400, 2000)) if large else (2, 2000)
    sizes = np.exp(rng.uniform(np.log(low), np.log(high), c)).astype(int)
    label = np.repeat(np.arange(c), sizes)
    features = (middles[label] + rng.normal(size=(len(label), d))).astype(np.float32)
    # The head knows the classes' middles from a tenth of their images, and favours large classes as a trained one does.
    learnt = middles + rng.normal(size=(c, d)) / np.sqrt(np.maximum(1, sizes // 10))[:, None]

    def logits(x):
        return np.log(sizes / len(label)) - squared_distances(x, learnt) / 2

    relevant = rng.choice(24, 10, replace=False)
    odd, share = rng.random(m) < 0.02, rng.dirichlet(np.full(10, 2))
    shown = np.where(odd, rng.integers(0, c, m), rng.choice(relevant, m, p=share))
    target = middles[shown] + 0.3 * rng.normal(size=d) + rng.normal(size=(m, d))
    worth = np.where(domain == 0, NATURAL, 0.0)
    worth[relevant] = RELEVANT
    right = np.bincount(label, logits(features).argmax(axis=1) == label, minlength=c)
    return sizes, label, features, target, logits, worth[label], np.mean(right / sizes)


def draw(quotas, label, rng, may):
    """Samples drawn by the quotas of their classes among those that may be kept, (n,) bool."""
    place, _ = places(rng.random(len(label)) + ~may, label)
    return place < quotas[label]


def worths(seed, apart, large, share):
    """Mean worth of what LM, FM, the gate alone and evidence inside the gate keep, and the surrogate's accuracy."""
    sizes, label, features, target, logits, worth, accuracy = pool(seed, apart, large)
    rng = np.random.default_rng(seed)
    budget = int(share * (worth > 0).sum())
    means = class_means(features, label, len(sizes))
    preferences = {"lm": logits, "fm": lambda x: -squared_distances(x, means)}
    counted = {kind: votes(preference(target)) for kind, preference in preferences.items()}
    chance = {kind: votes_against_chance(target, p, rounds=3).votes for kind, p in preferences.items()}
    scores = domain_scores(features, {"t": target})
    odds = scores.source["domain"]
    width = gate_width(odds, scores.targets["domain"]).width
    may = passes(odds, max(width, budget / len(label)))
    passing = np.bincount(label[may], minlength=len(sizes))

    through = {kind: passing_votes(counted[kind], sizes, passing) for kind in counted}
    shares = shrunk_shares(sum(through.values()), sum(chance.values()))
    quotas = vote_quotas(evidence(through, chance), shares, passing, budget)
    ours = fill_rest(draw(quotas, label, rng, may), odds, budget, may)
    kept = [draw(whole_classes(v, v, sizes, budget), label, rng, np.full(len(label), True)) for v in counted.values()]
    gate = np.zeros(len(label), bool)
    gate[rng.choice(np.flatnonzero(may), budget, replace=False)] = True
    assert all(found.sum() == budget for found in (*kept, gate, ours))
    return [worth[found].mean() for found in (*kept, gate, ours)], accuracy


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize(("apart", "accuracy"), [(0.17, 0.1), (0.31, 0.2), (0.55, 0.4), (1.05, 0.8)])
@pytest.mark.parametrize("share", [0.3, 0.7])
def test_in_simulated_pools_evidence_inside_the_gate_is_never_below_the_best_of_lm_fm_and_the_gate(
    apart, accuracy, large, share
):
    found, accuracies = zip(*(worths(seed, apart, large, share) for seed in range(20)))
    *others, ours = np.array(found).T
    assert np.mean(accuracies) == pytest.approx(accuracy, abs=0.16)
    for other in others:
        apart_by = ours - other
        assert apart_by.mean() > -2 * apart_by.std(ddof=1) / np.sqrt(len(apart_by))
