"""Which images of a grown preservation set stay, by coverage, and which new images are unlike the set: arrays alone."""

from __future__ import annotations

import math

import numpy as np

from prune.methods.quota import quota
from prune.runs.files import InputError

NEIGHBOURS = 5
"""Which nearest neighbour's distance says how far an image is from the set; classes have more members than that."""


def grown(
    features: np.ndarray,
    labels: np.ndarray,
    classes: int,
    size: int,
    *,
    floor: int,
    stays: np.ndarray,
    cases: np.ndarray,
) -> np.ndarray:
    """Choose the members of a grown preservation set among the old members and the new images.

    Classes share the set equally as far as they have images, as in `preservation_set.preserve`. In each class all of
    `stays` remain; then cases enter until half of the class's share are cases; the rest is filled by coverage, with
    more cases only where there is nothing else. Every choice is the image farthest from those chosen before,
    `extended_cover`.

    Parameters
    ----------
    features : (n, d) float
        By the original model.
    labels : (n,) int in [0, classes)
    classes, size : int
        With fewer images than `size` all of them remain.
    floor : int
        Smallest number of images of each class; smaller classes are in whole.
    stays : (n,) bool
        Images that never leave: they once broke a model.
    cases : (n,) bool
        New images that broke a model.

    Returns
    -------
    (n,) bool
        min(size, n) members.

    Raises
    ------
    InputError
        The floors and the images that never leave need more than `size`.
    """
    n = len(labels)
    if n <= size:
        return np.ones(n, bool)
    sizes, fixed = (np.bincount(labels[mask], minlength=classes) for mask in (np.ones(n, bool), stays))
    least = np.maximum(np.minimum(floor, sizes), fixed)
    if least.sum() > size:
        raise InputError(
            f"--size {size}: floors of {floor} images and the {int(fixed.sum())} cases that never leave need "
            f"{int(least.sum())}; raise it, or lower --floor"
        )
    shares = quota((sizes > 0).astype(float), sizes, size, least)
    kept = stays.copy()
    for c in range(classes):
        inside = np.flatnonzero(labels == c)
        x = np.asarray(features[inside], np.float32)
        new, share = cases[inside], int(shares[c])
        for allowed, most in ((new, (share + 1) // 2), (~new, share), (new, share)):
            chosen = kept[inside]
            count = min(most - int(chosen.sum()), int((allowed & ~chosen).sum()))
            if count > 0:
                kept[inside[extended_cover(x, chosen, allowed, count)]] = True
    return kept


def extended_cover(x: np.ndarray, chosen: np.ndarray, allowed: np.ndarray, count: int) -> np.ndarray:
    """Rows that extend a cover: one after another the allowed row farthest from all rows chosen so far.

    Sener and Savarese, "Active Learning for Convolutional Neural Networks: A Core-Set Approach", ICLR 2018, algorithm
    1 (k-Center-Greedy) with `chosen` as its existing pool. Without a pool the row nearest the mean is first. Equal
    distances: the lower row.

    Parameters
    ----------
    x : (n, d) float
    chosen, allowed : (n,) bool
    count : int
        At most the number of rows that are allowed and not chosen.

    Returns
    -------
    (count,) int64
        In the order in which they were chosen.

    Examples
    --------
    >>> line = np.array([[0.0], [1.0], [4.0], [10.0]])
    >>> extended_cover(line, np.array([True, False, False, False]), np.ones(4, bool), 2).tolist()
    [3, 2]
    """
    x = np.asarray(x, np.float64)
    free = allowed & ~chosen
    distance = np.full(len(x), np.inf)
    for row in np.flatnonzero(chosen):
        np.minimum(distance, ((x - x[row]) ** 2).sum(1), out=distance)
    picks = np.empty(count, np.int64)
    for step in range(count):
        if step or chosen.any():
            pick = int(np.where(free, distance, -np.inf).argmax())
        else:
            pick = int(np.where(free, ((x - x.mean(0)) ** 2).sum(1), np.inf).argmin())
        picks[step], free[pick] = pick, False
        np.minimum(distance, ((x - x[pick]) ** 2).sum(1), out=distance)
    return picks


def neighbour_distances(features: np.ndarray, reference: np.ndarray, neighbours: int = NEIGHBOURS) -> np.ndarray:
    """Distance of each image to its k-th nearest of the reference, both scaled to unit length: (n,) float64.

    Sun, Ming, Zhu and Li, "Out-of-Distribution Detection with Deep Nearest Neighbors", ICML 2022, section 3: the larger
    the distance, the less an image is like the reference.

    Parameters
    ----------
    features : (n, d) float
    reference : (m, d) float
        At least one image; of fewer than `neighbours` the farthest counts.
    neighbours : int
        The k.
    """
    a, b = (_unit(np.asarray(one, np.float64)) for one in (features, reference))
    square = np.maximum(2.0 - 2.0 * a @ b.T, 0.0)
    k = min(neighbours, len(b)) - 1
    found: np.ndarray = np.sqrt(np.partition(square, k, axis=1)[:, k])
    return found


def _unit(x: np.ndarray) -> np.ndarray:
    scaled: np.ndarray = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    return scaled


def alarm_threshold(held_out: np.ndarray, rate: float) -> float | None:
    """The distance that an image like the held-out ones exceeds with a probability of at most `rate`.

    The ceil((m + 1) (1 - rate))-th smallest of the m held-out distances: split conformal prediction, Vovk, Gammerman
    and Shafer, "Algorithmic Learning in a Random World", 2005. It holds for any distribution, over the draw of both.

    Parameters
    ----------
    held_out : (m,) float
    rate : float
        In (0, 1).

    Returns
    -------
    float or None
        None where m is too small for the rate: fewer than 1 / rate - 1.

    Examples
    --------
    >>> alarm_threshold(np.arange(1.0, 20.0), 0.05), alarm_threshold(np.arange(18.0), 0.05)
    (19.0, None)
    """
    m = len(held_out)
    rank = math.ceil(round((m + 1) * (1 - rate), 9))
    return float(np.sort(held_out)[rank - 1]) if 1 <= rank <= m else None


def anomalies(members: np.ndarray, features: np.ndarray, rate: float) -> tuple[np.ndarray, float | None]:
    """How far each new image is from the set, and from which distance on an image is an anomaly.

    Half of the members, drawn at random, are the reference; the other half is held out and gives the threshold. An
    image like the members exceeds it with a probability of at most `rate`. Members that were chosen to cover their
    class, and for being hard, are farther apart than ordinary images, for which the rate is then lower.

    Parameters
    ----------
    members : (m, d) float
        Features of the set by the original model; at least 2 images.
    features : (n, d) float
        Of the new images.
    rate : float

    Returns
    -------
    distances : (n,) float64
    threshold : float or None
        None where the set is too small for the rate.
    """
    order = np.random.default_rng(0).permutation(len(members))
    reference, held_out = members[order[: len(order) // 2]], members[order[len(order) // 2 :]]
    threshold = alarm_threshold(neighbour_distances(held_out, reference), rate)
    return neighbour_distances(features, reference), threshold
