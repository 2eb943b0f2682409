"""A chart of `plots` as SVG: what a page shows before anybody asks to zoom, and what it prints and saves.

The figure is read as plotly reads it, as far as the pages use it: lines with markers and error bars, a filled band, a
vertical line, a linear or a logarithmic axis across.
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from xml.etree import ElementTree as Xml

from transfer.pages.looks import Look
from transfer.pages.svg_drawing import FONT, GRID, SOFT, add, draw_line, draw_marker, draw_text, joined_path, nice_step

_WIDTH, _HEIGHT = 460, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 14, 26, 44
_APART = 30.0  # pixels between the middles of two ticks


def chart_svg(figure: Mapping[str, Any], text: str) -> str:
    """Draw a figure.

    Parameters
    ----------
    figure : mapping
        "data" and "layout" of a plotly figure of `plots`, as JSON.
    text : str
        The figure in words, for those who cannot see it.

    Returns
    -------
    str
        SVG for a page, which sets the colours of texts and axes. The same figure gives the same text.
    """
    root = Xml.Element("svg", {"xmlns": "http://www.w3.org/2000/svg", "viewBox": f"0 0 {_WIDTH} {_HEIGHT}"})
    root.attrib |= {"role": "img", "aria-label": text, "font-family": FONT, "font-size": "12.5"}
    traces, layout = figure["data"], figure["layout"]
    across = _Axis(layout["xaxis"], _values(traces, "x"), _LEFT, _WIDTH - _RIGHT)
    up = _Axis(layout["yaxis"], _values(traces, "y"), _HEIGHT - _BOTTOM, _TOP)
    _axes(root, across, up, layout)
    for trace in traces:
        _draw(root, trace, across, up)
    for shape in layout.get("shapes", ()):
        x = across.place(float(shape["x0"]))
        if x is not None:
            look = Look(shape["line"]["color"], "circle", "dot", "")
            draw_line(root, [(x, _TOP), (x, _HEIGHT - _BOTTOM)], look)
    return Xml.tostring(root, encoding="unicode")


def _numbers(values: Sequence[Any]) -> list[float]:
    """Values as numbers; NaN where there is none."""
    return [math.nan if value is None else float(value) for value in values]


def _values(traces: Sequence[Mapping[str, Any]], axis: str) -> list[float]:
    """All finite values along an axis, with the ends of error bars."""
    found: list[float] = []
    for trace in traces:
        values = _numbers(trace.get(axis, ()))
        found += values
        if axis == "y":
            found += [end for ends in zip(values, *_errors(trace, len(values))) for end in _ends(*ends)]
    return [value for value in found if math.isfinite(value)]


def _errors(trace: Mapping[str, Any], count: int) -> tuple[list[float], list[float]]:
    """How far the error bars of a trace reach up and down; NaN where there is none."""
    bars = trace.get("error_y") or {}
    up = _numbers(bars.get("array") or [None] * count)
    return up, _numbers(bars["arrayminus"]) if bars.get("arrayminus") else up


def _ends(value: float, up: float, down: float) -> tuple[float, float]:
    return value + up, value - down


class _Axis:
    """Where values lie along an axis, and its ticks."""

    def __init__(self, layout: Mapping[str, Any], values: Sequence[float], start: float, end: float) -> None:
        self.name = layout.get("title", {}).get("text", "")
        self.log = layout.get("type") == "log"
        self.start, self.end = start, end
        usable = [math.log10(v) if self.log else v for v in values if v > 0 or not self.log]
        low, high = (min(usable), max(usable)) if usable else (0.0, 1.0)
        around = 0.06 * (high - low) or 0.06 * abs(high) or 0.5
        ends: tuple[float, float] = layout.get("range") or (low - around, high + around)
        self.low, self.high = ends
        self.ticks = list(self._ticks(layout))

    def place(self, value: float) -> float | None:
        """Pixels; None for a value that the axis cannot show."""
        if not math.isfinite(value) or (self.log and value <= 0):
            return None
        share = ((math.log10(value) if self.log else value) - self.low) / (self.high - self.low)
        return self.start + min(max(share, -0.01), 1.01) * (self.end - self.start)

    def _ticks(self, layout: Mapping[str, Any]) -> Iterator[tuple[float, str]]:
        """Place and text of each tick; those that would touch the one before are left out."""
        values = layout.get("tickvals")
        if values is None:
            step = nice_step((self.high - self.low) / 5)
            first = math.ceil(self.low / step - 1e-9)
            values = [round(step * k, 10) for k in range(first, math.floor(self.high / step + 1e-9) + 1)]
        last = -math.inf
        for value in values:
            place = self.place(float(value))
            if place is not None and abs(place - last) >= _APART:
                last = place
                yield place, f"{value:,g}" if abs(value) < 1e6 else f"{value:.1e}"


def _axes(root: Xml.Element, across: _Axis, up: _Axis, layout: Mapping[str, Any]) -> None:
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    for x, text in across.ticks:
        add(root, "line", x1=x, x2=x, y1=_TOP, y2=bottom, stroke=GRID, cls="wf-grid")
        draw_text(root, text, x, bottom + 17, anchor="middle", soft=True)
    for y, text in up.ticks:
        add(root, "line", x1=_LEFT, x2=right, y1=y, y2=y, stroke=GRID, cls="wf-grid")
        draw_text(root, text, _LEFT - 7, y + 4.5, anchor="end", soft=True)
    for end in ((right, bottom), (_LEFT, _TOP)):
        add(root, "line", x1=_LEFT, y1=bottom, x2=end[0], y2=end[1], stroke=SOFT, cls="wf-axis")
    draw_text(root, html.unescape(up.name), 4, 15, soft=True)
    draw_text(root, html.unescape(across.name), right, _HEIGHT - 8, anchor="end", soft=True)


def _draw(root: Xml.Element, trace: Mapping[str, Any], across: _Axis, up: _Axis) -> None:
    xs, ys = _numbers(trace["x"]), _numbers(trace["y"])
    places = [(across.place(x), up.place(y)) for x, y in zip(xs, ys)]
    if trace.get("fill"):
        band = [(x, y) for x, y in places if x is not None and y is not None]
        if band:
            add(root, "path", d=joined_path(band) + "Z", fill="#7d7d7d", opacity=0.18)
        return
    line, marker = trace.get("line", {}), trace.get("marker", {})
    colour = line.get("color", marker.get("color", "#7d7d7d"))
    look = Look(colour, marker.get("symbol", "circle"), line.get("dash", "solid"), "")
    curve = add(root, "g", cls="curve")
    for run in _runs(places):
        draw_line(curve, run, look)
    if "markers" not in trace.get("mode", ""):
        return
    texts = trace.get("text") or [_about(trace, x, y) for x, y in zip(xs, ys)]
    for (x, y), value, more, less, text in zip(places, ys, *_errors(trace, len(ys)), texts):
        if x is None or y is None:
            continue
        ends = [up.place(end) for end in _ends(value, more, less)]
        if None not in ends and ends[0] != ends[1]:
            bar = f"M{x:.1f} {ends[0]:.1f}V{ends[1]:.1f}M{x - 4:.1f} {ends[0]:.1f}h8M{x - 4:.1f} {ends[1]:.1f}h8"
            add(curve, "path", d=bar, fill="none", stroke=colour, stroke_width=1.3)
        draw_marker(curve, x, y, look, _plain(text))


def _runs(places: Sequence[tuple[float | None, float | None]]) -> Iterator[list[tuple[float, float]]]:
    """The stretches of a line between its gaps."""
    run: list[tuple[float, float]] = []
    for x, y in [*places, (None, None)]:
        if x is not None and y is not None:
            run.append((x, y))
        elif run:
            yield run
            run = []


def _about(trace: Mapping[str, Any], x: float, y: float) -> str:
    return f"{trace.get('name', '')}: {y:,.4g} at {x:,.4g}"


def _plain(text: str) -> str:
    """A text of plotly's without its markup."""
    return html.unescape(re.sub(r"<br>", "\n", re.sub(r"</?b>", "", text)))
