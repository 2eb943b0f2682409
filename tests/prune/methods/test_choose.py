from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prune.methods.choose import COVERAGE, FLOOR, PROTECTED, QUOTA, RANDOM, Candidates, choose_samples
from prune.methods.coverage import d2
from prune.methods.evidence_votes import CountedVotes
from prune.methods.presets import NAMES, PRESETS, Method, method, rank_parts, winnow
from prune.runs.files import InputError

METHODS = [
    Method("size", "random"),
    Method("threshold", "a:top"),
    Method("equal", "a:bottom"),
    Method("lm", "a:middle"),
    Method("soft", "a:ccs", base=0.5),
    Method("fm-whole", "random"),
    Method("threshold", "a:beta"),
    Method("size", "herding"),
    Method("lm-soft", "a:d2", base=0.3),
    Method("threshold", "a:ccs"),
    Method("threshold", "a:d2"),
    Method("evidence", "a:top", base=0.3),
    Method("evidence", "a:d2"),
]


def problem(seed):
    """A source of up to 60 samples in 4 classes (one may be empty), what must and must not be kept, and a budget."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(4, 60))
    label = rng.integers(0, 4, n)
    eligible = rng.uniform(size=n) < 0.9
    source = Candidates(
        label,
        4,
        {"a": rng.permutation(n).astype(np.float32), "confidence": rng.uniform(size=n)},
        {name: rng.dirichlet(np.ones(4)) for name in ("lm", "lm-soft", "fm", "fm-soft", "soft")},
        eligible,
        eligible & (rng.uniform(size=n) < 0.05),
        rng.normal(size=(n, 3)),
    )
    sizes = np.bincount(label[eligible], minlength=4)
    floor, protected = rng.integers(0, 4, 4), rng.uniform(size=4) < 0.2
    must = np.where(protected, sizes, np.bincount(label[source.always], minlength=4))
    low = np.maximum(must, np.minimum(floor, sizes))
    budget = int(rng.integers(low.sum(), sizes.sum() + 1))
    counts = [{kind: rng.integers(0, 20, 4).astype(float) for kind in ("lm", "fm")} for _ in range(2)]
    return replace(source, counted=CountedVotes(*counts)), floor, protected, sizes, low, budget


@given(st.integers(0, 100_000), st.sampled_from(METHODS))
@settings(max_examples=300)
def test_every_choice_keeps_its_promises(seed, how):
    source, floor, protected, sizes, low, budget = problem(seed)
    found = choose_samples(source, how, budget, floor=floor, protected=protected, seed=seed)
    assert len(found.rows) == budget
    assert np.all(np.diff(found.rows) > 0)
    assert source.eligible[found.rows].all()
    assert np.isin(np.flatnonzero(source.always), found.rows).all()
    kept = np.bincount(source.label[found.rows], minlength=4)
    assert kept.tolist() == found.quotas.tolist()
    assert np.all((kept >= low) & (kept <= sizes))
    assert found.reason.dtype == np.uint8
    assert (found.reason[protected[source.label[found.rows]]] == PROTECTED).all()
    again = choose_samples(source, how, budget, floor=floor, protected=protected, seed=seed)
    assert np.array_equal(found.rows, again.rows)


def named(source):
    """The same source with ids and names of classes."""
    ids = np.array([f"{k}/{i}".encode() for i, k in enumerate(source.label)])
    return replace(source, ids=ids, names=[f"class {k}" for k in range(source.classes)])


def reordered(source, order):
    """The same samples in another order of rows."""
    return replace(
        source,
        label=source.label[order],
        scores={name: values[order] for name, values in source.scores.items()},
        eligible=source.eligible[order],
        always=source.always[order],
        features=source.features[order],
        ids=source.ids[order],
    )


@given(st.integers(0, 100_000), st.sampled_from(METHODS), st.booleans())
@settings(max_examples=300)
def test_no_choice_depends_on_the_order_of_the_samples(seed, how, ties):
    source, floor, protected, _, _, budget = problem(seed)
    source = named(source)
    if ties:
        source = replace(
            source, scores={"a": np.floor(source.scores["a"] / 9), "confidence": np.full(len(source.ids), 0.5)}
        )
    order = np.random.default_rng(seed).permutation(len(source.label))
    found = choose_samples(source, how, budget, floor=floor, protected=protected, seed=seed)
    moved = reordered(source, order)
    other = choose_samples(moved, how, budget, floor=floor, protected=protected, seed=seed)
    assert dict(zip(moved.ids[other.rows], other.reason)) == dict(zip(source.ids[found.rows], found.reason))
    assert np.array_equal(other.quotas, found.quotas)


@given(st.integers(0, 100_000), st.sampled_from(METHODS))
@settings(max_examples=200)
def test_no_choice_depends_on_the_order_of_the_classes(seed, how):
    source, floor, protected, _, _, budget = problem(seed)
    source = named(source)
    order = np.random.default_rng(seed).permutation(4)  # class k becomes order[k]
    back = np.argsort(order)
    moved = replace(
        source,
        label=order[source.label],
        weights={name: values[back] for name, values in source.weights.items()},
        names=[source.names[k] for k in back],
        counted=CountedVotes(
            *({kind: v[back] for kind, v in each.items()} for each in (source.counted.votes, source.counted.chance))
        ),
    )
    found = choose_samples(source, how, budget, floor=floor, protected=protected)
    other = choose_samples(moved, how, budget, floor=floor[back], protected=protected[back])
    assert np.array_equal(other.rows, found.rows)
    assert np.array_equal(other.quotas, found.quotas[back])


@pytest.mark.parametrize("rank", ["a:top", "a:bottom", "a:middle", "a:ccs", "random", "a:beta"])
def test_a_constant_score_selects_uniformly(rank):
    source = Candidates(np.zeros(20, int), 1, {"a": np.ones(20), "confidence": np.full(20, 0.5)})
    hits = np.zeros(20)
    for seed in range(400):
        hits[choose_samples(source, Method("threshold", rank), 5, seed=seed).rows] += 1
    assert np.abs(hits - 100).max() < 35  # 100 expected, standard deviation 8.7


def test_ties_of_a_score_spread_over_classes_that_are_listed_one_after_the_other():
    # Ten classes of 100, 40 of each forgotten once: of the 600 that never were, 100 fill the budget, 10 of each class.
    label = np.repeat(np.arange(10), 100)
    events = np.tile(np.repeat([1.0, 0.0], [40, 60]), 10)
    for seed in range(5):
        kept = choose_samples(
            Candidates(label, 10, {"forgetting": events}), PRESETS["forgetting"], 500, seed=seed
        ).quotas
        assert kept.sum() == 500
        assert np.abs(kept - 50).max() <= 9  # standard deviation 2.7


def test_no_class_is_favoured_by_remainders_or_among_whole_classes():
    label = np.repeat(np.arange(10), 4)
    source = Candidates(label, 10, {}, {"lm": np.ones(10), "lm-soft": np.ones(10)})
    more, whole = np.zeros(10), np.zeros(10)
    for seed in range(300):
        more += choose_samples(source, Method("size", "random"), 13, seed=seed).quotas - 1
        whole += choose_samples(source, PRESETS["dp4tl-lm"], 12, seed=seed).quotas == 4
    assert np.abs(more - 90).max() < 40  # 3 of 10 classes in 300 draws: 90 expected, standard deviation 7.9
    assert np.abs(whole - 90).max() < 40


def test_a_random_draw_of_fewer_samples_is_part_of_a_draw_of_more():
    source = named(problem(7)[0])
    one = choose_samples(source, Method("threshold", "random"), 5, seed=1).rows
    more = choose_samples(source, Method("threshold", "random"), 15, seed=1).rows
    assert set(one) <= set(more)


def test_the_complexity_of_duals_draw_decides_how_easy_its_samples_are():
    # The ten best scores have a confidence of 0.2. At keep 0.3, 1 - 0.7^c is 0.30 for c = 1 and 0.98 for c = 11: beta
    # 3.6 and 11.8, and the density's mean 1 - beta / 16 falls from 0.78 to 0.26.
    rng = np.random.default_rng(0)
    confidence = np.r_[np.full(10, 0.2), rng.uniform(size=4000)]
    dual = np.r_[np.full(10, 0.5), np.full(4000, 0.1)]
    source = Candidates(np.zeros(4010, int), 1, {"dual": dual, "confidence": confidence})
    draw = Method("threshold", "dual:beta")
    means = [
        confidence[choose_samples(replace(source), draw, round(0.3 * 4010), complexity=c, seed=1).rows].mean()
        for c in (1, 4, 11)
    ]
    assert means[0] > means[1] > means[2]


def test_reasons_tell_why_each_sample_stays():
    # LM votes are for class 0 alone; budget 6 of sizes 6, 4, 4; class 2 is protected, class 1 has a floor of 1.
    label = np.repeat([0, 1, 2], [6, 4, 4])
    source = Candidates(label, 3, {"a": np.arange(14.0)}, {"lm": np.array([1.0, 0, 0])}, None, label < 0)
    found = choose_samples(
        source, Method("lm", "a:top"), 8, floor=np.array([0, 1, 0]), protected=np.array([False, False, True])
    )
    assert found.rows.tolist() == [3, 4, 5, 9, 10, 11, 12, 13]
    assert found.reason.tolist() == [QUOTA] * 3 + [FLOOR] + [PROTECTED] * 4
    assert found.score.tolist() == [3, 4, 5, 9, 10, 11, 12, 13]
    drawn = choose_samples(source, Method("lm", "random"), 3)
    assert drawn.reason.tolist() == [RANDOM] * 3
    assert np.isnan(drawn.score).all()
    covered = choose_samples(replace(source, features=np.eye(14)), Method("size", "k-center"), 7)
    assert covered.reason.tolist() == [COVERAGE] * 7


def test_the_hard_end_of_a_score_is_the_scores_own():
    # Half of each is cut as hardest: the large el2n, the small margin.
    source = Candidates(np.zeros(6, int), 1, {"el2n": np.arange(6.0), "margin": np.arange(6.0)})
    assert choose_samples(source, Method("size", "el2n:ccs"), 3, cut=0.5).rows.tolist() == [0, 1, 2]
    assert choose_samples(source, Method("size", "margin:ccs"), 3, cut=0.5).rows.tolist() == [3, 4, 5]


def test_ccs_cuts_inside_each_class_and_ccs_global_over_all():
    # Class 1 is the harder one. A quarter of eight is two: one of each class, or both of class 1.
    label, easiness = np.repeat([0, 1], 4), np.array([0.9, 0.8, 0.7, 0.6, -0.1, -0.2, -0.3, -0.4])
    source = Candidates(label, 2, {"aum-probability": easiness})
    inside = choose_samples(source, PRESETS["ccs"], 6, cut=0.25)
    over_all = choose_samples(source, PRESETS["ccs-global"], 6, cut=0.25)
    assert inside.rows.tolist() == [0, 1, 2, 4, 5, 6]
    assert over_all.rows.tolist() == [0, 1, 2, 3, 4, 5]


@given(st.integers(0, 10_000))
@settings(max_examples=50)
def test_ccs_global_takes_as_many_of_each_stratum_as_algorithm_1_of_the_paper(seed):
    rng = np.random.default_rng(seed)
    n, budget = 600, int(rng.integers(60, 400))
    hardness, label = rng.beta(2, 5, n).astype(np.float32), rng.integers(0, 3, n)
    cut = float(rng.choice([0.0, 0.1, 0.3]))
    found = choose_samples(Candidates(label, 3, {"el2n": hardness}), PRESETS["ccs-global"], budget, cut=cut, seed=seed)
    left = np.sort(hardness)[: n - int(np.floor(cut * n + 1e-9))]
    width = (left[-1] - left[0]) / 50
    stratum = lambda values: np.minimum((values - left[0]) / width, 49).astype(int)  # noqa: E731
    sizes, rest = np.bincount(stratum(left), minlength=50), budget
    wanted = np.zeros(50, int)
    for done, k in enumerate(np.argsort(sizes, kind="stable")):
        wanted[k] = min(sizes[k], rest // (50 - done))
        rest -= wanted[k]
    assert np.bincount(stratum(hardness[found.rows]), minlength=50).tolist() == wanted.tolist()


def test_d2_global_is_d2_of_all_samples_and_keeps_floors():
    rng = np.random.default_rng(3)
    x, label, score = rng.normal(size=(40, 2)), np.repeat([0, 1], [30, 10]), rng.uniform(size=40)
    score[label == 1] = 0.01 * score[label == 1]
    source = Candidates(label, 2, {"el2n": score}, features=x)
    scaled = (score - score.min()) / np.ptp(score)
    found = choose_samples(source, PRESETS["d2-global"], 12)
    assert found.rows.tolist() == sorted(d2(x.astype(np.float32), scaled, 12).tolist())
    kept = choose_samples(source, PRESETS["d2-global"], 12, floor=np.array([0, 6]))
    assert kept.quotas.sum() == 12
    assert kept.quotas[1] >= 6
    with pytest.raises(InputError, match="works inside classes"):
        choose_samples(source, Method("threshold", "k-center"), 12)


def test_ccs_and_d2_use_the_margins_of_probabilities_where_there_are_dynamics():
    for name in ("ccs", "ccs-global", "d2", "d2-global"):
        assert rank_parts(PRESETS[name].rank, {"aum", "aum-probability", "el2n"})[0] == "aum-probability"
        assert rank_parts(PRESETS[name].rank, {"el2n"})[0] == "el2n"


def test_too_much_protection_is_refused_with_the_number():
    source = Candidates(np.zeros(5, int), 1, {}, {}, None, np.array([True, True, True, False, False]))
    with pytest.raises(InputError, match="3 samples are protected and the budget is 2"):
        choose_samples(source, Method("size", "random"), 2)


def test_ranks_name_a_score_of_the_file_or_say_where_to_get_it():
    assert rank_parts("aum/el2n:ccs", {"el2n"}) == ("el2n", "ccs")
    assert rank_parts("aum/el2n:ccs", {"el2n", "aum"}) == ("aum", "ccs")
    assert rank_parts("k-center", ()) == ("", "k-center")
    with pytest.raises(InputError, match="--dynamics"):
        rank_parts("dual:beta", {"dual"})
    with pytest.raises(InputError, match="SCORE:WAY"):
        rank_parts("el2n:best", {"el2n"})


def test_winnow_is_evidence_with_targets_and_by_difficulty_without():
    counted = ["class/fm/pets", "class/fm-chance/pets", "sample/el2n"]
    for keep in (0.05, 0.3, 0.9):
        assert method("winnow", keep, counted) == Method("evidence", "random", without_duplicates=True)
    assert method("winnow", 0.2, ["class/lm/pets"]).quota == "votes-whole"  # a scores file without votes by chance
    assert winnow(0.59, votes="") == Method("size", "el2n/entropy:bottom", without_duplicates=True)
    assert winnow(0.6, votes="") == Method("size", "el2n/entropy:top", without_duplicates=True)
    assert method("winnow", 0.2, ["sample/prototype"]).rank == "prototype:bottom"  # without logits
    assert method("winnow", 0.2, ["sample/prototype", "sample/el2n"]).rank == "el2n/entropy:bottom"
    assert {method(name, 0.5) for name in PRESETS} == set(PRESETS.values())
    assert set(NAMES) == {*PRESETS, "winnow"}
