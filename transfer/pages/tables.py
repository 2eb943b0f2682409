"""A study's analysis as text: tables, CSV with every figure, a Markdown page for a repository."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from typing import Any

from prune.runs.files import csv_cell
from transfer.pages.reproduce import study_command
from transfer.verdicts.advice import advice_sentences
from transfer.verdicts.controls import FULL_EQUAL, FULL_LENGTH, RANDOM_EQUALS
from transfer.verdicts.cost_account import USES
from transfer.verdicts.headline import condition_text, cost_of

HEADER = ("method", "keep", "accuracy %", "seeds", "against full", "verdict", "against random", "beats random",
          "efficiency", "cost")  # fmt: skip
_SPEED_UP = (
    "Speed-up: the compute that all data need for a condition's accuracy, divided by the condition's compute "
    "(surrogate, features, selection and pretraining). ≥ and ≤ mark values beyond the lengths at which all data were "
    "trained."
)
_DIFFERENCES = {
    "full": "full",
    "random": "random",
    "equal_time": "random_equal_time",
    "full_equal": "full_equal_compute",
}


def condition_cells(row: Mapping[str, Any], cost: Mapping[str, Any] | None, digits: int = 2) -> list[str]:
    """Texts for the columns of `HEADER`, from one row of an analysis and the cost of its condition."""
    share = cost and cost["total_flops"]
    return [
        row["method"],
        f"{row['keep']:g}",
        f"{row['mean']:.2f}" + (f" ± {row['std']:.2f}" if row["std"] is not None else ""),
        str(len(row["seeds"])),
        interval_text(row["full"], digits),
        row["verdict"] or "",
        interval_text(row["random"], digits),
        beats_text(row, "random"),
        efficiency_text(row["efficiency"]),
        "100 %" if row["method"] == "full" else f"{100 * share:.0f} %" if share else "",
    ]


def interval_text(one: Mapping[str, Any] | None, digits: int = 2) -> str:
    """`-0.31 [-0.92, +0.20]`; with a single seed an asterisk marks an interval over test images only."""
    if one is None:
        return ""
    value, low, high = (f"{one[key]:+z.{digits}f}" for key in ("value", "low", "high"))
    return f"{value} [{low}, {high}]" + ("*" if one["seeds"] < 2 else "")


def beats_text(row: Mapping[str, Any], control: str) -> str:
    """`yes`, `no` (the control is better) or `not shown`, corrected for the number of conditions."""
    if row[f"beats_{control}"] is None:
        return ""
    return "yes" if row[f"beats_{control}"] else "no" if row[f"worse_than_{control}"] else "not shown"


def efficiency_text(one: Mapping[str, Any] | None) -> str:
    """`1.9 [1.2, ≥2.5]`; ≥ and ≤ mark values beyond the measured keeps."""
    if one is None:
        return ""
    value = {"above": "≥", "below": "≤", "": ""}[one["open"]] + f"{one['value']:.2f}"
    low = ("≤" if one["low_open"] else "") + f"{one['low']:.2f}"
    high = ("≥" if one["high_open"] else "") + f"{one['high']:.2f}"
    return f"{value} [{low}, {high}]"


def speed_up_note(analysis: Mapping[str, Any]) -> str:
    """What the table of speed-ups shows: which controls were trained for a condition's compute, and which are read off.

    Parameters
    ----------
    analysis : mapping
        From `analysis.analyse`, of a study with a curve of all data.
    """
    conditions = list(dict.fromkeys((row["method"], row["keep"]) for row in analysis["rows"]))

    def of(*methods: str) -> str:
        return ", ".join(f"{keep:g}" for keep in sorted(keep for method, keep in conditions if method in methods))

    lengths = ", ".join(part for part in (of(FULL_LENGTH), "1") if part)
    all_data, part = of(FULL_EQUAL), of(*RANDOM_EQUALS)
    trained = [f"{what} (keep {keeps})" for what, keeps in (("all data", all_data), ("a random part", part)) if keeps]
    what = " and ".join(trained) or "no control"
    read = f"lengths {lengths}{' and those runs' if all_data else ''}"
    return (
        f"{_SPEED_UP} {what[0].upper()}{what[1:]} {'were' if all_data else 'was'} trained for exactly the compute that "
        f"pruned runs take in all; everywhere else, all data at a condition's compute are read off the curve through "
        f"{read}."
    )


def speed_up_table(analysis: Mapping[str, Any], evaluation: str) -> tuple[tuple[str, ...], list[list[str]]] | None:
    """Header and rows: speed-up over accuracy, the best first, on the mean over targets or the only target.

    All data at each length have a speed-up of 1 by definition. None where all data have no curve.
    """
    rows = [row for row in analysis["rows"] if row["evaluation"] == evaluation]
    rows = [row for row in rows if row["target"] is None] or rows
    if not any(row["speed_up"] for row in rows):
        return None
    rows = [row for row in rows if row["speed_up"] or row["method"] in ("full", FULL_LENGTH)]
    header = ("condition", "accuracy %", "against full", "compute, % of full")
    body = []
    for row in sorted(rows, key=lambda row: -row["mean"]):
        cost, found = cost_of(analysis, row), row["speed_up"]
        share = 1.0 if row["method"] == "full" else cost and cost["total_flops"]
        ups = [efficiency_text(found[str(uses)]) if found else "1" for uses in USES]
        full = interval_text(row["full"], 1)
        cells = [condition_text(row), f"{row['mean']:.1f}", full, f"{100 * share:.0f}" if share else ""]
        body.append(cells + ups)
    return (*header, *(f"speed-up, {uses} use{'s' * (uses > 1)}" for uses in USES)), body


def results_csv(analysis: Mapping[str, Any]) -> str:
    """Every row of an analysis with all its figures as CSV; accuracies in percent, differences in points."""
    records = [_record(row) for row in analysis["rows"]]
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: csv_cell(value) for name, value in record.items()} for record in records)
    return text.getvalue()


def _record(row: Mapping[str, Any]) -> dict[str, Any]:
    def exact(value: Any) -> Any:
        return round(value, 6) if isinstance(value, float) else value

    record = {key: row[key] for key in ("evaluation", "target", "method", "keep")}
    record["target"] = row["target"] or "(mean)"
    record |= {"pruned": 1 - row["keep"], "seeds": len(row["seeds"]), "test_images": row["n"]}
    record |= {"accuracy": row["mean"], "std": row["std"], "accuracy_low": row["low"], "accuracy_high": row["high"]}
    record |= {"mean_per_class": row["mean_per_class"], "calibration_error": row["ece"]}
    for name, column in _DIFFERENCES.items():
        one = row[name] or {}
        record |= {f"vs_{column}_{key}": one.get(key) for key in ("value", "low", "high", "p", "p_corrected")}
    record |= {key: row[key] for key in ("verdict", "verdict_corrected", "beats_random", "beats_equal_time")}
    record["beats_full_equal"] = row["beats_full_equal"]
    gain = row["efficiency"] or {}
    record |= {f"efficiency_{key}": gain.get(key) for key in ("value", "low", "high", "open", "low_open", "high_open")}
    for uses in USES:
        one = (row["speed_up"] or {}).get(str(uses), {})
        keys = ("value", "low", "high", "open", "low_open", "high_open")
        record |= {f"speed_up_{uses}_{key}": one.get(key) for key in keys}
    return {key: exact(value) for key, value in record.items()}


def study_markdown(analysis: Mapping[str, Any], line: str, date: str) -> str:
    """The study as a Markdown page: verdict, a table per target and evaluation, costs, settings and command."""
    config = analysis["config"]
    costs = {(cost["method"], cost["keep"]): cost for cost in analysis["ledger"]["rows"]}
    parts = [f"# Study: {', '.join(analysis['targets'])}", "", f"**{line}**", ""]
    parts += [" ".join(map(_text, advice_sentences(analysis))), ""]
    parts += [f"- Machine: {_text(analysis['machine'] or 'not recorded')}", f"- Date: {date}"]
    parts += [f"- {_text(key)}: {_text(config[key])}" for key in sorted(config) if key in _SHOWN]
    parts += [
        "",
        "Differences are in points, paired over seeds and test images, with 95 % intervals. `holds`: the interval "
        f"against full data lies above -{analysis['margin']:g} points; `loses`: it lies below.",
        "`beats random` is corrected for the number of conditions (Holm).",
        "",
    ]
    for evaluation in analysis["evaluations"]:
        for target in (None, *analysis["targets"]):
            rows = [r for r in analysis["rows"] if (r["evaluation"], r["target"]) == (evaluation, target)]
            if rows:
                where = f"{target} ({rows[0]['n']} test images)" if target else "mean over targets"
                body = [condition_cells(row, costs.get((row["method"], row["keep"]))) for row in rows]
                parts += [f"## {_text(evaluation)}: {_text(where)}", "", *_table(HEADER, body), ""]
        if found := speed_up_table(analysis, evaluation):
            parts += [f"## Speed-up: {_text(evaluation)}", "", speed_up_note(analysis), "", *_table(*found), ""]
    if analysis["leaks"]:
        parts += ["## Test images that the source also contains", "", *_table(*leak_table(analysis["leaks"])), ""]
    parts += ["## Cost", "", *_table(*cost_table(analysis["ledger"])), ""]
    parts += [*_table(*stage_table(analysis["ledger"])), "", "## Command", ""]
    command = study_command(config)
    parts += ["In the study's directory:", "", "```sh", *([command] if command else analysis["commands"]), "```", ""]
    return "\n".join(parts)


_SHOWN = ("source", "recipe", "surrogate_recipe", "surrogate_sample", "feature_sample", "gate", "seeds", "keeps",
          "methods", "epochs", "surrogate_epochs", "side", "floor", "full_lengths", "uses")  # fmt: skip


def cost_table(account: Mapping[str, Any]) -> tuple[tuple[str, ...], list[list[str]]]:
    """Header and rows: what one index and one pretraining cost, per condition, and what they save."""
    unit, seconds = _unit(row[part]["seconds"] for row in account["rows"] for part in ("preparation", "pretraining"))
    header = ["method", "keep", f"preparation, {unit}", f"pretraining, {unit}", "preparation, % of full"]
    header += [f"{what} factor, {n} use{'s' * (n > 1)}" for what in ("compute", "time") for n in USES]
    header += ["break-even uses", "break-even keep, 1 use"]
    priced = any("price" in row for row in account["rows"])
    body = []
    for row in account["rows"]:
        cells = [row["method"], f"{row['keep']:g}"]
        cells += [f"{row[part]['seconds'] / seconds:.1f}" for part in ("preparation", "pretraining")]
        cells.append("" if row["share_flops"] is None else f"{100 * row['share_flops']:.1f}")
        cells += [_factor(row[f"factor_{unit}"][str(n)]) for unit in ("flops", "seconds") for n in USES]
        uses, keep = row["break_even_uses_flops"], row["break_even_keep_flops"]["1"]
        cells += [str(uses) if uses else "" if keep is None else "never"]
        cells += ["" if keep is None else "none" if keep <= 0 else f"{keep:.2f}"]
        if priced:
            cells += [f"{row['price']:.2f}", "" if row["price_full"] is None else f"{row['price_full']:.2f}"]
        body.append(cells)
    return (*header, *(("price", "price of full") if priced else ())), body


def stage_table(account: Mapping[str, Any]) -> tuple[tuple[str, ...], list[list[str]]]:
    """Header and rows: what the study itself took, by stage, and in all."""
    rows = account["stages"]
    priced = any("price" in row for row in rows)
    whole = {key: sum(row[key] for row in rows) for key in ("steps", "seconds", "samples", "flops")}
    whole |= {"stage": "all"} | ({"price": sum(row["price"] for row in rows)} if priced else {})
    unit, seconds = _unit(row["seconds"] for row in rows)
    body = [
        [row["stage"], str(row["steps"]), f"{row['seconds'] / seconds:.1f}", f"{row['samples']:,.0f}"]
        + [f"{row['flops']:.2e}" if row["flops"] else "0", *([f"{row['price']:.2f}"] if priced else [])]
        for row in (*rows, whole)
    ]
    return ("stage", "steps", unit, "samples seen", "FLOPs", *(("price",) if priced else ())), body


def leak_table(leaks: Mapping[str, Mapping[str, Any]]) -> tuple[tuple[str, ...], list[list[str]]]:
    """Header and rows: how many test images of each target the source nearly duplicates, by how many of its own."""
    header = ("target", "test images", "with a copy in the source", "identical", "source images", "only look alike")
    return header, [
        [target, f"{one['images']:,}", f"{one['leaked']:,}" if one["leaked"] else "none found"]
        + ["" if one["identical"] is None else f"{one['identical']:,}", f"{one['source_images']:,}"]
        + [f"{one['similar']:,}" if one["compared"] else "not compared"]
        for target, one in leaks.items()
    ]


def _unit(durations: Iterable[float]) -> tuple[str, float]:
    """A unit that suits the longest of some durations, and its seconds."""
    most = max(durations, default=0.0)
    return ("seconds", 1.0) if most < 600 else ("minutes", 60.0) if most < 36_000 else ("hours", 3600.0)


def _factor(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _table(header: tuple[str, ...], body: list[list[str]]) -> list[str]:
    rows = [header, ["---"] * len(header), *body]
    return ["| " + " | ".join(_text(cell) for cell in row) + " |" for row in rows]


def _text(value: Any) -> str:
    """Escape for Markdown: no table bars, no HTML."""
    text = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
    return text.replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|").replace("\n", " ")
