"""A random number for every sample, from the seed and the sample's id: draws and ties that no order of rows changes.

keys = sample_keys(seed, ids=manifest.ids)       # 64 bits for every sample
order = np.argsort(for_purpose(keys, "ties"))    # the order in which ties are broken
draw = uniform(for_purpose(keys, "random"))      # independent of the order above
"""

from __future__ import annotations

import numpy as np

from prune.index.matching import hashes, mixed


def sample_keys(seed: int, *, ids: np.ndarray | None = None, n: int = 0) -> np.ndarray:
    """Keys of samples, (n,) uint64: equal for equal ids and seeds, in whatever order the ids come.

    Parameters
    ----------
    seed : int
    ids : (n,) bytes, optional
    n : int
        Number of samples without ids; their row numbers are their ids.
    """
    if ids is None:
        return np.asarray(
            mixed(np.arange(1, n + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15) ^ _of("row", seed))
        )
    return hashes(ids, seed)


def name_keys(seed: int, names: list[str] | None, n: int) -> np.ndarray:
    """Keys of n classes from their names, or from their numbers when they have none, (n,) uint64."""
    if names is None:
        return sample_keys(seed, n=n)
    return hashes(np.array([name.encode() for name in names], dtype=np.bytes_), seed) if names else np.empty(0, "u8")


def for_purpose(keys: np.ndarray, purpose: str) -> np.ndarray:
    """Keys for one use, (n,) uint64: those of different purposes are independent."""
    return np.asarray(mixed(keys ^ _of(purpose, 0)))


def uniform(keys: np.ndarray) -> np.ndarray:
    """Uniform numbers in (0, 1) from keys, (n,) float64."""
    return np.asarray(((keys >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52)


def _of(word: str, seed: int) -> np.uint64:
    return np.uint64(hashes(np.array([word.encode()]), seed)[0])
