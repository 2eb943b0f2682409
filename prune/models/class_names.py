"""Read the text file that names the classes of a model's logits."""

from __future__ import annotations

from pathlib import Path

from prune.data.text_lists import read_lines, read_text
from prune.runs.files import InputError, need_file


def read_names(path: Path) -> list[str]:
    """Read class names, one per line; blank lines and comments (`#` and a space) are ignored.

    Raises
    ------
    InputError
        The file is missing or not UTF-8 text, or lists a name twice.
    """
    try:
        read_text(need_file(path, "a list of class names")).encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{path}: not UTF-8 text (byte {error.start}); class names are expected") from None
    names = [line.strip() for line in read_lines(path)]
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise InputError(f"{path}: lists {name!r} twice")
        seen.add(name)
    return names
