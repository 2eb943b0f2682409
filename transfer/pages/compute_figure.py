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

ALL_DATA, RANDOM = "all data", "random"
_INK, _SOFT, _GRID, _GROUND, _FRONT = "#1c1e21", "#5a6068", "#e6e8eb", "#ffffff", "#f2c14e"
_DARK = (
    "@media (prefers-color-scheme: dark) { .wf-ground { fill: #1b1e23; } .wf-ink { fill: #e8eaed; } "
    ".wf-soft { fill: #a3abb5; } .wf-grid { stroke: #2c3138; } .wf-axis { stroke: #a3abb5; } }"
)
_FONT, _SIZE, _LINE = "system-ui, 'Segoe UI', 'DejaVu Sans', sans-serif", 13.0, 18.0
_LETTER = 0.56  # width of a letter, in font sizes: a little more than most fonts have
_RADIUS = 5.0
_ALL_DATA_LOOK, _RANDOM_LOOK = Look("#5f656d", "bar", "dash", "❙"), Look("#7d7d7d", "circle-open", "solid", "○")
_DASHES = {"solid": "", "dash": "7 4", "dot": "2 4"}


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
    style = {name: style.get(name, look) for name, look in looks(names).items()}
    legend, legend_height = _legend(names, width)
    head = (_LINE + 6 if title else 0) + legend_height
    frame = _Frame(points, left=46, right=width - 14, top=head + 26, bottom=head + 26 + round(170 + width / 5))
    height = frame.bottom + 44
    root = Xml.Element("svg", {"xmlns": "http://www.w3.org/2000/svg", "viewBox": f"0 0 {width} {height:g}"})
    root.attrib |= {"width": str(width), "height": f"{height:g}", "role": "img", "font-family": _FONT}
    root.attrib |= {"font-size": f"{_SIZE:g}"}
    Xml.SubElement(root, "title").text = printable(title or "Accuracy against total compute")
    Xml.SubElement(root, "desc").text = printable(description(points))
    if standalone:
        Xml.SubElement(root, "style").text = _DARK
        _add(root, "rect", x=0, y=0, width=width, height=height, fill=_GROUND, cls="wf-ground")
    if title:
        _text(root, title, 8, 20, weight="600")
    for name, x, y in legend:
        y += head - legend_height
        _line(root, [(x, y + 9), (x + 26, y + 9)], style[name])
        _marker(root, x + 13, y + 9, style[name])
        _text(root, name, x + 32, y + 13.5)
    _axes(root, frame, accuracy, width)
    if within is not None:
        _band(root, points, frame, within)
    front = _front(points)
    if len(front) > 1:
        _add(root, "path", d=_path(frame.at(p) for p in front), fill="none", stroke=_FRONT, cls="wf-front",
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
        step = _step((max(values) - min(values)) / 5)
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


def _step(least: float) -> float:
    """The smallest of 1, 2, 5, 10, 20 ... (and 0.5, 0.2 ...) that is not below `least`."""
    power = 10.0 ** math.floor(math.log10(max(least, 1e-3)))
    return next(f * power for f in (1, 2, 5, 10) if f * power >= least * (1 - 1e-9))


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
        _add(root, "line", x1=frame.left, x2=frame.right, y1=y, y2=y, stroke=_GRID, cls="wf-grid")
        _text(root, f"{value:g}", frame.left - 7, y + 4.5, anchor="end", soft=True)
    for value in frame.x_ticks:
        x = frame.x(value)
        _add(root, "line", x1=x, x2=x, y1=frame.top, y2=frame.bottom, stroke=_GRID, cls="wf-grid")
        _text(root, f"{100 * value:g} %", x, frame.bottom + 18, anchor="middle", soft=True)
    for end in ((frame.right, frame.bottom), (frame.left, frame.top)):
        _add(root, "line", x1=frame.left, y1=frame.bottom, x2=end[0], y2=end[1], stroke=_SOFT, cls="wf-axis")
    _text(root, accuracy, 8, frame.top - 10, soft=True)
    long = "total compute, share of one pretraining on all data (logarithmic)"
    name = long if len(long) * _LETTER * _SIZE < width else "total compute, share of full pretraining"
    _text(root, name, frame.right, frame.bottom + 38, anchor="end", soft=True)


def _band(root: Xml.Element, points: Sequence[Point], frame: _Frame, within: float) -> None:
    full = [p for p in points if p.curve == ALL_DATA]
    if not full:
        return
    best = max(full, key=lambda p: p.compute).accuracy
    top, bottom = (min(max(frame.y(v), frame.top), frame.bottom) for v in (best, best - within))
    _add(root, "rect", x=frame.left, y=top, width=frame.right - frame.left, height=bottom - top, fill="#7d7d7d",
         opacity=0.16)  # fmt: skip
    if within:
        _text(root, f"within {within:g} points of all data", frame.left + 6, top - 5, soft=True)


def _curve(root: Xml.Element, points: Sequence[Point], frame: _Frame, look: Look) -> None:
    joined = _front(points)
    _line(root, [frame.at(point) for point in joined], look)
    for point in sorted(points, key=lambda p: p.compute):
        x, y = frame.at(point)
        if point.low is not None and point.high is not None:
            ends = [frame.y(min(max(v, frame.y0), frame.y1)) for v in (point.low, point.high)]
            _add(root, "path", d=f"M{x:.1f} {ends[0]:.1f}V{ends[1]:.1f}M{x - 4:.1f} {ends[0]:.1f}h8M{x - 4:.1f} "
                 f"{ends[1]:.1f}h8", fill="none", stroke=look.color, stroke_width=1.3)  # fmt: skip
        text = ", ".join(filter(None, (point.curve, point.label)))
        span = f" (95 %: {point.low:.1f} to {point.high:.1f})" if None not in (point.low, point.high) else ""
        _marker(root, x, y, look, f"{text}: {point.accuracy:.1f} %{span} at {100 * point.compute:.3g} % of the compute")


def _line(root: Xml.Element, places: Sequence[tuple[float, float]], look: Look) -> None:
    if len(places) > 1:
        dash = _DASHES[look.dash]
        _add(root, "path", d=_path(places), fill="none", stroke=look.color, stroke_width=2.2, stroke_dasharray=dash)


def _marker(root: Xml.Element, x: float, y: float, look: Look, text: str = "") -> None:
    name, r = look.symbol.removesuffix("-open"), _RADIUS
    shapes: dict[str, list[tuple[float, float]]] = {
        "diamond": [(0, -1.25), (1.25, 0), (0, 1.25), (-1.25, 0)],
        "square": [(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)],
        "triangle-up": [(0, -1.2), (1.15, 0.9), (-1.15, 0.9)],
        "cross": _cross(0),
        "x": _cross(math.pi / 4),
        "star": [_round(k * math.pi / 5, 1.3 if k % 2 == 0 else 0.55) for k in range(10)],
        "bar": [(-0.4, -1.3), (0.4, -1.3), (0.4, 1.3), (-0.4, 1.3)],
        "line-ew": [(-1, -0.25), (1, -0.25), (1, 0.25), (-1, 0.25)],
    }
    corners = shapes.get(name)
    fill: dict[str, Any] = (
        {"fill": _GROUND, "cls": "wf-ground"} if look.symbol.endswith("-open") else {"fill": look.color}
    )
    drawn = {**fill, "stroke": look.color, "stroke_width": 1.8}
    if corners is None:
        made = _add(root, "circle", cx=x, cy=y, r=r, **drawn)
    else:
        made = _add(root, "path", d=_path((x + r * u, y + r * v) for u, v in corners) + "Z", **drawn)
    if text:
        Xml.SubElement(made, "title").text = printable(text)


def _cross(turn: float) -> list[tuple[float, float]]:
    a, b = 0.42, 1.2
    plus = [(-a, -b), (a, -b), (a, -a), (b, -a), (b, a), (a, a), (a, b), (-a, b), (-a, a), (-b, a), (-b, -a), (-a, -a)]
    cos, sin = math.cos(turn), math.sin(turn)
    return [(u * cos - v * sin, u * sin + v * cos) for u, v in plus]


def _round(angle: float, radius: float) -> tuple[float, float]:
    return radius * math.sin(angle), -radius * math.cos(angle)


def _path(places: Iterable[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)


def _text(
    root: Xml.Element, text: str, x: float, y: float, *, anchor: str = "", weight: str = "", soft: bool = False
) -> None:
    kind = {"fill": _SOFT, "cls": "wf-soft"} if soft else {"fill": _INK, "cls": "wf-ink"}
    _add(root, "text", x=x, y=y, text_anchor=anchor, font_weight=weight, **kind).text = printable(text)


def _add(root: Xml.Element, tag: str, cls: str = "", **values: Any) -> Xml.Element:
    """A child element; numbers are short, empty values are left out."""
    texts = {k.replace("_", "-"): f"{v:.2f}".rstrip("0").rstrip(".") if isinstance(v, float) else str(v)
             for k, v in values.items()}  # fmt: skip
    return Xml.SubElement(root, tag, {k: v for k, v in {"class": cls, **texts}.items() if v})
