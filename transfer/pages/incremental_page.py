"""The page of `transfer incremental`: accuracy, memory in bytes and forgetting after each task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from transfer.pages import curves_page
from transfer.pages.curves_page import Chart, Curve, Section

_HEADS = {"nearest-mean": "nearest mean of exemplars", "linear": "linear head"}
HEADER = (
    "form and memory",
    "average incremental accuracy %, nearest mean",
    "against raw",
    "average incremental accuracy %, linear",
    "against raw",
    "accuracy at the end %, nearest mean",
    "forgetting, nearest mean",
    "exemplars",
    "bytes",
    "bytes of pixels",
    "bytes as whole files",
    "quality",
    "seeds",
)


def incremental_html(result: Mapping[str, Any]) -> str:
    """The page as text, from the content of result.json."""
    entries = result["summary"]
    memories = list(dict.fromkeys(entry["memory"] for entry in entries))
    accuracy = [
        Chart(f"{memory:,} bytes, {_HEADS[head]}", "classes seen", "accuracy %", _curves(entries, memory, head))
        for memory in memories
        for head in _HEADS
    ]
    held = [
        Chart(
            f"{memory:,} bytes",
            "classes seen",
            "kB in memory",
            [
                Curve(e["form"], e["seen"], [b / 1000 for b in e["held"]], [0.0] * len(e["held"]))
                for e in entries
                if e["memory"] == memory
            ],
        )
        for memory in memories
    ]
    sections = [
        Section(
            "Accuracy over all classes so far",
            "After each task, on the test images of every class seen. Bars are one standard deviation over seeds.",
            accuracy,
        ),
        Section("Memory", "Bytes in the memory after each task; never more than its budget.", held),
    ]
    note = (
        "Average incremental accuracy is the mean of the accuracies after each task. Forgetting is the mean, over "
        "earlier tasks, of the best accuracy minus the last one. Differences are paired by seed, with 95 % intervals. "
        "“Bytes” counts shared JPEG headers once, “bytes of pixels” counts no headers, and “bytes as whole files” "
        "counts a header for every exemplar."
    )
    table = (HEADER, [entry_texts(entry) for entry in entries])
    return curves_page.curves_html(
        "incremental learning", best_sentence(entries), sections, table, note, result["config"]
    )


def best_sentence(entries: Sequence[Mapping[str, Any]]) -> str:
    """The best form of each memory size, in one sentence."""
    found = []
    for memory in dict.fromkeys(entry["memory"] for entry in entries):
        ends = [
            (head["mean"], entry["form"], _HEADS[name])
            for entry in entries
            if entry["memory"] == memory
            for name, head in entry["heads"].items()
        ]
        value, form, head = max(ends)
        found.append(f"{memory:,} bytes: {form} exemplars and {head}, {100 * value:.1f} %")
    return "Best average incremental accuracy. " + "; ".join(found) + "."


def entry_texts(entry: Mapping[str, Any]) -> list[str]:
    """Texts of one form and memory size for the columns of `HEADER`."""
    near, linear = entry["heads"]["nearest-mean"], entry["heads"]["linear"]
    return [
        f"{entry['form']}, {entry['memory']:,} bytes",
        _spread(near),
        difference_text(near["difference"]),
        _spread(linear),
        difference_text(linear["difference"]),
        f"{100 * near['last']:.1f}",
        f"{100 * near['forgetting']:.1f}",
        *(f"{entry[key]:,.0f}" for key in ("exemplars", "bytes", "pixel_bytes", "file_bytes")),
        "" if entry["form"] == "raw" else ", ".join(map(str, entry["quality"])),
        str(entry["seeds"]),
    ]


def difference_text(one: Mapping[str, Any] | None) -> str:
    """`+4.1 [+3.0, +5.2]` in points; empty where there is nothing to compare with."""
    if one is None:
        return ""
    interval = "" if one["low"] is None else f" [{100 * one['low']:+z.1f}, {100 * one['high']:+z.1f}]"
    return f"{100 * one['value']:+z.1f}{interval}"


def _spread(head: Mapping[str, Any]) -> str:
    return f"{100 * head['mean']:.1f}" + ("" if head["std"] is None else f" ± {100 * head['std']:.1f}")


def _curves(entries: Sequence[Mapping[str, Any]], memory: int, head: str) -> list[Curve]:
    return [
        Curve(
            entry["form"],
            entry["seen"],
            [100 * value for value in entry["heads"][head]["curve"]],
            [100 * value for value in entry["heads"][head]["spread"]],
        )
        for entry in entries
        if entry["memory"] == memory
    ]
