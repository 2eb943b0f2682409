import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prune.scores.difficulty import soften
from prune.scores.label_errors import looks_like, suspects, suspicion, thresholds


def test_thresholds_are_the_mean_confidence_in_the_label():
    found = thresholds(np.array([0.9, 0.5, 0.4]), np.array([0, 0, 1]), 3)
    assert found[:2].tolist() == [0.7, 0.4]
    assert np.isinf(found[2])


def test_a_suspect_confidently_looks_like_another_class():
    limits = np.array([0.7, 0.4, np.inf])
    p = np.array(
        [
            [0.2, 0.5, 0.3],  # labelled 0, reaches class 1's limit alone: suspect
            [0.8, 0.1, 0.1],  # labelled 0 and looks it
            [0.5, 0.3, 0.2],  # reaches no limit: not counted
            [0.1, 0.2, 0.7],  # class 2 has no samples, hence no limit to reach
            [0.75, 0.45, 0.0],  # reaches both: the more probable one, which is not its label
        ]
    )
    assert looks_like(p, np.array([0, 0, 1, 1, 1]), limits).tolist() == [1, -1, -1, -1, 0]


@given(st.integers(0, 10_000))
@settings(max_examples=30)
def test_suspects_of_a_stream_equal_those_of_the_whole_and_follow_the_samples(seed):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, 50)
    logits = rng.normal(size=(50, 5)) + 2 * np.eye(5)[rng.integers(0, 4, 50)]
    columns = np.array([3, 0, 1, 4])
    p = soften(logits[:, columns])[0]
    limits = thresholds(p[np.arange(50), labels], labels, 4).astype(np.float32)
    expected = looks_like(p, labels, limits)
    found, doubt = suspects(logits, labels, 4, columns)
    assert found.tolist() == expected.tolist()
    assert np.allclose(doubt, suspicion(p, labels, limits), atol=1e-6)
    order = rng.permutation(50)
    assert suspects(logits[order], labels[order], 4, columns)[0].tolist() == expected[order].tolist()


def test_suspicion_is_self_confidence_over_thresholds_by_hand():
    limits = np.array([0.8, 0.2, np.inf])
    p = np.array([[0.4, 0.5, 0.1], [0.8, 0.2, 0.0], [0.0, 1.0, 0.0]])
    # 0.4 / 0.8 = 0.5 against 0.5 / 0.2 = 2.5; the class without images counts for nothing.
    assert suspicion(p, np.array([0, 0, 0]), limits).tolist() == pytest.approx([1 - 0.5 / 3.0, 0.5, 1.0])


def test_a_class_that_is_hard_as_a_whole_is_not_suspected_as_a_whole():
    # Images of class 0 are sure, those of class 1 get half of the probability; one of class 0 looks like class 1.
    p = np.array([[0.95, 0.05]] * 9 + [[0.4, 0.6]] + [[0.5, 0.5]] * 10)
    labels = np.repeat([0, 1], 10)
    own = p[np.arange(20), labels]
    assert suspicion(p, labels, thresholds(own, labels, 2)).argmax() == 9
