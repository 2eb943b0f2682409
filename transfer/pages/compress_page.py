"""The page of compressions: accuracy against size and latency, each journal as a staircase, the classes in danger."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from transfer.compression import journal
from transfer.compression.journal import ACCEPTED, ROLLED_BACK, Line
from transfer.pages import curves_page
from transfer.pages.curves_page import Chart, Curve, Section

HEADER = (
    "run and step",
    "kind",
    "ratio",
    "parameters %",
    "MB",
    "M multiply-adds",
    "ms",
    "accuracy %",
    "nearest class",
    "its margin used %",
    "verdict",
    "reason",
)
_NEAREST = 5
_GAP = math.nan


def compression_html(runs: Mapping[str, tuple[Sequence[Line], Mapping[str, Any]]]) -> str:
    """The page as text.

    Parameters
    ----------
    runs : mapping
        Name to the journal's lines and the run's settings (config.json).
    """
    against = [
        Chart("On disk", "file, % of the original", "accuracy %", _curves(runs, "bytes")),
        Chart("Arithmetic", "multiply-adds, % of the original", "accuracy %", _curves(runs, "macs")),
    ]
    timed = {
        name: (lines, config) for name, (lines, config) in runs.items() if all(_way(lines, "latency_ms", absolute=True))
    }
    if timed:
        against.append(Chart("One image, one thread", "ms", "accuracy %", _curves(timed, "latency_ms", absolute=True)))
    stairs = [Chart(name, "step", "parameters, % of the original", _stairs(name, runs[name][0])) for name in runs]
    used = [Chart(name, "step", "margin used, %", _used(runs[name][0])) for name in runs]
    sections = [
        Section(
            "Accuracy against size and latency",
            "Accuracy on the preservation set of every step that stands, from the original (right) to the last one.",
            against,
        ),
        Section(
            "The journal as a staircase",
            "Each step goes down to what it tried; a step that was rolled back is a spike, and the stairs go on above.",
            stairs,
        ),
        Section(
            "How near to the margin",
            "Shares of the margins used up by every step that was tried, overall and by the class nearest to its own. "
            "Above 100 the guard says no; below 0 is a gain.",
            used,
        ),
    ]
    table = (HEADER, [row(name, line, lines) for name, (lines, _) in runs.items() for line in lines])
    note = "Classes nearest to their margin at the step that stands. " + " ".join(
        f"{name}: {nearest_words(lines, config)}." for name, (lines, config) in runs.items()
    )
    title = "compression" if len(runs) > 1 else f"compression, {next(iter(runs))}"
    return curves_page.curves_html(
        title, headline(runs), sections, table, note, {name: config for name, (_, config) in runs.items()}
    )


def headline(runs: Mapping[str, tuple[Sequence[Line], Mapping[str, Any]]]) -> str:
    """What became of each original, in one sentence a run."""
    return " ".join(f"{name}: {_outcome(lines)}." for name, (lines, _) in runs.items())


def _outcome(lines: Sequence[Line]) -> str:
    first, final = lines[0], lines[journal.current(lines)]
    refused = sum(line["verdict"] == ROLLED_BACK for line in lines)
    points = 100 * (final["accuracy"] - first["accuracy"])
    times = ""
    if first["latency_ms"] and final["latency_ms"]:
        times = f", {first['latency_ms'] / final['latency_ms']:.1f}x as fast"
    return (
        f"{100 * final['bytes'] / first['bytes']:.1f} % of the size{times}, {points:+.1f} points on the preservation "
        f"set; {len(journal.accepted(lines)) - 1} steps accepted, {refused} rolled back"
    )


def standing(lines: Sequence[Line]) -> list[Line]:
    """Lines of the original, of what was built on it, and so on up to the step that stands."""
    found, step = [], journal.current(lines)
    while step:
        found.append(lines[step])
        step = lines[step]["base"]
    return [lines[0], *reversed(found)]


def nearest(lines: Sequence[Line], config: Mapping[str, Any]) -> list[tuple[str, float, float | None]]:
    """Classes that came closest to their margin at the step that stands: name, points lost, share of the margin.

    The share is None without a margin, and where the margin is 0. Ties go to the earlier class.
    """
    first, final = lines[0], lines[journal.current(lines)]
    margin = config.get("class_margin")
    lost = {
        name: 100 * (before - final["per_class"][name])
        for name, before in first["per_class"].items()
        if before is not None and final["per_class"].get(name) is not None
    }
    worst = sorted(lost, key=lambda name: -lost[name])[:_NEAREST]
    return [(name, lost[name], lost[name] / margin if margin else None) for name in worst]


def nearest_words(lines: Sequence[Line], config: Mapping[str, Any]) -> str:
    """`newt 4.0 points lost (40 % of its margin), cat ...`."""
    parts = []
    for name, lost, share in nearest(lines, config):
        said = f"{lost:.1f} points lost" if lost > 0 else f"{-lost:.1f} points gained" if lost < 0 else "nothing lost"
        parts.append(f"{name} {said}" + (f" ({100 * share:.0f} % of its margin)" if share is not None else ""))
    return ", ".join(parts) or "none"


def row(name: str, line: Line, lines: Sequence[Line]) -> list[str]:
    """Cells of one step, as `HEADER` names them."""
    if line["kind"] == "rollback":
        return [f"{name} {line['step']}", "rollback", *[""] * 8, line["verdict"], line.get("reason", "by hand")]
    ratio, used = line["what"].get("ratio"), line["class_used"]
    return [
        f"{name} {line['step']}",
        line["kind"],
        f"{ratio:.3g}" if ratio else "",
        f"{100 * line['params'] / lines[0]['params']:.1f}",
        f"{line['bytes'] / 1e6:.2f}",
        f"{line['macs'] / 1e6:.1f}",
        f"{line['latency_ms']:.2f}" if line["latency_ms"] else "",
        f"{100 * line['accuracy']:.2f}",
        line["nearest"] if line["step"] else "",
        f"{100 * used:.0f}" if used is not None and line["step"] else "",
        line["verdict"],
        line["reason"] if line["step"] else "",
    ]


def _way(lines: Sequence[Line], key: str, *, absolute: bool = False) -> list[float]:
    whole = 1 if absolute else lines[0][key] / 100
    return [(line[key] or 0) / whole for line in standing(lines)]


def _curves(
    runs: Mapping[str, tuple[Sequence[Line], Mapping[str, Any]]], key: str, *, absolute: bool = False
) -> list[Curve]:
    found = []
    for name, (lines, _) in runs.items():
        y = [100 * line["accuracy"] for line in standing(lines)]
        found.append(Curve(name, _way(lines, key, absolute=absolute), y, [0.0] * len(y)))
    return found


def _stairs(name: str, lines: Sequence[Line]) -> list[Curve]:
    """What stands, as stairs; and spikes to what was tried in vain."""
    share = [100 * line["params"] / lines[0]["params"] for line in lines]
    x, y, spike_x, spike_y = [0.0], [100.0], list[float](), list[float]()
    for number, line in enumerate(lines[1:], 1):
        before = y[-1]
        x += [number, number]
        y += [before, share[journal.current(lines[: number + 1])]]
        if line["verdict"] == ROLLED_BACK:
            gap = [_GAP] if spike_x else []
            spike_x += [number for _ in gap] + [number, number]
            spike_y += [*gap, before, share[number]]
    found = [Curve(name, x, y, [0.0] * len(x))]
    return [*found, Curve("rolled back", spike_x, spike_y, [0.0] * len(spike_x))] if spike_x else found


def _used(lines: Sequence[Line]) -> list[Curve]:
    found = []
    tried = [line for line in lines[1:] if line["verdict"] in (ACCEPTED, ROLLED_BACK) and line["kind"] != "rollback"]
    for name, key in (("overall", "overall_used"), ("nearest class", "class_used")):
        known = [line for line in tried if line[key] is not None]
        if known:
            y = [100 * line[key] for line in known]
            found.append(Curve(name, [line["step"] for line in known], y, [0.0] * len(y)))
    return found
