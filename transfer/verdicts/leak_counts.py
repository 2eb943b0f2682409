"""What a study says of test images that its source also holds (`prune leaks`); older studies say nothing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prune.runs.files import InputError

_COUNTS = ("images", "leaked", "source_images")


def check_leaks(results: Mapping[str, Any], place: Path) -> dict[str, dict[str, Any]]:
    """The "leaks" of results.json by target, empty where there are none; `InputError` where they are damaged."""
    found = results.get("leaks") or {}
    if not isinstance(found, dict):
        raise InputError(f"{place}: its leaks are no object")
    for target, one in found.items():
        whole = isinstance(one, dict) and all(isinstance(one.get(key), int) for key in _COUNTS)
        whole = whole and isinstance(one.get("identical"), (int, type(None)))
        pairs = one.get("pairs", []) if whole else None
        if not isinstance(pairs, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
            raise InputError(f"{place}: leaks of {target!r} have no valid {', '.join(_COUNTS)} and pairs")
    return {target: {"pairs": [], "identical": None, **one} for target, one in found.items()}


def words(analysis: Mapping[str, Any]) -> str:
    """One line that counts the test images which the source nearly duplicates; empty where it holds none."""
    leaky = {target: one for target, one in analysis["leaks"].items() if one["leaked"]}
    none_sure = all(one["identical"] == 0 for one in leaky.values())
    found = [
        f"{one['leaked']:,} of {one['images']:,} test images of {target}"
        + ("" if one["identical"] is None or none_sure else f" ({one['identical']:,} identical)")
        for target, one in leaky.items()
    ]
    if not found:
        return ""
    *most, last = found
    held = f"{', '.join(most)} and {last}" if most else last
    if none_sure:
        return (
            f"{held} look to the surrogate like a copy of a source image; none is identical. The page names examples."
        )
    return (
        f"{held} have a near-duplicate in the source, as the surrogate sees it. A copy flatters whatever was trained "
        "on it, full data too; `prune score --leaks` and `prune select --drop-leaks` leave such source images out."
    )
