"""One streaming pass over features and logits: the scores of `difficulty`, and the mean feature of every class."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from prune.runs.cores import in_order
from prune.runs.progress import track
from prune.scores.class_votes import class_sums, means_of
from prune.scores.logit_summary import LogitSummary, difficulty_of
from prune.scores.streaming import ROWS, blocks, read_rows, widen


@dataclass(frozen=True)
class Pass:
    """Result of the pass.

    Attributes
    ----------
    scores : dict of str to (n,) float32
    means : (c, d) float64
        Mean feature of every class; NaN for a class without samples.
    sizes : (c,) int64
    finite : bool
        False when a feature or logit was infinite or NaN.
    """

    scores: dict[str, np.ndarray]
    means: np.ndarray
    sizes: np.ndarray
    finite: bool


def one_pass(
    features: np.ndarray,
    logits: np.ndarray,
    labels: np.ndarray,
    classes: int,
    columns: np.ndarray | None,
    workers: int | None = None,
    groups: np.ndarray | None = None,
    summary: LogitSummary | None = None,
) -> Pass:
    """Score every sample and average every class's features in one pass over two (memory-mapped) arrays.

    Memory holds the scores, the class sums and a few blocks of rows, never the whole arrays.

    Parameters
    ----------
    features : (n, d) float
    logits : (n, k) float
    labels : (n,) int
    classes : int
        Number of classes, or of groups where `groups` is given.
    columns : (classes,) int, optional
        Columns of the logits that belong to the classes; None when the surrogate has other classes, and then scores
        that need the label are skipped.
    workers : int, optional
        Threads. The result does not depend on them.
    groups : (n,) int, optional
        Groups to average the features over, instead of the classes.
    summary : LogitSummary, optional
        Holds the scores of a source whose logits were not stored.
    """
    n = len(labels)
    groups = labels if groups is None else groups
    scores: dict[str, np.ndarray] = {}
    sums = np.zeros((classes, features.shape[1]))
    finite = True

    def work(rows: slice) -> tuple[slice, dict[str, np.ndarray], np.ndarray, np.ndarray, bool]:
        x = widen(read_rows(features, rows))
        squared = np.einsum("ij,ij->i", x, x)
        if summary is not None:
            part = summary.scores(rows)
        else:
            with np.errstate(all="ignore"):  # an overflow clears `found`, and is reported once for all blocks
                part = difficulty_of(read_rows(logits, rows), labels[rows], squared, columns)
        found = bool(np.isfinite(squared).all() and all(np.isfinite(values).all() for values in part.values()))
        present, block = class_sums(x, groups[rows])
        return rows, part, present, block, found

    results = in_order(work, blocks(n), workers, ahead=2)  # each holds sums of up to a block's rows: megabytes
    for rows, part, present, block, found in track(results, -(-n // ROWS), "scores"):
        for name, values in part.items():
            scores.setdefault(name, np.empty(n, np.float32))[rows] = values
        sums[present] += block
        finite &= found
    sizes = np.bincount(groups, minlength=classes).astype(np.int64)
    return Pass(scores, means_of(sums, sizes), sizes, finite)
