"""The index file and what reads it: NumPy alone, so another project can copy this folder."""

from typing import Any

__all__ = ["PrunedIndex"]


def __getattr__(name: str) -> Any:  # imported at first use: `--help` does not wait for NumPy
    if name == "PrunedIndex":
        from prune.index.pruned_index import PrunedIndex

        return PrunedIndex
    raise AttributeError(f"module 'prune.index' has no attribute {name!r}")
