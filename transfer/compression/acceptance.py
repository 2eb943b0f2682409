"""The acceptance test of a compression: a step is accepted when the preservation set lost no more than its margins.

It compares predictions with labels, whether a torch network, an int8 file or a device made the predictions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from transfer.compression.wider_tests import Group, WiderTests
from transfer.evaluation.metrics import per_class

_NO_MARGIN = 1000.0  # points, more than can be lost


@dataclass(frozen=True)
class Margins:
    """How much accuracy may be lost against the original, in points; None: any loss is allowed.

    Attributes
    ----------
    overall : float or None
        Over all images of the preservation set.
    per_class : float or None
        In each class.
    slack : float
        Standard errors of a loss that are allowed in addition to its margin.
    """

    overall: float | None = 1.0
    per_class: float | None = 10.0
    slack: float = 0.0


@dataclass(frozen=True)
class Decision:
    """Whether a step is accepted, and why.

    Attributes
    ----------
    accepted : bool
    reason : str
        The losses that exceed a margin, with their standard errors; of the classes the one furthest beyond it.
    accuracy : float
        Of the candidate on the preservation set, 0 to 1.
    per_class : tuple of float or None
        None for a class without images.
    overall_used, class_used : float or None
        Share of the allowed loss that occurred: above 1 is too much, below 0 a gain. None without a margin.
    nearest : str
        The class that came closest to its margin, or exceeds it most.
    beyond : float or None
        Standard errors by which a loss exceeds its margin, the largest of those that led to the rejection; None when
        accepted, and where a test without a standard error does not hold.
    tests : tuple of dict
        Every test: "test", "original" and "value" (what was measured), "lost", "margin", "holds"; "error" and "allowed"
        (with the slack) for accuracies, in points.
    broke : tuple of int
        Places in the preservation set of the images that only the original has right, in the tests of accuracy that
        led to the rejection.
    """

    accepted: bool
    reason: str
    accuracy: float
    per_class: tuple[float | None, ...]
    overall_used: float | None
    class_used: float | None
    nearest: str
    beyond: float | None
    tests: tuple[dict[str, Any], ...] = ()
    broke: tuple[int, ...] = ()

    def nothing_removed(self) -> Decision:
        """The rejection of a step that found nothing to remove, whatever the test says of the network."""
        return replace(self, accepted=False, reason="nothing is left to remove at this ratio", beyond=None)


def predicted_classes(logits: np.ndarray) -> np.ndarray:
    """Predicted class of every image, (n,) int64; -1, which is never correct, where a logit is not finite."""
    logits = np.asarray(logits, np.float64)
    return np.where(np.isfinite(logits).all(1), np.nan_to_num(logits, nan=-np.inf).argmax(1), -1)


@dataclass(frozen=True)
class AcceptanceTest:
    """A preservation set in memory, with what the original predicts on it and the margins.

    Attributes
    ----------
    images : (n, r, r, 3) uint8
    labels, original : (n,) int
        True classes, and those that the original predicts.
    classes : tuple of str
    margins : Margins
    wider : WiderTests
        Tests beside accuracy overall and by class.
    before : mapping of str to float
        What `wider` measures of the original.
    """

    images: np.ndarray
    labels: np.ndarray
    original: np.ndarray
    classes: tuple[str, ...]
    margins: Margins
    wider: WiderTests = field(default_factory=WiderTests)
    before: Mapping[str, float] = field(default_factory=dict)

    def decide(self, predict: Callable[[np.ndarray], np.ndarray]) -> Decision:
        """Test a candidate, given as a function from images to logits (n, c)."""
        logits = predict(self.images)
        return self._decide(predicted_classes(logits), self.wider.values(self.labels, logits))

    def decide_original(self) -> Decision:
        """The original compared with itself."""
        return self._decide(self.original, self.before)

    def _decide(self, candidate: np.ndarray, values: Mapping[str, float]) -> Decision:
        more = self.wider.losses(self.before, values)
        groups = self.wider.groups
        return decide(self.labels, self.original, candidate, self.classes, self.margins, groups, more)


def decide(
    labels: np.ndarray,
    original: np.ndarray,
    candidate: np.ndarray,
    classes: Sequence[str],
    margins: Margins,
    groups: Sequence[Group] = (),
    more: Sequence[Mapping[str, Any]] = (),
) -> Decision:
    """Compare a candidate with the original on the preservation set.

    A loss equal to its margin is allowed. One class that exceeds its margin is enough for a rejection, however much the
    others gain: Guo et al., "Safety-Guided Self Compression", 2025.

    Parameters
    ----------
    labels, original, candidate : (n,) int
        True classes, and those that the two networks predict.
    classes : sequence of str
    margins : Margins
    groups : sequence of Group
        Each is tested like a class, with its own margin.
    more : sequence of mapping
        Other tests, from `WiderTests.losses`.

    Examples
    --------
    >>> labels, good = np.array([0, 0, 0, 0, 1]), np.array([0, 0, 0, 1, 1])
    >>> decide(labels, good, np.array([0, 0, 0, 0, 0]), ["cat", "newt"], Margins(1.0, 10.0)).reason
    'newt: 100.0 ± 43.0 points lost, 10 are allowed'
    """
    wrong, corrected = (original == labels) & (candidate != labels), (original != labels) & (candidate == labels)
    counts = [np.bincount(labels[rows], minlength=len(classes)).tolist() for rows in (slice(None), wrong, corrected)]
    whole = _Loss.of(len(labels), int(wrong.sum()), int(corrected.sum()), margins.overall, margins.slack)
    each = [_Loss.of(n, lost, gained, margins.per_class, margins.slack) for n, lost, gained in zip(*counts)]
    # A class without images has nothing to lose.
    worst = max(range(len(classes)), key=lambda c: each[c].excess if counts[0][c] else -np.inf)
    tested = [("overall", whole), (classes[worst], each[worst])]
    inside = [np.ones(len(labels), bool), labels == worst, *(group.rows for group in groups)]
    for group in groups:
        lost, gained = (int((mask & group.rows).sum()) for mask in (wrong, corrected))
        tested.append((group.name, _Loss.of(int(group.rows.sum()), lost, gained, group.margin, margins.slack)))
    tests = [
        loss.record(name, float(np.mean((original == labels)[rows])), float(np.mean((candidate == labels)[rows])))
        for (name, loss), rows in zip(tested, inside, strict=True)
        if loss.margin is not None and rows.any()
    ]
    broken = [one for one in more if not one["holds"]]
    exceeded = [(name, loss) for name, loss in tested if loss.excess > 1e-9]
    broke = wrong & np.isin(labels, [c for c, loss in enumerate(each) if counts[0][c] and loss.excess > 1e-9])
    for (_, loss), rows in zip(tested, inside, strict=True):
        broke |= wrong & rows & (loss.excess > 1e-9)
    reasons = [
        f"{name}: {loss.points:.1f} ± {loss.error:.1f} points lost, {loss.allowed:.3g} are allowed"
        for name, loss in exceeded
    ]
    reasons += [
        f"{one['test']}: {one['original']} became {one['value']}, by {one['margin']:g} it may get worse"
        for one in broken
    ]
    return Decision(
        accepted=not exceeded and not broken,
        reason="; ".join(reasons) or "within the margins",
        accuracy=float(np.mean(candidate == labels)),
        per_class=tuple(None if np.isnan(a) else float(a) for a in per_class(labels, candidate, len(classes))),
        overall_used=whole.used,
        class_used=each[worst].used,
        nearest=classes[worst],
        beyond=None if broken else max((loss.beyond for _, loss in exceeded), default=None),
        tests=(*tests, *map(dict, more)),
        broke=tuple(np.flatnonzero(broke).tolist()),
    )


def standard_error(n: int, lost: int, gained: int) -> float:
    """Standard error of the difference between two networks' accuracies on the same images, in points.

    Half an image is added to each cell of the two-by-two table; otherwise a handful of images that all change in one
    direction would look certain: Agresti and Min, "Simple improved confidence intervals for comparing matched
    proportions", 2005.

    Parameters
    ----------
    n, lost, gained : int
        All images; those that only the first network predicts correctly, and those that only the second does.
    """
    b, c, m = lost + 0.5, gained + 0.5, n + 2
    return 100 * float(np.sqrt(b + c - (b - c) ** 2 / m)) / m


@dataclass(frozen=True)
class _Loss:
    """Points lost, their standard error, the margin if there is one, and the loss allowed with the slack."""

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
        """Points beyond the allowed loss; without a margin a large negative number, ordered by the loss."""
        return self.points - (_NO_MARGIN if self.margin is None else self.allowed)

    @property
    def used(self) -> float | None:
        """Share of the allowed loss; where no loss is allowed, each point lost counts as one whole margin."""
        if self.margin is None:
            return None
        return round(self.points / self.allowed if self.allowed > 0 else self.points, 6)

    def record(self, name: str, original: float, value: float) -> dict[str, Any]:
        """For the journal; the accuracies and all else in points."""
        return {
            "test": name,
            "original": round(100 * original, 6),
            "value": round(100 * value, 6),
            "lost": round(self.points, 6),
            "error": round(self.error, 6),
            "margin": self.margin,
            "allowed": round(self.allowed, 6),
            "holds": self.excess <= 1e-9,
        }

    @property
    def beyond(self) -> float:
        return round((self.points - (self.margin or 0.0)) / self.error, 3)
