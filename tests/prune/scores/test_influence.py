import numpy as np
import pytest

from prune.runs.files import InputError
from prune.scores.influence import influence, target_gradient


def softmax(z):
    e = np.exp(z - z.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def test_influence_is_the_inner_product_of_gradients_at_a_probe_of_one_short_step():
    # The model of the docstring, its gradients by finite differences. Images of a target class are equal here.
    rng = np.random.default_rng(0)
    head, means, step = rng.normal(size=(4, 3)), np.abs(rng.normal(size=(2, 3))), 1e-3
    feature, label = np.abs(rng.normal(size=3)), 2
    probe = step * (means - means.mean(axis=0))

    def gradient(loss):
        tiny = 1e-6 * np.eye(9).reshape(9, 3, 3)
        return np.array([(loss(np.eye(3) + t) - loss(np.eye(3) - t)) / 2e-6 for t in tiny])

    mine = gradient(lambda layer: -np.log(softmax(head @ layer @ feature)[label]))
    theirs = [gradient(lambda layer, k=k: -np.log(softmax(probe @ layer @ means[k])[k])) for k in range(2)]
    lesson = np.eye(4)[label] - softmax(head @ feature)
    logits = means @ head.T
    for k in range(2):
        by_formula = step * (lesson @ (logits[k] - logits.mean(axis=0))) * (feature @ means[k])
        assert mine @ theirs[k] == pytest.approx(by_formula, rel=5e-3)
    found = influence(
        feature[None], (head @ feature)[None], np.array([label]), {"t": target_gradient(means, logits, np.arange(2))}
    )
    cosines = [
        lesson @ (logits[k] - logits.mean(0)) / np.linalg.norm(lesson) / np.linalg.norm(logits[k] - logits.mean(0))
        * (feature @ means[k]) / np.linalg.norm(feature) / np.linalg.norm(means[k])
        for k in range(2)
    ]  # fmt: skip
    assert found["influence/t"][0] == pytest.approx(max(cosines), abs=1e-5)


def two_classes():
    """Targets A at feature (1, 0) with logits (2, 0), and B at (0, 1) with (0, 2)."""
    return target_gradient(np.eye(2), 2 * np.eye(2), np.arange(2))


def test_confident_images_count_by_what_their_label_teaches_and_not_by_how_much():
    # p is nearly (1, 0) for both: y - p is a tiny step along (1, -1), and a long one along (-1, 1).
    logits = np.array([[12.0, 0.0], [12.0, 0.0]])
    found = influence(np.ones((2, 2)), logits, np.array([0, 1]), {"t": two_classes()})["influence/t"]
    assert found == pytest.approx([np.sqrt(0.5)] * 2, abs=1e-4)


def test_images_that_look_like_a_class_and_teach_the_opposite_do_not_help():
    found = influence(np.array([[1.0, 0.1]]), np.zeros((1, 2)), np.array([1]), {"t": two_classes()})["influence/t"]
    # Cosines of the lesson with A and B are -1 and 1, of the feature 0.995 and 0.0995.
    assert found[0] == pytest.approx(0.0995, abs=1e-3)


def test_the_best_target_class_counts_and_targets_count_the_same():
    half = target_gradient(np.array([[1.0, 1.0], [0, 1]]), np.array([[2.0, 0], [0, 2]]), np.arange(2))
    found = influence(np.array([[1.0, 0]]), np.zeros((1, 2)), np.array([0]), {"t": two_classes(), "half": half})
    assert found["influence/t"][0] == pytest.approx(1.0)
    assert found["influence/half"][0] == pytest.approx(np.sqrt(0.5))
    assert found["influence"][0] == pytest.approx((1 + np.sqrt(0.5)) / 2)


def test_relevant_classes_of_a_source_come_first():
    # Source classes 0 and 1 are what the target's two classes are; 2 and 3 are others.
    rng = np.random.default_rng(1)
    middles = 6 * np.eye(4)
    labels = rng.integers(0, 4, 2000)
    features = np.abs(middles[labels] + rng.normal(size=(2000, 4)))
    target = np.abs(np.repeat(middles[:2], 100, axis=0) + rng.normal(size=(200, 4)))
    found = influence(features, features, labels, {"t": target_gradient(target, target, np.repeat([0, 1], 100))})
    best = np.argsort(-found["influence"])[:800]
    assert (labels[best] < 2).mean() > 0.99


def test_only_the_source_s_classes_count_among_the_surrogate_s():
    rng = np.random.default_rng(2)
    features, logits = np.abs(rng.normal(size=(50, 5))), rng.normal(size=(50, 3))
    labels, classes, columns = rng.integers(0, 3, 50), np.arange(50) % 4, np.array([4, 0, 2])
    wide = rng.normal(size=(50, 6))
    wide[:, columns] = logits
    plain = influence(features, logits, labels, {"t": target_gradient(features, logits, classes)})
    among = influence(features, wide, labels, {"t": target_gradient(features, wide, classes, columns)}, columns)
    assert np.array_equal(plain["influence"], among["influence"])


def test_threads_do_not_matter_and_rows_that_are_not_finite_are_nan():
    rng = np.random.default_rng(3)
    features, logits = np.abs(rng.normal(size=(3000, 8))).astype("f2"), rng.normal(size=(3000, 5)).astype("f2")
    labels, target = rng.integers(0, 5, 3000), target_gradient(features[:90], logits[:90], np.arange(90) % 3)
    one, three = (influence(features, logits, labels, {"t": target}, workers=k)["influence"] for k in (1, 3))
    assert np.array_equal(one, three)
    assert np.abs(one).max() <= 1 + 1e-5
    features[7], logits[9] = np.nan, np.inf
    holed = influence(features, logits, labels, {"t": target})["influence"]
    assert np.flatnonzero(np.isnan(holed)).tolist() == [7, 9]


def test_target_classes_without_images_are_skipped():
    found = target_gradient(np.eye(3), np.eye(3), np.array([0, 4, 4]))
    assert found.features.shape == (2, 3)
    with pytest.raises(InputError, match="at least two classes"):
        target_gradient(np.eye(3), np.eye(3), np.array([2, 2, 2]))
    with pytest.raises(InputError, match="--targets"):
        influence(np.eye(3), np.eye(3), np.arange(3), {})
