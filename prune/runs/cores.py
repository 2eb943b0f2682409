"""How many cores this process may use, and a thread pool on them whose results come in order."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from prune.runs.files import InputError

T = TypeVar("T")


R = TypeVar("R")


def in_order(work: Callable[[T], R], items: Iterable[T], workers: int | None = None, ahead: int = 8) -> Iterator[R]:
    """Map `work` over `items` on threads; results come in order, and few of them wait in memory.

    Parameters
    ----------
    workers : int, optional
        Threads; `share_of_cores` when absent.
    ahead : int
        Results that may wait in memory for each thread. Items of unequal cost, as images are, need several to keep all
        threads at work; for items of equal cost 2 will do.

    Raises
    ------
    InputError
        Fewer than one thread.
    """
    workers = share_of_cores() if workers is None else at_least_one(workers)
    waiting: deque[Future[R]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) >= ahead * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def share_of_cores() -> int:
    """Count the cores that this process may use: those it may run on, divided among the processes of this node.

    A launcher that knows the process's own share, as Slurm does, names it in WINNOW_CORES.
    """
    cores = len(os.sched_getaffinity(0))
    if own := os.environ.get("WINNOW_CORES"):
        try:
            return max(1, min(int(own), cores))
        except ValueError:
            raise InputError(f"WINNOW_CORES={own}: a number of cores is expected in the environment") from None
    return max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def at_least_one(workers: int) -> int:
    """Return `workers`; `InputError` when there are none."""
    if workers < 1:
        raise InputError(f"--workers {workers}: at least 1 is needed")
    return workers
