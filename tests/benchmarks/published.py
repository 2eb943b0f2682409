"""What the benchmarks' pages share: the machine and versions they were made with, and remarks that updates keep."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from prune.index.provenance import versions

REMARKS, END = "<!-- remarks -->", "<!-- end of remarks -->"
"""A script writes both lines where its page has room for words; what people write between them is theirs."""


def made_here() -> str:
    """`2026-11-23, x86_64, 2 cores, no GPU; winnow 0.1.0, python 3.11.7, ...`."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    used = ", ".join(f"{name} {version}" for name, version in versions().items())
    return f"{time.strftime('%Y-%m-%d')}, {platform.machine()}, {len(os.sched_getaffinity(0))} cores, {device}; {used}"


def publish(place: Path, text: str) -> None:
    """Write a page, with the remarks of the one that it replaces."""
    if place.exists():
        text = text.replace(f"{REMARKS}\n{END}\n", remarks(place.read_text(encoding="utf-8")))
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(text, encoding="utf-8")


def publish_page(place: Path, title: str, lead: str, lines: Sequence[str]) -> None:
    """Publish a page of a title, a paragraph, and lines of Markdown, with room for remarks at its end."""
    publish(place, "\n".join([f"# {title}", "", lead, "", *lines, "", REMARKS, END, ""]))


def remarks(text: str) -> str:
    """A page's remarks with the two lines around them; both lines alone for a page without remarks."""
    _, begin, rest = text.partition(f"{REMARKS}\n")
    inner, end, _ = rest.partition(f"{END}\n")
    return f"{REMARKS}\n{inner if begin and end else ''}{END}\n"
