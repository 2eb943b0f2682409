"""A surrogate that does no better than guessing is told of; one that has learnt a little is not."""

import numpy as np
import pytest

from prune.index.manifest import Manifest
from prune.scores.feature_files import open_features, write_features
from prune.scores.surrogate_check import SEEN, guessing_sentence, right_predictions

CLASSES = ["a", "b", "c", "d"]


def features(folder, logits, label, known=CLASSES):
    n = len(label)
    sizes = np.ones(n, np.int32)
    manifest = Manifest(
        ids=np.array([f"{row:06d}.png".encode() for row in range(n)]),
        labels=label.astype(np.int32),
        nbytes=sizes,
        width=sizes,
        height=sizes,
        digests=np.arange(n, dtype=np.uint64),
        crc32=np.arange(n, dtype=np.uint32),
        classes=CLASSES,
    )
    place, path = folder / "x.manifest.npz", folder / "x.features.npz"
    manifest.save(place)
    facts = {"arch": "toy", "classes": list(known), "fingerprint": "f"}
    write_features(path, np.zeros((n, 2), np.float16), logits.astype(np.float16), manifest, place, facts)
    return open_features(path)


@pytest.mark.parametrize(("learnt", "told"), [(0.0, True), (0.2, False)])
def test_a_surrogate_that_guesses_is_told_of(learnt, told, tmp_path):
    rng = np.random.default_rng(0)
    label = rng.integers(0, 4, 2 * SEEN)
    logits = rng.standard_normal((len(label), 4))
    knows = rng.random(len(label)) < learnt
    logits[knows, label[knows]] = 9
    said = guessing_sentence(features(tmp_path, logits, label))
    assert (said is not None) == told
    if told:
        assert "no more than guessing (the largest class has 25." in said


def test_a_surrogate_that_names_the_largest_class_alone_guesses(tmp_path):
    label = np.repeat([0, 1, 2, 3], [700, 100, 100, 100])
    assert "70.0%" in guessing_sentence(features(tmp_path, np.tile([1.0, 0, 0, 0], (1000, 1)), label))


def test_one_that_knows_other_classes_cannot_be_judged(tmp_path):
    label = np.repeat([0, 1, 2, 3], 25)
    found = features(tmp_path, np.zeros((100, 3)), label, ("x", "y", "z"))
    assert right_predictions(found) == (0, 0)
    assert guessing_sentence(found) is None
