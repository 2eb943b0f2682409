"""Laws of all that one surrogate says of a source, and what several say together."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prune.runs.files import InputError
from prune.scores.ensemble import together
from prune.scores.feature_files import Features
from prune.scores.score_source import score_source

CLASSES = ["ant", "bee", "cat", "dog"]
ALSO = ("prototype", "affinity", "suspects")


def held(features, logits, label, name="s", classes=CLASSES) -> Features:
    model = {"arch": "toy", "classes": CLASSES, "fingerprint": "m"}
    label, rows = np.asarray(label), np.arange(len(label))
    return Features(Path(name), features, logits, label, classes, model, name, "f", Path("m"), "c", rows, len(rows))


def problem(seed, n=60, m=9):
    """A source of up to four classes and a target, half floats, drawn from the seed."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, rng.integers(1, 5), n)
    source = held(*(rng.normal(size=(n, d)).astype(np.float16) for d in (5, 4)), label)
    target = held(*(rng.normal(size=(m, d)).astype(np.float16) for d in (5, 4)), np.zeros(m, int), "t", ["x"])
    return source, target, rng


@given(st.integers(0, 10_000))
@settings(max_examples=40)
def test_permuting_the_samples_permutes_every_score_and_no_class_weight(seed):
    source, target, rng = problem(seed)
    order = rng.permutation(len(source))
    moved = held(source.features[order], source.logits[order], source.label[order])
    plain, _ = score_source(source, [target], also=ALSO, workers=1)
    other, _ = score_source(moved, [target], also=ALSO, workers=1)
    assert set(plain) == set(other)
    for name, values in plain.items():
        if name.startswith("class/"):
            assert np.allclose(other[name], values, atol=1e-4), name
        else:
            assert np.allclose(other[name], values[order], atol=1e-4), name


@given(st.integers(0, 10_000))
@settings(max_examples=40)
def test_permuting_the_targets_images_changes_nothing(seed):
    source, target, rng = problem(seed)
    order = rng.permutation(len(target))
    moved = held(target.features[order], target.logits[order], target.label[order], "t", ["x"])
    plain, _ = score_source(source, [target], also=ALSO, workers=1)
    other, _ = score_source(source, [moved], also=ALSO, workers=1)
    for name, values in plain.items():
        assert np.allclose(other[name], values, atol=1e-5), name


@given(st.integers(0, 10_000))
@settings(max_examples=40)
def test_every_image_of_a_target_votes_once_and_only_for_classes_that_have_samples(seed):
    source, target, _ = problem(seed)
    arrays, _ = score_source(source, [target], workers=1)
    empty = np.bincount(source.label, minlength=4) == 0
    for rule in ("lm", "lm-soft", "fm", "fm-soft"):
        votes = arrays[f"class/{rule}/t"]
        assert votes.sum() == pytest.approx(len(target), rel=1e-5), rule
        assert votes[empty].sum() == 0, rule


def test_lm_and_fm_by_hand():
    # Class means (0, 0) of two ants and (4, 0) of two bees. Target images at (1, 0), (3, 0), (3.5, 1): FM gives ant one
    # vote and bee two; their logits say bee, ant, ant: LM the other way round.
    source = held(np.array([[-1, 0], [1, 0], [4, 2], [4, -2.0]]), np.zeros((4, 4)), [0, 0, 1, 1])
    logits = np.array([[0, 5, 9, 0], [5, 0, 0, 9], [5, 0, 0, 0.0]])  # cat and dog have no images in the source
    target = held(np.array([[1, 0], [3, 0], [3.5, 1]]), logits, [0, 0, 0], "t", ["x"])
    arrays, centre = score_source(source, [target], also=("prototype", "affinity"), workers=1)
    assert arrays["class/fm/t"].tolist() == [1, 2, 0, 0]
    assert arrays["class/lm/t"].tolist() == [2, 1, 0, 0]
    assert centre.tolist() == [2, 0]
    assert arrays["sample/prototype"].tolist() == [1, 1, 2, 2]
    assert arrays["sample/moderate"].tolist() == [0, 0, 0, 0]
    # Less the centre the bees point to (2, 2) and (2, -2), the third target image to (1.5, 1): cos = 5 / sqrt(26).
    assert arrays["sample/affinity"][2] == pytest.approx(5 / 26**0.5, rel=1e-5)


def test_votes_of_several_surrogates_are_the_mean_of_theirs():
    found = [problem(seed) for seed in (1, 2)]
    label = found[0][0].label
    parts = [score_source(held(s.features, s.logits, label), [t], workers=1)[0] for s, t, _ in found]
    arrays, agreed = together(parts)
    for name in ("class/lm/t", "class/lm-soft/t", "class/fm/t", "class/fm-soft/t"):
        assert np.allclose(arrays[name], (parts[0][name] + parts[1][name]) / 2), name
        assert -1 <= agreed[name] <= 1


def test_affinity_wants_targets_and_suspects_want_known_classes():
    source, _, _ = problem(0)
    with pytest.raises(InputError, match="--also affinity needs --targets"):
        score_source(source, [], also=("affinity",))
    foreign = held(source.features, source.logits, source.label, classes=["p", "q", "r", "z"])
    with pytest.raises(InputError, match="does not know the source's classes"):
        score_source(foreign, [], also=("suspects",))
