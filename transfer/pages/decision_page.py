"""The page of `transfer decide`: each way to store the data, with bytes, accuracy, cost, time, and what is unknown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from transfer.pages.curves_page import Chart, Curve, Section, curves_html
from transfer.verdicts.cost_account import duration_text

HEADER = ("option", "images", "stored MB", "storage a month", "accuracy %", "verdict", "training", "training FLOPs",
          "price of training", "energy kWh", "decoding ms an image", "decoding, share of training", "worth %",
          "a tenth less")  # fmt: skip
UNKNOWN = "unknown"


def cells_of(option: Mapping[str, Any]) -> list[str]:
    """Texts of one option for the columns of `HEADER`; `UNKNOWN` where nothing is known."""

    def shown(key: str, form: str, factor: float = 1.0) -> str:
        value = option.get(key)
        return UNKNOWN if value is None else f"{value * factor:{form}}"

    less = option["less"] or {}
    lost = UNKNOWN
    if "points" in less:
        lost = f"{less['points']:+z.1f} points"
    elif "worth" in less:
        lost = f"{-100 * less['worth']:+z.2f} % of its worth"
    seconds = option["seconds"]
    return [
        option["name"],
        shown("images", ",.0f"),
        shown("bytes", ",.1f", 1e-6),
        shown("storage", ",.4g"),
        accuracy_text(option["accuracy"]),
        option["verdict"] or "-",
        UNKNOWN if seconds is None else duration_text(seconds),
        shown("flops", ".2g"),
        shown("price", ",.2f"),
        shown("kwh", ",.3g"),
        shown("decode_ms", ".2f"),
        shown("decode_share", ".1%"),
        shown("worth", ".1f", 100),
        lost,
    ]


def accuracy_text(accuracy: Mapping[str, Any] | None) -> str:
    """Accuracy with its 95 % interval, or with its standard deviation over seeds.

    >>> accuracy_text({"value": 71.234, "low": 70.0, "high": 72.5}), accuracy_text({"value": 5.0, "std": 0.51})
    ('71.2 (70.0 to 72.5)', '5.0 ± 0.5')
    """
    if accuracy is None:
        return UNKNOWN
    text = f"{accuracy['value']:.1f}"
    if accuracy.get("low") is not None:
        return f"{text} ({accuracy['low']:.1f} to {accuracy['high']:.1f})"
    return text if accuracy.get("std") is None else f"{text} ± {accuracy['std']:.1f}"


def decision_html(decision: Mapping[str, Any]) -> str:
    """The page as text, from what `transfer decide --json` prints."""
    options = decision["options"]
    sections = []
    if any(one["accuracy"] and one["bytes"] for one in options):
        text = "Each point is one way to store the data. Fewer bytes at the same accuracy are better."
        sections.append(Section("Accuracy against bytes", text, [_chart(options)]))
    more: list[tuple[str, str, Sequence[str], Sequence[Sequence[str]]]] = [(
        "What is not known, and what finds it out",
        "Nothing is guessed: where no record has a number, the table above says so.",
        ("what", "command"),
        [(one["what"], one["command"]) for one in decision["unknown"]] or [("nothing", "-")],
    )]  # fmt: skip
    if decision["retention"]:
        rows = [
            (name, value, f"{count:,}")
            for name, counts in decision["retention"].items()
            for value, count in list(counts.items())[:20]
        ]
        more.append(("Terms of the images", decision["retention_of"], ("field", "value", "images"), rows))
    return curves_html(
        "what to store", decision["why"], sections, (HEADER, [cells_of(one) for one in options]),
        " ".join(decision["notes"]), decision["settings"], more=more,
    )  # fmt: skip


def _chart(options: Sequence[Mapping[str, Any]]) -> Chart:
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for one in options:
        if one["accuracy"] and one["bytes"]:
            groups.setdefault(one["group"], []).append(one)
    curves = []
    for name, found in groups.items():
        found = sorted(found, key=lambda one: one["bytes"])
        spread = [_half(one["accuracy"]) for one in found]
        curves.append(
            Curve(name, [one["bytes"] / 1e6 for one in found], [one["accuracy"]["value"] for one in found], spread)
        )
    return Chart("accuracy of each option", "stored MB", "accuracy %", curves)


def _half(accuracy: Mapping[str, Any]) -> float:
    if accuracy.get("low") is not None:
        return float(accuracy["high"] - accuracy["low"]) / 2
    return float(accuracy.get("std") or 0.0)
