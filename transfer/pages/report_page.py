"""Put a study's page together: one HTML file with everything in it.

`report.html.jinja`, `report.css` and `report.js` beside this file are the page's frame, look and behaviour. All text
from a study is escaped by the template; what scripts read lies in JSON blocks.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from plotly.offline import get_plotlyjs

from transfer.pages import kept, plots, tables
from transfer.pages.csv_text import csv_cell
from transfer.pages.kept import CLASSES, Selection
from transfer.pages.report_charts import charts_of
from transfer.pages.reproduce import study_command
from transfer.studies.settings import UNGUIDED
from transfer.verdicts import leak_counts
from transfer.verdicts.advice import plain_words
from transfer.verdicts.headline import (
    against,
    alone_holding,
    bill_of,
    name,
    pruned_rows,
    smallest_holding,
)

_HERE = Path(__file__).parent
_TILED = (("flops", "1"), ("seconds", "1"), ("flops", "10"))
_SIGNS = {"holds": "✓", "loses": "✗", "undecided": "?"}


def page(
    analysis: Mapping[str, Any],
    *,
    line: str,
    date: str,
    table: str,
    selections: Sequence[Selection] = (),
    pictures: Mapping[str, Any] | None = None,
    calibration: Mapping[str, Any] | None = None,
) -> str:
    """The page as text.

    Parameters
    ----------
    analysis : mapping
        Of `analysis.analyse`.
    line : str
        The verdict.
    date : str
    table : str
        CSV of all rows, for download.
    selections : sequence of Selection
        What was kept, one for each method and keep.
    pictures : mapping, optional
        {"title": the selection's, "groups": of `kept.gallery`}.
    calibration : mapping, optional
        Of `reliability.reliability`.
    """
    figures: list[dict[str, Any]] = []
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    looks = plots.looks(analysis["methods"])
    return environment.get_template("report.html.jinja").render(
        analysis=analysis,
        line=line,
        date=date,
        tone=_tone(analysis),
        tiles=_tiles(analysis),
        warnings=_warnings(analysis),
        advice=plain_words(analysis),
        charts=[
            charts_of(analysis, evaluation, figures, (calibration or {}).get(evaluation, []))
            for evaluation in analysis["evaluations"]
        ],
        figures=figures,
        looks=looks,
        controls=UNGUIDED,
        rows=[_row(analysis, row) for row in analysis["rows"]],
        signs=_SIGNS,
        ledger=tables.ledger_table(analysis["ledger"]),
        stages=tables.stage_table(analysis["ledger"]),
        leaks=tables.leak_table(analysis["leaks"]),
        selections=[_class_table(one) for one in selections],
        chosen=chosen(analysis, selections),
        pictures=pictures,
        command=study_command(analysis["config"]),
        config=json.dumps(analysis["config"], indent=1, sort_keys=True, ensure_ascii=False),
        csv=_data(table),
        classes_csv=_data(_classes_csv(selections)),
        css=(_HERE / "report.css").read_text(encoding="utf-8"),
        js=(_HERE / "report.js").read_text(encoding="utf-8"),
        plotly=get_plotlyjs(),
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
    row, holding, alone = headline_condition(analysis), smallest_holding(analysis), alone_holding(analysis)
    tiles = [
        {
            "head": "Smallest keep that holds",
            "value": f"{holding['keep']:g}" if holding else "none",
            "text": f"{holding['method']}, {against(holding)} against full data"
            if holding
            else f"{name(alone)} holds, and no larger keep is shown to"
            if alone
            else f"no pruned run is shown to stay within {analysis['margin']:g} points of full data",
        }
    ]
    bill = bill_of(analysis, row) if row else None
    if row and bill and bill["factor_flops"]["1"]:
        compute, time, many = (_times(bill[f"factor_{unit}"][n]) for unit, n in _TILED)
        text = f"{name(row)}, everything counted; in time {time}; with ten uses {many}"
        text += "" if holding else "; but it is not shown to hold"
        tiles.append({"head": "Compute against full, one use", "value": compute, "text": text})
    if row and row["random"]:
        gain = row["efficiency"]
        sign = {"above": "at least ", "below": "at most ", "": ""}[gain["open"]] if gain else ""
        worth = f"; one image is worth {sign}{gain['value']:.1f} of random's" if gain else ""
        said = {"yes": "beats it", "no": "is beaten by it", "not shown": "is not shown to differ"}
        text = f"{name(row)} {said[tables.claim(row, 'random')]}{worth}"
        value = f"{row['random']['value']:+.1f} points"
        tiles.append({"head": "Against random, same keep", "value": value, "text": text})
    sizes = {r["target"]: r["n"] for r in analysis["rows"] if r["target"] and r["n"]}
    seeds, images = len(analysis["seeds"]), sum(sizes.values())
    count = len(analysis["targets"])
    text = f"{count} target{'s' * (count != 1)}, {images:,} test images; intervals are 95 %, over seeds and images"
    tiles.append({"head": "Evidence", "value": f"{seeds} seed{'s' * (seeds != 1)}", "text": text})
    return tiles


def _times(factor: float | None) -> str:
    """`1.8x less`, `1.2x more`."""
    if not factor:
        return "unknown"
    return f"{factor:.1f}x less" if factor >= 1 else f"{1 / factor:.1f}x more"


def _warnings(analysis: Mapping[str, Any]) -> list[str]:
    found = []
    if len(analysis["seeds"]) < 2:
        found.append("One seed: intervals cover the test images alone, and every verdict stays undecided.")
    elif len(analysis["seeds"]) < 3:
        found.append("Two seeds: intervals are wide for want of a third. Three are the least for a claim.")
    for control in UNGUIDED:
        if control not in analysis["methods"]:
            found.append(f"The control {control} is missing from this study.")
    if held := leak_counts.words(analysis):
        found.append(held)
    return found


def shown_conditions(analysis: Mapping[str, Any]) -> list[tuple[str, float]]:
    """Whose calibration is drawn: full data, the headline's condition, and random at the same keep."""
    row = headline_condition(analysis)
    there = {(r["method"], r["keep"]) for r in analysis["rows"]}
    wanted = [("full", 1.0), *([(row["method"], row["keep"]), ("random", row["keep"])] if row else [])]
    return [one for one in wanted if one in there]


def _row(analysis: Mapping[str, Any], row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of the verdict table: texts to show and values to sort by."""
    bill = bill_of(analysis, row)
    gain, cost = row["efficiency"], bill and bill["total_flops"]
    return {
        **{key: row[key] for key in ("evaluation", "method", "keep", "verdict", "verdict_corrected")},
        "target": row["target"] or "mean",
        "control": row["method"] in UNGUIDED,
        "accuracy": f"{row['mean']:.2f}" + (f" ± {row['std']:.2f}" if row["std"] is not None else ""),
        "mean": row["mean"],
        "seeds": len(row["seeds"]),
        "ece": "" if row["ece"] is None else f"{row['ece']:.1f}",
        "balanced": "" if row["mean_per_class"] is None else f"{row['mean_per_class']:.2f}",
        "full": tables.interval(row["full"]),
        "full_value": row["full"]["value"] if row["full"] else "",
        "random": tables.interval(row["random"]),
        "random_value": row["random"]["value"] if row["random"] else "",
        "beats": tables.claim(row, "random"),
        "equal": tables.interval(row["equal_time"]),
        "equal_value": row["equal_time"]["value"] if row["equal_time"] else "",
        "efficiency": tables.efficiency(gain),
        "efficiency_value": gain["value"] if gain else "",
        "cost": "100 %" if row["method"] == "full" else f"{100 * cost:.0f} %" if cost else "",
        "cost_value": 1 if row["method"] == "full" else cost or "",
    }


def _class_table(selection: Selection) -> dict[str, Any]:
    rows = kept.classes(selection)
    most = max((row["weight"] or 0 for row in rows), default=0) or 1
    return {
        "title": selection.title,
        "text": f"{selection.place}, fingerprint {selection.index.fingerprint}: keeps {len(selection.index):,} of "
        f"{selection.index.source_samples:,} images",
        "weighted": selection.weights is not None,
        "rows": [{**row, "bar": (row["weight"] or 0) / most} for row in rows[:CLASSES]],
        "more": max(0, len(rows) - CLASSES),
    }


def chosen(analysis: Mapping[str, Any], selections: Sequence[Selection]) -> int:
    """Place of the selection to show first: that of the headline, else the first that is not random."""
    row = headline_condition(analysis)
    for place, one in enumerate(selections):
        if row and (one.method, one.keep) == (row["method"], row["keep"]):
            return place
    return next((place for place, one in enumerate(selections) if one.method not in UNGUIDED), 0)


def _classes_csv(selections: Sequence[Selection]) -> str:
    import csv
    import io

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["method", "keep", "class", "weight", "size", "kept", "reasons"])
    for one in selections:
        for row in kept.classes(one):
            cells = [row[key] for key in ("class", "weight", "size", "kept", "reasons")]
            writer.writerow([one.method, one.keep, *map(csv_cell, cells)])
    return text.getvalue()


def _data(text: str) -> str:
    return "data:text/csv;charset=utf-8;base64," + base64.b64encode(text.encode()).decode()
