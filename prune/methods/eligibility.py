"""Which samples may be kept at all: lists of ids, near-duplicates, leaks and suspected labels."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from prune.index.index_summary import in_flags
from prune.methods.rank import places
from prune.runs.files import InputError, counted


def dropped(arrays: Mapping[str, np.ndarray], n: int, *, leaks: bool, suspects: bool) -> np.ndarray | None:
    """Mark what the flags drop, (n,) bool; `InputError` when the scores file lacks the information."""
    gone = np.zeros(n, bool)
    if suspects:
        gone |= _need(arrays, "looks_like", "--drop-suspects", "`prune score --also suspects`") >= 0
    if leaks:
        names = [name for name in arrays if name.startswith("leak/")]
        if not names:
            raise InputError("--drop-leaks needs `prune score --leaks` with the targets' test features")
        for name in names:
            gone |= arrays[name] > 0
    return gone if gone.any() else None


def originals(arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """`duplicate_of` of the scores file, (n,) int; `InputError` when it has none."""
    return _need(arrays, "duplicate_of", "--drop-duplicates", "`prune score --also duplicates`")


def _need(arrays: Mapping[str, np.ndarray], name: str, flag: str, way_out: str) -> np.ndarray:
    if name not in arrays:
        raise InputError(f"{flag} needs {way_out}")
    return np.asarray(arrays[name])


def eligible(n: int, never: np.ndarray | None, gone: np.ndarray | None, always: np.ndarray | None) -> np.ndarray:
    """Mark the samples that may be kept, (n,) bool: --always overrides the flags that drop, and excludes --never."""
    if always is not None and never is not None and (both := int((always & never).sum())):
        raise InputError(f"--always and --never both name {counted(int(both), 'sample')}")
    may = np.ones(n, bool)
    if gone is not None:
        may &= ~gone
    if always is not None:
        may |= always
    if never is not None:
        may &= ~never
    return may


def surplus_copies(
    duplicate_of: np.ndarray, may: np.ndarray, always: np.ndarray | None, ties: np.ndarray | None = None
) -> np.ndarray:
    """Mark near-duplicates of samples that may be kept, (n,) bool.

    Where an original may not be kept, one of its copies that may be kept replaces it and is not marked: one of `always`
    where there is one, and then the one with the smallest of `ties`.

    Parameters
    ----------
    duplicate_of : (n,) int
        Row of the original; -1 for originals and for samples without a near-duplicate.
    may : (n,) bool
        Samples that may be kept for all other reasons.
    always : (n,) bool, optional
        Samples that must be kept; none of them is marked.
    ties : (n,) number, optional
        Row numbers when absent.
    """
    found = duplicate_of >= 0
    rows = np.flatnonzero(found & may)
    rows = rows[~may[duplicate_of[rows]]]
    last = np.zeros(len(rows), bool) if always is None else ~always[rows]
    rows = rows[np.lexsort((rows if ties is None else ties[rows], last))]
    if always is not None:
        found &= ~always
    _, first = np.unique(duplicate_of[rows], return_index=True)
    found[rows[first]] = False
    return found


def removable_copies(
    copies: np.ndarray,
    may: np.ndarray,
    label: np.ndarray,
    budget: int,
    floor: np.ndarray,
    whole: np.ndarray | None,
    ties: np.ndarray | None = None,
) -> np.ndarray:
    """Mark the near-duplicates that a method drops by itself, (n,) bool, as far as floors and the budget allow.

    Classes that are kept whole keep theirs; where a floor or the budget needs some, those with the smallest ties stay.

    Parameters
    ----------
    copies : (n,) bool
        Near-duplicates of other samples.
    may : (n,) bool
        Samples that may be kept for all other reasons.
    label : (n,) int
    budget : int
    floor : (c,) int
    whole : (c,) bool, optional
        Classes that are kept whole.
    ties : (n,) number, optional
        Row numbers when absent.
    """
    out: np.ndarray = may & copies
    if whole is not None:
        out &= ~whole[label]
    c = len(floor)
    left = np.bincount(label[may & ~out], minlength=c)
    need = np.maximum(np.minimum(floor, np.bincount(label[may], minlength=c)) - left, 0)
    rows = np.flatnonzero(out)
    rows = rows if ties is None else rows[np.argsort(ties[rows], kind="stable")]
    place, _ = places(np.arange(len(rows)), label[rows])
    out[rows[place < need[label[rows]]]] = False
    short = budget - int((may & ~out).sum())
    if short > 0:
        out[rows[out[rows]][:short]] = False
    return out


def causes(
    arrays: Mapping[str, np.ndarray], may: np.ndarray, never: np.ndarray | None, *, leaks: bool, suspects: bool
) -> dict[str, np.ndarray]:
    """Samples that lists, suspects and leaks exclude, (n,) bool by the first cause that applies.

    Parameters
    ----------
    arrays : mapping
        Of the scores file.
    may : (n,) bool
        Of `eligible`.
    never : (n,) bool, optional
    leaks, suspects : bool
        Whether the flags drop them.
    """
    out = ~may
    found: dict[str, np.ndarray] = {}
    if never is not None:
        found["never"] = never.copy()
    if suspects:
        found["suspect"] = out & (np.asarray(arrays["looks_like"]) >= 0)
    if leaks:
        marks = [np.asarray(values) > 0 for name, values in arrays.items() if name.startswith("leak/")]
        found["leak"] = out & np.any(marks, axis=0)
    seen = np.zeros(len(out), bool)
    for name, mask in found.items():
        found[name] = mask & ~seen
        seen |= mask
    return found


_FLAGS = {"never": "--never", "suspect": "--drop-suspects", "leak": "--drop-leaks", "duplicate": "--drop-duplicates"}


def too_few(budget: int, left: int, gone: Mapping[str, int], n: int) -> str:
    """Why a budget cannot be met: how many each of the `causes` excludes, and the largest keep that fits."""
    why = ", ".join(f"{_FLAGS[name]} drops {count}" for name, count in gone.items() if count)
    fits = f"; the largest that fits is {in_flags(left, n)}" if left else ""
    return f"a budget of {budget} samples, but {left} are available{f': of {n}, {why}' if why else ''}{fits}"
