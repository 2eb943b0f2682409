"""Does a selection favour groups of images? Kept shares against chance, and how far surrogates agree about each group.

rows = kept_shares(kept, groups, names)           # one row a group
agreed = agreement_by(masks, scores, groups, count)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from scipy.stats import hypergeom

from prune.methods.intervals import holm, wilson
from prune.scores.ensemble import agreement

DOUBT = 0.05
"""Chance of a false flag among all groups of one column when samples are kept at random."""


def kept_shares(
    kept: np.ndarray, groups: np.ndarray, names: Sequence[str], label: np.ndarray | None = None
) -> list[dict[str, Any]]:
    """Kept share of every group beside the share that is expected of a random draw.

    A draw at random of as many samples keeps of a group of m a hypergeometric number; p-values are two-sided (twice
    the smaller tail, at most 1) and corrected for the number of groups (Holm).

    Parameters
    ----------
    kept : (n,) bool
    groups : (n,) int
        -1: without a group; such samples do not count.
    names : sequence of str
    label : (n,) int, optional
        Classes: adds "expected_in_classes", the share expected when each class keeps as many as it does, at random.

    Returns
    -------
    list of dict
        "group", "size", "kept", "share", "low" and "high" (Wilson, 95 %), "expected", "p" (after Holm), "beyond_doubt"
        ("more", "fewer" or "").

    Examples
    --------
    Of two groups of 10, one is kept whole and the other not at all:

    >>> rows = kept_shares(np.arange(20) < 10, np.repeat([0, 1], 10), ["a", "b"])
    >>> [(row["share"], row["expected"], row["beyond_doubt"]) for row in rows]
    [(1.0, 0.5, 'more'), (0.0, 0.5, 'fewer')]
    """
    known = groups >= 0
    count = len(names)
    size = np.bincount(groups[known], minlength=count)
    have = np.bincount(groups[known & kept], minlength=count)
    n, k = int(size.sum()), int(have.sum())
    share = k / n if n else 0.0
    tails = np.minimum(hypergeom.cdf(have, n, k, size), hypergeom.sf(have - 1, n, k, size))
    adjusted = holm(np.minimum(1.0, 2 * tails).tolist())
    inside = None
    if label is not None:
        classes = int(label.max(initial=0)) + 1
        rate = np.bincount(label[known & kept], minlength=classes) / np.maximum(
            np.bincount(label[known], minlength=classes), 1
        )
        inside = np.bincount(groups[known], weights=rate[label[known]], minlength=count) / np.maximum(size, 1)
    rows = []
    for g in range(count):
        low, high = wilson(int(have[g]), int(size[g]), 0.95)
        own = have[g] / size[g] if size[g] else 0.0
        rows.append(
            {
                "group": names[g],
                "size": int(size[g]),
                "kept": int(have[g]),
                "share": round(float(own), 6),
                "low": round(float(low), 6),
                "high": round(float(high), 6),
                "expected": round(share, 6),
                **({} if inside is None else {"expected_in_classes": round(float(inside[g]), 6)}),
                "p": float(f"{adjusted[g]:.4g}"),
                "beyond_doubt": "" if adjusted[g] > DOUBT else "more" if own > share else "fewer",
            }
        )
    return rows


def group_table(rows: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Rows of `kept_shares` as text: head and body of a table, for pages and Markdown.

    Where rows have an "agreement" of the surrogates inside the group, that is the last column.

    Examples
    --------
    >>> head, body = group_table(kept_shares(np.arange(20) < 10, np.repeat([0, 1], 10), ["a", "b"]))
    >>> head
    ['Group', 'Images', 'Kept', 'Share kept', '95 % interval', 'At random', 'p', 'Beyond doubt']
    >>> body[1]
    ['b', '10', '0', '0.0 %', '0.0 % to 27.8 %', '50.0 %', '2.2e-05', 'fewer']
    """
    inside = any("expected_in_classes" in row for row in rows)
    agreed = any(row.get("agreement") is not None for row in rows)
    head = ["Group", "Images", "Kept", "Share kept", "95 % interval", "At random"]
    head += [*(["In its classes"] if inside else []), "p", "Beyond doubt", *(["Surrogates agree"] if agreed else [])]
    body = []
    for row in rows:
        cells = [row["group"], f"{row['size']:,}", f"{row['kept']:,}", _percent(row["share"])]
        cells += [f"{_percent(row['low'])} to {_percent(row['high'])}", _percent(row["expected"])]
        cells += [_percent(row["expected_in_classes"])] if inside else []
        cells += [f"{row['p']:.2g}", row["beyond_doubt"] or "no"]
        if agreed:
            cells.append("" if row.get("agreement") is None else f"{100 * row['agreement']:.0f} %")
        body.append(cells)
    return head, body


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def agreement_by(
    kept: Sequence[np.ndarray], scores: Sequence[Mapping[str, np.ndarray]], groups: np.ndarray, names: Sequence[str]
) -> list[dict[str, Any]]:
    """How far surrogates agree, by group: Spearman's correlation of their scores, and the overlap of what they keep.

    Parameters
    ----------
    kept : sequence of (n,) bool
        What is kept by the scores of each surrogate.
    scores : sequence of mapping of str to (n,) float
        The same names for each surrogate.
    groups : (n,) int
        -1: without a group.
    names : sequence of str

    Returns
    -------
    list of dict
        "group", "size", "overlap" (samples that both keep, times two, over those that each keeps; the mean over the
        pairs of surrogates; None where nothing is kept), "by_chance" (the same of random draws of as many), and
        "correlation" by score (None where it is not defined).

    Examples
    --------
    Each keeps two of four, one of them in common:

    >>> kept = [np.array([1, 1, 0, 0], bool), np.array([1, 0, 1, 0], bool)]
    >>> [(row["overlap"], row["by_chance"]) for row in agreement_by(kept, [{}, {}], np.zeros(4, int), ["all"])]
    [(0.5, 0.5)]
    """
    order = np.argsort(groups, kind="stable")
    ends = np.searchsorted(groups[order], np.arange(len(names) + 1))
    found = []
    for g, name in enumerate(names):
        rows = order[ends[g] : ends[g + 1]]
        pairs = []
        for one, other in combinations(kept, 2):
            a, b = int(one[rows].sum()), int(other[rows].sum())
            both = int((one[rows] & other[rows]).sum())
            if a + b:
                pairs.append((2 * both / (a + b), 2 * a * b / len(rows) / (a + b)))
        overlap, chance = np.mean(pairs, axis=0).tolist() if pairs else (None, None)
        correlation = {}
        for score in scores[0]:
            value = agreement([np.asarray(each[score])[rows] for each in scores]) if len(rows) > 2 else float("nan")
            correlation[score] = None if np.isnan(value) else round(value, 4)
        found.append(
            {
                "group": name,
                "size": len(rows),
                "overlap": None if overlap is None else round(overlap, 4),
                "by_chance": None if chance is None else round(chance, 4),
                "correlation": correlation,
            }
        )
    return found
