"""Atomic writing, JSON, and the error for a user's mistakes; standard library only.

This folder has them so that another project can copy it on its own. The rest of Winnow imports them from
`prune.runs.files`, which adds checks of flags.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class InputError(ValueError):
    """A mistake that the user can correct. The command line prints it as one line and exits with code 2."""


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`: renamed to `path` when the block succeeds, removed when it fails."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        with open(partial, "rb") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def need_file(path: Path, what: str) -> Path:
    """Return `path` when it is a file; else an `InputError` that says what was expected there."""
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path}: is a directory; {what} is expected")
    if not path.is_file():
        raise InputError(f"{path}: no such file; {what} is expected")
    return path


def write_json(path: Path, value: Any) -> None:
    """Write `value` as JSON with sorted keys, whole or not at all."""
    with atomic(path) as partial:
        partial.write_text(json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """Read a JSON file; a missing or damaged one is an `InputError` that names it."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except RecursionError:
        raise InputError(f"{path}: not valid JSON (nested too deeply)") from None
    except ValueError as error:  # not JSON, not UTF-8, or a number of thousands of digits
        raise InputError(f"{path}: not valid JSON ({error})") from None
