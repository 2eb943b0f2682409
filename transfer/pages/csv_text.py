"""Cells of CSV files that programs for tables show as they stand."""

from __future__ import annotations

from typing import Any


def csv_cell(value: Any) -> Any:
    """Put `'` before a text that a program for tables would take for a formula; numbers stay.

    Class names and paths come from outside. Excel, LibreOffice and others compute what begins with = + - or @.

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
