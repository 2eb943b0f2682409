"""Which methods of a study are controls, and which need no surrogate. No control needs one."""

from __future__ import annotations

FULL_EQUAL = "full-equal-compute"
"""All data, with a whole schedule of its own that costs what a pruned run and its preparation cost."""
RANDOM_EQUAL = "random-equal-compute"
"""A random part of the data, trained until it has cost what a pruned run and its preparation cost."""
EQUAL_TIME = "random-equal-time"
"""The older name of `RANDOM_EQUAL`, in studies that were begun under it and as an alias."""
FULL_LENGTH = "full-length"
"""All data for a share of the full length, which takes the place of the keep; together they show the speed-up."""
RANDOM_EQUALS = (RANDOM_EQUAL, EQUAL_TIME)
EQUALS = (FULL_EQUAL, *RANDOM_EQUALS)
CONTROLS = ("full", "random", *EQUALS, FULL_LENGTH)
OFFERED = ("full", "random", FULL_EQUAL, RANDOM_EQUAL)
"""Controls that a study can be asked for by name, without the older name; --full-lengths asks for `FULL_LENGTH`."""
WITHOUT_SURROGATE = ("gate",)
"""Pruning methods that choose by thumbnails alone: no network is trained for them."""


def needs_surrogate(method: str) -> bool:
    """Whether a method's selection takes a trained network.

    >>> needs_surrogate("winnow"), needs_surrogate("gate"), needs_surrogate("random")
    (True, False, False)
    """
    return method not in (*CONTROLS, *WITHOUT_SURROGATE)
