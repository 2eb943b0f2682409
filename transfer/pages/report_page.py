"""The page of a study: verdict, charts, tables, costs and pictures; the body is `report.html.jinja`."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from prune.runs.files import csv_cell
from transfer.pages import kept_images, plots, tables
from transfer.pages.chart_page import chart_page
from transfer.pages.kept_audit import audit_tables
from transfer.pages.kept_images import CLASSES, Selection
from transfer.pages.looks import looks
from transfer.pages.reproduce import study_command
from transfer.pages.study_figure import study_figures
from transfer.verdicts.advice import advice_sentences
from transfer.verdicts.controls import CONTROLS, FULL_EQUAL, FULL_LENGTH, RANDOM_EQUALS
from transfer.verdicts.headline import (
    condition_text,
    cost_of,
    difference_from,
    isolated_holding,
    pruned_rows,
    smallest_holding,
)
from transfer.verdicts.leak_counts import leak_sentence
from transfer.verdicts.results_file import Condition
from transfer.verdicts.speed_up_rows import WITHIN, best_method, bounded_text, in_time_and_money, speed_up_text

_TILED = (("flops", "1"), ("seconds", "1"), ("flops", "10"))
_SIGNS = {"holds": "✓", "loses": "✗", "undecided": "?"}


def report_html(
    analysis: Mapping[str, Any],
    *,
    line: str,
    date: str,
    table: str,
    selections: Sequence[Selection] = (),
    pictures: Mapping[str, Any] | None = None,
    calibration: Mapping[str, Any] | None = None,
    audit: Mapping[str, Any] | None = None,
) -> str:
    """The page as text.

    Parameters
    ----------
    analysis : mapping
        From `analysis.analyse`.
    line : str
        The verdict.
    date : str
    table : str
        CSV of all rows, for download.
    selections : sequence of Selection
        What was kept, one for each method and keep.
    pictures : mapping, optional
        {"title": of the selection, "groups": from `kept_images.picture_groups`}.
    calibration : mapping, optional
        From `reliability.reliability_by_evaluation`.
    audit : mapping, optional
        From `kept_audit.audit_of`.
    """
    figures: list[dict[str, Any]] = []
    charts = [
        plots.charts_of_evaluation(analysis, evaluation, figures, (calibration or {}).get(evaluation, []))
        for evaluation in analysis["evaluations"]
    ]
    return chart_page(
        "report.html.jinja",
        f"Winnow study: {', '.join(analysis['targets'])}",
        figures,
        analysis=analysis,
        line=line,
        date=date,
        tone=_tone(analysis),
        tiles=_tiles(analysis),
        compute_figures={name: Markup(svg) for name, svg in study_figures(analysis).items()},
        warnings=_warnings(analysis),
        advice=advice_sentences(analysis),
        charts=charts,
        looks=looks(analysis["methods"]),
        controls=CONTROLS,
        rows=[_row(analysis, row) for row in analysis["rows"]],
        signs=_SIGNS,
        speed_ups={one: tables.speed_up_table(analysis, one) for one in analysis["evaluations"]},
        speed_up_note=tables.speed_up_note(analysis),
        costs=tables.cost_table(analysis["ledger"]),
        stages=tables.stage_table(analysis["ledger"]),
        leaks=tables.leak_table(analysis["leaks"]),
        leaks_compared=all(one["compared"] for one in analysis["leaks"].values()),
        selections=[_class_table(one) for one in selections],
        shown_first=selection_shown_first(analysis, selections),
        pictures=pictures,
        audit=audit,
        audit_tables=audit_tables(audit) if audit else [],
        command=study_command(analysis["config"]),
        config=json.dumps(analysis["config"], indent=1, sort_keys=True, ensure_ascii=False),
        csv=_data_uri(table),
        classes_csv=_data_uri(_classes_csv(selections)),
    )


def headline_condition(analysis: Mapping[str, Any]) -> dict[str, Any] | None:
    """The row that the tiles are about: the smallest keep that holds, else the one nearest to full data."""
    tried = pruned_rows(analysis)
    nearest = max(tried, key=lambda row: row["full"]["value"] if row["full"] else row["mean"], default=None)
    return smallest_holding(analysis) or nearest


def _tone(analysis: Mapping[str, Any]) -> str:
    if smallest_holding(analysis):
        return "holds"
    judged = [row["verdict"] for row in pruned_rows(analysis)]
    return "loses" if judged and all(one == "loses" for one in judged) else "undecided"


def _tiles(analysis: Mapping[str, Any]) -> list[dict[str, str]]:
    row, holding, isolated = headline_condition(analysis), smallest_holding(analysis), isolated_holding(analysis)
    tiles, compute = _speed_up_tile(analysis), analysis["config"].get("compute")
    tiles += [
        {
            "head": f"Keep that holds at {100 * compute:g} % of the compute" if compute else "Smallest keep that holds",
            "value": f"{holding['keep']:g}" if holding else "none",
            "text": f"{holding['method']}, {difference_from(holding)} against full data"
            if holding
            else f"{condition_text(isolated)} holds, and no larger keep is shown to"
            if isolated
            else f"no pruned run is shown to stay within {analysis['margin']:g} points of full data",
        }
    ]
    cost = cost_of(analysis, row) if row else None
    if row and cost and cost["factor_flops"]["1"]:
        compute, time, many = (_times(cost[f"factor_{unit}"][n]) for unit, n in _TILED)
        text = f"{condition_text(row)}, everything counted; in time {time}; with ten uses {many}"
        text += "" if holding else "; but it is not shown to hold"
        tiles.append({"head": "Compute against full, one use", "value": compute, "text": text})
    if row and row["random"]:
        gain = row["efficiency"]
        sign = {"above": "at least ", "below": "at most ", "": ""}[gain["open"]] if gain else ""
        worth = f"; one image is worth {sign}{gain['value']:.1f} of random's" if gain else ""
        result = {"yes": "beats it", "no": "is beaten by it", "not shown": "is not shown to differ"}
        text = f"{condition_text(row)} {result[tables.beats_text(row, 'random')]}{worth}"
        value = f"{row['random']['value']:+z.1f} points"
        tiles.append({"head": "Against random, same keep", "value": value, "text": text})
    sizes = {r["target"]: r["n"] for r in analysis["rows"] if r["target"] and r["n"]}
    seeds, images = len(analysis["seeds"]), sum(sizes.values())
    count = len(analysis["targets"])
    text = f"{count} target{'s' * (count != 1)}, {images:,} test images; intervals are 95 %, over seeds and images"
    tiles.append({"head": "Evidence", "value": f"{seeds} seed{'s' * (seeds != 1)}", "text": text})
    return tiles


def _speed_up_tile(analysis: Mapping[str, Any]) -> list[dict[str, str]]:
    """The speed-up to within some points of all data, and over accuracy; no tile without a curve of all data."""
    if not analysis["speed_ups"]:
        return []
    head, best = f"Speed-up to within {WITHIN:g} points of all data", best_method(analysis)
    tile = {"head": head, "value": "none", "text": "no condition that was tried comes so near"}
    if best is not None:
        many = ", ".join(f"{speed_up_text(best[n])} with {n} uses" for n in ("3", "10") if best[n])
        text = f"{best['method']} at keep {best['1']['keep']:g}, one use, everything counted"
        text += f"{in_time_and_money(best['1'])}; {many}"
        tile |= {"value": speed_up_text(best["1"]), "text": text}
    curve: list[dict[str, Any]] = next((one["1"] for one in analysis["speed_up_curves"]), [])
    over = {"head": "Speed-up over accuracy, one use", "text": "accuracy against all data, the most accurate first"}
    steps = [f"{bounded_text(one)} at {one['gap']:+z.1f} points" for one in curve]
    return [tile, *([{**over, "value": ", ".join(steps), "small": "yes"}] if steps else [])]


def _times(factor: float | None) -> str:
    """`1.8x less`, `1.2x more`."""
    if not factor:
        return "unknown"
    return f"{factor:.1f}x less" if factor >= 1 else f"{1 / factor:.1f}x more"


def _warnings(analysis: Mapping[str, Any]) -> list[str]:
    found = []
    if len(analysis["seeds"]) < 2:
        found.append("One seed: intervals cover the test images only, and every verdict stays undecided.")
    elif len(analysis["seeds"]) < 3:
        found.append("Two seeds: intervals are wide. A conclusion needs at least three.")
    for names in (("full",), ("random",), RANDOM_EQUALS, (FULL_EQUAL, FULL_LENGTH)):
        if not set(names) & set(analysis["methods"]):
            found.append(f"The control {names[0]} is missing from this study.")
    if leaks := leak_sentence(analysis):
        found.append(leaks)
    return found


def shown_conditions(analysis: Mapping[str, Any]) -> list[Condition]:
    """The conditions whose calibration is drawn: full data, the headline's condition, and random at the same keep."""
    row = headline_condition(analysis)
    there = {(r["method"], r["keep"]) for r in analysis["rows"]}
    wanted = [("full", 1.0), *([(row["method"], row["keep"]), ("random", row["keep"])] if row else [])]
    return [one for one in wanted if one in there]


def _row(analysis: Mapping[str, Any], row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of the verdict table: texts to show and values to sort by."""
    cost = cost_of(analysis, row)
    gain, share = row["efficiency"], cost and cost["total_flops"]
    return {
        **{key: row[key] for key in ("evaluation", "method", "keep", "verdict", "verdict_corrected")},
        "target": row["target"] or "mean",
        "control": row["method"] in CONTROLS,
        "accuracy": f"{row['mean']:.2f}" + (f" ± {row['std']:.2f}" if row["std"] is not None else ""),
        "mean": row["mean"],
        "seeds": len(row["seeds"]),
        "ece": "" if row["ece"] is None else f"{row['ece']:.1f}",
        "balanced": "" if row["mean_per_class"] is None else f"{row['mean_per_class']:.2f}",
        "full": tables.interval_text(row["full"]),
        "full_value": row["full"]["value"] if row["full"] else "",
        "random": tables.interval_text(row["random"]),
        "random_value": row["random"]["value"] if row["random"] else "",
        "beats": tables.beats_text(row, "random"),
        "equal": tables.interval_text(row["equal_time"]),
        "equal_value": row["equal_time"]["value"] if row["equal_time"] else "",
        "full_equal": tables.interval_text(row["full_equal"]),
        "full_equal_value": row["full_equal"]["value"] if row["full_equal"] else "",
        "efficiency": tables.efficiency_text(gain),
        "efficiency_value": gain["value"] if gain else "",
        "cost": "100 %" if row["method"] == "full" else f"{100 * share:.0f} %" if share else "",
        "cost_value": 1 if row["method"] == "full" else share or "",
    }


def _class_table(selection: Selection) -> dict[str, Any]:
    rows = kept_images.class_rows(selection)
    most = max((row["weight"] or 0 for row in rows), default=0) or 1
    return {
        "title": selection.title,
        "text": f"{selection.place}, fingerprint {selection.index.fingerprint}: keeps {len(selection.index):,} of "
        f"{selection.index.source_samples:,} images",
        "weighted": selection.weights is not None,
        "rows": [{**row, "bar": (row["weight"] or 0) / most} for row in rows[:CLASSES]],
        "more": max(0, len(rows) - CLASSES),
    }


def selection_shown_first(analysis: Mapping[str, Any], selections: Sequence[Selection]) -> int:
    """Number of the selection to show first: that of the headline, else the first that is not random."""
    row = headline_condition(analysis)
    for place, one in enumerate(selections):
        if row and (one.method, one.keep) == (row["method"], row["keep"]):
            return place
    return next((place for place, one in enumerate(selections) if one.method not in CONTROLS), 0)


def _classes_csv(selections: Sequence[Selection]) -> str:
    import csv
    import io

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["method", "keep", "class", "weight", "size", "kept", "reasons"])
    for one in selections:
        for row in kept_images.class_rows(one):
            cells = [row[key] for key in ("class", "weight", "size", "kept", "reasons")]
            writer.writerow([one.method, one.keep, *map(csv_cell, cells)])
    return text.getvalue()


def _data_uri(text: str) -> str:
    return "data:text/csv;charset=utf-8;base64," + base64.b64encode(text.encode()).decode()
