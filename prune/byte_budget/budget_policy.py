"""The policies of `prune budget`: a quality for each sample, one for all, or original bytes alone.

All of them are the one allocator, on all levels of the ladder or on a single one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from prune.byte_budget.allocation import Allocation, allocate
from prune.runs.files import InputError

Policy = Literal["adaptive", "uniform", "drop"]
_ROUNDS = 20


@dataclass(frozen=True)
class StorageOptions:
    """The samples that may be kept, and the levels at which each may be stored.

    Attributes
    ----------
    level : (levels,) uint8
        Values of an index's quality column; 0, the original bytes, comes first.
    nbytes : (n, levels) int
    value : (n, levels) float
    labels : (n,) int
    floors : (classes,) int, optional
        Every class keeps at least so many samples.
    order : (n,) int
        Place of each sample among those of equal value per byte.
    """

    level: np.ndarray
    nbytes: np.ndarray
    value: np.ndarray
    labels: np.ndarray
    floors: np.ndarray | None
    order: np.ndarray


def allocate_by_policy(
    options: StorageOptions, budget: int, policy: Policy, quality: int | None = None
) -> tuple[Allocation, list[int]]:
    """Choose samples and levels within a budget of bytes.

    Parameters
    ----------
    options : StorageOptions
    budget : int
    policy : {"adaptive", "uniform", "drop"}
    quality : int, optional
        Level of the uniform policy; that of the greatest value when absent.

    Returns
    -------
    allocation : Allocation
        Of the greatest value that the policy allows.
    columns : list of int
        The columns of the ladder that `allocation.level` counts in.
    """
    levels = options.level.tolist()
    if policy == "adaptive":
        choices = [list(range(len(levels)))]
    elif policy == "drop":
        choices = [[0]]
    else:
        choices = [[column] for column, level in enumerate(levels) if quality in (None, level)]
    found, refused = [], None
    for columns in choices:
        try:
            allocation = allocate(
                options.nbytes[:, columns],
                options.value[:, columns],
                budget,
                labels=options.labels,
                floors=options.floors,
                order=options.order,
            )
        except InputError as error:  # at this quality the floors do not fit; at another they may
            refused = error
        else:
            found.append((allocation, columns))
    if not found:
        raise refused or InputError(f"--quality {quality}: measured are {' '.join(map(str, sorted(levels)))}")
    return max(found, key=lambda pair: pair[0].value)


def allocate_by_true_bytes(
    options: StorageOptions,
    budget: int,
    policy: Policy,
    quality: int | None,
    known: np.ndarray,
    count: Callable[[np.ndarray, np.ndarray], np.ndarray],
) -> tuple[Allocation, list[int], np.ndarray]:
    """`allocate_by_policy` where bytes are predicted: count what is chosen, and choose again until all counts agree.

    Parameters
    ----------
    known : (n, levels) bool
        Which bytes are true, and not predicted.
    count : callable
        Rows and levels, two (m,) arrays, to the true bytes, (m,).

    Returns
    -------
    allocation, columns
        As for `allocate_by_policy`; by true bytes alone.
    nbytes : (n, levels) int
        The bytes, those that were counted corrected.
    """
    nbytes, known = options.nbytes.copy(), known.copy()
    for _ in range(_ROUNDS):
        allocation, columns = allocate_by_policy(replace(options, nbytes=nbytes), budget, policy, quality)
        rows = np.flatnonzero(allocation.level >= 0)
        at = np.array(columns)[allocation.level[rows]]
        new = ~known[rows, at]
        rows, at = rows[new], at[new]
        true = count(rows, options.level[at])
        right = bool((nbytes[rows, at] == true).all())
        nbytes[rows, at], known[rows, at] = true, True
        if right:
            return allocation, columns, nbytes
    raise InputError(
        "the predicted bytes are too far from the true ones: measure more images (`prune curves --sample`)"
    )
