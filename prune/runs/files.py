"""What every step does around its work: claim an output, write it whole, remember where it came from.

Nothing here imports more than the standard library, so that `--help` stays quick.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal


class InputError(ValueError):
    """A mistake that the user can mend. The command line prints it as one line and exits with code 2."""


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`, renamed into place when the block ends well and removed when it does not."""
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
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not valid JSON ({error})") from None


def note(text: str) -> None:
    """Say something on standard error, once: from rank 0 alone."""
    if os.environ.get("RANK", "0") == "0":
        print(text, file=sys.stderr, flush=True)


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


def need_file(path: Path, what: str) -> Path:
    """Return `path` when it is a file; else an `InputError` that says what was expected there."""
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path}: is a directory; {what} is expected")
    if not path.is_file():
        raise InputError(f"{path}: no such file; {what} is expected")
    return path
