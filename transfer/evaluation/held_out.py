"""How well features tell a target's classes apart, by its training images alone: no test image guides a choice."""

from __future__ import annotations

from pathlib import Path

import numpy as np


def held_out_accuracy(features: np.ndarray, labels: np.ndarray, seed: int = 0) -> float:
    """Accuracy of a linear classifier on the half of the images that it was not trained on, over both halves.

    Parameters
    ----------
    features : (n, d) float
    labels : (n,) int
        At least two classes of two images.
    seed : int
        Draws the halves, each with half of every class.
    """
    from transfer.evaluation.logistic import stratified_part, train_few_shot

    half = stratified_part(labels, 0.5, np.random.default_rng(seed))
    right = np.zeros(len(labels), bool)
    for part in (half, ~half):
        right[~part] = train_few_shot(features[part], labels[part]).predict(_unit(features[~part]))[0] == labels[~part]
    return float(right.mean())


def held_out_accuracy_of(place: Path) -> float:
    """`held_out_accuracy` of a features file."""
    from prune.index.npz import open_arrays

    arrays, _ = open_arrays(place, "winnow-features/1")
    return held_out_accuracy(np.asarray(arrays["features"]), np.asarray(arrays["label"]))


def _unit(features: np.ndarray) -> np.ndarray:
    from transfer.evaluation.logistic import unit_length

    return unit_length(features)
