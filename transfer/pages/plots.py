"""The charts of a study as plotly figures, each with a description for those who cannot see it.

Figures have no colours for text, axes and ground: the page sets them for light, dark and print. Methods differ in
colour, marker and dash. Names are escaped, because plotly reads `<b>` in a text as markup.
"""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from transfer.pages.looks import CONTROL_LOOKS, Look, looks
from transfer.verdicts.controls import FULL_LENGTH
from transfer.verdicts.headline import cost_of

_COST_TICKS = [factor * 10.0**power for power in range(-2, 4) for factor in (1, 2, 5)]


def charts_of_evaluation(
    analysis: Mapping[str, Any], evaluation: str, figures: list[dict[str, Any]], calibration: list[dict[str, Any]]
) -> dict[str, Any]:
    """Charts of one evaluation: against keep, against cost, calibration; each is appended to `figures`.

    Returns
    -------
    dict
        "evaluation", and under "keep", "cost" and "trust" the charts: {"title", "id" (place in figures), "text"}.
    """
    targets = list(dict.fromkeys(r["target"] for r in analysis["rows"] if r["evaluation"] == evaluation))

    def placed(title: str, figure: Any, text: str) -> dict[str, Any]:
        figures.append(json.loads(figure.to_json()))
        return {"title": title, "id": len(figures) - 1, "text": text}

    found: dict[str, Any] = {"evaluation": evaluation, "keep": [], "cost": [], "trust": []}
    for target in targets:
        figure, text = accuracy_against_keep(analysis, evaluation, target), description(analysis, evaluation, target)
        found["keep"].append(placed(target or "Mean over targets", figure, text))
    if any(cost["total_flops"] is not None for cost in analysis["ledger"]["rows"]):
        for unit, word in (("flops", "compute"), ("seconds", "time")):
            figure = accuracy_against_cost(analysis, evaluation, targets[0], unit)
            title = f"{targets[0] or 'Mean over targets'}, by {word}"
            found["cost"].append(placed(title, figure, description(analysis, evaluation, targets[0])))
    if calibration:
        figure = reliability_figure(calibration, analysis["methods"])
        found["trust"].append(placed("All targets and seeds together", figure, calibration_description(calibration)))
    return found


def accuracy_against_keep(analysis: Mapping[str, Any], evaluation: str, target: str | None) -> go.Figure:
    """Accuracy with its 95 % interval against keep, a line per method; full data as a band.

    `target` None draws the mean over targets.
    """
    rows = [r for r in analysis["rows"] if (r["evaluation"], r["target"]) == (evaluation, target)]
    rows = [r for r in rows if r["method"] != FULL_LENGTH]  # it has no keep
    keeps = sorted({r["keep"] for r in rows if r["method"] != "full"})
    figure = blank("keep", log=True, ticks=[*keeps, 1.0])
    style = looks(analysis["methods"])
    for row in rows:
        if row["method"] == "full":
            _full(figure, row, [min(keeps, default=0.5), 1.0])
    for method in style:
        mine = sorted((r for r in rows if r["method"] == method != "full"), key=lambda r: r["keep"])
        if mine:
            hover = [_hover(row) for row in mine]
            figure.add_trace(_line(method, style[method], [r["keep"] for r in mine], mine, hover))
    return figure


def accuracy_against_cost(analysis: Mapping[str, Any], evaluation: str, target: str | None, unit: str) -> go.Figure:
    """Accuracy against the total cost of one use of the index, a share of full pretraining, on a logarithmic axis.

    `unit` is flops or seconds.
    """
    rows = [r for r in analysis["rows"] if (r["evaluation"], r["target"]) == (evaluation, target)]
    what = {"flops": "compute", "seconds": "time"}[unit]
    style = looks(analysis["methods"])
    costs = {id(r): 100.0 if r["method"] == "full" else _share(analysis, r, unit) for r in rows}
    known = [r for r in rows if costs[id(r)]]
    spent = [100.0, *(costs[id(r)] or 0 for r in known)]
    ticks = [tick for tick in _COST_TICKS if min(spent) / 1.3 <= tick <= max(spent) * 1.3]
    figure = blank(f"total {what}, % of full pretraining", log=True, ticks=ticks)
    for row in known:
        if row["method"] == "full":
            _full(figure, row, [min(spent), max(spent)])
    for method in style:
        same = (method, "full") if method == FULL_LENGTH else (method,)  # the full length ends the curve of all data
        mine = sorted((r for r in known if r["method"] in same), key=lambda r: costs[id(r)] or 0)
        if mine and method != "full":
            hover = [f"{_hover(r)}<br>{costs[id(r)]:.0f} % of full pretraining" for r in mine]
            figure.add_trace(_line(method, style[method], [costs[id(r)] for r in mine], mine, hover))
    figure.add_vline(x=100, line={"color": "#7d7d7d", "width": 1, "dash": "dot"})
    return figure


def reliability_figure(entries: Sequence[Mapping[str, Any]], methods: Sequence[str]) -> go.Figure:
    """Accuracy against confidence in bins, a line per condition; on the dotted diagonal both agree."""
    figure = blank("confidence %")
    style = looks(methods)
    line = {"color": "#7d7d7d", "width": 1, "dash": "dot"}
    figure.add_trace(go.Scatter(x=[0, 100], y=[0, 100], mode="lines", line=line, hoverinfo="skip"))
    for one in entries:
        look = style[one["method"]]
        label = html.escape(f"{one['method']} at keep {one['keep']:g}")
        hover = [
            f"<b>{label}</b><br>{share:.0f} % of the images: {sure:.0f} % sure, {right:.0f} % right"
            for sure, right, share in zip(one["confidence"], one["accuracy"], one["share"])
        ]
        figure.add_trace(
            go.Scatter(
                x=one["confidence"],
                y=one["accuracy"],
                name=label,
                mode="lines+markers",
                line={"color": look.color, "dash": look.dash, "width": 2},
                marker={
                    "symbol": look.symbol,
                    "size": 8,
                    "color": look.color,
                    "line": {"width": 2, "color": look.color},
                },
                text=hover,
                hoverinfo="text",
            )
        )
    figure.update_xaxes(range=[0, 101])
    figure.update_yaxes(range=[0, 101])
    return figure


def calibration_description(entries: Sequence[Mapping[str, Any]]) -> str:
    """The reliability diagram in words."""
    points = (f"{one['method']} at {one['keep']:g}: {one['ece']:.1f}" for one in entries)
    return "Accuracy against confidence. Expected calibration error in points: " + "; ".join(points) + "."


def description(analysis: Mapping[str, Any], evaluation: str, target: str | None) -> str:
    """A chart of accuracies in words."""
    rows = [r for r in analysis["rows"] if (r["evaluation"], r["target"]) == (evaluation, target)]
    points = (f"{r['method']} at {r['keep']:g}: {r['mean']:.1f}" for r in rows)
    return f"Accuracy in percent on {target or 'the mean over targets'}, {evaluation}. " + "; ".join(points) + "."


def _share(analysis: Mapping[str, Any], row: Mapping[str, Any], unit: str) -> float | None:
    cost = cost_of(analysis, row)
    return 100 * cost[f"total_{unit}"] if cost and cost[f"total_{unit}"] is not None else None


def blank(x: str, y: str = "accuracy %", *, log: bool = False, ticks: Sequence[float] = ()) -> go.Figure:
    """An empty chart in the page's frame, its axes named; `log` for the x axis, with these `ticks`."""
    figure = go.Figure()
    figure.update_layout(
        template="none",
        margin={"l": 54, "r": 12, "t": 8, "b": 54},
        height=300,
        showlegend=False,
        hovermode="closest",
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": "system-ui, sans-serif", "size": 12},
    )
    figure.update_xaxes(title={"text": x, "standoff": 8}, type="log" if log else "linear", zeroline=False)
    if log:
        values = sorted(set(ticks))
        figure.update_xaxes(tickvals=values, ticktext=[f"{v:g}" for v in values])
    figure.update_yaxes(title={"text": y, "standoff": 6}, zeroline=False)
    return figure


def _full(figure: go.Figure, row: Mapping[str, Any], ends: Sequence[float]) -> None:
    x = [*ends, *reversed(ends)]
    y = [row["low"], row["low"], row["high"], row["high"]]
    figure.add_trace(
        go.Scatter(x=x, y=y, fill="toself", mode="none", fillcolor="rgba(125,125,125,0.18)", hoverinfo="skip")
    )
    figure.add_trace(
        go.Scatter(
            x=list(ends),
            y=[row["mean"]] * 2,
            mode="lines",
            name="full",
            line={"color": CONTROL_LOOKS["full"].color, "dash": "dash", "width": 2},
            text=[_hover(row)] * 2,
            hoverinfo="text",
        )
    )


def _line(method: str, look: Look, x: list[Any], rows: Sequence[Mapping[str, Any]], hover: list[str]) -> go.Scatter:
    y = [r["mean"] for r in rows]
    up, down = [r["high"] - r["mean"] for r in rows], [r["mean"] - r["low"] for r in rows]
    return go.Scatter(
        x=x,
        y=y,
        name=html.escape(method),
        mode="lines+markers",
        line={"color": look.color, "dash": look.dash, "width": 2},
        marker={"symbol": look.symbol, "size": 9, "color": look.color, "line": {"width": 2, "color": look.color}},
        error_y={"type": "data", "array": up, "arrayminus": down, "symmetric": False, "thickness": 1.3, "width": 4},
        text=hover,
        hoverinfo="text",
    )


def _hover(row: Mapping[str, Any]) -> str:
    head = f"<b>{html.escape(row['method'])}</b> at keep {row['keep']:g}"
    text = f"{head}<br>{row['mean']:.2f} % (95 %: {row['low']:.2f} to {row['high']:.2f}), {len(row['seeds'])} seeds"
    if row["full"]:
        text += f"<br>{row['full']['value']:+z.2f} points against full: {row['verdict']}"
    return text
