"""Speed-ups of a study's conditions and methods as its analysis lists them, and the sentence about them.

Compute is a share of one full pretraining, in FLOPs. All data's curve goes through the full length, the other lengths
that the study trained, and all data at equal compute.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transfer.verdicts.controls import CONTROLS, FULL_EQUAL, FULL_LENGTH
from transfer.verdicts.cost_account import USES
from transfer.verdicts.estimates import RunTable
from transfer.verdicts.results_file import Condition
from transfer.verdicts.speed_up import divided, speed_up, speed_up_within

WITHIN = 2.0
"""Points below all data at which the speed-up of a method is given."""


def compute_shares(account: Mapping[str, Any]) -> dict[Condition, dict[int, float]]:
    """By condition and number of uses, compute of one use, everything counted; conditions of unknown cost are absent.

    Parameters
    ----------
    account : mapping
        From `cost_account`.
    """
    return {
        (row["method"], row["keep"]): {uses: 1 / row["factor_flops"][str(uses)] for uses in USES}
        for row in account["rows"]
        if all(row["factor_flops"][str(uses)] for uses in USES)
    }


def all_data_curve(
    runs: RunTable, place: Mapping[Condition, int], shares: Mapping[Condition, Mapping[int, float]]
) -> dict[float, int]:
    """Compute to row of all data at every length with as many seeds as the full one; empty without the full one."""
    if ("full", 1.0) not in place:
        return {}

    def seeds(row: int) -> int:
        return int((runs.values[row] == runs.values[row]).sum())

    curve = {1.0: place["full", 1.0]}
    for condition, row in place.items():
        if condition[0] in (FULL_LENGTH, FULL_EQUAL) and condition in shares and seeds(row) >= seeds(curve[1.0]):
            curve.setdefault(round(shares[condition][1], 6), row)
    return curve


def condition_speed_ups(
    runs: RunTable, row: int, share: Mapping[int, float] | None, curve: Mapping[float, int]
) -> dict[str, dict[str, Any]] | None:
    """By number of uses, the speed-up of the condition in `row`; None where it cannot be given."""
    one = speed_up(runs, row, 1.0, curve) if share else None
    if one is None or share is None:
        return None
    return {str(uses): divided(one, cost)._asdict() for uses, cost in share.items()}


def method_speed_ups(
    runs: RunTable,
    place: Mapping[Condition, int],
    shares: Mapping[Condition, Mapping[int, float]],
    points: float = WITHIN,
) -> list[dict[str, Any]]:
    """For each pruning method the speed-up to within `points` of all data.

    Returns
    -------
    list of dict
        "method", "points", and by number of uses the speed-up with the "keep" that reaches it, or None where no keep of
        the method gets there; empty without a curve of all data.
    """
    curve = all_data_curve(runs, place, shares)
    if len(curve) < 2:
        return []
    keeps = {row: keep for (_, keep), row in place.items()}
    found = []
    for method in dict.fromkeys(m for m, _ in place if m not in CONTROLS):
        mine = [(row, shares[c]) for c, row in place.items() if c[0] == method and c in shares]
        entry: dict[str, Any] = {"method": method, "points": points}
        for uses in USES:
            reached = speed_up_within(runs, {row: share[uses] for row, share in mine}, curve, points / 100)
            entry[str(uses)] = reached and {**reached.speed_up._asdict(), "keep": keeps[reached.condition]}
        found.append(entry)
    return found


def best_method(analysis: Mapping[str, Any], uses: int = 1) -> dict[str, Any] | None:
    """The method with the largest speed-up to within `WITHIN` points, in the first evaluation; None where none has."""
    first = [one for one in analysis["speed_ups"] if one["evaluation"] == analysis["evaluations"][0]]
    return max((one for one in first if one[str(uses)]), key=lambda one: one[str(uses)]["value"], default=None)


def speed_up_text(one: Mapping[str, Any]) -> str:
    """`2.6 (95 %: 2.1 to 3.3)`, `at least 3.1 (95 %: 2.4 or more)`."""
    sign = {"above": "at least ", "below": "at most ", "": ""}[one["open"]]
    low, high = f"{one['low']:.1f}", f"{one['high']:.1f}"
    if one["low_open"] and one["high_open"]:
        return f"{sign}{one['value']:.1f} (no limits: beyond the measured lengths)"
    limits = f"{high} or less" if one["low_open"] else f"{low} or more" if one["high_open"] else f"{low} to {high}"
    return f"{sign}{one['value']:.1f} (95 %: {limits})"


def speed_up_sentences(analysis: Mapping[str, Any]) -> list[str]:
    """The speed-up to within `WITHIN` points of all data at each number of uses; empty without a curve of all data."""
    first = [one for one in analysis["speed_ups"] if one["evaluation"] == analysis["evaluations"][0]]
    if not first:
        return []
    level = f"within {WITHIN:g} points of all data"
    best = best_method(analysis)
    if best is None:
        return [f"No condition that was tried comes {level}, so there is no speed-up to that accuracy."]
    uses = [f"{speed_up_text(best[str(n)])} with {n} use{'s' * (n > 1)}" for n in USES if best[str(n)]]
    text = f"Speed-up to {level}, by {best['method']} at keep {best['1']['keep']:g}, everything counted: "
    sentences = [text + ", ".join(uses) + "."]
    if best["1"]["low"] == 0:
        sentences.append("More seeds or test images would have to show that it gets that near.")
    return sentences
