"""The control methods of a study: what a pruning method is compared with. None of them needs a surrogate."""

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
