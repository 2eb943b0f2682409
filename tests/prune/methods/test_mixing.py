"""Mixes: parts of the budget filled in turn, by cases worked out by hand and by laws over all methods."""

from collections import Counter
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prune.index.pruned_index import REASONS
from prune.methods.choose import Candidates, choose_samples
from prune.methods.evidence_votes import CountedVotes
from prune.methods.mixing import Part, choose_mixed, mix_reasons, parse_mix, part_budgets
from prune.methods.presets import NAMES, PRESETS, Method, method
from prune.runs.files import InputError
from prune.scores.score_table import BY_NAME


def mix(**shares):
    """Parts by the names of their methods; `lm` and `domain` as on the command line."""
    text = ",".join(f"{name.replace('_', '-')}:{share}" for name, share in shares.items())
    return [Part(one.name, one.share, PRESETS[one.method]) for one in parse_mix(text)]


def why(found):
    """Names of the reasons of the kept samples, by row."""
    return {int(row): found.reason_names[code] for row, code in zip(found.rows, found.reason)}


def test_a_mix_is_read_in_the_order_in_which_it_is_filled():
    found = [(one.name, one.method, one.share) for one in parse_mix("lm:0.5, domain:0.3,random:0.2")]
    assert found == [
        ("lm", "dp4tl-lm", Fraction(1, 2)),
        ("domain", "gate", Fraction(3, 10)),
        ("random", "random", Fraction(1, 5)),
    ]
    assert [one.method for one in parse_mix("fm:0.1,winnow:0.9")] == ["dp4tl-fm", "winnow"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "NAME:SHARE"),
        ("lm", "NAME:SHARE"),
        ("lm:0.5,", "NAME:SHARE"),
        ("best:1", "no method 'best'; there are lm, fm, domain, random"),
        ("lm:0.5,dp4tl-lm:0.5", "names dp4tl-lm twice"),
        ("lm:0.5,random:0.4", "sum to 0.9"),
        ("lm:0.5,random:0.6", "sum to 1.1"),
        ("lm:0,random:1", "share '0'"),
        ("lm:-0.5,random:1", "share '-0.5'"),
        ("lm:half,random:0.5", "share 'half'"),
        ("lm:nan,random:0.5", "share 'nan'"),
        ("lm:1e999999999,random:0.5", "share '1e999999999'"),
    ],
)
def test_a_mistake_in_a_mix_is_named(text, message):
    with pytest.raises(InputError, match=message):
        parse_mix(text)


def test_parts_are_whole_numbers_by_largest_remainder_and_the_earlier_wins_a_tie():
    half, three, two = Fraction(1, 2), Fraction(3, 10), Fraction(1, 5)
    assert part_budgets([half, three, two], 10) == [5, 3, 2]
    assert part_budgets([half, three, two], 7) == [4, 2, 1]  # 3.5, 2.1, 1.4
    assert part_budgets([half, three, two], 4) == [2, 1, 1]  # 2, 1.2, 0.8
    assert part_budgets([half, half], 5) == [3, 2]
    assert part_budgets([half, three, two], 0) == [0, 0, 0]
    assert part_budgets([Fraction("0.29"), Fraction("0.71")], 100) == [29, 71]  # 0.29 * 100 is below 29 in binary


def test_each_part_keeps_the_best_of_what_the_parts_before_it_left():
    # Class 1 (rows 6 to 9) has all votes, and the best odds. LM takes it whole; the odds then take 5, 4, 3.
    label = np.repeat([0, 1], [6, 4])
    source = Candidates(label, 2, {"domain": np.arange(10.0)}, {"lm": np.array([0.0, 9]), "lm-soft": np.zeros(2)})
    found = choose_mixed(source, mix(lm=0.5, domain=0.375, random=0.125), 8)
    assert found.rows[-7:].tolist() == [3, 4, 5, 6, 7, 8, 9]
    assert Counter(why(found).values()) == {"lm": 4, "domain": 3, "random": 1}
    assert {row for row, name in why(found).items() if name == "domain"} == {3, 4, 5}
    assert np.isnan(found.score[[0, 4, 5, 6, 7]]).all()  # LM and random rank by no score
    assert found.score[1:4].tolist() == [3, 4, 5]
    assert found.quotas.tolist() == [4, 4]
    # Half by votes: all to class 1. 3/8 and 1/8 by the sizes that are left, 6 and 0, then 3 and 0.
    assert found.weight.tolist() == [0.5, 0.5]
    assert found.available.tolist() == [6, 4]
    # The odds first: 9, 8, 7, and LM has but one image of its class left.
    turned = choose_mixed(source, mix(domain=0.375, lm=0.5, random=0.125), 8)
    assert {row for row, name in why(turned).items() if name == "domain"} == {7, 8, 9}
    assert why(turned)[6] == "lm"


def test_reasons_of_a_mix_follow_those_of_every_index():
    assert mix_reasons(["lm", "random", "el2n"]) == (*REASONS, "lm", "el2n")


def test_the_last_parts_meet_the_floors_and_earlier_ones_only_what_these_cannot():
    # Class 2 has no votes and the lowest scores, and a floor of two.
    label = np.repeat([0, 1, 2], [6, 4, 2])
    source = Candidates(
        label, 3, {"el2n": np.arange(12.0)[::-1]}, {"lm": np.array([9.0, 1, 0]), "lm-soft": np.zeros(3)}
    )
    floor = np.array([0, 0, 2])
    found = choose_mixed(source, mix(lm=0.5, el2n=0.5), 8, floor=floor)
    # Four by votes, of class 0; el2n has four: two for the floor, and the two of class 0 that are left are its best.
    assert found.quotas.tolist() == [6, 0, 2]
    assert Counter(why(found).values()) == {"lm": 4, "el2n": 2, "floor": 2}
    assert {row for row, name in why(found).items() if name == "floor"} == {10, 11}
    # One eighth of eight is one: el2n can meet half of the floor, and LM must do the rest.
    short = choose_mixed(source, mix(lm=0.875, el2n=0.125), 8, floor=floor)
    assert short.quotas.tolist() == [6, 0, 2]
    assert Counter(why(short).values()) == {"lm": 6, "floor": 2}
    # What a part keeps anyway meets the floor too.
    free = choose_mixed(source, mix(lm=0.5, el2n=0.5), 8, floor=np.array([4, 0, 0]))
    assert Counter(why(free).values()) == {"lm": 4, "el2n": 4}


def test_protected_and_always_kept_samples_belong_to_no_part():
    label = np.repeat([0, 1], [6, 4])
    always = np.arange(10) == 0
    source = Candidates(label, 2, {"el2n": np.arange(10.0)}, {}, None, always)
    found = choose_mixed(source, mix(el2n=0.5, random=0.5), 9, protected=np.array([False, True]))
    # Five are kept anyway; of the other four, el2n has the highest of class 0, rows 4 and 5.
    assert {row for row, name in why(found).items() if name == "protected"} == {0, 6, 7, 8, 9}
    assert {row for row, name in why(found).items() if name == "el2n"} == {4, 5}
    assert Counter(why(found).values())["random"] == 2
    with pytest.raises(InputError, match="5 samples are protected and the budget is 4"):
        choose_mixed(source, mix(el2n=0.5, random=0.5), 4, protected=np.array([False, True]))


def test_classes_of_one_image_and_unknown_scores_are_mixed_like_any_other():
    source = Candidates(np.arange(6), 6, {"el2n": np.array([np.nan, 3, np.nan, 1, np.nan, 2])})
    found = choose_mixed(source, mix(el2n=0.5, random=0.5), 4)
    assert {row for row, name in why(found).items() if name == "el2n"} == {1, 5}
    assert len(set(found.rows)) == 4
    # Of two known scores after these, and three unknown: the unknown fill what is left of the budget.
    assert set(choose_mixed(source, mix(el2n=1), 5).rows) >= {1, 3, 5}
    assert choose_mixed(source, mix(el2n=0.5, random=0.5), 6).rows.tolist() == [0, 1, 2, 3, 4, 5]


METHODS = [*PRESETS, "winnow", "lm", "soft", "middle"]
FURTHER = {
    "lm": Method("lm", "el2n:top", base=0.3),
    "soft": Method("soft", "el2n:ccs", base=0.5),
    "middle": Method("equal", "el2n:middle"),
}


def problem(seed, first, second):
    """A source of up to 60 samples in 5 classes, one of a single image, with gaps, and parts of two methods."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(6, 60))
    label = rng.integers(0, 4, n)
    label[0] = 4
    eligible = rng.uniform(size=n) < 0.9
    scores = {}
    for name in (*BY_NAME, "domain", "confidence"):
        values = np.floor(rng.uniform(size=n) * 20).astype(np.float32)  # with ties
        scores[name] = np.where(rng.uniform(size=n) < 0.1, np.nan, values)
    votes = ("lm", "lm-soft", "fm", "fm-soft", "soft", "votes", "votes-soft")
    source = Candidates(
        label,
        5,
        scores,
        {name: rng.dirichlet(np.ones(5)) for name in votes},
        eligible,
        eligible & (rng.uniform(size=n) < 0.05),
        rng.normal(size=(n, 3)),
        np.array([f"{k}/{i}".encode() for i, k in enumerate(label)]),
        [f"class {k}" for k in range(5)],
    )
    sizes = np.bincount(label[eligible], minlength=5)
    floor, protected = rng.integers(0, 3, 5), rng.uniform(size=5) < 0.2
    must = np.where(protected, sizes, np.bincount(label[source.always], minlength=5))
    low = np.maximum(must, np.minimum(floor, sizes))
    budget = int(rng.integers(low.sum(), sizes.sum() + 1))
    share = Fraction(int(rng.integers(1, 10)), 10)
    counts = [{kind: rng.uniform(0, 20, 5) for kind in ("lm", "fm")} for _ in range(2)]
    source = replace(source, counted=CountedVotes(*counts))
    given_scores = ["class/x", *(f"sample/{name}" for name in scores)]
    parts = [
        Part(f"part {k}", one, FURTHER.get(name) or method(name, 0.3, given_scores))
        for k, (name, one) in enumerate(((first, share), (second, 1 - share)))
    ]
    return source, parts, budget, floor, protected, low, int(must.sum())


cases = given(st.integers(0, 100_000), st.sampled_from(METHODS), st.sampled_from(METHODS))


@cases
@settings(max_examples=300, deadline=None)
def test_every_mix_keeps_its_promises(seed, first, second):
    source, parts, budget, floor, protected, low, must = problem(seed, first, second)
    found = choose_mixed(source, parts, budget, floor=floor, protected=protected, seed=seed)
    assert len(found.rows) == budget
    assert np.all(np.diff(found.rows) > 0)  # no sample is in two parts
    assert source.eligible[found.rows].all()
    assert np.isin(np.flatnonzero(source.always), found.rows).all()
    kept = np.bincount(source.label[found.rows], minlength=5)
    assert kept.tolist() == found.quotas.tolist()
    assert np.all((kept >= low) & (kept <= found.available))
    reasons = Counter(why(found).values())
    assert reasons["protected"] == must
    own = part_budgets([part.share for part in parts], budget - must)
    for part, most in zip(parts, own):
        assert reasons[part.name] <= most
    assert sum(reasons[part.name] for part in parts) + reasons["floor"] == budget - must
    if budget > must:
        assert found.weight.sum() == pytest.approx(1)


@cases
@settings(max_examples=200, deadline=None)
def test_no_mix_depends_on_the_order_of_the_samples(seed, first, second):
    source, parts, budget, floor, protected, *_ = problem(seed, first, second)
    order = np.random.default_rng(seed).permutation(len(source.label))
    moved = replace(
        source,
        label=source.label[order],
        scores={name: values[order] for name, values in source.scores.items()},
        eligible=source.eligible[order],
        always=source.always[order],
        features=source.features[order],
        ids=source.ids[order],
    )
    one, other = (
        choose_mixed(each, parts, budget, floor=floor, protected=protected, seed=seed) for each in (source, moved)
    )
    assert dict(zip(source.ids[one.rows], one.reason)) == dict(zip(moved.ids[other.rows], other.reason))


@cases
@settings(max_examples=200, deadline=None)
def test_no_mix_depends_on_the_order_of_the_classes(seed, first, second):
    source, parts, budget, floor, protected, low, _ = problem(seed, first, second)
    order = np.random.default_rng(seed).permutation(5)  # class k becomes order[k]
    back = np.argsort(order)
    moved = replace(
        source,
        label=order[source.label],
        weights={name: values[back] for name, values in source.weights.items()},
        counted=CountedVotes(
            *({kind: v[back] for kind, v in each.items()} for each in (source.counted.votes, source.counted.chance))
        ),
        names=[source.names[k] for k in back],
    )
    for most in {budget, int(low.sum())}:  # with the least budget, every part shares the floors with those behind it
        one = choose_mixed(source, parts, most, floor=floor, protected=protected)
        other = choose_mixed(moved, parts, most, floor=floor[back], protected=protected[back])
        assert np.array_equal(other.rows, one.rows)
        assert np.array_equal(other.reason, one.reason)


@cases
@settings(max_examples=200, deadline=None)
def test_the_first_part_keeps_what_its_method_alone_keeps_of_such_a_budget(seed, first, second):
    source, parts, budget, *_ = problem(seed, first, second)
    source = replace(source, always=None)
    own = part_budgets([part.share for part in parts], budget)[0]
    found = choose_mixed(source, parts, budget, seed=seed)
    mine = found.rows[found.reason == found.reason_names.index("part 0")]
    assert mine.tolist() == choose_samples(source, parts[0].method, own, seed=seed).rows.tolist()


@pytest.mark.parametrize("name", NAMES)
def test_a_mix_of_one_method_keeps_what_the_method_keeps(name):
    source, _, budget, floor, *_ = problem(3, name, name)
    source = replace(source, always=None)
    how = method(name, 0.3, ["class/x", *(f"sample/{score}" for score in source.scores)])
    alone = choose_samples(source, how, budget, floor=floor, seed=5)
    mixed = choose_mixed(source, [Part(name, Fraction(1), how)], budget, floor=floor, seed=5)
    assert mixed.rows.tolist() == alone.rows.tolist()
    assert np.array_equal(mixed.score, alone.score, equal_nan=True)
    assert mixed.quotas.tolist() == alone.quotas.tolist()
    assert np.allclose(mixed.weight, alone.weight)
