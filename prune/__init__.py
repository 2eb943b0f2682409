"""Choose the images to pretrain on, and the quality at which each is stored.

`PrunedIndex` is all that another project needs; it requires NumPy alone. `select` chooses rows from arrays, without
files.
"""

from typing import Any

__all__ = ["PrunedIndex", "select"]


def __getattr__(name: str) -> Any:  # imported at first use: `--help` does not wait for NumPy
    if name == "PrunedIndex":
        from prune.index.pruned_index import PrunedIndex

        return PrunedIndex
    if name == "select":
        from prune.methods.in_memory import select

        return select
    raise AttributeError(f"module 'prune' has no attribute {name!r}")
