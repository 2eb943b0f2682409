"""An index in numbers and in a sentence, for tables, JSON and pages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from .index_file import MEANING
from .pruned_index import PrunedIndex


def summary(index: PrunedIndex) -> dict[str, Any]:
    """Count what an index keeps, in all and by class.

    Returns
    -------
    dict
        JSON-serialisable. "classes" has one entry per class: class, kept, total, keep, nbytes, reasons, and the
        least, median and greatest score of the kept samples (null where there are none).
    """
    kept, total = index.per_class()
    c, names = len(index.classes), index.reason_names
    nbytes = np.bincount(index.labels, weights=index.nbytes, minlength=c).astype(np.int64)
    codes = index.labels.astype(np.int64) * len(names) + index.reasons
    why = np.bincount(codes, minlength=c * len(names)).reshape(c, len(names))
    order = np.argsort(index.labels, kind="stable")
    scores = np.split(index.scores[order], np.cumsum(kept)[:-1]) if c else []
    quality, count = np.unique(index.quality, return_counts=True)
    return {
        "meaning": MEANING,
        "kept": len(index),
        "source": {"fingerprint": index.source, "samples": index.source_samples, "nbytes": index.source_nbytes},
        "keep": _share(len(index), index.source_samples),
        "nbytes": int(index.nbytes.sum(dtype=np.int64)),
        "fingerprint": index.fingerprint,
        "reasons": {name: int(n) for name, n in zip(names, why.sum(axis=0)) if n},
        "quality": {quality_name(int(q)): int(n) for q, n in zip(quality, count)},
        "classes": [
            {
                "class": index.classes[k],
                "kept": int(kept[k]),
                "total": int(total[k]),
                "keep": _share(kept[k], total[k]),
                "nbytes": int(nbytes[k]),
                "reasons": {name: int(n) for name, n in zip(names, why[k]) if n},
                "score": _spread(scores[k]),
            }
            for k in range(c)
        ],
        "provenance": index.provenance,
    }


def sentence(numbers: dict[str, Any]) -> str:
    """What an index keeps, as a sentence."""
    source = numbers["source"]
    return (
        f"This index lists the samples to KEEP: {numbers['kept']:,} of {source['samples']:,} "
        f"({100 * numbers['keep']:.1f} %) of the source {source['fingerprint']}; all others are dropped. "
        f"They take {numbers['nbytes'] / 1e6:,.1f} of {source['nbytes'] / 1e6:,.1f} MB."
    )


def in_flags(budget: int, n: int) -> str:
    """The largest keep, in three decimals or as many as it takes, that is at most `budget` of `n`, and the budget.

    Examples
    --------
    >>> in_flags(240, 272), in_flags(1, 5000)
    ('--keep 0.882 (--budget 240)', '--keep 0.0002 (--budget 1)')
    """
    digits = next(digits for digits in range(3, 20) if budget * 10**digits >= n)
    return f"--keep {budget * 10**digits // n / 10**digits:.12g} (--budget {budget})"


def copies_sentence(copies: Mapping[str, int], n: int) -> str:
    """How many near-duplicates a selection from `n` samples kept since it needed them, and what keeps none.

    Parameters
    ----------
    copies : mapping
        "kept", and "none_up_to": the largest budget that keeps none, 0 where every budget keeps some.
    n : int
    """
    one = copies["kept"] == 1
    said = f"{copies['kept']:,} near-duplicate{' is' if one else 's are'} kept, since "
    if not (most := copies["none_up_to"]):
        return f"{said}a floor or a class that is kept whole needs {'it' if one else 'them'}"
    return f"{said}the budget needs {'it' if one else 'them'}; the largest that keeps none is {in_flags(most, n)}"


def quality_name(level: int) -> str:
    """A value of the quality column as text: "original", "60", "60 half" (at half the resolution)."""
    return "original" if level == 0 else str(level) if level <= 100 else f"{level - 100} half"


def ranked_by(index: PrunedIndex) -> tuple[str, str]:
    """The score by which samples were ranked, and which end was kept ("top", "bottom", "middle"); "" where unknown."""
    for entry in reversed(index.provenance):
        method = entry.get("method")
        if isinstance(method, dict) and isinstance(method.get("rank"), str):
            score, _, way = method["rank"].partition(":")
            return (score, way) if way else ("", "")
    return "", ""


def classes_to_list(kept: np.ndarray, total: np.ndarray, limit: int) -> np.ndarray:
    """Choose at most `limit` classes to list: all, or those that keep the largest and the smallest shares.

    Parameters
    ----------
    kept, total : (c,) int
    limit : int

    Returns
    -------
    (m,) int64
        Labels, ascending; without classes that have no samples.
    """
    present = np.flatnonzero(total > 0)
    if len(present) <= limit:
        return present
    order = present[np.argsort(kept[present] / total[present], kind="stable")]
    return np.sort(np.concatenate([order[: limit - limit // 2], order[len(order) - limit // 2 :]]))


def _share(part: Any, whole: Any) -> float:
    return round(int(part) / int(whole), 6) if whole else 0.0


def _spread(scores: np.ndarray) -> list[float] | None:
    scores = scores[np.isfinite(scores)]
    return [float(scores.min()), float(np.median(scores)), float(scores.max())] if len(scores) else None
