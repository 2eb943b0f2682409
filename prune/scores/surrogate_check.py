"""Does a surrogate know the source's classes? Scores and votes of one that knows nothing look like any others."""

from __future__ import annotations

import math

import numpy as np

from prune.scores.feature_files import Features

SEEN = 10_000
"""Images of the source that are looked at, evenly spaced."""


def right_predictions(source: Features) -> tuple[int, int]:
    """How many of the images looked at the surrogate predicts right, and how many these are; (0, 0) without logits."""
    columns = source.columns(source.classes)
    if columns is None or not len(source):
        return 0, 0
    rows = np.unique(np.linspace(0, len(source) - 1, min(SEEN, len(source))).astype(np.int64))
    if source.summary is not None:
        return int(source.summary.right(rows).sum()), len(rows)
    logits = np.asarray(source.logits[rows], np.float32)[:, columns]
    return int((logits.argmax(axis=1) == np.asarray(source.label)[rows]).sum()), len(rows)


def beyond_guessing(right: int, seen: int, largest: float) -> bool:
    """Whether so many right predictions are three standard deviations above always naming the largest class.

    Parameters
    ----------
    right, seen : int
        From `right_predictions`.
    largest : float
        Share of the largest class.

    Examples
    --------
    Of 10,000 images in 100 equal classes guessing gets 100 right, give or take 10:

    >>> beyond_guessing(130, 10_000, 0.01), beyond_guessing(125, 10_000, 0.01)
    (True, False)
    """
    return right >= largest * seen + 3 * math.sqrt(seen * largest * (1 - largest))


def guessing_sentence(source: Features) -> str | None:
    """What to tell of a surrogate that does no better than guessing; None where it does, or without logits."""
    right, seen = right_predictions(source)
    largest = float(np.bincount(np.asarray(source.label)).max(initial=0)) / max(1, len(source))
    if not seen or beyond_guessing(right, seen, largest):
        return None
    return (
        f"{source.path}: the surrogate names {right / seen:.1%} of the source's images right, no more than guessing "
        f"(the largest class has {largest:.1%}): its scores and votes mean nothing; train it for longer"
    )
