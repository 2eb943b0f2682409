"""How much an encoding distorts an image: for a network (feature MSE) and in its pixels (PSNR)."""

from __future__ import annotations

import numpy as np


def fmse(features: np.ndarray, original: np.ndarray) -> np.ndarray:
    """Mean squared error of the features, FMSE ("Probing Image Compression", 2024).

    Parameters
    ----------
    features, original : (..., d) float
        Features of the decoded copies and of the originals; broadcast against each other.

    Returns
    -------
    (...) float32
    """
    gap = np.asarray(features, np.float32) - np.asarray(original, np.float32)
    found: np.ndarray = np.square(gap).mean(-1, dtype=np.float32)
    return found


def psnr(pixels: np.ndarray, original: np.ndarray) -> np.ndarray:
    """Peak signal-to-noise ratio in dB, peak 255; infinite for equal images.

    Memory: the result, and one image in float32 at a time.

    Parameters
    ----------
    pixels, original : (..., h, w, 3) uint8
        Broadcast against each other.

    Returns
    -------
    (...) float32
    """
    pixels, original = np.broadcast_arrays(pixels, original)
    error = np.empty(pixels.shape[:-3])
    for at in np.ndindex(error.shape):
        gap = np.subtract(pixels[at], original[at], dtype=np.float32)
        error[at] = np.square(gap, out=gap).mean(dtype=np.float64)
    with np.errstate(divide="ignore"):
        return (10 * np.log10(255.0**2 / error)).astype(np.float32)


def dropped(features: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """FMSE of dropping an image: against the mean feature, the best guess without the image.

    Parameters
    ----------
    features : (n, d) float
    mean : (d,) float
        Mean over all images.

    Returns
    -------
    (n,) float32
        Above 0, also for an image that is the mean itself.
    """
    found: np.ndarray = np.maximum(fmse(features, mean), np.float32(1e-12))
    return found
