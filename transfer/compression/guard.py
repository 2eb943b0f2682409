"""The guard: a step of compression stands only when the preservation set says that nothing has broken.

It sees labels and predictions and nothing else, so it judges a torch network, an int8 file or a device alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from transfer.evaluation.metrics import per_class


@dataclass(frozen=True)
class Margins:
    """How much may be lost against the original, in points of accuracy; None: anything.

    Attributes
    ----------
    overall : float or None
        Over all images of the preservation set.
    per_class : float or None
        In each class.
    """

    overall: float | None = 1.0
    per_class: float | None = 10.0


@dataclass(frozen=True)
class Verdict:
    """What the guard says of a step.

    Attributes
    ----------
    accepted : bool
    reason : str
        In words; names the class that was lost most beyond its margin.
    accuracy : float
        Of the candidate on the preservation set, 0 to 1.
    per_class : tuple of float or None
        None for a class without images.
    overall_used, class_used : float or None
        Shares of the margins that are used up: above 1 is beyond the margin, below 0 a gain. None without a margin.
    nearest : str
        The class that came closest to its margin, or went furthest beyond it.
    """

    accepted: bool
    reason: str
    accuracy: float
    per_class: tuple[float | None, ...]
    overall_used: float | None
    class_used: float | None
    nearest: str

    def facts(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {**asdict(self), "per_class": list(self.per_class)}


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
    'newt: 100.0 points lost, 10 are allowed'
    """
    before, after = (per_class(labels, p, len(classes)) for p in (original, candidate))
    lost = 100 * float(np.mean(original == labels) - np.mean(candidate == labels))
    by_class = np.nan_to_num(100 * (before - after), nan=-np.inf)  # a class without images has nothing to lose
    worst = int(by_class.argmax())
    reasons = []
    if margins.overall is not None and lost > margins.overall + 1e-9:
        reasons.append(f"overall: {lost:.1f} points lost, {margins.overall:g} are allowed")
    if margins.per_class is not None and by_class[worst] > margins.per_class + 1e-9:
        reasons.append(f"{classes[worst]}: {by_class[worst]:.1f} points lost, {margins.per_class:g} are allowed")
    return Verdict(
        accepted=not reasons,
        reason="; ".join(reasons) or "within the margins",
        accuracy=float(np.mean(candidate == labels)),
        per_class=tuple(None if np.isnan(a) else float(a) for a in after),
        overall_used=_share(lost, margins.overall),
        class_used=_share(float(by_class[worst]), margins.per_class),
        nearest=classes[worst],
    )


def _share(lost: float, margin: float | None) -> float | None:
    """Share of a margin that is used; of a margin of 0 each point lost counts as one whole margin."""
    return None if margin is None else round(lost / margin if margin > 0 else lost, 6)


def coarse(labels: np.ndarray, classes: Sequence[str], margin: float | None) -> list[tuple[str, int]]:
    """Classes with so few images that one wrong answer is beyond the margin, and their images."""
    counts = np.bincount(labels, minlength=len(classes))
    return [] if margin is None else [(classes[c], int(n)) for c, n in enumerate(counts) if n > 0 and 100 / n > margin]
