"""The history of `transfer watch-codec`: a file of JSON lines, and its page."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prune.pages.frame import escaped, framed
from prune.pages.line_chart import Curve, line_chart
from prune.runs.files import InputError, atomic

_NAMES = {"fmse": "feature error (FMSE)", "bytes": "bytes an image"}


def read(place: Path, format: str) -> tuple[dict[str, Any] | None, list[dict[str, Any]]]:
    """The first line and the looks; None and no looks where there is no file.

    Raises
    ------
    InputError
        Another file, another version, or a damaged line.
    """
    if not place.exists():
        return None, []
    try:
        lines = [json.loads(line) for line in place.read_text(encoding="utf-8").splitlines()]
        if not lines or lines[0].get("format") != format:
            raise InputError(f"{place}: no history of this version ({format}); give another --history")
        if not all({"time", "images", "alarms", "fmse", "bytes"} <= set(one) for one in lines[1:]):
            raise ValueError("a look lacks a value")
    except (ValueError, AttributeError, TypeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{place}: damaged ({error}); give another --history") from None
    return lines[0], lines[1:]


def write(place: Path, head: Mapping[str, Any], records: Sequence[Mapping[str, Any]]) -> None:
    """Write the whole history."""
    with atomic(place) as partial:
        partial.write_text("".join(json.dumps(one) + "\n" for one in (head, *records)), encoding="utf-8")


def write_page(place: Path, head: Mapping[str, Any], records: Sequence[Mapping[str, Any]]) -> None:
    """A page with a chart for each quantity, thresholds included, and the looks as a table."""
    charts = []
    for name, words in _NAMES.items():
        low, high = (math.exp(value) for value in head["allowed"][name])
        at = list(range(1, len(records) + 1))
        ends = [1, max(2, len(records))]
        curves = [
            Curve("looks", at, [max(record[name], 1e-12) for record in records]),
            Curve("highest without alarm", ends, [high, high]),
            Curve("lowest without alarm", ends, [low, low]),
        ]
        charts.append(f"<h2>{escaped(words)}</h2>" + line_chart(curves, title=words, across="look", upwards=words))
    rows = "".join(
        f"<tr><td>{escaped(str(r['time']))}</td><td>{r['images']}</td><td>{r['fmse']:.4g}</td><td>{r['bytes']:,.0f}</td>"
        f"<td>{escaped(', '.join(r['alarms']) or 'no alarm')}</td></tr>"
        for r in reversed(records)
    )
    last = records[-1]
    state = "alarm: " + ", ".join(last["alarms"]) if last["alarms"] else "no alarm"
    body = (
        f"<header><h1>Codec watch, {len(records)} looks, the last one: {escaped(state)}</h1></header><main>"
        + "".join(charts)
        + "<h2>Looks, the newest first</h2><table><tr><th>time</th><th>images</th><th>FMSE</th><th>bytes</th>"
        f"<th>state</th></tr>{rows}</table><p>FMSE and bytes are geometric means over the images of a look. "
        f"Thresholds: prediction interval of one more look after {len(head['looks']['fmse'])} looks at the reference; "
        "without a change at most one look in 1,000 alarms.</p></main>"
    )
    with atomic(place) as partial:
        partial.write_text(framed("Codec watch", body, generator="transfer watch-codec"), encoding="utf-8")
