"""Labels that look wrong: confident learning on the surrogate's predictions.

Northcutt, Jiang and Chuang, "Confident Learning: Estimating Uncertainty in Dataset Labels", JAIR 2021, section 3. The
paper uses predictions of models that did not train on the sample: surrogates that leave out a fold each (`pretrain
--fold`). A cheap surrogate, trained briefly or on a part of the source, is close to that; a fully trained one has
memorised the wrong labels and finds too few.

Suspects are ranked by `suspicion`: the paper's self-confidence, with the probability of each class divided by that
class's threshold, so that classes which the surrogate finds hard are not suspected as a whole.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from prune.runs.cores import in_order
from prune.runs.progress import track
from prune.scores.difficulty import soften
from prune.scores.streaming import ROWS, blocks, read_rows, widen


def thresholds(own: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """Mean probability of the label among the samples so labelled, (c,) float64; infinite for an empty class."""
    sizes = np.bincount(labels, minlength=classes)
    sums = np.bincount(labels, own, minlength=classes)
    return np.where(sizes > 0, sums / np.maximum(sizes, 1), np.inf)


def looks_like(p: np.ndarray, labels: np.ndarray, limits: np.ndarray) -> np.ndarray:
    """Class that each sample confidently looks like where that is not its label, else -1; (n,) int32.

    The confident joint: a sample is counted under the most probable class among those whose threshold its probability
    reaches. A sample that is counted under another class than its label is a suspect.

    Parameters
    ----------
    p : (n, c) float
        Predicted probabilities.
    labels : (n,) int
    limits : (c,) float
        Of `thresholds`.
    """
    confident = np.where(p >= limits, p, -1.0)
    best = confident.argmax(axis=1)
    sure = confident[np.arange(len(p)), best] >= 0
    return np.where(sure & (best != labels), best, -1).astype(np.int32)


def suspicion(p: np.ndarray, labels: np.ndarray, limits: np.ndarray) -> np.ndarray:
    """How much speaks against each label, (n,) float32 in [0, 1]; the largest first.

    1 less the self-confidence (section 3.3 of the paper: the probability of the label) after each class's probability
    is divided by its threshold: 1 - (p_y / t_y) / sum_k (p_k / t_k).

    Parameters
    ----------
    p : (n, c) float
        Predicted probabilities.
    labels : (n,) int
    limits : (c,) float
        Of `thresholds`.

    Examples
    --------
    The label has 0.4 of a class whose images have 0.8 on average, the other 0.6 of one with 0.9: 0.5 against 0.667.

    >>> suspicion(np.array([[0.4, 0.6]]), np.array([0]), np.array([0.8, 0.9])).round(4)
    array([0.5714], dtype=float32)
    """
    ratio = p / np.maximum(limits, np.finfo(np.float32).tiny)  # a class without images has an infinite threshold
    own = ratio[np.arange(len(p)), labels]
    return np.asarray(1.0 - own / np.maximum(ratio.sum(axis=1), np.finfo(np.float32).tiny), np.float32)


def suspects(
    logits: np.ndarray,
    labels: np.ndarray,
    classes: int,
    columns: np.ndarray,
    workers: int | None = None,
    unseen: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """`looks_like` and `suspicion` of every sample, in two passes over (memory-mapped) logits.

    Parameters
    ----------
    logits : (n, k) float
    labels : (n,) int
    columns : (classes,) int
        Columns of the logits that belong to the classes.
    unseen : (n,) bool, optional
        Samples that the surrogate did not train on, which alone decide the thresholds; all samples when absent.

    Returns
    -------
    (n,) int32
        -1 for samples whose label is not in doubt.
    (n,) float32
        Suspicion.
    """
    n, whole = len(labels), np.array_equal(columns, np.arange(logits.shape[1]))
    height = max(16, (1 << 19) // logits.shape[1])

    def probabilities(rows: slice) -> Iterator[tuple[slice, np.ndarray]]:
        raw = read_rows(logits, rows)
        for inner in blocks(len(raw), height):
            z = widen(raw[inner])
            yield slice(rows.start + inner.start, rows.start + inner.stop), soften(z if whole else z[:, columns])[0]

    def own_of(rows: slice) -> tuple[slice, np.ndarray]:
        parts = [p[np.arange(len(p)), labels[inner]] for inner, p in probabilities(rows)]
        return rows, np.concatenate(parts)

    own, found, doubt = np.empty(n, np.float32), np.empty(n, np.int32), np.empty(n, np.float32)
    for rows, part in track(in_order(own_of, blocks(n), workers), -(-n // ROWS), "label thresholds"):
        own[rows] = part
    among = slice(None) if unseen is None else unseen
    limits = thresholds(own[among], labels[among], classes).astype(np.float32)

    def look(rows: slice) -> tuple[slice, np.ndarray, np.ndarray]:
        parts = [(looks_like(p, labels[k], limits), suspicion(p, labels[k], limits)) for k, p in probabilities(rows)]
        return rows, np.concatenate([one[0] for one in parts]), np.concatenate([one[1] for one in parts])

    for rows, alike, against in track(in_order(look, blocks(n), workers), -(-n // ROWS), "label suspects"):
        found[rows], doubt[rows] = alike, against
    return found, doubt
