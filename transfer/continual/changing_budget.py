"""A budget of bytes that changes while a stream runs: by a schedule, or by a file that somebody else writes."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from prune.runs.files import InputError, note
from transfer.continual.exemplars import memory_bytes

_LONGEST = 64
"""Bytes of a budget file that are read: it holds one amount."""


@dataclass(frozen=True)
class ChangingBudget:
    """Where the budget of a round comes from; both empty: it stays what it is.

    Attributes
    ----------
    schedule : tuple of (int, int)
        From how many arrived samples on, and bytes; in order.
    file : Path, optional
        Holds one amount, such as 6MB; read before every round.
    side : int
        Of the images, for amounts such as 400raw.
    """

    schedule: tuple[tuple[int, int], ...] = ()
    file: Path | None = None
    side: int = 0

    def at(self, arrived: int, now: int, least: int, before: int = -1) -> int:
        """The budget of the round that begins after `arrived` samples.

        Parameters
        ----------
        arrived, before : int
            Samples before this round, and before the one that gave `now`: steps of the schedule count once, so that
            what a file said later outlasts them.
        now : int
            Budget of the round before: it holds where the file gives none, and one line says so.
        least : int
            The smallest budget possible: bytes that the memory takes empty.
        """
        for begin, size in self.schedule:
            now = size if before < begin <= arrived else now
        if self.file is None:
            return now
        try:
            found = _amount(self.file, self.side)
        except InputError as error:
            note(f"{error}; the last good budget holds, {now:,} bytes")
            return now
        if found <= least:
            note(
                f"--budget-file {self.file}: {found:,} bytes do not hold the {least:,} bytes of shared headers; the "
                f"last good budget holds, {now:,} bytes"
            )
            return now
        return found

    def checked(self) -> ChangingBudget:
        """The same; `InputError` when the file gives no amount before the stream begins, as a mistyped name."""
        if self.file is not None:
            _amount(self.file, self.side)
        return self


def _amount(place: Path, side: int) -> int:
    """The bytes that a budget file asks for; `InputError` when it is gone, cut, or no amount."""
    try:
        if place.exists() and not place.is_file():  # reading a pipe might never end
            raise OSError(errno.EINVAL, "not a regular file")
        with open(place, "rb") as file:
            text = file.read(_LONGEST).decode("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a text"
        raise InputError(f"--budget-file {place}: {reason}") from None
    try:
        return memory_bytes(text, side)
    except InputError:
        shown = text if text else "empty"
        raise InputError(f"--budget-file {place}: {shown!r} is no amount such as 6MB, 500kB or 400raw") from None


def read_schedule(texts: Sequence[str], side: int) -> tuple[tuple[int, int], ...]:
    """Read steps such as 1000:500kB, from 1,000 arrived samples on 500 kB.

    Raises
    ------
    InputError
        A step is no such pair, or the steps are not in order.
    """
    found = []
    for text in texts:
        begin, colon, amount = text.partition(":")
        try:
            if not colon or not begin.isdecimal():
                raise InputError("")
            found.append((int(begin), memory_bytes(amount, side)))
        except InputError:
            raise InputError(f"--budget-schedule {text}: steps such as 1000:500kB are expected") from None
    if [begin for begin, _ in found] != sorted({begin for begin, _ in found}):
        raise InputError(f"--budget-schedule {' '.join(texts)}: steps in the order of the samples, each number once")
    return tuple(found)
