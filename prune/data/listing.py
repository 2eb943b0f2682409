"""What every kind of input is listed as: ids, labels, class names, and a function that reads one image's bytes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from prune.runs.files import InputError


@dataclass(frozen=True)
class Listing:
    """Images that can be read one by one.

    Attributes
    ----------
    ids : list of str
        Relative paths, `/` between parts; unique and sorted.
    labels : (n,) int32
    classes : list of str
    read : callable
        Row to the encoded bytes; may raise OSError.
    ignored : mapping of str to int
        Files of a folder that are not listed, counted by suffix.
    """

    ids: list[str]
    labels: np.ndarray
    classes: list[str]
    read: Callable[[int], bytes]
    ignored: Mapping[str, int] = field(default_factory=dict)


def check_labels(place: str | Path, labels: np.ndarray, classes: list[str]) -> None:
    """Raise `InputError` unless (n,) labels are positions in `classes`."""
    if labels.ndim != 1 or (len(labels) and not 0 <= labels.min() <= labels.max() < len(classes)):
        raise InputError(f"{place}: does not give every image one of {len(classes)} classes")


def first_line(error: Exception) -> str:
    """The first line of an error, or its type's name where it has no text."""
    return (str(error).splitlines() or [type(error).__name__])[0]
