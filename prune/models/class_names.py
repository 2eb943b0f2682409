"""Read the text file that names the classes of a model's logits."""

from __future__ import annotations

from pathlib import Path

from prune.runs.files import InputError, need_file


def read_names(path: Path) -> list[str]:
    """Read class names, one per line; blank lines are ignored.

    Raises
    ------
    InputError
        The file is missing or not UTF-8 text, or lists a name twice.
    """
    try:
        lines = need_file(path, "a list of class names").read_text("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text (byte {error.start}); class names are expected") from None
    names = [name for line in lines if (name := line.strip())]
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise InputError(f"{path}: lists {name!r} twice")
        seen.add(name)
    return names
