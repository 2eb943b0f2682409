"""A linear classifier from a handful of images per class, where there is nothing left to choose a regularisation on."""

from __future__ import annotations

import numpy as np
import torch

from transfer.evaluation.logistic import Linear, fit

STRENGTH = 1e-2
"""Regularisation, on features of unit mean square: there are too few images to choose it for each target."""


def draw(labels: np.ndarray, shots: int, seed: int) -> np.ndarray:
    """Choose `shots` rows of every class, all of a class that has fewer; ascending.

    Depends on the labels and the seed alone: every backbone gets the same images.
    """
    rng = np.random.default_rng((seed, shots))
    chosen = [rng.permutation(np.flatnonzero(labels == name))[:shots] for name in np.unique(labels)]
    return np.sort(np.concatenate(chosen))


def unit(features: np.ndarray) -> np.ndarray:
    """Rows of length 1, (n, d) float32; a row of zeros stays."""
    x = features.astype(np.float32)
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)


def train_few(features: np.ndarray, labels: np.ndarray, strength: float = STRENGTH) -> Linear:
    """Multinomial logistic regression on features of length 1, centred and scaled as a whole.

    Tian et al., "Rethinking Few-Shot Image Classification: a Good Embedding Is All You Need?" (2020), section 3.2, use
    the same classifier. One feature's own spread is not known from a handful of images, so all share one scale.

    Parameters
    ----------
    features : (n, d) float
        Not yet normalised. Predict with the `Linear` on `unit(features)`.
    labels : (n,) int
    strength : float
    """
    x = unit(features)
    mean = x.mean(0)
    scale = float(np.sqrt(((x - mean) ** 2).mean()))
    spread = np.full(x.shape[1], scale if scale > 0 else 1.0, np.float32)
    names, targets = np.unique(labels, return_inverse=True)
    if len(names) < 2:
        raise ValueError("one class only: there is nothing to separate")
    theta = fit(torch.from_numpy((x - mean) / spread), torch.from_numpy(targets), len(names), strength)
    return Linear(mean, spread, theta[:, :-1].astype(np.float32), theta[:, -1].astype(np.float32), names)
