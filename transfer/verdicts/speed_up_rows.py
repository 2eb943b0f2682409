"""Speed-ups of a study's conditions and methods as its analysis lists them, and the sentence about them.

Compute is a share of one full pretraining, in FLOPs. All data's curve goes through the full length, the other lengths
that the study trained, and all data at equal compute.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from transfer.verdicts.controls import CONTROLS, FULL_EQUAL, FULL_LENGTH
from transfer.verdicts.cost_account import USES, duration_text
from transfer.verdicts.estimates import RunTable
from transfer.verdicts.results_file import Condition
from transfer.verdicts.speed_up import divided, speed_up, speed_up_curve, speed_up_within

WITHIN = 2.0
"""Points below all data at which the speed-up of a method is given."""
_LEVEL = f"within {WITHIN:g} points of all data"


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


def curves_over_accuracy(
    runs: RunTable, place: Mapping[Condition, int], shares: Mapping[Condition, Mapping[int, float]]
) -> dict[str, list[dict[str, Any]]]:
    """By number of uses, the curve of speed-up over accuracy: the conditions that no cheaper one equals, best first.

    Returns
    -------
    dict
        Entries "method", "keep", "accuracy" in percent, "gap" (points above all data, negative below) and the
        speed-up; empty without a curve of all data.
    """
    curve = all_data_curve(runs, place, shares)
    if len(curve) < 2:
        return {}
    conditions = {row: condition for condition, row in place.items()}
    full = float(np.nanmean(runs.values[curve[1.0]]))
    mine = {row: shares[c] for row, c in conditions.items() if c[0] not in CONTROLS and c in shares}
    found = {}
    for uses in USES:
        points = speed_up_curve(runs, {row: share[uses] for row, share in mine.items()}, curve)
        found[str(uses)] = [
            {
                **dict(zip(("method", "keep"), conditions[point.condition])),
                "accuracy": 100 * point.accuracy,
                "gap": 100 * (point.accuracy - full),
                **point.speed_up._asdict(),
            }
            for point in reversed(points)
        ]
    return found


def with_time_and_money(entry: Mapping[str, Any], account: Mapping[str, Any], price: float | None) -> dict[str, Any]:
    """The speed-ups of a method with what they are in time and money.

    "seconds" are those that one use of the condition took, as measured; "seconds_all_data" those that all data need for
    the same accuracy, from their compute and the seconds of the full length; "price" and "price_all_data" the money,
    None without `price`, that of one hour of the machine.
    """
    found, full = dict(entry), account["full"]
    costs = {(row["method"], row["keep"]): row for row in account["rows"]}
    for uses in map(str, USES):
        one = entry[uses]
        row = costs.get((entry["method"], one["keep"])) if one else None
        if row is None or full is None or not row["factor_flops"][uses]:
            continue
        seconds = row["preparation"]["seconds"] / int(uses) + row["pretraining"]["seconds"]
        both = {"seconds": seconds, "seconds_all_data": one["value"] / row["factor_flops"][uses] * full["seconds"]}
        money = {key.replace("seconds", "price"): None if price is None else value / 3600 * price
                 for key, value in both.items()}  # fmt: skip
        found[uses] = {**one, **both, **money}
    return found


def best_method(analysis: Mapping[str, Any], uses: int = 1) -> dict[str, Any] | None:
    """The method with the largest speed-up to within `WITHIN` points, in the first evaluation; None where none has."""
    return max(
        (one for one in _first(analysis) if one[str(uses)]), key=lambda one: one[str(uses)]["value"], default=None
    )


def bounded_text(one: Mapping[str, Any]) -> str:
    """`2.6`, `at least 3.1`."""
    return {"above": "at least ", "below": "at most ", "": ""}[one["open"]] + f"{one['value']:.1f}"


def speed_up_text(one: Mapping[str, Any]) -> str:
    """`2.6 (95 %: 2.1 to 3.3)`, `at least 3.1 (95 %: 2.4 or more)`."""
    low, high = f"{one['low']:.1f}", f"{one['high']:.1f}"
    if one["low_open"] and one["high_open"]:
        return f"{bounded_text(one)} (no limits: beyond the measured lengths)"
    limits = f"{high} or less" if one["low_open"] else f"{low} or more" if one["high_open"] else f"{low} to {high}"
    return f"{bounded_text(one)} (95 %: {limits})"


def speed_up_headline(analysis: Mapping[str, Any]) -> str | None:
    """The first clause of a verdict: the speed-up at one use, by what, and what it is in time and money.

    None without a curve of all data.
    """
    if not _first(analysis):
        return None
    best = best_method(analysis)
    if best is None:
        return f"Speed-up to {_LEVEL}: none, since no condition that was tried comes so near"
    one = best["1"]
    text = f"Speed-up to {_LEVEL}: {speed_up_text(one)} with one use, everything counted, by {best['method']} at keep "
    return f"{text}{one['keep']:g}{in_time_and_money(one)}"


def speed_up_sentences(analysis: Mapping[str, Any]) -> list[str]:
    """The speed-up to within `WITHIN` points of all data at each number of uses, then over accuracy at one use.

    Empty without a curve of all data.
    """
    if not _first(analysis):
        return []
    best = best_method(analysis)
    if best is None:
        sentences = [f"No condition that was tried comes {_LEVEL}, so there is no speed-up to that accuracy."]
    else:
        uses = [f"{speed_up_text(best[str(n)])} with {n} use{'s' * (n > 1)}" for n in USES if best[str(n)]]
        text = f"Speed-up to {_LEVEL}, by {best['method']} at keep {best['1']['keep']:g}, everything counted: "
        sentences = [f"{text}{', '.join(uses)}{in_time_and_money(best['1'])}."]
        if best["1"]["low"] == 0:
            sentences.append("More seeds or test images would have to show that it gets that near.")
    return sentences + _over_accuracy(analysis)


def _over_accuracy(analysis: Mapping[str, Any]) -> list[str]:
    curves = [one for one in analysis["speed_up_curves"] if one["evaluation"] == analysis["evaluations"][0]]
    points = curves[0]["1"] if curves else []
    if not points:
        return []
    texts = [
        f"{one['gap']:+z.1f} points ({one['accuracy']:.1f} %): {speed_up_text(one)} by {one['method']} at keep "
        f"{one['keep']:g}"
        for one in points
    ]
    return [f"Speed-up over accuracy, with one use, against all data: {'; '.join(texts)}."]


def in_time_and_money(one: Mapping[str, Any]) -> str:
    """` (41 minutes of the machine instead of at least 1.8 hours; 1.71 instead of at least 4.50 in money)`."""
    if "seconds" not in one:
        return ""
    sign = {"above": "at least ", "below": "at most ", "": ""}[one["open"]]
    text = f"{duration_text(one['seconds'])} of the machine instead of {sign}{duration_text(one['seconds_all_data'])}"
    if one["price"] is not None:
        text += f", in money {one['price']:.2f} instead of {sign}{one['price_all_data']:.2f}"
    return f" ({text})"


def _first(analysis: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Speed-ups of the methods in the first evaluation."""
    return [one for one in analysis["speed_ups"] if one["evaluation"] == analysis["evaluations"][0]]
