"""results.json of a study, which `transfer study` writes and `show` and `report` read: its format and its checks."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prune.runs.files import InputError, read_json

FORMAT = "winnow-study/1"
Condition = tuple[str, float]
"""A method at a keep."""
_RESULT: dict[str, Any] = {
    "method": str,
    "keep": (int, float),
    "seed": int,
    "target": str,
    "evaluation": str,
    "value": (int, float),
}
_COST: dict[str, Any] = {"stage": str, "seconds": (int, float), "samples": (int, float), "flops": (int, float)}
_LEAK_COUNTS = ("images", "leaked", "source_images")


def load_results(study: Path) -> dict[str, Any]:
    """Read and check `results.json` of a study.

    Raises
    ------
    InputError
        Missing, damaged, of another format, or with a result that lacks a value or appears twice.
    """
    place = Path(study) / "results.json"
    if not place.is_file():
        if (Path(study) / "plan.jsonl").is_file():
            raise InputError(
                f"{place}: no such file: the study is planned and has no results yet; `transfer study --out {study}` "
                "with its own flags runs it"
            )
        raise InputError(f"{place}: no such file; `transfer study` writes it")
    results: dict[str, Any] = read_json(place)
    found = results.get("format") if isinstance(results, dict) else None
    if found != FORMAT:
        raise InputError(f"{place}: is {found or 'no study file'}; {FORMAT} is expected")
    for name, wanted in (("cells", _RESULT), ("ledger", _COST)):
        entries = results.setdefault(name, [])
        if not isinstance(entries, list):
            raise InputError(f"{place}: its {name} are no list")
        for number, entry in enumerate(entries):
            bad = [k for k, kind in wanted.items() if not isinstance(entry, dict) or not isinstance(entry.get(k), kind)]
            if bad:
                raise InputError(f"{place}: {name}[{number}] has no valid {', '.join(bad)}")
    for entry in results["ledger"]:
        entry |= {key: entry.get(key) for key in ("method", "keep", "seed")}
    results["leaks"] = _checked_leaks(results, place)
    keys = [(*condition_of(one), one["seed"], one["target"], one["evaluation"]) for one in results["cells"]]
    if not keys:
        raise InputError(f"{place}: holds no result; the study has not finished a single evaluation")
    if len(set(keys)) < len(keys):
        twice = next(key for key in keys if keys.count(key) > 1)
        raise InputError(f"{place}: two results for {', '.join(map(str, twice))}")
    return results


def condition_of(result: Mapping[str, Any]) -> Condition:
    """The condition that a result belongs to; full data has keep 1."""
    return result["method"], 1.0 if result["method"] == "full" else round(float(result["keep"]), 9)


def _checked_leaks(results: Mapping[str, Any], place: Path) -> dict[str, dict[str, Any]]:
    """The "leaks" by target; empty in the results of a study from before they were counted."""
    found = results.get("leaks") or {}
    if not isinstance(found, dict):
        raise InputError(f"{place}: its leaks are no object")
    for target, one in found.items():
        whole = isinstance(one, dict) and all(isinstance(one.get(key), int) for key in _LEAK_COUNTS)
        whole = whole and isinstance(one.get("identical"), (int, type(None)))
        pairs = one.get("pairs", []) if whole else None
        if not isinstance(pairs, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
            raise InputError(f"{place}: leaks of {target!r} have no valid {', '.join(_LEAK_COUNTS)} and pairs")
        closest = one.get("closest", [])
        if not isinstance(closest, list) or not all(map(_is_closest, closest)):
            raise InputError(f"{place}: leaks of {target!r} have no valid closest pairs")
    absent: dict[str, Any] = {"pairs": [], "identical": None, "similar": 0, "compared": False, "closest": []}
    return {target: {**absent, **one} for target, one in found.items()}


def _is_closest(pair: object) -> bool:
    """Whether this is a pair as `prune leaks` writes it: two ids, a likeness, and two images as data URIs."""
    if not isinstance(pair, dict) or not isinstance(pair.get("likeness"), (int, float)):
        return False
    ids, images = pair.get("ids"), pair.get("images")
    if not (isinstance(ids, list) and isinstance(images, list) and len(ids) == len(images) == 2):
        return False
    return all(isinstance(one, str) for one in ids) and all(map(_is_image, images))


def _is_image(uri: object) -> bool:
    return (
        isinstance(uri, str) and re.fullmatch(r"data:image/(?:png|jpeg);base64,[A-Za-z0-9+/]+={0,2}", uri) is not None
    )
