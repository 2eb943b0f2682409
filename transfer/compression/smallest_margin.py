"""Which margins of accuracy a preservation set can test at all: with few images, one lost image exceeds the margin."""

from __future__ import annotations

import math
from collections.abc import Mapping

from prune.runs.files import counted
from transfer.compression.acceptance import Margins, standard_error


def smallest_margin(n: int, slack: float = 0.0) -> float:
    """Smallest margin, in points, that still allows one of n images to be lost; the slack is that of `Margins`.

    Examples
    --------
    >>> smallest_margin(60)
    1.67
    """
    least = max(0.0, 100 / n - slack * standard_error(n, 1, 0))
    return math.ceil(round(100 * least, 6)) / 100  # upwards, so that the number can be given as a margin


def too_few(n: int, margin: float | None, slack: float = 0.0) -> int | None:
    """How many images a margin needs, where n are too few for it; None where they are enough.

    A margin of 0 allows no lost image, whatever their number, and needs none.

    Examples
    --------
    >>> too_few(60, 1.0), too_few(100, 1.0)
    (100, None)
    """
    if not margin or n < 1:
        return None
    enough = (m for m in range(n, math.ceil(100 / margin) + 1) if 100 / m - slack * standard_error(m, 1, 0) <= margin)
    needed = next(enough, math.ceil(100 / margin))
    return needed if needed > n else None


def unresolved(
    images: int, classes: Mapping[str, int], groups: Mapping[str, tuple[int, float]], margins: Margins
) -> list[str]:
    """Say for which margins of a compression there are too few images: a line for the set, its classes and its groups.

    Parameters
    ----------
    images : int
        Of the preservation set.
    classes : mapping of str to int
        Images of each class.
    groups : mapping of str to (int, float)
        Images and margin of each group.
    margins : Margins
    """
    lines, slack = [], margins.slack
    if needed := too_few(images, margins.overall, slack):
        lines.append(
            f"--margin {margins.overall:g} cannot be tested by a preservation set of {images}: a single lost image is "
            f"{100 / images:.3g} points. They resolve a margin of {smallest_margin(images, slack):g}; for "
            f"{margins.overall:g}, {needed} images are needed"
        )
    single = {name: (n, margins.per_class) for name, n in classes.items()}
    for flag, parts, words in (
        ("--class-margin", single, ("class", "classes")),
        ("--group-margin", dict(groups), ("group", "groups")),
    ):
        few = {name: need for name, (n, margin) in parts.items() if (need := too_few(n, margin, slack))}
        if few:
            name = min(few, key=lambda name: parts[name][0])
            n, margin = parts[name]
            lines.append(
                f"{flag} {margin:g} cannot be tested in {counted(len(few), *words)}: in {name} a single lost image is "
                f"{100 / n:.3g} points. Its {counted(n, 'image')} resolve{'s' if n == 1 else ''} a margin of "
                f"{smallest_margin(n, slack):g}; for {margin:g}, {few[name]} images are needed"
            )
    return lines


def default_margins_unresolved(images: int, least: int) -> str | None:
    """One line on a new set that is too small for the default margins of `transfer compress`; else None.

    Parameters
    ----------
    images : int
        Of the set.
    least : int
        Of its smallest class.
    """
    usual, parts = Margins(), []
    if needed := too_few(images, usual.overall):
        parts.append(
            f"{images} images resolve no margin below {smallest_margin(images):g} points (one image), and --margin "
            f"{usual.overall:g} needs {needed} (--size)"
        )
    if needed := too_few(least, usual.per_class):
        parts.append(
            f"the {counted(least, 'image')} of the smallest class resolve{'s' if least == 1 else ''} none below "
            f"{smallest_margin(least):g}, and --class-margin {usual.per_class:g} needs {needed} (--floor)"
        )
    if not parts:
        return None
    return f"the margins that `transfer compress` has by default want a larger set: {'; '.join(parts)}"
