"""Read the text file that says what a model's logits stand for."""

from __future__ import annotations

from pathlib import Path

from prune.runs.files import InputError, need_file


def read_names(path: Path) -> list[str]:
    """Read class names, one a line; blank lines do not count.

    Raises
    ------
    InputError
        Missing, not UTF-8 text, or a name that stands there twice.
    """
    try:
        lines = need_file(path, "a list of class names").read_text("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not text in UTF-8 (byte {error.start}); class names are expected") from None
    names = [name for line in lines if (name := line.strip())]
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise InputError(f"{path}: names {name!r} twice")
        seen.add(name)
    return names
