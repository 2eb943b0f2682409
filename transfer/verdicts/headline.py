"""The one-line verdict of a study, and which rows of its analysis it is about.

It is about the first evaluation and the mean over targets. A pruning method *holds* at a keep when it is shown to
stay within the margin of full data, and *loses* when it is shown to fall below (see `estimates.verdict_against_full`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from transfer.verdicts.controls import CONTROLS, FULL_LENGTH
from transfer.verdicts.keep_search import keeps_that_hold, smallest_keep
from transfer.verdicts.speed_up_rows import speed_up_headline, speed_up_text


def headline_rows(analysis: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rows of the first evaluation about the mean over targets, or about the only target."""
    first = [row for row in analysis["rows"] if row["evaluation"] == analysis["evaluations"][0]]
    return [row for row in first if row["target"] is None] or first


def pruned_rows(analysis: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Headline rows of pruning methods, without the controls."""
    return [row for row in headline_rows(analysis) if row["method"] not in CONTROLS]


def smallest_holding(analysis: Mapping[str, Any]) -> dict[str, Any] | None:
    """The row of the smallest keep at which a pruning method holds, as one does at every larger keep that was tried.

    The most accurate one where several methods hold there; None where no keep qualifies. At a given total compute
    (`--compute`) a larger keep is not easier: the most accurate row that holds, at any keep.
    """
    if analysis["config"].get("compute"):
        holding = [row for row in pruned_rows(analysis) if row["verdict"] == "holds"]
        return max(holding, key=lambda row: row["mean"], default=None)
    keep = smallest_keep(keeps_that_hold(headline_rows(analysis)))
    rows = [row for row in pruned_rows(analysis) if row["keep"] == keep and row["verdict"] == "holds"]
    return max(rows, key=lambda row: row["mean"], default=None)


def isolated_holding(analysis: Mapping[str, Any]) -> dict[str, Any] | None:
    """The row of the largest keep at which a method holds although none is shown to hold at a larger keep."""
    if smallest_holding(analysis):
        return None
    rows = [row for row in pruned_rows(analysis) if row["verdict"] == "holds"]
    return max(rows, key=lambda row: (row["keep"], row["mean"]), default=None)


def cost_of(analysis: Mapping[str, Any], row: Mapping[str, Any]) -> dict[str, Any] | None:
    """What the condition of `row` cost and saved; None where its pretraining was not recorded."""
    condition = (row["method"], row["keep"])
    return next((one for one in analysis["ledger"]["rows"] if (one["method"], one["keep"]) == condition), None)


def condition_text(row: Mapping[str, Any]) -> str:
    """`winnow at keep 0.2`."""
    if row["method"] == FULL_LENGTH:
        return f"all data at {row['keep']:g} of the length"
    return "full data" if row["method"] == "full" else f"{row['method']} at keep {row['keep']:g}"


def difference_from(row: Mapping[str, Any], control: str = "full") -> str:
    """`-0.3 points (95 %: -0.9 to +0.2)`."""
    one = row[control]
    return f"{one['value']:+z.1f} points (95 %: {one['low']:+z.1f} to {one['high']:+z.1f})"


def verdict_line(analysis: Mapping[str, Any]) -> str:
    """One line on whether pruning paid off: the speed-up, where all data have a curve, and the verdict.

    Parameters
    ----------
    analysis : mapping
        From `analysis.analyse`.
    """
    speed_up, verdict = speed_up_headline(analysis), _verdict(analysis)
    return f"{speed_up}; {verdict[0].lower()}{verdict[1:]}" if speed_up else verdict


def _verdict(analysis: Mapping[str, Any]) -> str:
    rows = headline_rows(analysis)
    tried = pruned_rows(analysis)
    judged = [row for row in tried if row["full"] is not None]
    if not tried:
        return "No verdict: the study contains controls and no pruning method."
    if not judged:
        best = max(tried, key=lambda row: row["mean"])
        found = f"{condition_text(best)}{_against_random(best)}"
        return f"No verdict against full data, which this study has not trained; best is {found}."
    holding = smallest_holding(analysis)
    if holding is not None:
        return _pruning_holds(analysis, holding, rows)
    if isolated := isolated_holding(analysis):
        return (
            f"Undecided: {condition_text(isolated)} holds, {difference_from(isolated)} against full data, but no "
            "pruning method is shown to hold at a larger keep, where it should be easier. More seeds or test images "
            "would decide."
        )
    best = max(judged, key=lambda row: row["full"]["value"])
    random = [row for row in rows if row["method"] == "random" and row["verdict"] == "holds"]
    only_random = f" Only random holds, at keep {min(r['keep'] for r in random):g}." if random else ""
    keeps = ", ".join(f"{keep:g}" for keep in sorted({row["keep"] for row in judged}))
    closest = f"{condition_text(best)}, {difference_from(best)} against full data{_against_random(best)}"
    if best["full"]["seeds"] < 2:
        return f"Undecided: one seed is too few for a verdict. Closest is {closest}.{only_random}"
    margin = f"{analysis['margin']:g} points"
    if all(row["verdict"] == "loses" for row in judged):
        lost = f"the best, {condition_text(best)}, is {difference_from(best)} against full data"
        nothing = "" if random else " The smallest keep that holds is 1, full data, which saves nothing."
        return (
            f"Pruning did not hold at any keep tried ({keeps}): {lost}, beyond the margin of {margin}"
            f"{_against_random(best)}.{nothing}{only_random}"
        )
    return (
        f"Undecided: no keep tried ({keeps}) is shown to hold within {margin}; closest is {closest}. "
        f"More seeds or test images would decide.{only_random}"
    )


def _pruning_holds(analysis: Mapping[str, Any], row: Mapping[str, Any], rows: Iterable[Mapping[str, Any]]) -> str:
    condition = (row["method"], row["keep"])
    over = "" if row["target"] else f" on the mean of {len(analysis['targets'])} targets"
    text = f"{condition_text(row)} holds{over}: {difference_from(row)} against full data"
    cost = cost_of(analysis, row)
    factor = cost and cost["factor_flops"]["1"]
    if cost and factor and not (analysis["speed_ups"] and factor >= 1):  # the speed-up counts the same compute
        uses = cost["break_even_uses_flops"]
        later = f" (pays from use {uses})" if uses and uses > 1 else ""
        text += f", at {factor:.1f}x less compute" if factor >= 1 else f", at {1 / factor:.1f}x MORE compute"
        text += f" with one use of the index{later}"
    if row["speed_up"]:
        text += f"; for its accuracy all data need {speed_up_text(row['speed_up']['1'])} times its compute with one use"
    text += _against_random(row) + _against_all_data(row)
    same = [r for r in analysis["rows"] if (r["method"], r["keep"]) == condition and r["target"] is not None]
    if lost := [r["target"] for r in same if r["evaluation"] == row["evaluation"] and r["verdict"] == "loses"]:
        text += f"; but it loses on {', '.join(lost)}"
    if any(r["method"] == "random" and r["keep"] <= row["keep"] and r["verdict"] == "holds" for r in rows):
        text += "; random holds as well, so the selection was not needed"
    text = text[0].upper() + text[1:] + "."
    if row["verdict_corrected"] != "holds":
        text += (
            " That is the verdict on this condition by itself; corrected for the number of conditions that the study "
            "compares (Holm), it is not shown to hold."
        )
    return text


def _against_all_data(row: Mapping[str, Any]) -> str:
    """How the row compares with all data that were trained for the same compute; '' without that control."""
    one = row["full_equal"]
    if one is None:
        return ""
    points = f"all data at equal compute by {abs(one['value']):.1f} points"
    if row["beats_full_equal"]:
        return f"; it beats {points}"
    if row["worse_than_full_equal"]:
        return f"; it falls below {points}"
    return f"; not shown to beat all data at equal compute ({one['value']:+z.1f} points)"


def _against_random(row: Mapping[str, Any]) -> str:
    if row["random"] is None:
        return ""
    points = f"by {abs(row['random']['value']):.1f} points"
    if row["beats_random"]:
        return f"; it beats random at the same keep {points}"
    if row["worse_than_random"]:
        return f"; random at the same keep beats it {points}"
    return f"; not shown to beat random at the same keep ({row['random']['value']:+z.1f} points)"
