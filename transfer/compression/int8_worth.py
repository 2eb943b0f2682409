"""Whether an int8 file is worth having beside the fp32 file: it predicts alike as often as asked, and is not slower."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

MARGIN = 0.1
"""Share by which int8 may seem slower than fp32: on a busy machine two measurements of one file differ by as much."""


def time_ratio(fp32: Sequence[float], int8: Sequence[float]) -> float:
    """Time of int8 over that of fp32, from blocks of runs that were measured in turn.

    The smaller of two estimates: the ratio of the fastest blocks, since other work can only slow a block down, and the
    median ratio of neighbouring blocks, which other work slows down alike. It is large only where both are.

    Parameters
    ----------
    fp32, int8 : sequences of float
        Milliseconds for one image, equally many; the k-th of both were measured next to each other.

    Examples
    --------
    >>> time_ratio([2, 2, 8], [1, 1, 4])
    0.5
    >>> time_ratio([2, 2, 2], [9, 2, 9])  # other work ran beside two of the blocks
    1.0
    """
    return min(min(int8) / min(fp32), statistics.median(b / a for a, b in zip(fp32, int8, strict=True)))


def reasons_against(agreements: dict[str, float], asked: float, ratio: float, margin: float = MARGIN) -> list[str]:
    """Why an int8 file is not worth having; empty where it is.

    Parameters
    ----------
    agreements : dict of str to float
        Shares of images on which int8 predicts as fp32 does, by the name of the set of images.
    asked : float
        Share that every one of them must reach.
    ratio : float
        From `time_ratio`.
    margin : float
        How much more than 1 the ratio may be.

    Examples
    --------
    >>> reasons_against({"compared": 0.98}, 0.97, 1.05)
    []
    >>> reasons_against({"compared": 0.95}, 0.97, 1.3)
    ['it predicts as fp32 does on 95.0 % of the compared images, and 97 % was asked', "it takes 1.30 times fp32's time"]
    """
    found = [
        f"it predicts as fp32 does on {_percent(share)} % of the {name} images, and {100 * asked:g} % was asked"
        for name, share in agreements.items()
        if share < asked
    ]
    return found + ([f"it takes {ratio:.2f} times fp32's time"] if not ratio <= 1 + margin else [])


def slower_sentence(fp32: float, int8: float, margin: float = MARGIN) -> str | None:
    """Say that an accepted int8 model is slower than the fp32 model before it; None where it is not.

    A compression accepts it nevertheless: its test is about accuracy, and its aim is the size.

    Parameters
    ----------
    fp32, int8 : float
        Milliseconds for one image.

    Examples
    --------
    >>> slower_sentence(1.0, 1.05) is None
    True
    >>> slower_sentence(1.0, 1.5)[:61]
    'int8 makes the file smaller, but takes 1.50 times as long as '
    """
    if not int8 > (1 + margin) * fp32:
        return None
    return (
        f"int8 makes the file smaller, but takes {int8 / fp32:.2f} times as long as fp32 did here; where time counts, "
        "compress without int8 in --kinds"
    )


def _percent(share: float) -> str:
    """Rounded down, so that what is less than asked never reads as enough."""
    return f"{int(1000 * share + 1e-9) / 10:.1f}"
