import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from prune.scores.difficulty import difficulty, el2n, entropy, grand, least_confidence, margin, soften
from prune.scores.score_table import names

# softmax(ln 6, ln 3, ln 1) = 0.6, 0.3, 0.1
LOGITS = np.log(np.array([[6.0, 3.0, 1.0]], np.float32)).repeat(3, axis=0)


def test_softmax_by_hand():
    p, log_p = soften(LOGITS)
    assert np.allclose(p[0], [0.6, 0.3, 0.1])
    assert np.allclose(log_p[0], np.log([0.6, 0.3, 0.1]))


def test_scores_by_hand():
    p, log_p = soften(LOGITS)
    assert np.allclose(margin(p), 0.3)
    assert np.allclose(least_confidence(p), 0.4)
    assert np.allclose(entropy(p, log_p), -(0.6 * np.log(0.6) + 0.3 * np.log(0.3) + 0.1 * np.log(0.1)))
    # Label 0: (-0.4, 0.3, 0.1), label 1: (0.6, -0.7, 0.1), label 2: (0.6, 0.3, -0.9).
    errors = el2n(p, np.array([0, 1, 2]))
    assert np.allclose(errors, np.sqrt([0.16 + 0.09 + 0.01, 0.36 + 0.49 + 0.01, 0.36 + 0.09 + 0.81]))
    assert np.allclose(p, soften(LOGITS)[0])  # what was set aside is put back
    assert np.allclose(grand(errors, np.array([3.0, 8.0, 0.0])), errors * [2, 3, 1])


def test_grand_is_the_norm_of_the_gradient_that_autograd_finds():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    h, w, b, y = rng.normal(size=(4, 5)), rng.normal(size=(3, 5)), rng.normal(size=3), np.array([0, 2, 1, 1])
    p, _ = soften(h @ w.T + b)
    ours = grand(el2n(p, y), (h**2).sum(1))
    for i in range(4):
        weight, bias = (torch.tensor(v, requires_grad=True) for v in (w, b))
        torch.nn.functional.cross_entropy(weight @ torch.tensor(h[i]) + bias, torch.tensor(y[i])).backward()
        assert ours[i] == pytest.approx(float(torch.sqrt((weight.grad**2).sum() + (bias.grad**2).sum())), rel=1e-5)


def test_an_easy_samples_error_keeps_its_digits():
    # One wrong class at exp(-20): the error is sqrt(2) exp(-20), far below the step of float32 at 1.
    p, _ = soften(np.array([[20.0, 0.0]]))
    assert el2n(p, np.array([0]))[0] == pytest.approx(np.sqrt(2) * np.exp(-20.0), rel=1e-5)


def test_without_the_sources_classes_only_label_free_scores_remain():
    assert set(difficulty(LOGITS, None, np.ones(3))) == {"entropy", "margin", "least-confidence"}
    assert set(difficulty(LOGITS, np.zeros(3, int), np.ones(3))) == set(names("logits")) - {
        "suspicion"
    }  # of thresholds


def test_one_class_leaves_no_doubt():
    scores = difficulty(np.zeros((2, 1)), np.zeros(2, int), np.ones(2))
    assert scores["margin"].tolist() == [1, 1]
    assert scores["el2n"].tolist() == [0, 0]


@given(
    st.tuples(st.integers(1, 10), st.integers(2, 6)).flatmap(
        lambda shape: st.tuples(
            arrays(np.float32, shape, elements=st.floats(-60, 60, width=16)),
            arrays(np.int64, shape[0], elements=st.integers(0, shape[1] - 1)),
            st.permutations(range(shape[0])),
        )
    )
)
@settings(max_examples=150)
def test_scores_stay_in_range_and_follow_the_samples(case):
    logits, labels, order = case
    scores = difficulty(logits, labels, np.ones(len(labels)))
    c = logits.shape[1]
    limits = {"entropy": np.log(c), "margin": 1, "least-confidence": 1 - 1 / c, "el2n": 2**0.5, "grand": 2}
    for name, values in scores.items():
        assert values.dtype == np.float32
        assert values.min() >= -1e-6
        assert values.max() <= limits[name] + 1e-5
    moved = difficulty(logits[order], labels[order], np.ones(len(labels)))
    for name, values in scores.items():
        assert np.array_equal(moved[name], values[order])
