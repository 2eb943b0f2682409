"""One figure of accuracy against total compute, as SVG: all data against methods against random. Standard library only.

    points = [Point("all data", 0.2, 38.8), Point("all data", 1.0, 51.4), Point("winnow", 0.43, 43.6, 42.9, 44.4)]
    write_compute_figure(Path("figure.svg"), points, title="Three natural targets")

A study's page shows it, and tables of results can draw theirs with it. Compute has a logarithmic axis, on which the
same distance is the same speed-up everywhere. The pale line is the front: what nothing cheaper reaches.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree as Xml

from prune.pages.frame import printable
from prune.runs.files import InputError, atomic
from transfer.pages.looks import Look, looks
from transfer.pages.svg_drawing import (
    DARK,
    FONT,
    GRID,
    GROUND,
    SOFT,
    add,
    draw_line,
    draw_marker,
    draw_text,
    joined_path,
    nice_step,
)

ALL_DATA, RANDOM = "all data", "random"
_FRONT = "#f2c14e"
_SIZE, _LINE = 13.0, 18.0
_LETTER = 0.56  # width of a letter, in font sizes: a little more than most fonts have
_ALL_DATA_LOOK, _RANDOM_LOOK = Look("#5f656d", "bar", "dash", "❙"), Look("#7d7d7d", "circle-open", "solid", "○")


class Point(NamedTuple):
    """One trained network, or the mean over seeds: what it cost in all and how accurate it is.

    Attributes
    ----------
    curve : str
        Whose it is: `ALL_DATA`, `RANDOM`, or a method's name.
    compute : float
        Total compute as a share of one full pretraining, above 0.
    accuracy : float
        In percent.
    low, high : float or None
        95 % interval of the accuracy, in percent.
    label : str
        Such as "keep 0.2": shown where a reader points at it.
    """

    curve: str
    compute: float
    accuracy: float
    low: float | None = None
    high: float | None = None
    label: str = ""


def write_compute_figure(place: Path, points: Sequence[Point], **options: Any) -> None:
    """Write the figure of `compute_figure` to the SVG file `place`, whole or not at all."""
    text = compute_figure(points, **options)
    with atomic(place) as partial:
        partial.write_text(text + "\n", encoding="utf-8")


def compute_figure(
    points: Sequence[Point],
    *,
    title: str = "",
    accuracy: str = "accuracy %",
    within: float | None = 2.0,
    width: int = 760,
    standalone: bool = True,
) -> str:
    """Draw accuracy against total compute, a curve for each name.

    A curve joins the points of its name than which no cheaper one of that name is as accurate; the others are markers
    alone.

    Parameters
    ----------
    points : sequence of Point
        At least one.
    title : str
        In bold above the figure.
    accuracy : str
        Name of the vertical axis.
    within : float or None
        Shade the accuracies from all data's best down to so many points below it; None shades nothing.
    width : int
        In pixels, at least 300; the text keeps its size, so a narrow figure is made narrow and not shrunk.
    standalone : bool
        A file of its own, with a ground and colours for dark screens. Otherwise part of a page, whose rules for the
        classes `wf-...` (report.css) set the colours.

    Returns
    -------
    str
        The SVG. The same points give the same text.

    Raises
    ------
    InputError
        No points, or one without a compute above 0 or a finite accuracy.
    """
    _check(points)
    names = list(dict.fromkeys(point.curve for point in points))
    style = {ALL_DATA: _ALL_DATA_LOOK, RANDOM: _RANDOM_LOOK}
    style |= looks([name for name in names if name not in style])
    legend, legend_height = _legend(names, width)
    head = (_LINE + 6 if title else 0) + legend_height
    frame = _Frame(points, left=46, right=width - 14, top=head + 26, bottom=head + 26 + round(170 + width / 5))
    height = frame.bottom + 44
    root = Xml.Element("svg", {"xmlns": "http://www.w3.org/2000/svg", "viewBox": f"0 0 {width} {height:g}"})
    root.attrib |= {"width": str(width), "height": f"{height:g}", "role": "img", "font-family": FONT}
    root.attrib |= {"font-size": f"{_SIZE:g}"}
    Xml.SubElement(root, "title").text = printable(title or "Accuracy against total compute")
    Xml.SubElement(root, "desc").text = printable(description(points))
    if standalone:
        Xml.SubElement(root, "style").text = DARK
        add(root, "rect", x=0, y=0, width=width, height=height, fill=GROUND, cls="wf-ground")
    if title:
        draw_text(root, title, 8, 20, weight="600")
    for name, x, y in legend:
        y += head - legend_height
        draw_line(root, [(x, y + 9), (x + 26, y + 9)], style[name])
        draw_marker(root, x + 13, y + 9, style[name])
        draw_text(root, name, x + 32, y + 13.5)
    _axes(root, frame, accuracy, width)
    if within is not None:
        _band(root, points, frame, within)
    front = _front(points)
    if len(front) > 1:
        add(root, "path", d=joined_path(frame.at(p) for p in front), fill="none", stroke=_FRONT, cls="wf-front",
             stroke_width=11, stroke_linecap="round", stroke_linejoin="round", opacity=0.55)  # fmt: skip
    for name in sorted(names, key=lambda name: name not in (ALL_DATA, RANDOM)):  # methods last, so on top
        _curve(root, [p for p in points if p.curve == name], frame, style[name])
    Xml.indent(root)
    return Xml.tostring(root, encoding="unicode")


def description(points: Sequence[Point]) -> str:
    """The figure in words, for those who cannot see it.

    >>> description([Point("all data", 1.0, 51.4)])
    'Accuracy in percent at the total compute in percent of one full pretraining. all data: 51.4 at 100.'
    """
    parts = []
    for name in dict.fromkeys(point.curve for point in points):
        mine = sorted((point for point in points if point.curve == name), key=lambda p: p.compute)
        parts.append(f"{name}: " + ", ".join(f"{p.accuracy:.1f} at {100 * p.compute:.3g}" for p in mine))
    return "Accuracy in percent at the total compute in percent of one full pretraining. " + "; ".join(parts) + "."


def _check(points: Sequence[Point]) -> None:
    if not points:
        raise InputError("a figure needs one point at least")
    for point in points:
        if not (0 < point.compute < math.inf and math.isfinite(point.accuracy)):
            raise InputError(
                f"{point.curve}: accuracy {point.accuracy} at compute {point.compute} cannot be drawn; a finite "
                "accuracy and a compute above 0 are needed"
            )


def _front(points: Iterable[Point]) -> list[Point]:
    """The points than which none that costs as little is as accurate, by rising compute."""
    found: list[Point] = []
    for point in sorted(points, key=lambda p: (p.compute, -p.accuracy)):
        if not found or point.accuracy > found[-1].accuracy:
            found.append(point)
    return found


class _Frame:
    """Where a compute and an accuracy lie on the drawing, and the ticks of both axes."""

    def __init__(self, points: Sequence[Point], *, left: float, right: float, top: float, bottom: float) -> None:
        self.left, self.right, self.top, self.bottom = left, right, top, bottom
        computes = [math.log(p.compute) for p in points]
        around = max(0.06 * (max(computes) - min(computes)), 0.12)
        self.x0, self.x1 = min(computes) - around, max(computes) + around
        values = [v for p in points for v in (p.accuracy, p.low, p.high) if v is not None and math.isfinite(v)]
        step = nice_step((max(values) - min(values)) / 5)
        self.y0, self.y1 = (step * math.floor(min(values) / step), step * math.ceil(max(values) / step))
        self.y1 += step * (self.y1 == self.y0)
        self.y_ticks = [self.y0 + k * step for k in range(round((self.y1 - self.y0) / step) + 1)]
        self.x_ticks = self._compute_ticks()

    def _compute_ticks(self) -> list[float]:
        """1, 2 and 5 times the powers of ten, or only some of them where they would touch."""
        powers = range(math.floor(self.x0 / math.log(10)) - 1, math.ceil(self.x1 / math.log(10)) + 1)
        for factors in ((1, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,)):
            ticks = [round(f * 10.0**k, 12) for k in powers for f in factors]
            ticks = [t for t in ticks if self.x0 <= math.log(t) <= self.x1]
            places = [self.x(t) for t in ticks]
            if all(b - a > 50 for a, b in zip(places, places[1:])):
                return ticks
        return ticks

    def x(self, compute: float) -> float:
        return self.left + (math.log(compute) - self.x0) / (self.x1 - self.x0) * (self.right - self.left)

    def y(self, accuracy: float) -> float:
        return self.bottom - (accuracy - self.y0) / (self.y1 - self.y0) * (self.bottom - self.top)

    def at(self, point: Point) -> tuple[float, float]:
        return self.x(point.compute), self.y(point.accuracy)


def _legend(names: Sequence[str], width: float) -> tuple[list[tuple[str, float, float]], float]:
    """Place of every name, in rows that are no wider than the figure; and the height of all rows."""
    found, x, y = [], 8.0, 4.0
    for name in names:
        wide = 32 + _LETTER * _SIZE * len(name) + 18
        if x > 8 and x + wide > width:
            x, y = 8.0, y + _LINE + 2
        found.append((name, x, y))
        x += wide
    return found, y + _LINE


def _axes(root: Xml.Element, frame: _Frame, accuracy: str, width: int) -> None:
    for value in frame.y_ticks:
        y = frame.y(value)
        add(root, "line", x1=frame.left, x2=frame.right, y1=y, y2=y, stroke=GRID, cls="wf-grid")
        draw_text(root, f"{value:g}", frame.left - 7, y + 4.5, anchor="end", soft=True)
    for value in frame.x_ticks:
        x = frame.x(value)
        add(root, "line", x1=x, x2=x, y1=frame.top, y2=frame.bottom, stroke=GRID, cls="wf-grid")
        draw_text(root, f"{100 * value:g} %", x, frame.bottom + 18, anchor="middle", soft=True)
    for end in ((frame.right, frame.bottom), (frame.left, frame.top)):
        add(root, "line", x1=frame.left, y1=frame.bottom, x2=end[0], y2=end[1], stroke=SOFT, cls="wf-axis")
    draw_text(root, accuracy, 8, frame.top - 10, soft=True)
    long = "total compute, share of one pretraining on all data (logarithmic)"
    name = long if len(long) * _LETTER * _SIZE < width else "total compute, share of full pretraining"
    draw_text(root, name, frame.right, frame.bottom + 38, anchor="end", soft=True)


def _band(root: Xml.Element, points: Sequence[Point], frame: _Frame, within: float) -> None:
    full = [p for p in points if p.curve == ALL_DATA]
    if not full:
        return
    best = max(full, key=lambda p: p.compute).accuracy
    top, bottom = (min(max(frame.y(v), frame.top), frame.bottom) for v in (best, best - within))
    add(root, "rect", x=frame.left, y=top, width=frame.right - frame.left, height=bottom - top, fill="#7d7d7d",
         opacity=0.16)  # fmt: skip
    if within:
        draw_text(root, f"within {within:g} points of all data", frame.left + 6, top - 5, soft=True)


def _curve(root: Xml.Element, points: Sequence[Point], frame: _Frame, look: Look) -> None:
    joined = _front(points)
    draw_line(root, [frame.at(point) for point in joined], look)
    for point in sorted(points, key=lambda p: p.compute):
        x, y = frame.at(point)
        if point.low is not None and point.high is not None:
            ends = [frame.y(min(max(v, frame.y0), frame.y1)) for v in (point.low, point.high)]
            add(root, "path", d=f"M{x:.1f} {ends[0]:.1f}V{ends[1]:.1f}M{x - 4:.1f} {ends[0]:.1f}h8M{x - 4:.1f} "
                 f"{ends[1]:.1f}h8", fill="none", stroke=look.color, stroke_width=1.3)  # fmt: skip
        text = ", ".join(filter(None, (point.curve, point.label)))
        span = f" (95 %: {point.low:.1f} to {point.high:.1f})" if None not in (point.low, point.high) else ""
        draw_marker(
            root, x, y, look, f"{text}: {point.accuracy:.1f} %{span} at {100 * point.compute:.3g} % of the compute"
        )
