"""Reads a CSV file of a user's as rows by column."""

from __future__ import annotations

import csv
from pathlib import Path

from prune.runs.files import InputError


def read_table(place: Path, flag: str = "") -> tuple[list[dict[str, str]], list[str]]:
    """Rows by column, and the names of the columns; a byte-order mark is no part of the first.

    Parameters
    ----------
    place : Path
    flag : str
        Stands before the path in messages, such as "--pilot ".

    Raises
    ------
    InputError
        Not a CSV file in UTF-8.
    """
    try:
        with open(place, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            return list(reader), list(reader.fieldnames or [])
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{flag}{place}: not a CSV file in UTF-8 ({error})") from None
