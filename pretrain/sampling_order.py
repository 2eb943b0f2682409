"""Which image is trained on when, by which process: pure functions of (seed, epoch, step, rank, world).

The permutation of an epoch depends on (seed, epoch) alone, a global batch is a slice of it, and a rank's batch a slice
of the global batch. A run that resumes at step k, on any number of processes, therefore sees the same images as a
run that was never stopped.
"""

from __future__ import annotations

import numpy as np

from prune.runs.files import InputError


def global_batch(n: int, batch: int, world: int = 1) -> int:
    """Images of one optimiser step: `batch`, or all `n` when there are fewer (never an epoch without a step).

    Raises
    ------
    InputError
        Fewer images than processes.
    """
    if min(n, batch) < world:
        raise InputError(
            f"{min(n, batch)} images a step cannot feed {world} processes: start fewer processes, or raise --batch-size"
        )
    return min(n, batch)


def steps_per_epoch(n: int, batch: int) -> int:
    """Whole global batches in `n` images; the rest of an epoch's permutation is skipped."""
    return n // min(n, batch)


WINDOW = 256
"""Pages of a beton whose images `--order block` mixes at a time: 2 GiB at the default size of a page."""


def epoch_order(
    rows: np.ndarray, seed: int, epoch: int, batch: int, pages: np.ndarray | None = None, window: int = WINDOW
) -> np.ndarray:
    """Permute `rows` for one epoch and cut the tail that does not fill a global batch.

    Parameters
    ----------
    rows : (n,) int64
        Rows to train on.
    seed, epoch : int
        Together they decide the permutation.
    batch : int
        Global batch.
    pages : (n,) int64, optional
        The page of the beton in which each row lies. Then the pages are permuted, and the rows only within `window`
        pages that follow each other in that order: a source that does not fit into memory is read in long runs.
    window : int

    Returns
    -------
    (steps * min(n, batch),) int64
        The first `batch` entries are the first step's, and so on.
    """
    size = min(len(rows), batch)
    draw = np.random.default_rng((seed, epoch))
    if pages is None:
        return draw.permutation(rows)[: len(rows) // size * size]
    kinds, which = np.unique(pages, return_inverse=True)
    windows = draw.permutation(len(kinds))[which] // window
    order = draw.permutation(len(rows))
    return rows[order[np.argsort(windows[order], kind="stable")]][: len(rows) // size * size]


def rank_order(order: np.ndarray, batch: int, rank: int, world: int, start: int = 0) -> np.ndarray:
    """Cut one rank's part out of an epoch's order.

    Parameters
    ----------
    order : (steps * batch,) int64
        Of `epoch_order`.
    batch : int
        Global batch that divides `order`.
    rank, world : int
        Process and number of processes. A rank's part of a batch is consecutive, so that one process which accumulates
        parts forms the same groups for batch norm as several processes do. Parts differ by at most one image.
    start : int
        Steps of this epoch that are done.

    Returns
    -------
    ((steps - start) * rank_batch(batch, rank, world),) int64
    """
    begin = sum(rank_batch(batch, r, world) for r in range(rank))
    part = slice(begin, begin + rank_batch(batch, rank, world))
    return np.ascontiguousarray(order.reshape(-1, batch)[start:, part]).reshape(-1)


def rank_batch(batch: int, rank: int, world: int) -> int:
    """Images of one rank in each global batch."""
    return len(range(rank, batch, world))


def evaluation_rows(rows: np.ndarray, rank: int, world: int) -> np.ndarray:
    """One rank's part of an evaluation: over all ranks every row exactly once, nothing padded, nothing dropped."""
    return np.ascontiguousarray(rows[rank::world], dtype=np.int64)


def sample_rows(rows: np.ndarray, share: float, seed: int) -> np.ndarray:
    """A random part of `rows`, ascending: `share` of them, rounded, at least one.

    Parameters
    ----------
    rows : (n,) int64
    share : float in (0, 1]
    seed : int
    """
    if share == 1.0:
        return rows
    count = max(1, round(share * len(rows)))
    # A stream of its own: the draw must not be the first epoch's permutation.
    return np.sort(np.random.default_rng((seed, 0x5A3B1E)).permutation(rows)[:count])
