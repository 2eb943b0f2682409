"""Labels that an input gives as whole numbers: which classes these are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from prune.runs.files import InputError, counted


@dataclass(frozen=True)
class Labels:
    """(n,) int32 `labels` of `classes`; `numbered` where the classes are known by number alone."""

    labels: np.ndarray
    classes: list[str]
    numbered: bool


def numbered_labels(found: np.ndarray, names: Sequence[str] | None, place: str | Path) -> Labels:
    """Labels that are given as (n,) whole numbers, with the names of the classes where these are declared.

    Raises
    ------
    InputError
        Negative numbers (`datasets` writes -1 where a label is not known), or numbers beyond the classes.
    """
    if (hidden := int((found < 0).sum())) > 0:
        raise InputError(
            f"{place}: {counted(hidden, 'image has', 'images have')} no label (-1), as some test splits have; "
            "every image needs one"
        )
    most = int(found.max(initial=-1))
    if names is not None and most >= len(names):
        raise InputError(f"{place}: a label is {most}, and {len(names)} classes are declared")
    if most > 1000 + 10 * len(found):
        raise InputError(f"{place}: labels up to {most} for {len(found)} images: these are no numbers of classes")
    classes = list(names) if names is not None else [f"{k:0{len(str(most))}d}" for k in range(most + 1)]
    if len(set(classes)) < len(classes):
        raise InputError(f"{place}: two of its {len(classes)} classes have the same name")
    return Labels(found.astype(np.int32), classes, names is None)
