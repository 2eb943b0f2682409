"""The history of a deployment: JSON lines, a head, then one line for each look, then a seal over all of them.

Lines are never changed, only added; the file is written whole under a temporary name, so that a killed watch leaves the
history before its look. The seal, which moves to the end, finds a history that was cut or changed.
"""

from __future__ import annotations

import hashlib
import json
import re
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
    if len(found) < 2 or not sealed or not _is_head(head) or not all(_is_look(one, head) for one in looks):
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


def _is_head(head: Mapping[str, Any]) -> bool:
    def share(value: Any, most: float) -> bool:
        return type(value) in (int, float) and 0 < value <= most

    try:
        preserve = head["preserve"]
        return (
            bool(head["stages"])
            and all(share(one, 100) for one in head["stages"])
            and type(head["each"]) is int
            and share(head["error"], 1)
            and all(share(limit, 3) for limit in head["allowed"].values())
            and isinstance(head["made"], dict)
            and isinstance(head["measure"], str)
            and (preserve is None or all(type(preserve[name]) is int for name in ("version", "images", "later")))
            and (preserve is None or isinstance(preserve["checksum"], str))
        )
    except (KeyError, TypeError, AttributeError):
        return False


def _is_look(one: Any, head: Mapping[str, Any]) -> bool:
    try:
        back = one["rollback"]
        return (
            (back is None or all(type(back[name]) is int for name in ("from", "to")))
            and (back is not None or one["decision"] != ROLLBACK)
            and type(one["number"]) is int
            and all(type(one[name]) in (int, float) for name in ("share", "evidence"))
            and one["decision"] in (STAY, ADVANCE, PASSED, ALARM, ROLLBACK)
            and type(one["stage"]) is int
            and 0 <= one["stage"] < len(head["stages"])
            and all(len(pair) == 2 and all(type(n) is int for n in pair) for pair in one["counts"].values())
            and all(re.fullmatch("[0-9a-f]{16}", mark) for mark in one["seen"])
            and all(isinstance(name, str) for name in (*one["alarms"], one["time"], back["command"] if back else ""))
        )
    except (KeyError, TypeError, AttributeError):
        return False
