"""How one selection differs from another, in numbers and in words; the sources may differ, as when a pool has grown."""

from __future__ import annotations

from typing import Any

import numpy as np

from .matching import find
from .pruned_index import PrunedIndex


def difference(new: PrunedIndex, old: PrunedIndex) -> dict[str, Any]:
    """Count what a selection keeps beyond another one, and no more, by class.

    Samples are compared by id.

    Returns
    -------
    dict
        JSON-serialisable: "kept", "kept_before", "both", "added", "dropped" (numbers of samples), "same_source",
        "classes": a list of {class, kept, kept_before, added, dropped} of the classes that differ, the most first.
    """
    here = find(new.ids, old.ids)[0] >= 0
    there = find(old.ids, new.ids)[0] >= 0
    names = list(dict.fromkeys([*new.classes, *old.classes]))
    place = {name: number for number, name in enumerate(names)}

    def counts(index: PrunedIndex, mask: np.ndarray | None = None) -> np.ndarray:
        own = np.array([place[name] for name in index.classes], np.int64)
        labels = np.asarray(index.labels) if mask is None else np.asarray(index.labels)[mask]
        return np.bincount(own[labels] if len(own) else labels, minlength=len(names))

    added, dropped, kept, before = counts(new, ~here), counts(old, ~there), counts(new), counts(old)
    changed = np.flatnonzero(added + dropped)
    changed = changed[np.argsort(-(added + dropped)[changed], kind="stable")]
    return {
        "kept": len(new),
        "kept_before": len(old),
        "both": int(here.sum()),
        "added": int((~here).sum()),
        "dropped": int((~there).sum()),
        "same_source": new.source == old.source,
        "classes": [
            {
                "class": names[k],
                "kept": int(kept[k]),
                "kept_before": int(before[k]),
                "added": int(added[k]),
                "dropped": int(dropped[k]),
            }
            for k in changed
        ],
    }


def told(found: dict[str, Any], most: int = 5) -> list[str]:
    """A difference in words, one line each."""
    if not found["added"] and not found["dropped"]:
        return [f"It keeps the same {found['kept']:,} samples as the other index."]
    source = "" if found["same_source"] else " Their sources differ."
    share = found["both"] / max(1, found["kept_before"])
    lines = [
        f"It keeps {found['both']:,} of the {found['kept_before']:,} samples of the other index ({share:.1%}), drops "
        f"{found['dropped']:,} of them, and adds {found['added']:,}.{source}"
    ]
    shown = found["classes"][:most]
    parts = ", ".join(
        f"{one['class']} (+{one['added']:,}, -{one['dropped']:,}: {one['kept_before']:,} to {one['kept']:,})"
        for one in shown
    )
    rest = len(found["classes"]) - len(shown)
    lines.append(f"Most changed: {parts}{f', and {rest:,} more classes' if rest > 0 else ''}.")
    return lines
