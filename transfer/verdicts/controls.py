"""The control methods of a study: what a pruning method is compared with. None of them needs a surrogate."""

from __future__ import annotations

EQUAL_TIME = "random-equal-time"
"""A random part of the data, trained for as long as a pruned run and its preparation take."""
CONTROLS = ("full", "random", EQUAL_TIME)
