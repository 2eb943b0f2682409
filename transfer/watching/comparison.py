"""Does a compressed model still predict like its original, and have images changed? Functions on arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from prune.methods.intervals import wilson as wilson

_DRAWS = 200


def counted_errors(
    original: np.ndarray, compressed: np.ndarray, labels: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Find the predictions that count as errors of the compressed model, and the class to which each belongs.

    Without labels: predictions that differ, in the class that the original predicts. With labels: predictions that the
    original has right and the compressed model wrong, in the class of the label; a prediction that was wrong before may
    change without loss.

    Parameters
    ----------
    original, compressed : (n,) int
        Predicted classes.
    labels : (n,) int, optional
        Images whose label is -1 are ignored.

    Returns
    -------
    groups : (k,) int
    wrong : (k,) bool
    """
    if labels is None:
        return original, original != compressed
    known = labels >= 0
    return labels[known], ((original != compressed) & (original == labels))[known]


def error_shares(groups: np.ndarray, wrong: np.ndarray, classes: int, *, least: int = 5) -> np.ndarray:
    """Share of errors in each class, (classes,) float64; for a class of fewer than `least` images that of all images.

    One error says little about a class that has no other image.

    Examples
    --------
    >>> error_shares(np.array([0, 0, 0, 1]), np.array([True, False, False, True]), 3, least=3).round(2).tolist()
    [0.33, 0.5, 0.5]
    """
    n = np.bincount(groups, minlength=classes)
    count = np.bincount(groups[wrong], minlength=classes)
    return np.where(n >= least, count / np.maximum(n, 1), count.sum() / max(len(groups), 1))


def by_class(
    groups: np.ndarray,
    wrong: np.ndarray,
    classes: Sequence[str],
    allowed: np.ndarray,
    *,
    least: int = 5,
    confidence: float = 0.95,
) -> list[dict[str, Any]]:
    """How often images of each class are errors, and in which classes that is certainly more than allowed.

    A class alarms when the lower end of Wilson's interval, corrected for the number of classes tested (Bonferroni),
    lies above its allowed share.

    Parameters
    ----------
    groups : (n,) int
        Class of every image: its label, or what the original predicts.
    wrong : (n,) bool
        Errors; see `counted_errors`.
    classes : sequence of str
    allowed : (c,) float
        Shares, 0 to 1.
    least : int
        A class with fewer images never alarms.

    Returns
    -------
    list of dict
        For every class: class, n, wrong (share; None without images), low, high, allowed, alarm.
    """
    n = np.bincount(groups, minlength=len(classes))
    count = np.bincount(groups[wrong], minlength=len(classes))
    tested = max(1, int((n >= least).sum()))
    found = []
    for c, name in enumerate(classes):
        low, high = wilson(int(count[c]), int(n[c]), 1 - (1 - confidence) / tested)
        found.append(
            {
                "class": name,
                "n": int(n[c]),
                "wrong": float(count[c] / n[c]) if n[c] else None,
                "low": float(low),
                "high": float(high),
                "allowed": float(allowed[c]),
                "alarm": bool(n[c] >= least and low > allowed[c]),
            }
        )
    return found


def drift(reference: np.ndarray, images: np.ndarray, *, seed: int = 0, confidence: float = 0.99) -> dict[str, Any]:
    """Measure how far the mean of the features has moved, and how far it would move by chance.

    The distance is the root mean square over the features of (mean of new - mean of reference) / standard deviation of
    the reference. By chance: the same between random halves of the reference, scaled to the two numbers of images.

    Parameters
    ----------
    reference : (m, d) float
        Features of images of the kind that the model was trained for; at least 4.
    images : (n, d) float

    Returns
    -------
    dict
        "distance", "by_chance" (its quantile at `confidence`), "drifted".
    """
    reference, images = (np.asarray(a, np.float64) for a in (reference, images))
    deviation = reference.std(0)
    alive = deviation > 1e-9 * max(1.0, float(deviation.max(initial=0.0)))
    if not alive.any() or len(reference) < 4:
        return {"distance": 0.0, "by_chance": 0.0, "drifted": False}
    standard = (reference[:, alive] - reference[:, alive].mean(0)) / deviation[alive]
    moved = (images[:, alive].mean(0) - reference[:, alive].mean(0)) / deviation[alive]
    rng, m = np.random.default_rng(seed), len(reference)
    half = m // 2
    found = []
    for _ in range(_DRAWS):
        order = rng.permutation(m)
        apart = standard[order[:half]].mean(0) - standard[order[half:]].mean(0)
        found.append(np.sqrt(np.mean(apart**2)))
    spread = np.sqrt((1 / m + 1 / len(images)) / (1 / half + 1 / (m - half)))
    distance, by_chance = float(np.sqrt(np.mean(moved**2))), float(np.quantile(found, confidence) * spread)
    return {"distance": distance, "by_chance": by_chance, "drifted": distance > by_chance}


def similarity(first: np.ndarray, second: np.ndarray) -> float:
    """Linear CKA of two models' features of the same images: 1 when they differ only by rotation and scale.

    Kornblith et al., "Similarity of Neural Network Representations Revisited" (2019), equation 3 with linear kernels;
    the widths may differ, as they do after channel pruning.

    Parameters
    ----------
    first, second : (n, d1), (n, d2) float
    """
    a, b = (np.asarray(x, np.float64) - np.asarray(x, np.float64).mean(0) for x in (first, second))
    both = float(np.sum((a.T @ b) ** 2))
    own = np.linalg.norm(a.T @ a) * np.linalg.norm(b.T @ b)
    return both / float(own) if own > 0 else 1.0
