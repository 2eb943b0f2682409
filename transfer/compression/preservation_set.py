"""Choose the images of a preservation set: coverage of each class, and its hardest and most uncertain images."""

from __future__ import annotations

import numpy as np

from prune.index.pruned_index import REASONS
from prune.methods.coverage import k_center
from prune.methods.quota import quota
from prune.runs.files import InputError
from prune.scores import difficulty

COVERAGE, HARD, LISTED = (REASONS.index(name) for name in ("coverage", "quota", "imported"))


def preserve(
    features: np.ndarray,
    logits: np.ndarray,
    labels: np.ndarray,
    classes: int,
    size: int,
    *,
    floor: int = 20,
    always: np.ndarray | None = None,
    mistakes: bool = False,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Choose a preservation set.

    Classes share the set equally as far as they have images: a rare class weighs as much as a frequent one. In each
    class the first half covers the class (k-center greedy on the features); the rest are the images of smallest margin
    and of highest entropy in turns. On ties the lower row is chosen.

    Neither score uses labels. A set that is chosen by a model's mistakes favours everything that the model is compared
    with: the model cannot lose what it predicts wrongly, and others predict part of it correctly by chance.

    Parameters
    ----------
    features : (n, d) float
    logits : (n, c) float
    labels : (n,) int in [0, classes)
    classes : int
    size : int
        Images of the set, `always` among them.
    floor : int
        Smallest number of images of each class; smaller classes are in whole.
    always : (n,) bool, optional
        Images that are in the set in any case.
    mistakes : bool
        Highest EL2N instead of smallest margin: for logits of another model than the one that will be compressed. The
        columns of the logits are then the labels' classes.

    Returns
    -------
    rows : (size,) int64, ascending
    reason : (size,) uint8
        Positions in `prune.index.pruned_index.REASONS`: "coverage", "quota" (hard or uncertain), "imported" (always).
    score : (size,) float32
        Entropy, or EL2N with `mistakes`.

    Raises
    ------
    InputError
        There are fewer images than `size`, or the floors and `always` need more.
    """
    n = len(labels)
    always = np.zeros(n, bool) if always is None else always
    sizes, taken = (np.bincount(labels[mask], minlength=classes) for mask in (np.ones(n, bool), always))
    if size > n:
        raise InputError(f"--size {size}: only {n} images can be chosen from; lower it")
    least = np.maximum(np.minimum(floor, sizes), taken)
    if least.sum() > size:
        listed = " and the images of --list" if always.any() else ""
        raise InputError(
            f"--size {size}: {floor} images of each class{listed} need {least.sum()}; raise it, or lower --floor"
        )
    quotas = quota((sizes > 0).astype(float), sizes, size, least)
    scores = difficulty.difficulty(logits, labels if mistakes else None, np.zeros(n, np.float32))
    keys = (-scores["el2n"] if mistakes else scores["margin"], -scores["entropy"])
    orders = [np.argsort(key, kind="stable") for key in keys]
    reason = np.full(n, 255, np.uint8)
    reason[always] = LISTED
    for c in range(classes):
        left = int(quotas[c] - taken[c])
        free = np.flatnonzero((labels == c) & ~always)
        if left <= 0:
            continue
        cover = free[k_center(np.asarray(features[free], np.float32), (left + 1) // 2)]
        reason[cover] = COVERAGE
        queues = [order[(labels[order] == c) & (reason[order] == 255)].tolist() for order in orders]
        for turn in range(left - len(cover)):
            queue = queues[turn % len(queues)]
            reason[next(row for row in queue if reason[row] == 255)] = HARD
    rows = np.flatnonzero(reason != 255)
    return rows, reason[rows], scores["el2n" if mistakes else "entropy"][rows].astype(np.float32)
