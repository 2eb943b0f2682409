"""The report of `transfer watch` as a table, and the CSV with one line per image."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prune.runs.files import atomic, counted, csv_cell, printable

COLUMNS = ("path", "label", "original", "original_confidence", "compressed", "compressed_confidence", "agree")
"""Of the CSV."""
_SHOWN = 20


def report_text(found: Mapping[str, Any]) -> str:
    """The report as text: the classes with most errors, alarms first, then drift and what to do."""
    lines = [f"{found['compressed']} compared with {found['original']}"]
    labelled = f", {found['labelled']} with labels" if found["labelled"] else ""
    lines.append(f"{counted(found['images'], 'image')}{labelled}: they disagree on {100 * found['disagreement']:.1f} %")
    if "top1" in found:
        right = found["top1"]
        lines.append(f"top-1: original {100 * right['original']:.1f} %, compressed {100 * right['compressed']:.1f} %")
    if "reference_set" in found:
        lines.append(set_text(found["reference_set"]))
    rows = sorted(found["classes"], key=lambda row: (not row["alarm"], -(row["wrong"] or 0), row["class"]))
    rows = [row for row in rows if row["n"]]
    width = max([5, *(len(row["class"]) for row in rows[:_SHOWN])])
    head = "lost %" if found["measure"] == "lost answers" else "apart %"
    lines += ["", f"{'class':<{width}} {'images':>7} {head:>8} {'surely %':>9} {'allowed %':>10}"]
    for row in rows[:_SHOWN]:
        numbers = f"{row['n']:7} {100 * row['wrong']:8.1f} {100 * row['low']:9.1f} {100 * row['allowed']:10.1f}"
        lines.append(f"{row['class']:<{width}} {numbers}{'  ALARM' if row['alarm'] else ''}")
    if len(rows) > _SHOWN:
        lines.append(f"and {len(rows) - _SHOWN} more classes")
    lines.append("")
    for name, drift in found.get("drift", {}).items():
        outcome = "DRIFTED" if drift["drifted"] else "no more than by chance"
        lines.append(
            f"features of the {name}: moved by {drift['distance']:.3f} standard deviations, {drift['by_chance']:.3f} "
            f"occur by chance: {outcome}"
        )
    alike = f"similarity of the two models' features (CKA): {found['similarity']:.3f}"
    if "reference_similarity" in found:
        alike += f", {found['reference_similarity']:.3f} on the reference"
    lines.append(alike)
    if not found["alarms"]:
        lines.append("no alarm" + _unread(len(found["unreadable"])))
    elif found["rollback"]:
        back = found["rollback"]
        lines.append(f"step {back['from']} alarms; step {back['to']} does not: {back['command']}")
        if back["to"] == 0:
            lines[-1] = (
                f"step {back['from']} alarms, and so does every step before it but the original: " + (back["command"])
            )
    else:
        lines.append(f"alarm in {counted(len(found['alarms']), 'class')}: do not use the compressed model for them")
    return "\n".join(map(printable, lines))


def _unread(count: int) -> str:
    return (
        f"; {counted(count, 'listed image')} could not be read and {'is' if count == 1 else 'are'} not judged"
        if count
        else ""
    )


_DECISIONS = {
    "stay": "nothing is wrong; this stage needs more images",
    "advance": "nothing is wrong: the next stage begins",
    "passed": "nothing is wrong: the last stage is passed",
    "alarm": "ALARM: do not use the compressed model",
    "rollback": "ROLLED BACK",
}


def deployment_text(found: Mapping[str, Any]) -> str:
    """The report of a look of a deployment as text: the groups with most evidence first, then the decision."""
    before = f", {found['compared_before']} compared before" if found["compared_before"] else ""
    lines = [f"look {found['look']}: {counted(found['compared'], 'new image')} compared{before}"]
    if found["preserve"]:
        lines.append(set_text(found["preserve"]))
    rows = sorted((row for row in found["classes"] if row["n"]), key=lambda row: (-row["evidence"], row["class"]))
    width = max([5, *(len(row["class"]) for row in rows[:_SHOWN])])
    head = "lost %" if found["measure"] == "lost answers" else "apart %"
    lines += ["", f"{'class':<{width}} {'images':>7} {head:>8} {'surely %':>9} {'allowed %':>10} {'e-value':>10}"]
    for row in rows[:_SHOWN]:
        numbers = f"{row['n']:7} {100 * row['wrong']:8.1f} {100 * row['low']:9.1f} {100 * row['allowed']:10.1f}"
        evidence = f"{math.exp(min(row['evidence'], 300)):10.3g}"
        alarm = f"  ALARM since look {row['since']}"
        lines.append(f"{row['class']:<{width}} {numbers} {evidence}{alarm if row['alarm'] else ''}")
    if len(rows) > _SHOWN:
        lines.append(f"and {len(rows) - _SHOWN} more classes")
    unread = _unread(found.get("unreadable", 0))
    if not found["staged"] and found["decision"] in ("stay", "passed"):
        few = f"; --each asks for {found['wanted']}" if found["decision"] == "stay" else ""
        return "\n".join(
            map(printable, [*lines, "", f"no alarm after {counted(found['images'], 'image')}{few}{unread}"])
        )
    stage = f"stage {found['stage']} of {len(found['stages'])}: " if len(found["stages"]) > 1 else ""
    lines += ["", f"{stage}{_DECISIONS[found['decision']]}; share of the compressed model: {found['next_share']:g} %"]
    lines[-1] += unread
    if found["rollback"]:
        back = found["rollback"]
        done = "step {to} is in its place" if found["decision"] == "rollback" else "the way back: {command}"
        lines.append(f"step {back['from']} alarms in {', '.join(found['alarms'])}; " + done.format(**back))
    return "\n".join(map(printable, lines))


def set_text(named: Mapping[str, Any]) -> str:
    """Which version of a preservation set the reference holds, in words."""
    return (
        f"reference: version {named['version']} of the preservation set, {counted(named['images'], 'image')}, checksum "
        f"{named['checksum']}"
    )


def write_lines(place: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    """Write a CSV with one line for each image; its header alone where there is none."""
    with atomic(place) as partial, open(partial, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(lines[0]) if lines else COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: csv_cell(value) for name, value in line.items()} for line in lines)
