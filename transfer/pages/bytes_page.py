"""The page of bytes as a budget: accuracy against bytes, qualities, and what compression hurts most and least."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from transfer.pages import curves_page
from transfer.pages.curves_page import Chart, Curve, Section

HEADER = ("policy and budget", "accuracy %", "standard deviation", "seeds", "images kept", "bytes", "setting")
POLICIES = ("drop", "uniform", "adaptive")


def page(result: Mapping[str, Any], hurt: Sequence[Mapping[str, Any]] = ()) -> str:
    """The page as text.

    Parameters
    ----------
    result : mapping
        Of `tests/benchmarks/storage.py accuracy`: "cells" with judged, policy, setting, budget, seed, top1, bytes,
        kept and quality (level to count).
    hurt : sequence of mapping
        Groups of images side by side: {"title", "rows": [{"name", "images": [{"src", "text"}]}]}.
    """
    rows = summary(result["cells"])
    curves = [
        Curve(policy, [100 * r["budget"] for r in mine], [r["mean"] for r in mine], [r["std"] or 0.0 for r in mine])
        for policy in POLICIES
        if (mine := [r for r in rows if r["policy"] == policy])
    ]
    sections = [
        Section(
            "Accuracy against bytes",
            "Own-test accuracy after training on what each policy keeps in the same bytes. Bars are one standard "
            "deviation over seeds.",
            [Chart("test images", "bytes, % of the original", "accuracy %", curves)],
        )
    ]
    if mixed := [r for r in rows if r["policy"] == "adaptive"]:
        histograms = [Chart("adaptive", "level", "images", [_histogram(r) for r in mixed])]
        words = (
            "Images at each JPEG quality of the adaptive plans; 0 is the original, above 100 is half the resolution."
        )
        sections.append(Section("Qualities", words, histograms))
    table = (HEADER, [cells(row) for row in rows])
    note = "Settings were chosen on validation images with another seed; every policy trains the same number of steps."
    config = {key: value for key, value in result.items() if key != "cells"}
    return curves_page.page("bytes as a budget", headline(rows), sections, table, note, config, hurt)


def summary(found: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Mean and standard deviation in points over the seeds, by policy and budget; test images alone."""
    rows = []
    tested = [cell for cell in found if cell["judged"] == "test" and cell["policy"] in POLICIES]
    for policy in POLICIES:
        for budget in sorted({cell["budget"] for cell in tested}):
            mine = [cell for cell in tested if (cell["policy"], cell["budget"]) == (policy, budget)]
            if not mine:
                continue
            top = [100 * cell["top1"] for cell in mine]
            same = {key: mine[0][key] for key in ("policy", "budget", "setting", "kept", "bytes", "quality")}
            std = statistics.stdev(top) if len(top) > 1 else None
            rows.append({**same, "mean": statistics.mean(top), "std": std, "seeds": len(top)})
    return rows


def headline(rows: Sequence[Mapping[str, Any]]) -> str:
    """What the runs say, in one sentence: adaptive against uniform on average, and where it is best."""
    value = {(row["policy"], row["budget"]): row["mean"] for row in rows}
    budgets = sorted({row["budget"] for row in rows})
    pairs = [
        value["adaptive", b] - value["uniform", b]
        for b in budgets
        if ("adaptive", b) in value and ("uniform", b) in value
    ]
    if not pairs:
        return "No budget was tried with both the adaptive and the uniform policy."
    best = sum(max((value[p, b], p) for p in POLICIES if (p, b) in value)[1] == "adaptive" for b in budgets)
    return (
        f"Adaptive qualities differ from the best single quality by {statistics.mean(pairs):+.1f} points on average, "
        f"and are the best of the three at {best} of {len(budgets)} budgets."
    )


def cells(row: Mapping[str, Any]) -> list[str]:
    """Cells of one policy and budget, as `HEADER` names them."""
    return [
        f"{row['policy']}, {100 * row['budget']:g} %",
        f"{row['mean']:.2f}",
        "" if row["std"] is None else f"{row['std']:.2f}",
        str(row["seeds"]),
        f"{row['kept']:,}",
        f"{row['bytes']:,}",
        row["setting"],
    ]


def _histogram(row: Mapping[str, Any]) -> Curve:
    levels = sorted(row["quality"], key=int)
    counts = [row["quality"][level] for level in levels]
    return Curve(f"{100 * row['budget']:g} %", [int(level) for level in levels], counts, [0.0] * len(levels))
