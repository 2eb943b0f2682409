"""What a sequence of tasks is worth: average incremental accuracy and forgetting. Functions on arrays."""

from __future__ import annotations

import numpy as np


def seen_accuracies(matrix: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Accuracy over all classes seen so far, after each task, (t,) float64.

    Parameters
    ----------
    matrix : (t, t) float
        Row k, column j: accuracy on the test images of task j after learning task k; NaN above the diagonal.
    sizes : (t,) int
        Test images of each task.
    """
    sizes = np.asarray(sizes, np.float64)
    return np.array([(row[: k + 1] * sizes[: k + 1]).sum() / sizes[: k + 1].sum() for k, row in enumerate(matrix)])


def average_incremental_accuracy(accuracies: np.ndarray) -> float:
    """Mean of the accuracies after each task, the first included (iCaRL, section 4)."""
    return float(np.mean(accuracies))


def forgetting(matrix: np.ndarray) -> np.ndarray:
    """Forgetting after each task, (t,) float64: 0 after the first.

    Chaudhry, Dokania, Ajanthan and Torr, "Riemannian Walk for Incremental Learning", ECCV 2018, section 3: the mean
    over earlier tasks of the best accuracy that the task ever had before, minus the one that it has. Negative when
    later tasks help.
    """
    found = np.zeros(len(matrix))
    for k in range(1, len(matrix)):
        found[k] = np.mean([matrix[j:k, j].max() - matrix[k, j] for j in range(k)])
    return found
