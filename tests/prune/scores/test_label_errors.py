import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from prune.scores.difficulty import soften
from prune.scores.label_errors import looks_like, suspects, thresholds


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
    assert suspects(logits, labels, 4, columns).tolist() == expected.tolist()
    order = rng.permutation(50)
    assert suspects(logits[order], labels[order], 4, columns).tolist() == expected[order].tolist()
