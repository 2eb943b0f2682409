"""The guard: a step of compression stands only when the preservation set says that nothing has broken.

It sees labels and predictions and nothing else, so it judges a torch network, an int8 file or a device alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from transfer.evaluation.metrics import per_class

_NO_MARGIN = 1000.0  # points: more than can be lost


@dataclass(frozen=True)
class Margins:
    """How much may be lost against the original, in points of accuracy; None: anything.

    Attributes
    ----------
    overall : float or None
        Over all images of the preservation set.
    per_class : float or None
        In each class.
    slack : float
        Standard errors of a loss that are allowed on top of its margin.
    """

    overall: float | None = 1.0
    per_class: float | None = 10.0
    slack: float = 0.0


@dataclass(frozen=True)
class Verdict:
    """What the guard says of a step.

    Attributes
    ----------
    accepted : bool
    reason : str
        In words, losses with their standard errors; names the class that went furthest beyond its margin.
    accuracy : float
        Of the candidate on the preservation set, 0 to 1.
    per_class : tuple of float or None
        None for a class without images.
    overall_used, class_used : float or None
        Shares of what is allowed that are used up: above 1 is too much, below 0 a gain. None without a margin.
    nearest : str
        The class that came closest to its margin, or went furthest beyond it.
    beyond : float or None
        Standard errors by which a loss lies beyond its margin, the greatest of those behind a veto; None when accepted.
    """

    accepted: bool
    reason: str
    accuracy: float
    per_class: tuple[float | None, ...]
    overall_used: float | None
    class_used: float | None
    nearest: str
    beyond: float | None


def predicted(logits: np.ndarray) -> np.ndarray:
    """Class of every image, (n,) int64; -1, which is right for no image, where a logit is not finite."""
    logits = np.asarray(logits, np.float64)
    return np.where(np.isfinite(logits).all(1), np.nan_to_num(logits, nan=-np.inf).argmax(1), -1)


def judge(
    labels: np.ndarray, original: np.ndarray, candidate: np.ndarray, classes: Sequence[str], margins: Margins
) -> Verdict:
    """Compare a candidate with the original on the preservation set.

    A loss equal to the margin is within it. One class beyond its margin is enough for a veto, however much the others
    gain: Guo et al., "Safety-Guided Self Compression", 2025.

    Parameters
    ----------
    labels, original, candidate : (n,) int
        True classes, and those that the two networks predict.
    classes : sequence of str
    margins : Margins

    Examples
    --------
    >>> labels, good = np.array([0, 0, 0, 0, 1]), np.array([0, 0, 0, 1, 1])
    >>> judge(labels, good, np.array([0, 0, 0, 0, 0]), ["cat", "newt"], Margins(1.0, 10.0)).reason
    'newt: 100.0 ± 43.0 points lost, 10 are allowed'
    """
    wrong, mended = (original == labels) & (candidate != labels), (original != labels) & (candidate == labels)
    counts = [np.bincount(labels[rows], minlength=len(classes)).tolist() for rows in (slice(None), wrong, mended)]
    whole = _Loss.of(len(labels), int(wrong.sum()), int(mended.sum()), margins.overall, margins.slack)
    each = [_Loss.of(n, down, up, margins.per_class, margins.slack) for n, down, up in zip(*counts)]
    # A class without images has nothing to lose.
    worst = max(range(len(classes)), key=lambda c: each[c].excess if counts[0][c] else -np.inf)
    broken = [(name, loss) for name, loss in (("overall", whole), (classes[worst], each[worst])) if loss.excess > 1e-9]
    reasons = [
        f"{name}: {loss.points:.1f} ± {loss.error:.1f} points lost, {loss.allowed:.3g} are allowed"
        for name, loss in broken
    ]
    return Verdict(
        accepted=not broken,
        reason="; ".join(reasons) or "within the margins",
        accuracy=float(np.mean(candidate == labels)),
        per_class=tuple(None if np.isnan(a) else float(a) for a in per_class(labels, candidate, len(classes))),
        overall_used=whole.used,
        class_used=each[worst].used,
        nearest=classes[worst],
        beyond=max((loss.beyond for _, loss in broken), default=None),
    )


def standard_error(n: int, lost: int, gained: int) -> float:
    """Standard error of the difference between two networks' accuracies on the same images, in points.

    Half an image is added to each cell of the two-by-two table, without which a handful of images that all go one way
    would look certain: Agresti and Min, "Simple improved confidence intervals for comparing matched proportions", 2005.

    Parameters
    ----------
    n, lost, gained : int
        Images; those that the first alone answers rightly, and the second alone.
    """
    b, c, m = lost + 0.5, gained + 0.5, n + 2
    return 100 * float(np.sqrt(b + c - (b - c) ** 2 / m)) / m


@dataclass(frozen=True)
class _Loss:
    """Points lost, their standard error, the margin if there is one, and what is allowed with the slack."""

    points: float
    error: float
    margin: float | None
    allowed: float

    @classmethod
    def of(cls, n: int, lost: int, gained: int, margin: float | None, slack: float) -> _Loss:
        error = standard_error(n, lost, gained)
        return cls(100 * (lost - gained) / max(n, 1), error, margin, (margin or 0.0) + slack * error)

    @property
    def excess(self) -> float:
        """Points beyond what is allowed; without a margin the least of all excesses, by the loss."""
        return self.points - (_NO_MARGIN if self.margin is None else self.allowed)

    @property
    def used(self) -> float | None:
        """Share of what is allowed; where that is nothing, each point lost counts as one whole margin."""
        if self.margin is None:
            return None
        return round(self.points / self.allowed if self.allowed > 0 else self.points, 6)

    @property
    def beyond(self) -> float:
        return round((self.points - (self.margin or 0.0)) / self.error, 3)


def coarse(labels: np.ndarray, classes: Sequence[str], margin: float | None) -> list[tuple[str, int]]:
    """Classes with so few images that one wrong answer is beyond the margin, and their images."""
    counts = np.bincount(labels, minlength=len(classes))
    return [] if margin is None else [(classes[c], int(n)) for c, n in enumerate(counts) if n > 0 and 100 / n > margin]
