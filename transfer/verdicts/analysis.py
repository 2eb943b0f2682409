"""From a study's results.json and predictions to verdicts: one row per condition, target and evaluation.

A condition is a method at a keep. Accuracies are in percent and differences in points from here on; a row about the
mean over targets has the target None.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from prune.index.npz import open_arrays
from prune.runs.files import InputError, read_json
from transfer.studies.collect import FORMAT
from transfer.verdicts import cost_account, estimates
from transfer.verdicts.estimates import Estimate, Layout
from transfer.verdicts.leak_counts import check_leaks
from transfer.verdicts.sample_efficiency import efficiency

MARGIN = 0.5
SIGNIFICANT = 1 - estimates.LEVEL
COMPARED = {"random": "random", "equal_time": "random-equal-time"}
_CELL: dict[str, Any] = {
    "method": str,
    "keep": (int, float),
    "seed": int,
    "target": str,
    "evaluation": str,
    "value": (int, float),
}
_ENTRY: dict[str, Any] = {"stage": str, "seconds": (int, float), "samples": (int, float), "flops": (int, float)}
Condition = tuple[str, float]


def load(study: Path) -> dict[str, Any]:
    """Read and check `results.json` of a study.

    Raises
    ------
    InputError
        Missing, damaged, of another format, or with a cell that lacks a value or stands there twice.
    """
    place = Path(study) / "results.json"
    if not place.is_file():
        raise InputError(f"{place}: no such file; `transfer study` writes it")
    results = read_json(place)
    found = results.get("format") if isinstance(results, dict) else None
    if found != FORMAT:
        raise InputError(f"{place}: is {found or 'no study file'}; {FORMAT} is expected")
    for name, wanted in (("cells", _CELL), ("ledger", _ENTRY)):
        entries = results.setdefault(name, [])
        if not isinstance(entries, list):
            raise InputError(f"{place}: its {name} are no list")
        for number, entry in enumerate(entries):
            bad = [k for k, kind in wanted.items() if not isinstance(entry, dict) or not isinstance(entry.get(k), kind)]
            if bad:
                raise InputError(f"{place}: {name}[{number}] has no valid {', '.join(bad)}")
    for entry in results["ledger"]:
        entry |= {key: entry.get(key) for key in ("method", "keep", "seed")}
    results["leaks"] = check_leaks(results, place)
    keys = [(*_condition(c), c["seed"], c["target"], c["evaluation"]) for c in results["cells"]]
    if not keys:
        raise InputError(f"{place}: holds no result; the study has not finished a single evaluation")
    if len(set(keys)) < len(keys):
        twice = next(key for key in keys if keys.count(key) > 1)
        raise InputError(f"{place}: two results for {', '.join(map(str, twice))}")
    return results


def analyse(
    results: Mapping[str, Any], folder: Path | None, *, margin: float | None = None, price: float | None = None
) -> dict[str, Any]:
    """Judge a study.

    Parameters
    ----------
    results : mapping
        Of `load`.
    folder : Path or None
        The study's directory, where the predictions lie. None: accuracies alone are used, with wider intervals.
    margin : float, optional
        Points that a method may lie below full data and still hold; the study's own margin when absent.
    price : float, optional
        Of one hour of the machine.

    Returns
    -------
    dict
        JSON-serialisable: "margin", "methods", "targets", "evaluations", "keeps", "seeds", "rows", "ledger",
        "leaks", and the study's "config", "machine" and "commands".
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
    cells = results["cells"]
    found = results.get("leaks") or {}
    targets = _in_order((c["target"] for c in cells), config.get("targets"))
    evaluations = _in_order((c["evaluation"] for c in cells), config.get("evaluations"))
    methods = _in_order((c["method"] for c in cells), config.get("methods"))
    conditions = sorted({_condition(c) for c in cells}, key=lambda c: (methods.index(c[0]), c[1]))
    rows = []
    for evaluation in evaluations:
        part = [c for c in cells if c["evaluation"] == evaluation]
        seeds = sorted({c["seed"] for c in part})
        layouts = {}
        for target in targets:
            mine = [c for c in part if c["target"] == target]
            if mine:
                layouts[target] = (_layout(mine, conditions, seeds, folder), mine[0].get("n"))
        scopes: list[tuple[str | None, Layout, int | None]] = [(t, runs, n) for t, (runs, n) in layouts.items()]
        if len(layouts) > 1:
            sizes = [n for _, n in layouts.values()]
            mean = estimates.average([runs for runs, _ in layouts.values()])
            scopes.insert(0, (None, mean, sum(sizes) if all(sizes) else None))  # type: ignore[arg-type]
        for scope, runs, n in scopes:
            mine = [c for c in part if scope in (None, c["target"])]
            rows += [
                {"evaluation": evaluation, "target": scope, "n": n} | row | _also(mine, row)
                for row in _rows(runs, conditions, seeds, margin)
            ]
    _correct(rows)
    return {
        "margin": margin,
        "methods": methods,
        "targets": targets,
        "evaluations": evaluations,
        "keeps": sorted({keep for _, keep in conditions}),
        "seeds": sorted({c["seed"] for c in cells}),
        "rows": rows,
        "ledger": cost_account.bill(results["ledger"], price),
        "leaks": {target: found[target] for target in targets if target in found},
        "config": config,
        "search": results.get("search"),
        "machine": results.get("machine", ""),
        "commands": results.get("commands", []),
    }


def _condition(cell: Mapping[str, Any]) -> Condition:
    return cell["method"], 1.0 if cell["method"] == "full" else round(float(cell["keep"]), 9)


def _in_order(found: Any, wanted: Any) -> list[str]:
    """What there is, in the order that the config names it; the rest behind, as it came."""
    there = list(dict.fromkeys(found))
    first = [name for name in (wanted or []) if name in there] if isinstance(wanted, (list, dict)) else []
    return first + [name for name in there if name not in first]


def _layout(
    cells: list[Mapping[str, Any]], conditions: list[Condition], seeds: list[int], folder: Path | None
) -> Layout:
    values = np.full((len(conditions), len(seeds)), np.nan)
    right: list[list[np.ndarray]] = [[] for _ in conditions]
    label: np.ndarray | None = None
    for cell in cells:
        row = conditions.index(_condition(cell))
        values[row, seeds.index(cell["seed"])] = cell["value"]
        if folder is None or not cell.get("predictions"):
            continue
        place = Path(folder) / cell["predictions"]
        arrays, _ = open_arrays(place, "winnow-predictions/1")
        if label is None:
            label = np.asarray(arrays["label"])
        if not np.array_equal(label, arrays["label"]):
            raise InputError(f"{place}: its test images are not those of the other runs on {cell['target']}")
        right[row].append(np.asarray(arrays["predicted"] == label))
    n = len(label) if label is not None else next((int(c["n"]) for c in cells if c.get("n")), 1)
    counts = np.isfinite(values).sum(axis=1)
    return estimates.layout(values, [runs if len(runs) == count else None for runs, count in zip(right, counts)], n)


def _rows(runs: Layout, conditions: list[Condition], seeds: list[int], margin: float) -> list[dict[str, Any]]:
    place = {condition: row for row, condition in enumerate(conditions) if np.isfinite(runs.values[row]).any()}
    curve = {keep: row for (method, keep), row in place.items() if method == "random"}
    if ("full", 1.0) in place:
        curve.setdefault(1.0, place["full", 1.0])
    found = []
    for (method, keep), row in place.items():
        there = np.isfinite(runs.values[row])
        own = runs.values[row][there]
        interval = estimates.accuracy(runs, row)
        assert interval is not None
        entry: dict[str, Any] = {
            "method": method,
            "keep": keep,
            "seeds": [seed for seed, is_there in zip(seeds, there) if is_there],
            "mean": 100 * interval.value,
            "std": 100 * float(own.std(ddof=1)) if len(own) > 1 else None,
            "low": 100 * max(0.0, interval.low),
            "high": 100 * min(1.0, interval.high),
        }
        against = None
        if method != "full" and ("full", 1.0) in place:
            against = estimates.difference(runs, row, place["full", 1.0], -margin / 100)
        entry["full"] = _points(against)
        entry["verdict"] = estimates.verdict(against, margin / 100)
        for name, control in COMPARED.items():
            other = place.get((control, keep))
            fits = other is not None and other != row and method not in ("full", *COMPARED.values())
            entry[name] = _points(estimates.difference(runs, row, other)) if fits and other is not None else None
        guided = method not in ("full", *COMPARED.values())
        gain = efficiency(runs, row, keep, curve) if guided else None
        entry["efficiency"] = gain._asdict() if gain else None
        found.append(entry)
    return found


def _also(cells: list[Mapping[str, Any]], row: Mapping[str, Any]) -> dict[str, float | None]:
    """Mean accuracy over classes, and calibration error, in percent: means over runs; None where not recorded."""
    own = [c for c in cells if _condition(c) == (row["method"], row["keep"])]
    found: dict[str, float | None] = {}
    for key in ("mean_per_class", "ece"):
        values = [c[key] for c in own if isinstance(c.get(key), (int, float))]
        found[key] = 100 * float(np.mean(values)) if values and len(values) == len(own) else None
    return found


def _points(estimate: Estimate | None) -> dict[str, Any] | None:
    if estimate is None:
        return None
    value, low, high, p, seeds = estimate
    return {"value": 100 * value, "low": 100 * low, "high": 100 * high, "p": p, "seeds": seeds}


def _correct(rows: list[dict[str, Any]]) -> None:
    """Add the p-values and claims that stand after Holm's correction; cells and means over targets are two families."""
    for is_mean in (False, True):
        family = [row for row in rows if (row["target"] is None) == is_mean]
        for name in ("full", *COMPARED):
            tested = [row[name] for row in family if row[name] is not None and row[name]["p"] is not None]
            for one, p in zip(tested, estimates.holm([one["p"] for one in tested])):
                one["p_corrected"] = p
    for row in rows:
        for name in COMPARED:
            one = row[name]
            claim = one is not None and one.get("p_corrected", 1.0) < SIGNIFICANT
            row[f"beats_{name}"] = None if one is None else bool(claim and one["value"] > 0)
            row[f"worse_than_{name}"] = None if one is None else bool(claim and one["value"] < 0)
        stands = row["full"] is not None and row["full"].get("p_corrected", 1.0) < SIGNIFICANT
        row["verdict_corrected"] = row["verdict"] if stands or row["verdict"] is None else "undecided"
