"""What every step does around its work: whole files, notes on standard error, checks of numbers and paths.

Nothing here imports more than the standard library, so that `--help` stays quick. The first names are defined in
`prune.index.whole_files`, since that folder must work without the rest of the package; import them from here.
"""

from __future__ import annotations

import os
from typing import Any, Literal

from prune.index.whole_files import InputError, atomic, counted, need_file, needing, read_json, write_json
from prune.runs.console_log import say

__all__ = [
    "InputError",
    "at_least",
    "atomic",
    "counted",
    "csv_cell",
    "need_file",
    "needing",
    "note",
    "positive",
    "printable",
    "read_json",
    "share_of",
    "unguarded",
    "write_json",
]


def note(text: str) -> None:
    """Print a line on standard error, once: from rank 0 alone; with --log-json as JSON, with --quiet not at all."""
    if os.environ.get("RANK", "0") == "0":
        say("note", printable(text))


def printable(text: str) -> str:
    r"""Write control and direction characters as escapes: names come from files, and print goes to a terminal.

    Examples
    --------
    >>> printable("a\x1b[2Jb\u202ec\n"), printable("Grün 猫")
    ('a\\x1b[2Jb\\u202ec\\n', 'Grün 猫')
    """
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def at_least(config: Any, least: Literal[0, 1], *flags: str) -> None:
    """Check that numbers of a config are finite and at least `least`, where they are given; `InputError` if not."""
    for flag in flags:
        if (value := getattr(config, flag)) is not None and not least <= value < float("inf"):
            raise InputError(f"--{flag.replace('_', '-')} {value}: {'at least 1' if least else '0 or more'} is needed")


def positive(config: Any, *flags: str) -> None:
    """Check that numbers of a config are finite and above 0, where they are given; `InputError` if not."""
    for flag in flags:
        if (value := getattr(config, flag)) is not None and not 0 < value < float("inf"):
            raise InputError(f"--{flag.replace('_', '-')} {value}: a positive number is needed")


def csv_cell(value: Any) -> Any:
    """Put `'` before a text that a spreadsheet would take for a formula; numbers stay.

    Class names and paths come from outside. Excel, LibreOffice and others evaluate what begins with = + - or @.

    Examples
    --------
    >>> csv_cell("=1+1"), csv_cell("-0.5"), csv_cell(-0.5), csv_cell("cat")
    ("'=1+1", '-0.5', -0.5, 'cat')
    """
    if not isinstance(value, str) or not value.startswith(("=", "+", "-", "@", "\t", "\r")):
        return value
    try:
        float(value)
    except ValueError:
        return f"'{value}"
    return value


def unguarded(cell: str) -> str:
    """Undo `csv_cell` on a cell that was read.

    Examples
    --------
    >>> unguarded("'=1+1"), unguarded("'tis"), unguarded("cat")
    ('=1+1', "'tis", 'cat')
    """
    return cell[1:] if cell.startswith("'") and cell[1:] and csv_cell(cell[1:]) != cell[1:] else cell


def share_of(text: str) -> float | None:
    """Read a share in (0, 1]; None where the text is no such number."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if 0 < value <= 1 else None
