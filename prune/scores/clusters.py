"""k-means with faiss on a sample of the rows, assignment block by block, and the streaming of features in blocks."""

from __future__ import annotations

from collections.abc import Iterator

import faiss
import numpy as np

from prune.runs.progress import track
from prune.scores.streaming import ROWS, blocks, read_rows, release_pages, widen


def stream(features: np.ndarray, what: str) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield (rows, float32 block) over (mapped) features, under a progress bar."""
    n = len(features)
    for rows in track(blocks(n), -(-n // ROWS), what):
        yield rows, widen(read_rows(features, rows))


def unit(x: np.ndarray, centre: np.ndarray | None = None) -> np.ndarray:
    """Rows scaled to length 1, float32, after `centre` is subtracted; a row of zeros stays.

    Pooled features of a ReLU network are all positive, so any two of them look alike; without their mean the cosine
    tells them apart.
    """
    x = np.asarray(x, np.float32)
    if centre is not None:
        x = x - np.asarray(centre, np.float32)
    norm = np.sqrt(np.einsum("ij,ij->i", x, x))
    return x / np.where(norm > 0, norm, 1.0)[:, None]


def kmeans(
    features: np.ndarray,
    k: int,
    *,
    seed: int = 0,
    cosine: bool = False,
    centre: np.ndarray | None = None,
    iterations: int = 12,
    per_centre: int = 64,
) -> np.ndarray:
    """k-means centres, (k, d) float32.

    Computed from `per_centre * k` samples, drawn from the seed, when there are more: centres are means, and means of 64
    samples are as good here as means of 1,000.

    Parameters
    ----------
    features : (n, d) float
        May be memory-mapped.
    k : int
        At most n.
    cosine : bool
        Spherical k-means on rows of length 1.
    centre : (d,) float, optional
        Subtracted first.
    """
    n, d = features.shape
    rng = np.random.default_rng(seed)
    rows = np.arange(n) if n <= per_centre * k else np.sort(rng.choice(n, per_centre * k, replace=False))
    sample = np.empty((len(rows), d), np.float32)
    for part in blocks(len(rows)):
        block = gather(features, rows[part])
        sample[part] = unit(block, centre) if cosine else block - (0 if centre is None else centre)
    if k >= len(sample):
        return sample
    found = faiss.Kmeans(
        d,
        k,
        niter=iterations,
        seed=int(rng.integers(1, 2**31)),
        spherical=cosine,
        min_points_per_centroid=1,
        max_points_per_centroid=per_centre,
    )
    found.train(sample)
    return np.array(found.centroids, np.float32)


def gather(features: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Rows of (mapped) features, float32; neighbouring rows are read as one."""
    if len(rows) and rows[-1] - rows[0] + 1 == len(rows) and np.all(np.diff(rows) == 1):
        return widen(read_rows(features, slice(int(rows[0]), int(rows[-1]) + 1)))
    found = widen(np.asarray(features[rows]))
    release_pages(features)
    return found


def nearest(block: np.ndarray, centres: np.ndarray, cosine: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Nearest centre of each row: its number (b,) int32, and its cosine or squared distance (b,) float32."""
    products = block @ centres.T
    if cosine:
        best = products.argmax(axis=1)
        return best.astype(np.int32), products[np.arange(len(block)), best]
    products *= -2.0
    products += np.einsum("ij,ij->i", centres, centres)
    best = products.argmin(axis=1)
    square = products[np.arange(len(block)), best] + np.einsum("ij,ij->i", block, block)
    return best.astype(np.int32), np.maximum(square, 0.0)
