"""Warnings of libraries as one line each: without the library's file and source line, which say nothing to a user."""

from __future__ import annotations

import warnings
from typing import Any

from prune.runs.files import note, printable


def warn_in_one_line() -> None:
    """Print every warning from now on as a note; which warnings are shown is left to Python's filters."""
    warnings.showwarning = _show


def _show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
    words = " ".join(str(message).split())
    note(f"warning: {printable(words if len(words) <= 300 else words[:299] + '…')}")
