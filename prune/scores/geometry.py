"""Scores from distances in feature space: to the class's mean, to k-means centres, to the targets' images.

The functions take what `prune.scores.score_source` provides: `features`, (n, d), possibly memory-mapped; `labels`, (n,)
classes (or clusters) of the samples; `means`, (classes, d); `classes`, their number; `targets`, features of each
target's images; `centre`, (d,) mean feature of the source; `seed`; `keys`,
(n,) random numbers of the samples (`prune.scores.sample_keys`); `workers`, threads, on which no result depends.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from prune.runs.cores import in_order
from prune.runs.progress import track
from prune.scores.clusters import kmeans, nearest, stream, unit
from prune.scores.streaming import ROWS, blocks, read_rows, widen


def prototype(features: np.ndarray, labels: np.ndarray, means: np.ndarray, workers: int | None = None) -> np.ndarray:
    """Euclidean distance of every sample to the mean feature of its own class, (n,) float32."""
    found = np.empty(len(labels), np.float32)
    mu = np.asarray(means, np.float32)

    def work(rows: slice) -> tuple[slice, np.ndarray]:
        x = widen(read_rows(features, rows))
        x -= mu[labels[rows]]
        return rows, np.sqrt(np.einsum("ij,ij->i", x, x))

    n = len(labels)
    for rows, distance in track(in_order(work, blocks(n), workers), -(-n // ROWS), "prototypes"):
        found[rows] = distance
    return found


def moderate(prototype: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """Moderate: distance of a sample's prototype distance to its class's median, (n,) float32; the least are kept.

    Xia et al., "Moderate Coreset: A Universal Method of Data Selection for Real-world Data-efficient Deep Learning",
    ICLR 2023, section 3. Two differences from the authors' code. It cuts one window around the median of all samples'
    distances, which is the rank `prototype:middle` under the quota `threshold`; with the class's own median, wide
    classes lose no more than narrow ones. And its prototype is the median of each coordinate; ours is the class's mean,
    as in the paper's text, since a mean can be computed in one pass over the features.
    """
    return from_median(prototype, labels, class_medians(prototype, labels, classes))


def class_medians(prototype: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """Median prototype distance of each class, (c,) float64; 0 for a class without samples."""
    medians = np.zeros(classes)
    order = np.argsort(labels, kind="stable")
    sizes = np.bincount(labels, minlength=classes)
    for k, part in enumerate(np.split(prototype[order], np.cumsum(sizes)[:-1])):
        if len(part):
            medians[k] = np.median(part)
    return medians


def from_median(prototype: np.ndarray, labels: np.ndarray, medians: np.ndarray) -> np.ndarray:
    """Distance of each sample's prototype distance to one of `class_medians`, that of its class; (n,) float32."""
    found: np.ndarray = np.abs(prototype - medians[labels]).astype(np.float32)
    return found


def self_prototype(features: np.ndarray, classes: int, seed: int = 0, keys: np.ndarray | None = None) -> np.ndarray:
    """Self-supervised prototypes: 1 - cosine to the nearest of as many spherical k-means centres as there are classes.

    (n,) float32. Sorscher et al., "Beyond neural scaling laws: beating power law scaling via data pruning", NeurIPS
    2022, section 5. Labels are not used.
    """
    centres = kmeans(features, min(classes, len(features)), seed=seed, keys=keys, cosine=True)
    found = np.empty(len(features), np.float32)
    for rows, x in stream(features, "self-supervised prototypes"):
        found[rows] = 1.0 - nearest(unit(x), centres, cosine=True)[1]
    return found


def affinity(features: np.ndarray, targets: Sequence[np.ndarray], centre: np.ndarray) -> np.ndarray:
    """Cosine to the nearest image of any target, the source's mean feature subtracted, (n,) float32.

    FM for single samples: the score of a source image depends on its nearest target image alone.
    """
    best = np.full(len(features), -np.inf, np.float32)
    ready = [unit(target, centre) for target in targets]
    for rows, x in stream(features, "affinity"):
        block = unit(x, centre)
        best[rows] = np.max([nearest(block, target, cosine=True)[1] for target in ready], axis=0)
    return best
