"""Winnow's first stage: which images to pretrain on, and at which quality.

`PrunedIndex` is all that another project needs; it asks for NumPy alone.
"""

from typing import Any

__all__ = ["PrunedIndex"]


def __getattr__(name: str) -> Any:  # imported at first use: `--help` does not wait for NumPy
    if name == "PrunedIndex":
        from prune.index.pruned_index import PrunedIndex

        return PrunedIndex
    raise AttributeError(f"module 'prune' has no attribute {name!r}")
