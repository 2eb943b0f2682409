"""The charts of a study's page, with their words for those who cannot see them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from transfer.pages import plots


def charts_of(
    analysis: Mapping[str, Any], evaluation: str, figures: list[dict[str, Any]], calibration: list[dict[str, Any]]
) -> dict[str, Any]:
    """Charts of one evaluation: against keep, against cost, calibration; each is appended to `figures`."""
    scopes = list(dict.fromkeys(r["target"] for r in analysis["rows"] if r["evaluation"] == evaluation))
    charts = []
    for target in scopes:
        charts.append((f"{target or 'Mean over targets'}", plots.against_keep(analysis, evaluation, target), target))
    costed = any(bill["total_flops"] is not None for bill in analysis["ledger"]["rows"])
    cost = []
    for unit, word in (("flops", "compute"), ("seconds", "time")) if costed else ():
        figure = plots.against_cost(analysis, evaluation, scopes[0], unit)
        cost.append((f"{scopes[0] or 'Mean over targets'}, by {word}", figure, scopes[0]))

    def placed(title: str, figure: Any, text: str) -> dict[str, Any]:
        figures.append(json.loads(figure.to_json()))
        return {"title": title, "id": len(figures) - 1, "text": text}

    def described(title: str, figure: Any, target: str | None) -> dict[str, Any]:
        return placed(title, figure, plots.description(analysis, evaluation, target))

    trust = []
    if calibration:
        figure = plots.reliability(calibration, analysis["methods"])
        trust.append(placed("All targets and seeds together", figure, plots.calibration_words(calibration)))
    return {
        "evaluation": evaluation,
        "keep": [described(*c) for c in charts],
        "cost": [described(*c) for c in cost],
        "trust": trust,
    }
