"""Scores from training dynamics: how the surrogate's predictions of a sample changed while it trained on it.

The functions take what `all_scores` provides: `probability` of the label, `margin` (logit of the label less the largest
other logit), and `correct` (1: the prediction was right; 0: wrong; 2: the epoch skipped the sample), each of shape
(epochs, b), and `length`, the epochs in a window. NaN marks epochs that skipped the sample: means and deviations are
over the epochs that saw it, and windows are over consecutive epochs that saw it. Which end of a score is the hard one
is in `prune.scores.score_table`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from prune.scores import score_table

EARLY = 10
"""Epochs over which EL2N is averaged; the paper scores at epochs 10 to 20 of 200."""
WINDOW = 10
"""Epochs in a window of TDDS, DUAL and Dyn-Unc; as in their papers. Shorter trainings use half of their epochs."""


def forgetting(correct: np.ndarray) -> np.ndarray:
    """Forgetting events: how often a sample goes from right to wrong, (b,) float32.

    Toneva et al., "An Empirical Study of Example Forgetting during Deep Neural Network Learning", ICLR 2019. A sample
    that is never right is treated as forgotten infinitely often: it gets the number of epochs, more than any other
    sample can have.
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


def aum_probability(probability: np.ndarray, margin: np.ndarray) -> np.ndarray:
    """Area under the margin of probabilities: the label's less the largest other, averaged over epochs, (b,) float32.

    What the code of CCS (Zheng et al., ICLR 2023) and D2 calls the accumulated margin. It is bounded, so that strata of
    equal width cut a set quite differently than strata of `aum`, whose margins are of logits. The largest other
    probability is p exp(-margin).
    """
    return _mean(probability - _rival(probability, margin))


def _rival(probability: np.ndarray, margin: np.ndarray) -> np.ndarray:
    """Largest probability of another class, (epochs, b) float32, from a margin of logits."""
    return np.asarray(np.minimum(probability * np.exp(-np.clip(margin, -80, 80)), 1.0 - probability))


def epoch_error(probability: np.ndarray, margin: np.ndarray, classes: int) -> np.ndarray:
    """EL2N of each epoch from label probability and margin, (epochs, b) float32.

    The largest other probability is p exp(-margin); the rest is taken as spread evenly over the remaining classes.
    Exact for two or three classes; a close lower bound for more, since the rest enters squared.
    """
    p = probability.astype(np.float32)
    rival = _rival(p, margin.astype(np.float32))
    rest = np.maximum(1.0 - p - rival, 0.0)
    spread = rest * rest / max(1, classes - 2)
    return np.asarray(np.sqrt((1.0 - p) ** 2 + rival**2 + spread))


def el2n_early(error: np.ndarray, epochs: int = EARLY) -> np.ndarray:
    """EL2N (of `epoch_error`) averaged over the first `epochs` epochs (at most half of them), (b,) float32.

    Paul et al., NeurIPS 2021, section 2.
    """
    return _mean(error[: min(epochs, -(-len(error) // 2))])


def confidence(probability: np.ndarray) -> np.ndarray:
    """Mean probability of the label over all epochs, (b,) float32 (Swayamdipta et al., EMNLP 2020, section 2)."""
    return _mean(probability)


def variance(probability: np.ndarray) -> np.ndarray:
    """Variance of the label's probability over all epochs, (b,) float32 (Swayamdipta et al., EMNLP 2020, section 2)."""
    return _mean((probability - _mean(probability)) ** 2)


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

    All recorded epochs count. The authors take the first 30 of a training of 200 epochs: record 30 epochs for that.
    """
    mean, deviation = windows(probability, length)
    return _mean((1.0 - mean) * deviation)


def tdds(probability: np.ndarray, length: int, decay: float = 0.9) -> np.ndarray:
    """TDDS: how unevenly the predictions changed in a window, later windows weighted more.

    Zhang et al., "Spanning Training Progress: Temporal Dual-Depth Scoring (TDDS) for Enhanced Dataset Pruning", CVPR
    2024, section 3. (b,) float32. Inner depth: the steps of a window's epochs, each the divergence of the earlier
    prediction from the later one, sum of p(t) log(p(t) / p(t-1)), and the norm of their deviations from the window's
    mean. Outer depth: the windows averaged with weights decay (1 - decay)^age, age 0 being the last.

    Not the authors' numbers. The prediction here has two parts, the label and all other classes together, which gives
    a lower bound of the divergence of whole predictions (those would have to be stored for every sample and epoch). The
    authors' code takes whole predictions, and the absolute value of each class's term before it adds them. For two
    classes the order of the samples is nearly the same; for ten or more it can differ much.
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
    """Every score from training dynamics, for one block of samples.

    Parameters
    ----------
    probability, margin : (epochs, b) float
    correct : (epochs, b) uint8
    classes : int
    length : int, optional
        Epochs in a window, at least 3; `window_length` when absent.

    Returns
    -------
    dict of str to (b,) float32
        NaN for samples (or windows) that were never seen. Scores over windows are absent where the training is
        shorter than a window.
    """
    p, m = packed(probability.astype(np.float32), margin.astype(np.float32))
    length = window_length(len(p)) if length is None else length
    given: dict[str, Any] = {
        "probability": p,
        "margin": m,
        "correct": correct,
        "error": epoch_error(p, m, classes),
        "length": length if 3 <= length <= len(p) else None,
    }
    return score_table.compute("dynamics", given)


def packed(*tables: np.ndarray) -> tuple[np.ndarray, ...]:
    """Move the epochs that saw a sample to the front, in order, so that windows cover those alone."""
    gone = np.isnan(tables[0])
    if not gone.any():
        return tables
    order = np.argsort(gone, axis=0, kind="stable")
    return tuple(np.take_along_axis(table, order, axis=0) for table in tables)


def _mean(values: np.ndarray) -> np.ndarray:
    seen = ~np.isnan(values)
    count = seen.sum(axis=0)
    total = np.where(seen, values, 0.0).sum(axis=0, dtype=np.float64)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan).astype(np.float32)
