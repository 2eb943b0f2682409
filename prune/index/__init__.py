"""The index file and what reads it.

Imports NumPy, the standard library and itself alone, so that another project can copy this folder under any name.
"""

from typing import Any

__all__ = ["PrunedIndex"]


def __getattr__(name: str) -> Any:  # imported at first use: `--help` does not wait for NumPy
    if name == "PrunedIndex":
        from .pruned_index import PrunedIndex

        return PrunedIndex
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
