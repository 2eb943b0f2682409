"""Has the error of a codec changed? Thresholds from the scatter of a reference over time, and looks at new images.

A look is the mean, over a number of images, of the logarithm of their feature error (FMSE) and of their bytes. The
reference, in its order, gives a row of such looks; a new look alarms when it lies outside their prediction interval
(Student's t, two quantities and both sides together at `FALSE_ALARMS`). Scatter that lasts, from hour to hour or folder
to folder, is in the reference's looks as well, and widens the interval.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.special import stdtrit

FALSE_ALARMS = 1 / 2000
"""Chance that a look without a change alarms: half of the one in 1,000 that is promised, since logarithms of means are
not quite normal."""
LEAST = 8
"""Looks that a reference must give."""
QUANTITIES = ("fmse", "bytes")


def looks(fmse: np.ndarray, nbytes: np.ndarray, size: int) -> dict[str, np.ndarray]:
    """The looks of `size` consecutive images each, (n // size,) float64 for each quantity; the rest is left out.

    Parameters
    ----------
    fmse, nbytes : (n,) float
        Of the images in their order.
    size : int
    """
    count = len(fmse) // size
    values = {"fmse": np.maximum(np.asarray(fmse, np.float64), 1e-12), "bytes": np.asarray(nbytes, np.float64)}
    return {name: np.log(v[: count * size]).reshape(count, size).mean(1) for name, v in values.items()}


def thresholds(reference: Mapping[str, np.ndarray]) -> dict[str, tuple[float, float]]:
    """Lowest and highest value of a look without alarm, for each quantity.

    Parameters
    ----------
    reference : mapping of str to (m,) float
        Looks at the reference; at least `LEAST`.

    Raises
    ------
    ValueError
        Fewer looks.
    """
    found = {}
    for name, values in reference.items():
        m = len(values)
        if m < LEAST:
            raise ValueError(f"{m} looks, at least {LEAST} are needed")
        reach = stdtrit(m - 1, 1 - FALSE_ALARMS / (2 * len(QUANTITIES))) * values.std(ddof=1) * np.sqrt(1 + 1 / m)
        # Of images that are all alike nothing scatters: a millionth is still the same.
        reach = max(float(reach), 1e-6)
        found[name] = (float(values.mean() - reach), float(values.mean() + reach))
    return found


def alarms(look: Mapping[str, float], allowed: Mapping[str, tuple[float, float]]) -> list[str]:
    """What alarms, in words: "fmse +12 %" is the distance from the middle of what is allowed."""
    found = []
    for name in QUANTITIES:
        low, high = allowed[name]
        if not low <= look[name] <= high:
            found.append(f"{name} {100 * (np.exp(look[name] - (low + high) / 2) - 1):+.0f} %")
    return found


def shown(record: Mapping[str, Any]) -> str:
    """One look as a line."""
    state = "ALARM: " + ", ".join(record["alarms"]) if record["alarms"] else "no alarm"
    return f"{record['images']} images, FMSE {record['fmse']:.4g}, {record['bytes']:,.0f} bytes: {state}"
