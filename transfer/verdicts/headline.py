"""Which rows of an analysis its headline is about, and the words for them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transfer.studies.settings import UNGUIDED
from transfer.verdicts.keep_search import answer, held


def headline_rows(analysis: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rows that the one-line verdict is about: first evaluation, mean over targets (or the only target)."""
    first = [row for row in analysis["rows"] if row["evaluation"] == analysis["evaluations"][0]]
    return [row for row in first if row["target"] is None] or first


def pruned_rows(analysis: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Headline rows of pruning methods, without the controls."""
    return [row for row in headline_rows(analysis) if row["method"] not in UNGUIDED]


def smallest_holding(analysis: Mapping[str, Any]) -> dict[str, Any] | None:
    """The row with the smallest keep at which a pruning method holds, as at every larger keep that was tried.

    The more accurate one of several; None when none holds so.
    """
    keep = answer(held(headline_rows(analysis)))
    rows = [row for row in pruned_rows(analysis) if row["keep"] == keep and row["verdict"] == "holds"]
    return max(rows, key=lambda row: row["mean"], default=None)


def alone_holding(analysis: Mapping[str, Any]) -> dict[str, Any] | None:
    """The row with the largest keep at which a pruning method holds though none is shown to hold at a larger keep."""
    if smallest_holding(analysis):
        return None
    rows = [row for row in pruned_rows(analysis) if row["verdict"] == "holds"]
    return max(rows, key=lambda row: (row["keep"], row["mean"]), default=None)


def bill_of(analysis: Mapping[str, Any], row: Mapping[str, Any]) -> dict[str, Any] | None:
    """The ledger's row for the condition of `row`."""
    condition = (row["method"], row["keep"])
    return next((b for b in analysis["ledger"]["rows"] if (b["method"], b["keep"]) == condition), None)


def name(row: Mapping[str, Any]) -> str:
    """`winnow at keep 0.2`."""
    return "full data" if row["method"] == "full" else f"{row['method']} at keep {row['keep']:g}"


def against(row: Mapping[str, Any], control: str = "full") -> str:
    """`-0.3 points (95 %: -0.9 to +0.2)`."""
    one = row[control]
    return f"{one['value']:+.1f} points (95 %: {one['low']:+.1f} to {one['high']:+.1f})"
