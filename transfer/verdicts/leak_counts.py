"""The sentence about test images that a study's source also contains, as `prune leaks` counted them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def leak_sentence(analysis: Mapping[str, Any]) -> str:
    """Count the test images that the source nearly duplicates, in one line.

    Empty where there are none, and a surrogate has seen every image that might be one.
    """
    share = analysis["config"].get("feature_sample", 1)
    some = "" if share == 1 else f"Test images were compared with {100 * share:g} % of the source (--feature-sample)."
    return " ".join(filter(None, [_copies(analysis), some]))


def _copies(analysis: Mapping[str, Any]) -> str:
    leaky = {target: one for target, one in analysis["leaks"].items() if one["leaked"]}
    none_identical = all(one["identical"] == 0 for one in leaky.values())
    counts = [
        f"{one['leaked']:,} of {one['images']:,} test images of {target}"
        + ("" if one["identical"] is None or none_identical else f" ({one['identical']:,} identical)")
        for target, one in leaky.items()
    ]
    if not counts:
        return ""
    *most, last = counts
    images = f"{', '.join(most)} and {last}" if most else last
    if all(one["compared"] for one in leaky.values()):
        return (
            f"{images} have a copy in the source, compared on the images. A copy raises the accuracy of every backbone "
            "that was trained on it, with full data too. `prune score --leaks` and `prune select --drop-leaks` leave "
            "such source images out."
        )
    if none_identical:
        return (
            f"{images} look to the surrogate like a copy of a source image; none is identical. The page names examples."
        )
    return (
        f"{images} have a near-duplicate in the source, as the surrogate sees it. A copy raises the accuracy of every "
        "backbone that was trained on it, with full data too. `prune score --leaks` and `prune select --drop-leaks` "
        "leave such source images out."
    )
