"""From a study's results and predictions to verdicts: one row per condition, target and evaluation.

A condition is a method at a keep. From here on accuracies are in percent and differences in points. A row about the
mean over targets has the target None.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from prune.index.npz import open_arrays
from prune.runs.files import InputError
from transfer.verdicts import estimates
from transfer.verdicts.controls import CONTROLS, EQUALS, FULL_EQUAL, FULL_LENGTH, RANDOM_EQUALS
from transfer.verdicts.cost_account import cost_account
from transfer.verdicts.estimates import Estimate, RunTable
from transfer.verdicts.results_file import Condition, condition_of
from transfer.verdicts.sample_efficiency import sample_efficiency
from transfer.verdicts.speed_up_rows import (
    all_data_curve,
    compute_shares,
    condition_speed_ups,
    curves_over_accuracy,
    method_speed_ups,
    with_time_and_money,
)

MARGIN = 0.5
SIGNIFICANT = 1 - estimates.LEVEL
COMPARED = {"random": ("random",), "equal_time": RANDOM_EQUALS, "full_equal": (FULL_EQUAL,)}
"""Controls that every pruning method is compared with at the same keep, by the name of the comparison in a row."""
Shares = Mapping[Condition, Mapping[int, float]]


def analyse(
    results: Mapping[str, Any], folder: Path | None, *, margin: float | None = None, price: float | None = None
) -> dict[str, Any]:
    """Judge a study.

    Parameters
    ----------
    results : mapping
        From `load_results`.
    folder : Path or None
        The study's directory, where the predictions are. With None the accuracies alone are used, which widens the
        intervals.
    margin : float, optional
        How many points a method may lie below full data and still hold; the study's own margin when absent.
    price : float, optional
        Of one hour of the machine.

    Returns
    -------
    dict
        JSON-serialisable: "margin", "methods", "targets", "evaluations", "keeps", "seeds", "rows", "speed_ups" (of
        each method to within some points of all data) and "speed_up_curves" (speed-up over accuracy), both on the mean
        over targets or the only target, "ledger" (the costs), "price", "leaks", "search", "surrogates", "gate", and
        the study's "config", "machine" and "commands".
    """
    config = results.get("config") or {}
    if margin is None:
        stated = config.get("margin")
        if not isinstance(stated, (int, float, type(None))):
            raise InputError(f"results.json: its margin is {stated!r}; a number is needed")
        margin = MARGIN if stated is None else float(stated)
    for flag, amount in (("margin", margin), ("price", price or 0.0)):
        if not 0 <= amount < float("inf"):
            raise InputError(f"--{flag} {amount} must not be negative" + ("" if amount < 0 else " or without end"))
    found = results["cells"]
    leaks = results.get("leaks") or {}
    targets = _in_order((one["target"] for one in found), config.get("targets"))
    evaluations = _in_order((one["evaluation"] for one in found), config.get("evaluations"))
    methods = _in_order((one["method"] for one in found), config.get("methods"))
    conditions = sorted({condition_of(one) for one in found}, key=lambda c: (methods.index(c[0]), c[1]))
    account = cost_account(results["ledger"], price)
    shares = compute_shares(account)
    rows: list[dict[str, Any]] = []
    speed_ups: list[dict[str, Any]] = []
    curves: list[dict[str, Any]] = []
    for evaluation in evaluations:
        part = [one for one in found if one["evaluation"] == evaluation]
        seeds = sorted({one["seed"] for one in part})
        tables = {}
        for target in targets:
            mine = [one for one in part if one["target"] == target]
            if mine:
                tables[target] = (_run_table(mine, conditions, seeds, folder), mine[0].get("n"))
        scopes: list[tuple[str | None, RunTable, int | None]] = [(t, runs, n) for t, (runs, n) in tables.items()]
        if len(tables) > 1:
            sizes = [n for _, n in tables.values()]
            mean = estimates.mean_of_targets([runs for runs, _ in tables.values()])
            scopes.insert(0, (None, mean, sum(sizes) if all(sizes) else None))
        for scope, runs, n in scopes:
            mine = [one for one in part if scope in (None, one["target"])]
            rows += [
                {"evaluation": evaluation, "target": scope, "n": n} | row | _means(mine, row)
                for row in _rows(runs, conditions, seeds, margin, shares, config.get("compute"))
            ]
        if scopes:
            scope, runs, _ = scopes[0]
            here, place = {"evaluation": evaluation, "target": scope}, _places(runs, conditions)
            ups = method_speed_ups(runs, place, shares)
            speed_ups += [{**here, **with_time_and_money(one, account, price)} for one in ups]
            if over := curves_over_accuracy(runs, place, shares):
                curves.append({**here, **over})
    _correct_for_many(rows)
    return {
        "margin": margin,
        "methods": methods,
        "targets": targets,
        "evaluations": evaluations,
        "keeps": sorted({keep for method, keep in conditions if method != FULL_LENGTH}),
        "seeds": sorted({one["seed"] for one in found}),
        "rows": rows,
        "speed_ups": speed_ups,
        "speed_up_curves": curves,
        "ledger": account,
        "price": price,
        "leaks": {target: leaks[target] for target in targets if target in leaks},
        "config": config,
        "search": results.get("search"),
        "surrogates": results.get("surrogates") or [],
        "gate": results.get("gate"),
        "machine": results.get("machine", ""),
        "commands": results.get("commands", []),
    }


def _in_order(found: Any, wanted: Any) -> list[str]:
    """The names that were found, in the order of the config; names that the config lacks come last."""
    there = list(dict.fromkeys(found))
    first = [name for name in (wanted or []) if name in there] if isinstance(wanted, (list, dict)) else []
    return first + [name for name in there if name not in first]


def _run_table(
    results: list[Mapping[str, Any]], conditions: list[Condition], seeds: list[int], folder: Path | None
) -> RunTable:
    values = np.full((len(conditions), len(seeds)), np.nan)
    right: list[list[np.ndarray]] = [[] for _ in conditions]
    label: np.ndarray | None = None
    for one in results:
        row = conditions.index(condition_of(one))
        values[row, seeds.index(one["seed"])] = one["value"]
        if folder is None or not one.get("predictions"):
            continue
        place = Path(folder) / one["predictions"]
        arrays, _ = open_arrays(place, "winnow-predictions/1")
        if label is None:
            label = np.asarray(arrays["label"])
        if not np.array_equal(label, arrays["label"]):
            raise InputError(f"{place}: its test images are not those of the other runs on {one['target']}")
        right[row].append(np.asarray(arrays["predicted"] == label))
    n = len(label) if label is not None else next((int(one["n"]) for one in results if one.get("n")), 1)
    counts = np.isfinite(values).sum(axis=1)
    complete = [runs if len(runs) == count else None for runs, count in zip(right, counts)]
    return estimates.run_table(values, complete, n)


def _places(runs: RunTable, conditions: list[Condition]) -> dict[Condition, int]:
    """Row of every condition that has run."""
    return {condition: row for row, condition in enumerate(conditions) if np.isfinite(runs.values[row]).any()}


def _rows(
    runs: RunTable, conditions: list[Condition], seeds: list[int], margin: float, shares: Shares, compute: float | None
) -> list[dict[str, Any]]:
    place = _places(runs, conditions)
    all_data = all_data_curve(runs, place, shares)
    curve = {keep: row for (method, keep), row in place.items() if method == "random"}
    if ("full", 1.0) in place:
        curve.setdefault(1.0, place["full", 1.0])
    if compute:  # all keeps then have the same compute, and one image is worth as many others as there are passes
        curve = {}
    found = []
    for (method, keep), row in place.items():
        known = np.isfinite(runs.values[row])
        own = runs.values[row][known]
        interval = estimates.accuracy(runs, row)
        assert interval is not None
        entry: dict[str, Any] = {
            "method": method,
            "keep": keep,
            "seeds": [seed for seed, is_known in zip(seeds, known) if is_known],
            "mean": 100 * interval.value,
            "std": 100 * float(own.std(ddof=1)) if len(own) > 1 else None,
            "low": 100 * max(0.0, interval.low),
            "high": 100 * min(1.0, interval.high),
        }
        against = None
        if method not in ("full", FULL_LENGTH) and ("full", 1.0) in place:
            against = estimates.paired_difference(runs, row, place["full", 1.0], -margin / 100)
        entry["full"] = _points(against)
        entry["verdict"] = estimates.verdict_against_full(against, margin / 100)
        for name, controls in COMPARED.items():
            rivals = [(control, keep) for control in controls]
            rivals += [(FULL_LENGTH, compute)] if compute and name == "full_equal" else []
            other = next((place[rival] for rival in rivals if rival in place), None)
            fits = other is not None and other != row and method not in ("full", FULL_LENGTH, *EQUALS, *controls)
            entry[name] = _points(estimates.paired_difference(runs, row, other)) if fits and other is not None else None
        guided = method not in CONTROLS
        gain = sample_efficiency(runs, row, keep, curve) if guided else None
        entry["efficiency"] = gain._asdict() if gain else None
        share = shares.get((method, keep)) if method not in ("full", FULL_LENGTH, FULL_EQUAL) else None
        entry["speed_up"] = condition_speed_ups(runs, row, share, all_data)
        found.append(entry)
    return found


def _means(results: list[Mapping[str, Any]], row: Mapping[str, Any]) -> dict[str, float | None]:
    """Accuracy averaged over classes, and calibration error, in percent: means over runs; None where not recorded."""
    own = [one for one in results if condition_of(one) == (row["method"], row["keep"])]
    found: dict[str, float | None] = {}
    for key in ("mean_per_class", "ece"):
        values = [one[key] for one in own if isinstance(one.get(key), (int, float))]
        found[key] = 100 * float(np.mean(values)) if values and len(values) == len(own) else None
    return found


def _points(estimate: Estimate | None) -> dict[str, Any] | None:
    if estimate is None:
        return None
    value, low, high, p, seeds = estimate
    return {"value": 100 * value, "low": 100 * low, "high": 100 * high, "p": p, "seeds": seeds}


def _correct_for_many(rows: list[dict[str, Any]]) -> None:
    """Add the p-values after Holm's correction for the number of comparisons, and the verdicts that they leave.

    Rows about one target and rows about the mean over targets are two families of comparisons.
    """
    for is_mean in (False, True):
        family = [row for row in rows if (row["target"] is None) == is_mean]
        for name in ("full", *COMPARED):
            tested = [row[name] for row in family if row[name] is not None and row[name]["p"] is not None]
            for one, p in zip(tested, estimates.holm([one["p"] for one in tested])):
                one["p_corrected"] = p
    for row in rows:
        for name in COMPARED:
            one = row[name]
            shown = one is not None and one.get("p_corrected", 1.0) < SIGNIFICANT
            row[f"beats_{name}"] = None if one is None else bool(shown and one["value"] > 0)
            row[f"worse_than_{name}"] = None if one is None else bool(shown and one["value"] < 0)
        stays = row["full"] is not None and row["full"].get("p_corrected", 1.0) < SIGNIFICANT
        row["verdict_corrected"] = row["verdict"] if stays or row["verdict"] is None else "undecided"
