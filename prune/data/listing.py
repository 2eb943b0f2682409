"""What every kind of input is listed as: ids, labels, class names, and a function that reads one image's bytes."""

from __future__ import annotations

import errno
import os
import stat
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from prune.runs.files import InputError, counted


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
    remarks : tuple of str
        What a user should know of the listing, one line each.
    numbered : bool
        The classes have no names in the input: they are called by their numbers.
    of_whole : (c,) int, optional
        Images of each class in the whole source, where this is a part of it.
    """

    ids: list[str]
    labels: np.ndarray
    classes: list[str]
    read: Callable[[int], bytes]
    ignored: Mapping[str, int] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()
    numbered: bool = False
    of_whole: np.ndarray | None = None

    @property
    def class_sizes(self) -> np.ndarray:
        """Images of each class in the whole source, (c,) int."""
        if self.of_whole is not None:
            return self.of_whole
        return np.bincount(self.labels, minlength=len(self.classes))


@dataclass(frozen=True)
class Reading:
    """How an input is to be read where it leaves that open; `prune write` explains each field."""

    nested: bool = False
    root: Path | None = None
    path_column: str | None = None
    label_column: str | None = None
    delimiter: str | None = None

    @property
    def of_a_list(self) -> bool:
        """Whether anything was settled that only a list of paths and classes leaves open."""
        return any((self.root, self.path_column, self.label_column, self.delimiter))


AS_USUAL = Reading()
"""Nothing that is open was settled by the user."""


def check_class_names(place: str, classes: Sequence[str]) -> None:
    """Raise `InputError` for class names that are empty, repeated or not UTF-8: files and pages could not hold them."""
    for name in classes:
        if any("\ud800" <= c <= "\udfff" for c in name):
            raise InputError(f"{place}: the class name {shown_bytes(name)} is not UTF-8: rename it")
    if "" in classes:
        raise InputError(f"{place}: a class has an empty name")
    if len(set(classes)) < len(classes):
        again = next(name for name, count in Counter(classes).items() if count > 1)
        raise InputError(f"{place}: two classes are called {again!r}")


def read_regular(path: Path) -> bytes:
    """Read a regular file; `OSError` for a pipe, socket or device, whose reading might never end."""
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        return file.read()


def shown_bytes(name: str) -> str:
    """A file's name for a message, bytes that are not UTF-8 as `\\xff`."""
    return repr(os.fsencode(name).decode("utf-8", "backslashreplace")).replace("\\\\x", "\\x")


def check_labels(place: str | Path, labels: np.ndarray, classes: list[str]) -> None:
    """Raise `InputError` unless (n,) labels are positions in `classes`."""
    if labels.ndim != 1 or (len(labels) and not 0 <= labels.min() <= labels.max() < len(classes)):
        raise InputError(f"{place}: does not give every image one of {counted(len(classes), 'class')}")


def first_line(error: Exception) -> str:
    """The first line of an error, or its type's name where it has no text."""
    return (str(error).splitlines() or [type(error).__name__])[0]
