"""Draws SVG for the pages: lines, markers, texts. Standard library only.

Colours of texts, axes and grounds are classes, `wf-...`, which the page sets for light, dark and print; a file of its
own carries `DARK`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any
from xml.etree import ElementTree as Xml

from prune.pages.frame import printable
from transfer.pages.looks import Look

INK, SOFT, GRID, GROUND = "#1c1e21", "#5a6068", "#e6e8eb", "#ffffff"
DARK = (
    "@media (prefers-color-scheme: dark) { .wf-ground { fill: #1b1e23; } .wf-ink { fill: #e8eaed; } "
    ".wf-soft { fill: #a3abb5; } .wf-grid { stroke: #2c3138; } .wf-axis { stroke: #a3abb5; } }"
)
FONT = "system-ui, 'Segoe UI', 'DejaVu Sans', sans-serif"
DASHES = {"solid": "", "dash": "7 4", "dot": "2 4"}
_RADIUS = 5.0


def nice_step(least: float) -> float:
    """The smallest of 1, 2, 5, 10, 20 ... (and 0.5, 0.2 ...) that is not below `least`."""
    power = 10.0 ** math.floor(math.log10(max(least, 1e-3)))
    return next(f * power for f in (1, 2, 5, 10) if f * power >= least * (1 - 1e-9))


def draw_line(root: Xml.Element, places: Sequence[tuple[float, float]], look: Look) -> None:
    """Join places by a line of a look; fewer than two give none."""
    if len(places) > 1:
        dash = DASHES[look.dash]
        add(
            root, "path", d=joined_path(places), fill="none", stroke=look.color, stroke_width=2.2, stroke_dasharray=dash
        )


def draw_marker(root: Xml.Element, x: float, y: float, look: Look, about: str = "") -> None:
    """Draw the marker of a look at a place; `about` appears where a reader points at it."""
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
        {"fill": GROUND, "cls": "wf-ground"} if look.symbol.endswith("-open") else {"fill": look.color}
    )
    drawn = {**fill, "stroke": look.color, "stroke_width": 1.8}
    if corners is None:
        made = add(root, "circle", cx=x, cy=y, r=r, **drawn)
    else:
        made = add(root, "path", d=joined_path((x + r * u, y + r * v) for u, v in corners) + "Z", **drawn)
    if about:
        Xml.SubElement(made, "title").text = printable(about)


def _cross(turn: float) -> list[tuple[float, float]]:
    a, b = 0.42, 1.2
    plus = [(-a, -b), (a, -b), (a, -a), (b, -a), (b, a), (a, a), (a, b), (-a, b), (-a, a), (-b, a), (-b, -a), (-a, -a)]
    cos, sin = math.cos(turn), math.sin(turn)
    return [(u * cos - v * sin, u * sin + v * cos) for u, v in plus]


def _round(angle: float, radius: float) -> tuple[float, float]:
    return radius * math.sin(angle), -radius * math.cos(angle)


def legend_key(look: Look) -> str:
    """The line and marker of a look, for a legend beside a chart."""
    root = Xml.Element("svg", {"viewBox": "0 0 30 16", "width": "30", "height": "16", "aria-hidden": "true"})
    draw_line(root, [(1, 8), (29, 8)], look)
    draw_marker(root, 15, 8, look)
    return Xml.tostring(root, encoding="unicode")


def joined_path(places: Iterable[tuple[float, float]]) -> str:
    """The path through places, as an SVG path has it."""
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)


def draw_text(
    root: Xml.Element, text: str, x: float, y: float, *, anchor: str = "", weight: str = "", soft: bool = False
) -> None:
    """Write a text; `anchor` start, middle or end."""
    kind = {"fill": SOFT, "cls": "wf-soft"} if soft else {"fill": INK, "cls": "wf-ink"}
    add(root, "text", x=x, y=y, text_anchor=anchor, font_weight=weight, **kind).text = printable(text)


def add(root: Xml.Element, tag: str, cls: str = "", **values: Any) -> Xml.Element:
    """A child element; numbers are short, empty values are left out."""
    texts = {k.replace("_", "-"): f"{v:.2f}".rstrip("0").rstrip(".") if isinstance(v, float) else str(v)
             for k, v in values.items()}  # fmt: skip
    return Xml.SubElement(root, tag, {k: v for k, v in {"class": cls, **texts}.items() if v})
