"""A page of curves and one table: for compressions, incremental learning and streams."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from transfer.pages import plots
from transfer.pages.chart_page import chart_page
from transfer.pages.looks import Look, looks


class Curve(NamedTuple):
    """A line of a chart; `spread` is drawn as bars above and below."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    spread: Sequence[float]


class Chart(NamedTuple):
    """A chart: its title, what its axes show, its lines."""

    title: str
    x: str
    y: str
    curves: Sequence[Curve]


class Section(NamedTuple):
    """A head, a sentence, and charts side by side."""

    head: str
    text: str
    charts: Sequence[Chart]


def curves_html(
    title: str,
    line: str,
    sections: Sequence[Section],
    table: tuple[Sequence[str], Sequence[Sequence[str]]],
    note: str,
    config: Mapping[str, Any],
    pictures: Sequence[Mapping[str, Any]] = (),
    more: Sequence[tuple[str, str, Sequence[str], Sequence[Sequence[str]]]] = (),
) -> str:
    """The page as text.

    Parameters
    ----------
    title : str
    line : str
        The result, in one sentence.
    sections : sequence of Section
    table : header and rows of cells
    note : str
        What the table's columns mean.
    config : mapping
        Settings, shown at the end.
    pictures : sequence of mapping
        Groups of images: {"title", "rows": [{"name", "images": [{"src", "text"}]}]}.
    more : sequence of (title, note, header, rows)
        Tables that follow.
    """
    names = [curve.name for section in sections for chart in section.charts for curve in chart.curves]
    style = looks(list(dict.fromkeys(names)))
    figures: list[dict[str, Any]] = []

    def placed(chart: Chart) -> dict[str, Any]:
        figures.append(json.loads(_figure(chart, style).to_json()))
        return {"title": chart.title, "id": len(figures) - 1, "text": _description(chart)}

    shown = [
        {"head": one.head, "text": one.text, "charts": [placed(chart) for chart in one.charts]} for one in sections
    ]
    return chart_page(
        "curves.html.jinja",
        f"Winnow: {title}",
        figures,
        subject=title,
        line=line,
        sections=shown,
        looks=style,
        pictures=pictures,
        tables=[("All figures", note, *table), *more],
        config=json.dumps(config, indent=1, sort_keys=True, ensure_ascii=False),
    )


def _figure(chart: Chart, style: Mapping[str, Look]) -> Any:
    import plotly.graph_objects as go

    figure = plots.blank(chart.x, chart.y)
    for curve in chart.curves:
        look = style[curve.name]
        figure.add_trace(
            go.Scatter(
                x=list(curve.x),
                y=list(curve.y),
                name=html.escape(curve.name),
                mode="lines+markers" if len(curve.x) <= 40 else "lines",
                line={"color": look.color, "dash": look.dash, "width": 2},
                marker={"symbol": look.symbol, "size": 7, "color": look.color},
                error_y={"type": "data", "array": list(curve.spread), "thickness": 1.2, "width": 3},
            )
        )
    return figure


def _description(chart: Chart) -> str:
    ends = "; ".join(f"{curve.name} ends at {curve.y[-1]:,.1f}" for curve in chart.curves if len(curve.y))
    return f"{chart.y} against {chart.x}, {chart.title}. {ends}."
