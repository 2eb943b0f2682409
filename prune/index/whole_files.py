"""Atomic writing, JSON, and the error for a user's mistakes; standard library only.

This folder has them so that another project can copy it on its own. The rest of Winnow imports them from
`prune.runs.files`, which adds checks of flags.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # Windows, where another project may read an index
    fcntl = None  # type: ignore[assignment]

_PARTIAL = re.compile(r"\..+\.[0-9a-f]+\.partial")
_SEEN: set[tuple[int, str]] = set()


class InputError(ValueError):
    """A mistake that the user can correct. The command line prints it as one line and exits with code 2."""


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`: renamed to `path` when the block succeeds, removed when it fails.

    What writers that were killed have left in the folder is removed first. An `OSError` names `path` when it names no
    file of its own, as that of a full disk does not.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(path.parent)
        # Random, since in containers every process may have the number 1.
        partial = path.with_name(f".{path.name}.{os.urandom(8).hex()}.partial")
        held = os.open(partial, os.O_CREAT | os.O_RDWR | os.O_EXCL, 0o666)
    except OSError as error:
        error.filename = str(path)
        raise
    try:
        _locked(held)
        yield partial
        with open(partial, "rb") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        if error.filename is None or str(error.filename) == str(partial):
            error.filename = str(path)
        raise
    finally:
        partial.unlink(missing_ok=True)
        os.close(held)


@contextmanager
def needing(path: Path, needed: int, safe: str = "") -> Iterator[None]:
    """Name the file in an `OSError` of the block, and note the bytes that it needs and what is safe.

    Examples
    --------
    >>> try:
    ...     with needing(Path("x.npz"), 2_500_000):
    ...         raise OSError(28, "No space left on device")
    ... except OSError as error:
    ...     print(error.filename, error.__notes__)
    x.npz ['2.5 MB are needed']
    """
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        notes = [f"{needed / 1e6:,.1f} MB are needed" if needed else "", safe]
        for text in filter(None, notes):
            error.add_note(text)
        raise


def _locked(descriptor: int) -> bool:
    """Lock an open file against its removal as abandoned; False where another process holds it, or nobody can."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _remove_abandoned(folder: Path) -> None:
    """Remove the temporary files of writers that have ended: those whose lock is free. Once for each folder."""
    if (key := (os.getpid(), os.path.realpath(folder))) in _SEEN:
        return
    _SEEN.add(key)
    for name in os.listdir(folder):
        if not _PARTIAL.fullmatch(name):
            continue
        try:
            found = os.open(folder / name, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0))
        except OSError:  # gone meanwhile, or not ours to open
            continue
        try:
            if _locked(found):
                (folder / name).unlink(missing_ok=True)
        finally:
            os.close(found)


def counted(count: int, one: str, many: str | None = None) -> str:
    """A number and its noun, in the singular or the plural.

    Examples
    --------
    >>> counted(1, "class"), counted(2, "class"), counted(0, "image"), counted(3, "kind of file", "kinds of files")
    ('1 class', '2 classes', '0 images', '3 kinds of files')
    """
    return f"{count} {one if count == 1 else many or one + ('es' if one.endswith('s') else 's')}"


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
