"""The page of a compressed model's whole life: its compression, the versions of its preservation set, its deployment.

`transfer watch --history --html` writes it. One file that opens without a network, without scripts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any
from xml.etree import ElementTree as Xml

from prune.pages.frame import escaped, framed
from transfer.compression.journal import Entry
from transfer.pages.compress_page import header_of, outcome_sentences, step_texts
from transfer.pages.looks import Look
from transfer.pages.svg_drawing import DARK, FONT, add, draw_line, draw_marker, draw_text, nice_step

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 760, 320, 70, 150, 40, 50
_EVIDENCE = Look("#2f7de1", "circle", "solid", "●")
_LIMIT = Look("#e0690a", "x", "dash", "✖")
_STAGE = Look("#7d7d7d", "bar", "dot", "|")
_FLOOR = -2.0  # powers of ten: less evidence than this is drawn here
_STYLE = f".wf-text {{ font: 13px {FONT}; }} .wide {{ overflow-x: auto; }} {DARK}"


def life_html(
    name: str,
    entries: Sequence[Entry],
    versions: Sequence[Mapping[str, Any]],
    head: Mapping[str, Any],
    looks: Sequence[Mapping[str, Any]],
    groups: Sequence[Mapping[str, Any]],
) -> str:
    """The page as text.

    Parameters
    ----------
    name : str
        Of the run.
    entries : sequence of mapping
        Its compression journal; none where only two models were compared.
    versions : sequence of mapping
        Of `preservation_versions.versions_of`: how the preservation set grew.
    head, looks
        Of `watching.watch_history.read`: a deployment's rule, and its looks.
    groups : sequence of mapping
        Of `watching.deployment_stages.group_rows`: what was found in each class so far.
    """
    parts = [f"<header><h1>{escaped(name)}: {escaped(_state(head, looks))}</h1></header><main>"]
    if entries:
        rows = [step_texts(name, line, entries) for line in entries]
        told = outcome_sentences({name: (entries, {})})
        parts.append(f"<h2>Compression</h2><p>{escaped(told)}</p>" + _table(header_of([entries]), rows))
    parts.append("<h2>Preservation set</h2>" + _versions(entries, versions, head))
    parts.append("<h2>Deployment</h2>" + _deployment(head, looks, groups) + "</main>")
    return framed(f"life of {name}", "".join(parts), style=_STYLE, generator="transfer watch")


def _state(head: Mapping[str, Any], looks: Sequence[Mapping[str, Any]]) -> str:
    if not looks:
        return "no look yet"
    last, shares = looks[-1], head["stages"]
    where = f"stage {last['stage'] + 1} of {len(shares)}, {shares[last['stage']]:g} % of the traffic"
    if last["decision"] == "rollback":
        return f"rolled back to step {last['rollback']['to']} in {where}"
    if last["decision"] == "passed" and not head["each"]:  # without --stages there is none to pass
        return "no alarm so far"
    return f"{last['decision']} in {where}"


def _versions(entries: Sequence[Entry], versions: Sequence[Mapping[str, Any]], head: Mapping[str, Any]) -> str:
    """Which version the compression and the watch used, and how the set grew."""
    used = entries[0]["what"].get("preserve") if entries else None
    pairs = (("The compression was tested on", used), ("The deployment was compared with", head["preserve"]))
    named = [
        f"{who} version {one['version']} ({one['images']} images, {one['later']} of them later ones, checksum "
        f"{one['checksum']})"
        for who, one in pairs
        if one
    ]
    words = "; ".join(named) or "Neither the compression nor the deployment names a version"
    rows = []
    for entry in versions:
        changes = entry["changes"]
        why = {one["why"] for one in (*changes["came"], *changes["stays"])}
        counts = {
            text: sum(one["why"] == text for one in (*changes["came"], *changes["stays"])) for text in sorted(why)
        }
        answers = sum(one["label"] != "given" for one in changes["came"])
        rows.append(
            [
                str(entry["version"]),
                entry["parent"],
                str(len(changes["came"])),
                f"{answers} by the original, {len(changes['came']) - answers} by people",
                ", ".join(f"{text}: {count}" for text, count in sorted(counts.items())),
                str(len(changes["left"])),
            ]
        )
    header = ("version", "checksum of the one before", "came", "their labels", "why they came or stay", "left")
    return f"<p>{escaped(words)}.</p>" + (_table(header, rows) if rows else "")


def _deployment(
    head: Mapping[str, Any], looks: Sequence[Mapping[str, Any]], groups: Sequence[Mapping[str, Any]]
) -> str:
    """The evidence over time, the groups, and the looks."""
    tests, error = len(head["allowed"]), head["error"]
    threshold = math.log10(tests / error)
    about = (
        f"Errors are {head['measure']}. An alarm needs an e-value of {tests / error:,.0f}: {tests} groups "
        f"are tested, and the chance that a model which is nowhere worse than allowed is ever alarmed is at most "
        f"{100 * error:g} %. The column surely has the share that the errors exceed, up to that chance."
    )
    rows = [
        [
            row["class"],
            str(row["n"]),
            f"{100 * row['wrong']:.1f}",
            f"{100 * row['low']:.1f}",
            f"{100 * row['allowed']:.1f}",
            f"{math.exp(min(row['evidence'], 300)):.3g}",
            f"ALARM since look {row['since']}" if row["alarm"] else "",
        ]
        for row in sorted(groups, key=lambda row: -row["evidence"])
        if row["n"]
    ]
    taken = [
        [
            str(look["number"]),
            look["time"],
            f"{look['share']:g}",
            *map(str, look["counts"].get("all images", (0, 0))),
            f"{math.exp(min(look['evidence'], 300)):.3g}",
            look["decision"],
            ", ".join(look["alarms"]) + (f"; to step {look['rollback']['to']}" if look["rollback"] else ""),
        ]
        for look in reversed(looks)
    ]
    return (
        f"<p>{escaped(about)}</p><figure>{_chart(head['stages'], looks, threshold)}</figure><h3>Classes</h3>"
        + _table(("class", "images", "errors %", "surely %", "allowed %", "e-value", ""), rows)
        + "<h3>Looks, the newest first</h3>"
        + _table(("look", "time", "share %", "images", "errors", "largest e-value", "decision", "alarms"), taken)
    )


def _chart(shares: Sequence[float], looks: Sequence[Mapping[str, Any]], threshold: float) -> str:
    """The largest e-value after each look against the images compared, with the alarm's height and the stages."""
    measured = [look for look in looks if look["counts"]]
    images = list(accumulate(look["counts"]["all images"][0] for look in measured))
    powers = [max(_FLOOR, look["evidence"] / math.log(10)) for look in measured]
    most, high = max([*images, 1]), max([*powers, threshold]) + 0.5
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT

    def place(x: float, y: float) -> tuple[float, float]:
        return _LEFT + (right - _LEFT) * x / most, bottom - (bottom - _TOP) * (y - _FLOOR) / (high - _FLOOR)

    label = "largest e-value after each look"
    root = Xml.Element(
        "svg", {"viewBox": f"0 0 {_WIDTH} {_HEIGHT}", "class": "wf-text", "role": "img", "aria-label": label}
    )
    root.set("style", f"max-width:{_WIDTH}px;width:100%")
    add(root, "rect", cls="wf-ground", width=_WIDTH, height=_HEIGHT, fill="#ffffff")
    for power in range(math.ceil(_FLOOR), math.floor(high) + 1, max(1, math.ceil((high - _FLOOR) / 8))):
        _, y = place(0, power)
        add(root, "line", cls="wf-grid", x1=_LEFT, x2=right, y1=y, y2=y, stroke="#e6e8eb")
        draw_text(root, f"{10.0**power:g}", _LEFT - 8, y + 4, anchor="end", soft=True)
    step = nice_step(most / 6)
    for k in range(int(most / step) + 1):
        draw_text(root, f"{k * step:g}", place(k * step, 0)[0], bottom + 18, anchor="middle", soft=True)
    draw_text(root, "images compared", (_LEFT + right) / 2, _HEIGHT - 12, anchor="middle")
    draw_text(root, label, _LEFT - 60, 18)
    draw_line(root, [place(0, threshold), place(most, threshold)], _LIMIT)
    draw_text(root, "alarm", right + 8, place(0, threshold)[1] + 4)
    for before, look, at in zip([None, *measured], measured, [0, *images]):
        if before is None or look["stage"] != before["stage"]:
            draw_line(root, [(place(at, 0)[0], _TOP), (place(at, 0)[0], bottom)], _STAGE)
            draw_text(root, f"{shares[look['stage']]:g} %", place(at, 0)[0] + 4, _TOP - 6, soft=True)
    points = [place(x, y) for x, y in zip(images, powers)]
    draw_line(root, points, _EVIDENCE)
    for (x, y), look in zip(points, measured):
        draw_marker(root, x, y, _LIMIT if look["alarms"] else _EVIDENCE, f"look {look['number']}: {look['decision']}")
    return Xml.tostring(root, encoding="unicode")


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escaped(text)}</th>" for text in header)
    body = "".join("<tr>" + "".join(f"<td>{escaped(text)}</td>" for text in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table><tr>{head}</tr>{body}</table></div>'
