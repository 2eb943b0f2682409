"""What goes to standard error, and in which form: lines for people, JSON for programs (--log-json), or errors alone.

Every step takes --quiet and --log-json. They are passed on to the processes that a step starts, by the environment.
Nothing here imports more than the standard library.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TextIO

QUIET, LOG_JSON = "WINNOW_QUIET", "WINNOW_LOG_JSON"
FLAGS = {"--quiet": QUIET, "--log-json": LOG_JSON}
"""Flags of every step, and the variables by which processes that it starts know of them."""
HELP = """Every step also takes:

    --quiet     only errors on standard error
    --log-json  there one JSON object a line: time, event (note, progress or error), and what belongs to it
"""


def without_flags(argv: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Arguments without the flags of every step, and the variables that these set.

    >>> without_flags(["--keep", "0.2", "--quiet"])
    (['--keep', '0.2'], {'WINNOW_QUIET': '1'})
    """
    return [one for one in argv if one not in FLAGS], {FLAGS[one]: "1" for one in argv if one in FLAGS}


@contextmanager
def variables(changes: dict[str, str | None]) -> Iterator[None]:
    """Set variables of the environment until the block ends; None unsets one."""
    before = {name: os.environ.get(name) for name in changes}
    try:
        for name, value in changes.items():
            _set(name, value)
        yield
    finally:
        for name, value in before.items():
            _set(name, value)


def _set(name: str, value: str | None) -> None:
    if value is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = value


def say(event: str, text: str, stream: TextIO | None = None, **facts: Any) -> None:
    """Write one line to standard error, or to `stream`.

    Parameters
    ----------
    event : str
        "note", "progress" or "error"; with --quiet only errors are written.
    text : str
        For people, without control characters.
    facts
        Further members of the JSON object.
    """
    if event != "error" and os.environ.get(QUIET):
        return
    if os.environ.get(LOG_JSON):
        when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        text = json.dumps({"time": when, "event": event, "text": text, **facts})
    print(text, file=sys.stderr if stream is None else stream, flush=True)


def plain_lines() -> bool:
    """Whether people read standard error: neither --quiet nor --log-json is given."""
    return not (os.environ.get(QUIET) or os.environ.get(LOG_JSON))
