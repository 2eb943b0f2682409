"""What an experiment tracker gets of a study: verdicts, speed-ups, costs and classes as tables, accuracy as curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from prune.runs.experiment_tracker import Table
from transfer.pages import tables
from transfer.pages.kept_images import Selection, class_rows
from transfer.pages.study_figure import figure_points


def study_tables(analysis: Mapping[str, Any], line: str, selections: Sequence[Selection]) -> dict[str, Table]:
    """Tables by name; those of classes have a row for each class of each method and keep."""
    costs = {(cost["method"], cost["keep"]): cost for cost in analysis["ledger"]["rows"]}
    found: dict[str, Table] = {"study/verdict": (("verdict",), [[line]])}
    for evaluation in analysis["evaluations"]:
        rows = [row for row in analysis["rows"] if row["evaluation"] == evaluation]
        body = [[row["target"] or "mean", *tables.condition_cells(row, costs.get((row["method"], row["keep"])))]
                for row in rows]  # fmt: skip
        found[f"study/{evaluation}"] = (("target", *tables.HEADER), body)
        if speed_ups := tables.speed_up_table(analysis, evaluation):
            found[f"speed-up/{evaluation}"] = speed_ups
    found["study/costs"] = tables.cost_table(analysis["ledger"])
    head = ("class", "weight", "size", "kept", "share", "reasons")
    for one in selections:
        found[f"kept/{one.title}"] = (head, [[_cell(row[key]) for key in head] for row in class_rows(one)])
    return found


def _cell(value: object) -> object:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else value


def study_curves(analysis: Mapping[str, Any]) -> dict[str, list[tuple[int, float]]]:
    """Accuracy in percent over the total compute in percent of one full pretraining, a curve for each method."""
    found: dict[str, list[tuple[int, float]]] = {}
    for point in figure_points(analysis):
        name = f"accuracy over total compute %/{point.curve}"
        found.setdefault(name, []).append((round(100 * point.compute), point.accuracy))
    return {name: sorted(points) for name, points in found.items()}
