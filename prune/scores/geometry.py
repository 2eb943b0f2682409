"""Where a sample lies among the others: distance to prototypes, to the median distance, to the targets."""

from __future__ import annotations

import numpy as np

from prune.runs.cores import in_order
from prune.runs.progress import track
from prune.scores.clusters import kmeans, nearest, stream, unit
from prune.scores.streaming import ROWS, blocks, read, widen


def prototype_distances(
    features: np.ndarray, labels: np.ndarray, means: np.ndarray, workers: int | None = None
) -> np.ndarray:
    """Euclidean distance of every sample to the mean feature of its own class, (n,) float32.

    Parameters
    ----------
    features : (n, d) float
        May be mapped.
    labels : (n,) int
    means : (c, d) float
    workers : int, optional
        Threads. The result does not depend on them.
    """
    found = np.empty(len(labels), np.float32)
    mu = np.asarray(means, np.float32)

    def work(rows: slice) -> tuple[slice, np.ndarray]:
        x = widen(read(features, rows))
        x -= mu[labels[rows]]
        return rows, np.sqrt(np.einsum("ij,ij->i", x, x))

    n = len(labels)
    for rows, distance in track(in_order(work, blocks(n), workers), -(-n // ROWS), "prototypes"):
        found[rows] = distance
    return found


def moderate(distance: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """Moderate: distance of a sample's prototype distance to its class's median, (n,) float32; the least are kept.

    Xia et al., "Moderate Coreset: A Universal Method of Data Selection for Real-world Data-efficient Deep Learning",
    ICLR 2023, section 3. Their code cuts one window around the median of all samples' distances, which is the rank
    `prototype:middle` under the quota `threshold`; with the class's own median, wide classes lose no more than narrow.

    Parameters
    ----------
    distance : (n,) float
        Distance to the own class's prototype.
    labels : (n,) int
    """
    medians = np.zeros(classes)
    order = np.argsort(labels, kind="stable")
    sizes = np.bincount(labels, minlength=classes)
    for k, part in enumerate(np.split(distance[order], np.cumsum(sizes)[:-1])):
        if len(part):
            medians[k] = np.median(part)
    return np.abs(distance - medians[labels]).astype(np.float32)


def self_prototype_distances(features: np.ndarray, k: int, seed: int = 0) -> np.ndarray:
    """Self-supervised prototypes: 1 - cosine to the nearest of k spherical k-means centres, (n,) float32.

    Sorscher et al., "Beyond neural scaling laws: beating power law scaling via data pruning", NeurIPS 2022, section 5.
    The far ones are the hard ones. Labels play no part.
    """
    centres = kmeans(features, min(k, len(features)), seed=seed, cosine=True)
    found = np.empty(len(features), np.float32)
    for rows, x in stream(features, "self-supervised prototypes"):
        found[rows] = 1.0 - nearest(unit(x), centres, cosine=True)[1]
    return found


def affinities(features: np.ndarray, targets: np.ndarray, centre: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cosine to the nearest target image, (n,) float32, and which one it is, (n,) int32.

    The sample-level form of FM: a source image is worth what its nearest target image says.

    Parameters
    ----------
    features : (n, d) float
        May be mapped.
    targets : (m, d) float
        Features of target images by the same surrogate.
    centre : (d,) float
        Taken off both first; the source's mean feature.
    """
    best = np.full(len(features), -np.inf, np.float32)
    which = np.zeros(len(features), np.int32)
    ready = unit(targets, centre)
    for rows, x in stream(features, "affinity"):
        which[rows], best[rows] = nearest(unit(x, centre), ready, cosine=True)
    return best, which
