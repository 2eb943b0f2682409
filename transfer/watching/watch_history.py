"""The history of a deployment: JSON lines, a head, then one line for each look, then a seal over all of them.

Lines are never changed, only added; the file is written whole under a temporary name, so that a killed watch leaves the
history before its look. The seal, which moves to the end, finds a history that was cut or changed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prune.runs.files import InputError, atomic
from transfer.watching.deployment_stages import ADVANCE, ALARM, PASSED, ROLLBACK, STAY, Rule

FORMAT = "winnow-watch/1"
_OTHER = "give another --history"


def read(place: Path) -> tuple[dict[str, Any] | None, list[dict[str, Any]]]:
    """The head and the looks; None and no looks where there is no file.

    Raises
    ------
    InputError
        Another file, another version, or a history that was cut or changed.
    """
    if not place.exists():
        return None, []
    if place.is_dir():
        raise InputError(f"--history {place}: is a directory; a file of JSON lines is expected")
    text = place.read_text(encoding="utf-8", errors="replace")
    lines = text.splitlines()
    try:
        found = [json.loads(line) for line in lines]
        sound = isinstance(found[0], dict) and found[0].get("format") == FORMAT
    except (ValueError, IndexError, RecursionError):
        found, sound = [], FORMAT in text
        if sound:
            raise InputError(f"{place}: was cut or changed since it was written; {_OTHER}") from None
    if not sound:
        raise InputError(f"{place}: no history of this version ({FORMAT}); {_OTHER}")
    head, looks, seal = found[0], found[1:-1], found[-1]
    sealed = isinstance(seal, dict) and seal == {"looks": len(looks), "seal": _seal(lines[:-1])}
    if len(found) < 2 or not sealed or not all(map(_is_look, looks)):
        raise InputError(f"{place}: was cut or changed since it was written; {_OTHER}")
    return head, looks


def write(place: Path, head: Mapping[str, Any], looks: Sequence[Mapping[str, Any]]) -> None:
    """Write the whole history, or keep the old one."""
    lines = [json.dumps(one, allow_nan=False) for one in (head, *looks)]
    lines.append(json.dumps({"looks": len(looks), "seal": _seal(lines)}))
    with atomic(place) as partial:
        partial.write_text("".join(line + "\n" for line in lines), encoding="utf-8")


def rule_of(head: Mapping[str, Any]) -> Rule:
    """What decides, from the head of a history."""
    return Rule(tuple(head["stages"]), int(head["each"]), float(head["error"]), dict(head["allowed"]))


def seen(looks: Sequence[Mapping[str, Any]]) -> set[int]:
    """Digests of all images that were compared."""
    return {int(one, 16) for look in looks for one in look["seen"]}


def _seal(lines: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()[:32]


def _is_look(one: Any) -> bool:
    try:
        return (
            one["decision"] in (STAY, ADVANCE, PASSED, ALARM, ROLLBACK)
            and type(one["stage"]) is int
            and all(type(n) is int for pair in one["counts"].values() for n in pair)
            and all(isinstance(name, str) for name in (*one["alarms"], *one["seen"], one["time"]))
        )
    except (KeyError, TypeError, AttributeError):
        return False
