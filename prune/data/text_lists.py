"""Reads lists as people and editors write them: byte-order marks, any line ends, blank lines and comments.

A comment is a line that is `#` alone or begins with `#` and a space; `#1.jpg` is a name. Tables are CSV with any
delimiter, with or without a header; JSON Lines are tables whose header is the keys.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prune.runs.files import InputError, counted, need_file, note

TABLES = (".csv", ".tsv", ".jsonl")
"""Suffixes of files that are tables; any other text is one with spaces, tabs or commas between path and class."""
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_COMMENT = re.compile(r"#(?:\s|$)")


@dataclass(frozen=True)
class Table:
    """Rows of cells as text; `header` holds the columns' names where the file has them."""

    header: list[str] | None
    rows: list[list[str]]


def read_text(path: Path) -> str:
    """Read a text file: UTF-8, or UTF-16 and UTF-32 by their marks; other bytes survive as surrogates.

    Raises
    ------
    InputError
        Missing, or no text.
    """
    data = need_file(path, "a list").read_bytes()
    encoding = next((name for mark, name in _MARKS if data.startswith(mark)), None)
    try:
        text = data.decode(encoding) if encoding else data.decode("utf-8", "surrogateescape")
    except UnicodeDecodeError:
        text = data.decode("utf-8", "surrogateescape")
    text = text.removeprefix("\ufeff")
    if "\0" in text:
        raise InputError(f"{path}: is no text file; a list of one sample a line is expected")
    return text


def read_lines(path: Path) -> list[str]:
    """The lines of a text file, without blank ones and comments."""
    return _meant(_split(path))


def read_id_lines(path: Path) -> list[str]:
    """The lines of a list of ids, as `read_lines` gives them; where there are comments, a line says so."""
    lines = _split(path)
    if comments := sum(_COMMENT.match(line) is not None for line in lines):
        what = counted(comments, "line that begins", "lines that begin")
        note(f"{path}: {what} with `# ` skipped as {'a comment' if comments == 1 else 'comments'}")
    return _meant(lines)


def _split(path: Path) -> list[str]:
    return re.split(r"\r\n|\r|\n", read_text(path))


def _meant(lines: list[str]) -> list[str]:
    return [line for line in lines if line.strip() and not _COMMENT.match(line)]


def repaired(cell: str) -> str:
    """A cell that is not UTF-8 as Windows-1252 (Latin-1), which is what spreadsheets of western Europe write.

    Examples
    --------
    >>> repaired("caf\\udce9"), repaired("café")
    ('café', 'café')
    """
    if not any("\udc80" <= sign <= "\udcff" for sign in cell):  # bytes that survived as surrogates
        return cell
    data = cell.encode("utf-8", "surrogateescape")
    try:
        return data.decode("cp1252")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def read_table(path: Path, header_words: Sequence[str], delimiter: str | None = None) -> Table:
    """Read a table of text.

    Parameters
    ----------
    path : Path
        .jsonl, .csv, .tsv, or any text with one sample a line.
    header_words : sequence of str
        Names in lower case: a first row that has one of them among its cells is the header.
    delimiter : str, optional
        What separates the cells. When absent: a tab in .tsv; in .csv the one of comma, semicolon, tab and bar that
        the first line has most of; in other text a tab, a comma or a semicolon where every line has it, or the last
        run of spaces.

    Raises
    ------
    InputError
        Missing, no text, not well-formed, or a line with fewer cells than the first.
    """
    if path.suffix.lower() == ".jsonl":
        return _json_lines(path)
    text, lines = read_text(path), read_lines(path)
    if not lines:
        return Table(None, [])
    if path.suffix.lower() not in TABLES and (delimiter or _common(lines)) is None:
        rows = [line.rsplit(None, 1) for line in lines]
    else:
        rows = _csv_rows(path, text, delimiter or _delimiter(path, lines))
    short = [number for number, row in enumerate(rows, 1) if len(row) < len(rows[0])]
    if short:
        raise InputError(
            f"{path}: {len(short)} of {len(rows)} lines have fewer cells than the first, such as line {short[0]} "
            f"({' '.join(rows[short[0] - 1])[:80]!r})"
        )
    header = [cell.strip() for cell in rows[0]]
    if {cell.lower() for cell in header} & set(header_words):
        return Table(header, rows[1:])
    return Table(None, rows)


def _csv_rows(path: Path, text: str, delimiter: str) -> list[list[str]]:
    rows: list[list[str]] = []
    begun = 1  # the line at which the next row begins; a row with quotation marks may have several lines
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        for row in reader:
            rows.append(row)
            begun = reader.line_num + 1
    except TypeError as error:  # the delimiter is no single character
        raise InputError(f"{path}: not a table ({error})") from None
    except csv.Error as error:
        way_out = 'a cell that begins with " has to end with one, and a " inside it is written twice'
        raise InputError(f"{path}: not a table from line {begun} on ({error}): {way_out}") from None
    return [row for row in rows if any(cell.strip() for cell in row) and not _COMMENT.match(row[0])]


def _delimiter(path: Path, lines: Sequence[str]) -> str:
    if path.suffix.lower() == ".tsv":
        return "\t"
    if path.suffix.lower() == ".csv":
        return max(",;\t|", key=lines[0].count)
    return _common(lines) or ","


def _common(lines: Sequence[str]) -> str | None:
    """The delimiter that every line of a text has; None where spaces separate."""
    return next((mark for mark in "\t,;" if all(mark in line for line in lines)), None)


def _json_lines(path: Path) -> Table:
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(read_lines(path), 1):
        try:
            row = json.loads(line)
        except ValueError:
            raise InputError(f"{path}: line {number} is not JSON ({line[:80]!r})") from None
        if not isinstance(row, dict):
            raise InputError(f"{path}: line {number} is no object ({line[:80]!r})")
        rows.append(row)
    header = list(dict.fromkeys(key for row in rows for key in row))
    return Table(header, [["" if row.get(key) is None else _as_text(row[key]) for key in header] for row in rows])


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
