"""Predicts the curves of images that were not measured, from a few facts that are cheap to compute for every image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_RIDGE = 1e-3


@dataclass(frozen=True)
class Prediction:
    """Predicted curves, and how wrong such predictions are.

    Attributes
    ----------
    nbytes : (m, levels) float64
    distortion : (m, levels) float64
    bytes_error : float
        Median relative error of the bytes over the images that were held back, every level but the original.
    distortion_error : float
        The same of the distortion.
    """

    nbytes: np.ndarray
    distortion: np.ndarray
    bytes_error: float
    distortion_error: float


def predict(
    known: np.ndarray, nbytes: np.ndarray, distortion: np.ndarray, unknown: np.ndarray, *, seed: int
) -> Prediction:
    """Ridge regression of log bytes and log distortion on log facts and their squares.

    Every fifth measured image is held back for the errors; the prediction itself uses all.

    Parameters
    ----------
    known : (k, facts) float
        Facts of the measured images, above 0; at least 10 images.
    nbytes, distortion : (k, levels) float
        Their curves; the distortion may be 0.
    unknown : (m, facts) float
        Facts of the others.
    seed : int
        Decides which images are held back.
    """
    tiny = max(float(distortion[distortion > 0].min(initial=1.0)), 1e-12)
    target = np.log(np.concatenate([nbytes, np.maximum(distortion, tiny)], axis=1))
    held = np.zeros(len(known), bool)
    held[np.random.default_rng(seed).permutation(len(known))[: len(known) // 5]] = True
    guess = np.exp(_regress(known[~held], target[~held], known[held]))
    truth = np.exp(target[held])
    wrong = np.abs(guess - truth) / truth
    levels = nbytes.shape[1]
    found = np.exp(_regress(known, target, unknown))
    return Prediction(
        np.maximum(found[:, :levels], 1),
        found[:, levels:],
        float(np.median(wrong[:, :levels])),
        float(np.median(wrong[:, levels:])),
    )


def _regress(known: np.ndarray, target: np.ndarray, unknown: np.ndarray) -> np.ndarray:
    x, new = (np.log(np.maximum(a, 1e-12)) for a in (known, unknown))
    shift, scale = x.mean(0), np.maximum(x.std(0), 1e-6)
    x, new = ((a - shift) / scale for a in (x, new))
    x, new = (np.concatenate([np.ones((len(a), 1)), a, a**2], axis=1) for a in (x, new))
    weights = np.linalg.solve(x.T @ x + _RIDGE * len(x) * np.eye(x.shape[1]), x.T @ target)
    # Beyond the measured range the squared terms are arbitrary: stay close to the measured values.
    found: np.ndarray = np.clip(new @ weights, target.min(0) - 0.7, target.max(0) + 0.7)
    return found
