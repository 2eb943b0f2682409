"""The figure at the top of a study's page: accuracy against the total compute of one use, of every condition."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transfer.pages.compute_figure import ALL_DATA, RANDOM, Point, compute_figure
from transfer.verdicts.controls import FULL_EQUAL, FULL_LENGTH, RANDOM_EQUALS
from transfer.verdicts.headline import cost_of, headline_rows
from transfer.verdicts.speed_up_rows import WITHIN

WIDTHS = {"wide": 860, "narrow": 340}
"""Pixels of the two drawings of the figure; the page shows the one that fits."""
_CURVES = {"full": ALL_DATA, FULL_LENGTH: ALL_DATA, FULL_EQUAL: ALL_DATA, "random": RANDOM}
_CURVES |= dict.fromkeys(RANDOM_EQUALS, RANDOM)


def figure_points(analysis: Mapping[str, Any]) -> list[Point]:
    """The points of the first evaluation, on the mean over targets or the only target.

    All data at every length are one curve, and random parts at every length another. Empty where no condition's compute
    is known.
    """
    points = []
    for row in headline_rows(analysis):
        cost = cost_of(analysis, row)
        share = 1.0 if row["method"] == "full" else cost and cost["total_flops"]
        if share:
            label = "" if row["method"] in ("full", FULL_LENGTH) else f"keep {row['keep']:g}"
            name = _CURVES.get(row["method"], row["method"])
            points.append(Point(name, share, row["mean"], row["low"], row["high"], label))
    known = any(point.curve != ALL_DATA for point in points)
    return sorted(points, key=lambda point: (point.curve != ALL_DATA, point.curve != RANDOM)) if known else []


def study_figures(analysis: Mapping[str, Any]) -> dict[str, str]:
    """The figure by width ("wide", "narrow"), as SVG for the page; empty where it has no points."""
    points = figure_points(analysis)
    if not points:
        return {}
    where = headline_rows(analysis)[0]["target"] or f"mean over {len(analysis['targets'])} targets"
    options: dict[str, Any] = {"accuracy": f"accuracy %, {analysis['evaluations'][0]}", "title": where}
    return {
        name: compute_figure(points, width=width, within=WITHIN, standalone=False, **options)
        for name, width in WIDTHS.items()
    }
