"""Scores from how the surrogate's predictions of a sample moved while it learned: one number per sample.

Inputs are tables of shape (epochs, b): the probability of the label, the margin (logit of the label less the largest
other), and whether the prediction was right (0, 1; 2 where an epoch left the sample out). NaN marks what was left out;
means and deviations are over the epochs that saw the sample, and windows are over consecutive epochs that saw it.
"""

from __future__ import annotations

import numpy as np

HARDER_WHEN = {
    "forgetting": "high",
    "aum": "low",
    "el2n-early": "high",
    "tdds": "high",
    "dual": "high",
    "dyn-unc": "high",
    "variance": "high",
    "confidence": "low",
}
"""Which end of each score is the hard (or telling) one."""
EARLY = 10
"""Epochs over which EL2N is averaged; the paper scores at epochs 10 to 20 of 200."""
WINDOW = 10
"""Epochs in a window of TDDS, DUAL and Dyn-Unc; as in their papers. Shorter trainings use half of their epochs."""


def forgetting(correct: np.ndarray) -> np.ndarray:
    """Forgetting events: how often a sample goes from right to wrong, (b,) float32.

    Toneva et al., "An Empirical Study of Example Forgetting during Deep Neural Network Learning", ICLR 2019. A sample
    that is never right counts as forgotten without end: it gets the number of epochs, more than any other can have.
    """
    seen = correct != 2
    right = correct == 1
    last = np.zeros(correct.shape[1], bool)
    events = np.zeros(correct.shape[1], np.float32)
    for epoch in range(len(correct)):
        events += last & seen[epoch] & ~right[epoch]
        last = np.where(seen[epoch], right[epoch], last)
    never = seen.any(axis=0) & ~right.any(axis=0)
    return np.where(seen.any(axis=0), np.where(never, np.float32(len(correct)), events), np.nan).astype(np.float32)


def aum(margin: np.ndarray) -> np.ndarray:
    """Area under the margin: the mean margin over the epochs, (b,) float32; wrong labels have the lowest.

    Pleiss et al., "Identifying Mislabeled Data using the Area Under the Margin Ranking", NeurIPS 2020, equation 2.
    """
    return _mean(margin)


def el2n(probability: np.ndarray, margin: np.ndarray, classes: int) -> np.ndarray:
    """EL2N of each epoch from label probability and margin, (epochs, b) float32.

    The strongest rival's probability is p exp(-margin); what is left is taken as spread evenly over the other classes.
    Exact for two or three classes; for more it is a lower bound that misses little, since the rest counts squared.
    """
    p = probability.astype(np.float32)
    rival = np.minimum(p * np.exp(-np.clip(margin.astype(np.float32), -80, 80)), 1.0 - p)
    rest = np.maximum(1.0 - p - rival, 0.0)
    spread = rest * rest / max(1, classes - 2)
    return np.sqrt((1.0 - p) ** 2 + rival**2 + spread)


def early(error: np.ndarray, epochs: int = EARLY) -> np.ndarray:
    """EL2N averaged over the first `epochs` epochs (at most half of them), (b,) float32.

    Paul et al., NeurIPS 2021, section 2.
    """
    return _mean(error[: min(epochs, -(-len(error) // 2))])


def window_length(epochs: int, window: int = WINDOW) -> int:
    """Window for a training of so many epochs: at least 3, and at most half of them (rounded up) beyond that."""
    return max(3, min(window, -(-epochs // 2)))


def windows(values: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation (n - 1) in every window of `length` consecutive epochs, (epochs - length + 1, b)."""
    view = np.lib.stride_tricks.sliding_window_view(values, length, axis=0)
    return view.mean(axis=-1), view.std(axis=-1, ddof=1)


def dyn_unc(probability: np.ndarray, length: int) -> np.ndarray:
    """Dynamic uncertainty: standard deviation of the label's probability in a window, averaged over all windows.

    He et al., "Large-scale Dataset Pruning with Dynamic Uncertainty", CVPR 2024 workshops, section 3.2. (b,) float32.
    """
    return _mean(windows(probability, length)[1])


def dual(probability: np.ndarray, length: int) -> np.ndarray:
    """DUAL: (1 - mean) times standard deviation of the label's probability in a window, averaged over all windows.

    Cho et al., "Lightweight Dataset Pruning without Full Training via Example Difficulty and Prediction Uncertainty",
    ICML 2025, section 3. (b,) float32.

    All epochs that are given count. The authors take the first 30 of a training of 200 epochs: record so many alone
    for that.
    """
    mean, deviation = windows(probability, length)
    return _mean((1.0 - mean) * deviation)


def tdds(probability: np.ndarray, length: int, decay: float = 0.9) -> np.ndarray:
    """TDDS: how unevenly the predictions moved in a window, the windows weighted towards the end of training.

    Zhang et al., "Spanning Training Progress: Temporal Dual-Depth Scoring (TDDS) for Enhanced Dataset Pruning", CVPR
    2024, section 3. (b,) float32. Inner depth: the steps of a window's epochs, each the divergence of the earlier
    prediction from the later one, sum of p(t) log(p(t) / p(t-1)), and the norm of their deviations from the window's
    mean. Outer depth: the windows averaged with weights decay (1 - decay)^age, age 0 being the last.

    Not the authors' numbers. The predictions here are two, the label's and all other classes' together, which gives a
    lower bound of the divergence of whole predictions (those would have to be kept for every sample and epoch). The
    authors' code takes whole predictions, and the absolute value of each class's term before it adds them. For two
    classes the order of the samples is nearly the same; for ten or more it can be quite another.
    """
    p = np.clip(probability.astype(np.float32), 1e-6, 1.0 - 1e-6)
    q = 1.0 - p
    step = p[1:] * np.log(p[1:] / p[:-1]) + q[1:] * np.log(q[1:] / q[:-1])
    view = np.lib.stride_tricks.sliding_window_view(step, min(length - 1, len(step)), axis=0)
    deviation = view - view.mean(axis=-1, keepdims=True)
    found = np.zeros(step.shape[1], np.float32)
    for row in np.sqrt(np.square(deviation).sum(axis=-1)):
        found = np.where(np.isnan(row), found, (1.0 - decay) * found + decay * row)
    return np.where(np.isnan(view[0].sum(axis=-1)), np.nan, found).astype(np.float32)


def all_scores(
    probability: np.ndarray, margin: np.ndarray, correct: np.ndarray, classes: int, length: int | None = None
) -> dict[str, np.ndarray]:
    """Every score of this module for one block of samples.

    Parameters
    ----------
    probability, margin : (epochs, b) float
    correct : (epochs, b) uint8
    classes : int
    length : int, optional
        Epochs in a window; `window_length` when absent.

    Returns
    -------
    dict of str to (b,) float32
        NaN for samples (or windows) that were never seen. "confidence" is the mean probability of the label and
        "variance" its variance over all epochs (Swayamdipta et al., EMNLP 2020).
    """
    p, m = packed(probability.astype(np.float32), margin.astype(np.float32))
    length = window_length(len(p)) if length is None else length
    some = {
        "forgetting": forgetting(correct),
        "aum": aum(m),
        "el2n-early": early(el2n(p, m, classes)),
        "confidence": _mean(p),
        "variance": _variance(p),
    }
    if len(p) >= length:
        some |= {"dyn-unc": dyn_unc(p, length), "dual": dual(p, length)}
    if len(p) > 2 and length > 2:
        some["tdds"] = tdds(p, length)
    return some


def packed(*tables: np.ndarray) -> tuple[np.ndarray, ...]:
    """Move each sample's seen epochs to the front, in order, so that windows run over those alone."""
    gone = np.isnan(tables[0])
    if not gone.any():
        return tables
    order = np.argsort(gone, axis=0, kind="stable")
    return tuple(np.take_along_axis(table, order, axis=0) for table in tables)


def _mean(values: np.ndarray) -> np.ndarray:
    there = ~np.isnan(values)
    count = there.sum(axis=0)
    total = np.where(there, values, 0.0).sum(axis=0, dtype=np.float64)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan).astype(np.float32)


def _variance(values: np.ndarray) -> np.ndarray:
    return _mean((values - _mean(values)) ** 2)
