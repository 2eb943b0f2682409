"""Metrics of predictions: accuracy within each class, and calibration. Functions on arrays."""

from __future__ import annotations

import numpy as np


def per_class(labels: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Accuracy within each class, (classes,) float64; NaN for a class without samples."""
    total = np.bincount(labels, minlength=classes)
    right = np.bincount(labels[labels == predicted], minlength=classes)
    found: np.ndarray = np.divide(right, total, out=np.full(classes, np.nan), where=total > 0)
    return found


def calibration_error(confidence: np.ndarray, correct: np.ndarray, bins: int = 15) -> float:
    """Expected calibration error: mean |accuracy - confidence| over equal-width bins, weighted by their samples.

    Guo, Pleiss, Sun and Weinberger, "On Calibration of Modern Neural Networks" (2017), equation 3.

    Parameters
    ----------
    confidence : (n,) float in [0, 1]
    correct : (n,) bool
    bins : int
        Bin m holds confidences in ((m - 1) / bins, m / bins].
    """
    at = np.clip(np.ceil(confidence.astype(np.float64) * bins).astype(np.int64) - 1, 0, bins - 1)
    gap = np.bincount(at, correct.astype(np.float64), bins) - np.bincount(at, confidence.astype(np.float64), bins)
    return float(np.abs(gap).sum() / len(confidence))
