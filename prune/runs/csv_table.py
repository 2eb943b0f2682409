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
        Not a CSV file in UTF-8, a row with more or fewer cells than the header, or two columns of one name.
    """
    try:
        with open(place, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            rows = []
            for row in reader:
                if None in row or None in row.values():
                    raise InputError(
                        f"{flag}{place}: line {reader.line_num} has another number of cells than the header's "
                        f"{len(reader.fieldnames or [])}; a text with a comma needs quotation marks"
                    )
                rows.append(row)
            names = list(reader.fieldnames or [])
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{flag}{place}: not a CSV file in UTF-8 ({error})") from None
    if twice := [name for k, name in enumerate(names) if name in names[:k]]:
        raise InputError(f"{flag}{place}: two columns are called {twice[0]!r}")
    return rows, names
