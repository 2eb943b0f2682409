"""The table of scores: every row's hard end is the hard one, and a new score takes a function and a row."""

from pathlib import Path

import numpy as np
import pytest

from prune import score, selection
from prune.methods import presets
from prune.methods.choose import Candidates, choose_samples
from prune.methods.presets import Method, rank_parts
from prune.runs.files import InputError
from prune.scores import difficulty, score_table
from prune.scores.label_errors import suspects
from prune.scores.one_pass import one_pass
from prune.scores.sample_keys import sample_keys
from prune.scores.score_table import BY_NAME, SCORES, Score, compute, hardness, names
from prune.scores.training_dynamics import all_scores
from prune.scores.zcore import zcore

EASY, HARD = 0, 1


def logit_scores():
    """Of two samples of class 0 the surrogate is sure of the first, and torn between all classes at the second."""
    logits, labels = np.array([[9.0, 0, 0], [0.1, 0.2, 0.1], [0, 9, 0], [0, 0, 9]]), np.array([0, 0, 1, 2])
    _, doubt = suspects(logits, labels, 3, np.arange(3))
    return difficulty.difficulty(logits, labels, np.ones(4)) | {"suspicion": doubt}


def dynamics_scores():
    """Six epochs of two samples: one is right from the start, one goes from right to wrong and back."""
    p = np.array([[0.90, 0.6], [0.92, 0.2], [0.91, 0.6], [0.92, 0.1], [0.91, 0.5], [0.92, 0.1]])
    return all_scores(p, np.log(p / (1 - p)), (p > 0.5).astype(np.uint8), classes=2)


def distance_scores():
    """Two bundles of 40 samples in two classes; the second sample of each class lies far from its bundle.

    The target looks like the bundles.
    """
    x = np.repeat([[10.0, 0.0], [0.0, 10.0]], 40, axis=0) + 0.1 * np.random.default_rng(0).normal(size=(80, 2))
    x[[1, 41]] = [[-3.0, -9.0], [-9.0, -4.0]]
    label = np.repeat([0, 1], 40)
    found = one_pass(x, np.zeros((80, 0)), label, 2, None)
    targets, centre = [x[[10, 50]]], x.mean(axis=0)
    given = {"features": x, "labels": label, "means": found.means, "classes": 2, "targets": targets, "centre": centre}
    also = score_table.ALSO
    return compute("features", given, also) | compute("targets", given, also)


CASES = {"logits": logit_scores, "dynamics": dynamics_scores, "features": distance_scores, "targets": distance_scores}


@pytest.mark.parametrize("row", [row for row in SCORES if row.hard], ids=lambda row: row.name)
def test_the_hard_end_of_a_score_is_the_one_that_the_table_names(row):
    values = CASES[row.source]()[row.name]
    above = values[HARD] > values[EASY]
    assert values[HARD] != values[EASY]
    assert row.hard == ("high" if above else "low")
    hard = hardness(row.name, values)
    assert hard[HARD] > hard[EASY]


@pytest.mark.parametrize("row", [row for row in SCORES if row.hard], ids=lambda row: row.name)
def test_ccs_cuts_the_hard_end_of_every_score(row):
    # A third of three is cut; the hardest value is the largest or the smallest.
    values = np.array([1.0, 2.0, 3.0])
    source = Candidates(np.zeros(3, int), 1, {row.name: values})
    kept = choose_samples(source, Method("size", f"{row.name}:ccs"), 2, cut=0.34)
    assert kept.rows.tolist() == ([0, 1] if row.hard == "high" else [1, 2])


def test_every_score_has_its_own_name_and_a_paper():
    assert len(BY_NAME) == len(SCORES)
    assert all(row.paper for row in SCORES)


def test_help_of_score_and_select_lists_every_score_and_every_method():
    for row in SCORES:
        assert f"    {row.name} " in score.__doc__, row.name
        assert row.paper in score.__doc__
    for name in presets.NAMES:
        assert f"    {name} " in selection.__doc__, name
    assert all(method.paper for method in presets.PRESETS.values())


def test_a_score_whose_input_is_missing_is_skipped():
    assert set(difficulty.difficulty(np.zeros((2, 3)), None, np.ones(2))) == {"entropy", "margin", "least-confidence"}
    assert compute("features", {"labels": np.zeros(2, int)}, score_table.ALSO) == {}


def test_a_new_score_is_one_function_and_one_row(monkeypatch):
    def gini(p):
        return 1 - np.square(p).sum(axis=1)

    monkeypatch.setattr(difficulty, "gini", gini, raising=False)
    row = Score("gini", "logits", "difficulty.gini", "high", "Gini impurity")
    monkeypatch.setattr(score_table, "SCORES", (*SCORES, row))
    monkeypatch.setitem(BY_NAME, "gini", row)
    found = difficulty.difficulty(np.log([[0.5, 0.5], [0.9, 0.1]]), np.zeros(2, int), np.ones(2))
    assert found["gini"] == pytest.approx([0.5, 0.18], rel=1e-5)
    assert "gini" in score_table.described()
    assert rank_parts("gini:top", {"gini"}) == ("gini", "top")


def test_a_score_may_use_another_one_that_was_computed_before_it(monkeypatch):
    monkeypatch.setattr(difficulty, "twice", lambda el2n, scale=2.0: scale * el2n, raising=False)
    monkeypatch.setattr(score_table, "SCORES", (*SCORES, Score("twice", "logits", "difficulty.twice", "high", "none")))
    found = difficulty.difficulty(np.zeros((1, 2)), np.zeros(1, int), np.ones(1))
    assert found["twice"] == pytest.approx(2 * found["el2n"])


def test_zcore_is_given_the_seed_the_samples_keys_and_the_threads():
    features = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float16)
    keys = sample_keys(5, n=30)
    given = {"features": features, "seed": 5, "keys": keys, "workers": 1}
    found = compute("features", given, ("zcore",))
    assert list(found) == ["zcore"]
    assert np.array_equal(found["zcore"], zcore(features, seed=5, keys=keys, workers=1))
    assert not np.array_equal(found["zcore"], compute("features", given | {"seed": 6}, ("zcore",))["zcore"])
    assert not np.array_equal(found["zcore"], compute("features", given | {"keys": keys[::-1]}, ("zcore",))["zcore"])


def test_a_score_that_is_not_there_says_how_to_get_it():
    with pytest.raises(InputError, match="--dynamics"):
        rank_parts("aum:top", {"el2n"})
    with pytest.raises(InputError, match=r"there is no affinity \(see `prune score --also`"):
        rank_parts("affinity:top", {"el2n"})


def test_scores_are_named_by_their_source():
    assert "el2n" in names("logits")
    assert "aum" in names("dynamics")
    assert not set(names("logits")) & set(names("dynamics"))


def test_the_page_of_scores_and_methods_lists_what_the_tables_hold():
    page = (Path(__file__).parents[3] / "docs/methods.md").read_text(encoding="utf-8")
    lines = [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in page.splitlines() if "|" in line]
    found = {line[0]: line[1:] for line in lines if line[0] not in ("score", "method") and "---" not in line[0]}
    rows = {row.name: [row.needs, row.hard or "none", *_asked(row), row.paper] for row in SCORES}
    pairs = {
        name: [one.quota, one.rank, presets.needs(one), presets.cost(one), one.paper]
        for name, one in presets.PRESETS.items()
    }
    assert sorted(map(tuple, rows.values())) == sorted(tuple(line[1:]) for line in lines[2 : 2 + len(rows)])
    assert [line[0] for line in lines[2 : 2 + len(rows)]] == list(rows)
    assert {name: line for name, line in found.items() if name in pairs} == pairs


def _asked(row):
    return ["--dynamics"] if row.source == "dynamics" else [f"--also {row.also}" if row.also else "always"]
