"""Is a class certainly worse than allowed, whenever and however often one looks? An e-process for shares of errors.

Errors of the images of one class are a sequence of 0 and 1. The null hypothesis: given all images before, the next one
is an error with a probability of at most m. Against it a bet is placed on every image; the capital at a fixed
alternative p > m is the likelihood ratio (p / m) ** errors * ((1 - p) / (1 - m)) ** others, the capital process of
Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting", JRSS B 86(1), 2024, section 4, for
0 and 1. Its mean over p, uniform on (m, 1], is again a supermartingale: the method of mixtures, Howard, Ramdas,
McAuliffe and Sekhon, "Time-uniform, nonparametric, nonasymptotic confidence sequences", Annals of Statistics 49(2),
2021, Lemma 2, equation (3.6), and section 3.2 on one-sided beta-binomial mixtures. By Ville's inequality it ever
reaches 1 / error with a probability of at most `error`, however often it is looked at and whenever one stops.

A class may break after many sound images, over which such capital shrinks. So it is divided in advance: a part of
1 / (k (k + 1)) is bet from look k on, k = 1, 2, ... The parts sum to 1, and what is not bet yet stays as it is: their
sum is a supermartingale again, and finds a late loss as well as an early one.
"""

from __future__ import annotations

import numpy as np
from scipy.special import betaincc, betaln, logsumexp

_NONE = -700.0  # logarithm of no evidence at all; -inf is no JSON


def log_evidence(wrong: np.ndarray, images: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    """Natural logarithm of the e-value against "at most `allowed` of the images are errors".

    Parameters
    ----------
    wrong, images : (...) int
        Errors and images so far.
    allowed : (...) float
        The share m, above 0. From 1 on there is nothing to find: 0.

    Returns
    -------
    (...) float64

    Examples
    --------
    One error of one image at m = 0.5: the mean of p / m over (0.5, 1] is 0.75 / 0.5.

    >>> round(float(np.exp(log_evidence(1, 1, 0.5))), 9)
    1.5
    """
    wrong, images, m = np.broadcast_arrays(np.asarray(wrong, float), np.asarray(images, float), allowed)
    sound = np.clip(m, 1e-12, 1 - 1e-12)
    right = images - wrong
    with np.errstate(divide="ignore"):
        above = np.log(betaincc(wrong + 1, right + 1, sound))
    found = betaln(wrong + 1, right + 1) + above - np.log1p(-sound) - wrong * np.log(sound) - right * np.log1p(-sound)
    return np.where(m >= 1, 0.0, np.maximum(found, _NONE))


def by_start(wrong: np.ndarray, images: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    """Logarithm of the capital of each part after the last look: what was bet from look k on, and the part's size.

    Parameters
    ----------
    wrong, images : (looks, ...) int
        Errors and images of each look.
    allowed : (...) float

    Returns
    -------
    (looks + 1, ...) float64
        The last one is what has not been bet yet.
    """
    errors, total = (np.cumsum(np.asarray(one)[::-1], axis=0)[::-1] for one in (wrong, images))
    found = log_evidence(errors, total, np.asarray(allowed))
    k = np.arange(1, len(found) + 1, dtype=float).reshape(-1, *[1] * (found.ndim - 1))
    waiting = np.full((1, *found.shape[1:]), -np.log(len(found) + 1.0))
    return np.concatenate([found - np.log(k * (k + 1)), waiting])


def log_evidence_of_looks(wrong: np.ndarray, images: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    """Logarithm of the e-value after the last of several looks: the sum of `by_start`. (...) float64.

    Examples
    --------
    One look with one error of one image at m = 0.5: half of the capital is bet and becomes 0.75, the other half waits.

    >>> round(float(np.exp(log_evidence_of_looks(np.array([1]), np.array([1]), 0.5))), 9)
    1.25
    """
    found: np.ndarray = logsumexp(by_start(wrong, images, allowed), axis=0)
    return found


def log_threshold(error: float, tests: int) -> float:
    """The log e-value at which one of `tests` hypotheses is rejected, all of them together at `error` (Bonferroni).

    Parameters
    ----------
    error : float
        Probability that any hypothesis that holds is ever rejected.
    tests : int
        Fixed before the first image: all classes, seen or not, and whatever else is tested.
    """
    return float(np.log(tests / error))


def surely_at_least(wrong: int, images: int, threshold: float) -> float:
    """Lower end of the confidence sequence: the largest share that is rejected, 0 where none is.

    Parameters
    ----------
    wrong, images : int
    threshold : float
        From `log_threshold`.
    """
    if not wrong:
        return 0.0
    low, high = 0.0, wrong / images
    for _ in range(50):
        middle = (low + high) / 2
        if log_evidence(np.array(wrong), np.array(images), np.array(middle)) >= threshold:
            low = middle
        else:
            high = middle
    return low
