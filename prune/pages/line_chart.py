"""One chart of curves as SVG text, both axes logarithmic: bytes against error. Needs the standard library alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from prune.pages.frame import escaped

_COLOURS = ("#1d62bf", "#c4570a", "#0b6e3e", "#8a2d8f", "#7a5200", "#a8201a")
_DASHES = ("", "7 4", "2 4", "9 3 2 3", "4 4", "1 3")
_MARKS = ("●", "■", "▲", "◆", "▼", "✚")
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 760, 420, 80, 190, 30, 60
_STYLE = (
    "text { font: 13px system-ui, 'Segoe UI', 'DejaVu Sans', sans-serif; fill: #1c1e21; } .wl-ground { fill: #ffffff; }"
    " .wl-grid { stroke: #e6e8eb; } @media (prefers-color-scheme: dark) { text { fill: #e8eaed; } .wl-ground { fill: "
    "#1b1e23; } .wl-grid { stroke: #2c3138; } }"
)


class Curve(NamedTuple):
    """Points of one name, joined in their order; values above 0."""

    name: str
    x: Sequence[float]
    y: Sequence[float]


def line_chart(curves: Sequence[Curve], *, title: str, across: str, upwards: str) -> str:
    """Draw curves; each has a colour, a dash and a marker of its own, so that none depends on colour alone.

    Parameters
    ----------
    curves : sequence of Curve
        At least one point in all.
    title, across, upwards : str
        Of the chart and of its axes; escaped here, as the names are.
    """
    xs = _Axis([v for curve in curves for v in curve.x], _LEFT, _WIDTH - _RIGHT)
    ys = _Axis([v for curve in curves for v in curve.y], _HEIGHT - _BOTTOM, _TOP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="{escaped(title)}" style="max-width:{_WIDTH}px;width:100%">',
        f"<title>{escaped(title)}</title><style>{_STYLE}</style>",
        f'<rect class="wl-ground" width="{_WIDTH}" height="{_HEIGHT}"/>',
    ]
    for value in xs.ticks():
        at = xs.place(value)
        parts.append(f'<line class="wl-grid" x1="{at:.1f}" x2="{at:.1f}" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}"/>')
        parts.append(f'<text x="{at:.1f}" y="{_HEIGHT - _BOTTOM + 18}" text-anchor="middle">{value:,g}</text>')
    for value in ys.ticks():
        at = ys.place(value)
        parts.append(f'<line class="wl-grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">{value:g}</text>')
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(f'<text x="{middle:.0f}" y="{_HEIGHT - 14}" text-anchor="middle">{escaped(across)}</text>')
    parts.append(f'<text x="{_LEFT - 60}" y="{_TOP - 10}">{escaped(upwards)}</text>')
    for number, curve in enumerate(curves):
        colour, dash, mark = (kind[number % len(kind)] for kind in (_COLOURS, _DASHES, _MARKS))
        points = [(xs.place(x), ys.place(y)) for x, y in zip(curve.x, curve.y)]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-dasharray="{dash}"/>')
        paint = f'style="fill:{colour}"'
        parts += [f'<text x="{x:.1f}" y="{y + 4:.1f}" text-anchor="middle" {paint}>{mark}</text>' for x, y in points]
        at = _TOP + 14 + 20 * number
        name = f"{mark} {escaped(curve.name)}"
        parts.append(f'<text x="{_WIDTH - _RIGHT + 14}" y="{at}" {paint}>{name}</text>')
    return "".join(parts) + "</svg>"


class _Axis:
    def __init__(self, values: Sequence[float], begin: float, end: float) -> None:
        low, high = min(values), max(values)
        if high < 1.2 * low:
            low, high = low / 1.2, high * 1.2
        self.low, self.high, self.begin, self.end = low, high, begin, end

    def place(self, value: float) -> float:
        share = math.log(value / self.low) / math.log(self.high / self.low)
        return self.begin + share * (self.end - self.begin)

    def ticks(self) -> list[float]:
        """1, 2 and 5 of each decade; of many decades the powers of ten alone."""
        decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        digits = (1, 2, 5) if len(decades) < 5 else (1,)
        return [v for d in decades for k in digits if self.low <= (v := float(f"{k}e{d}")) <= self.high]
