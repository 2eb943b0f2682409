"""The page of `transfer stream`: accuracy and memory in bytes as samples arrive, and the memory at the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from transfer.continual.incremental_results import paired
from transfer.pages import curves_page
from transfer.pages.curves_page import Chart, Curve, Section
from transfer.pages.incremental_page import difference_text

_POLICIES = ("raw", "uniform", "adaptive")
_HEADS = {"nearest-mean": "nearest mean of the stored samples", "linear": "linear head"}
HEADER = ("policy", "mean accuracy %, nearest mean", "against raw", "mean accuracy %, linear", "against raw",
          "stored at the end", "by quality step", "most bytes ever stored", "seeds")  # fmt: skip


def stream_summary(cells: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One entry per policy, over its seeds.

    Returns
    -------
    list of dict
        "policy", "seeds", "peak" (the largest), "held", "rungs" (at the end, means), "arrived", "bytes" (mean curve),
        and "heads": "mean", "std", "curve", "spread", "difference" to raw by seed (or None).
    """
    found = []
    for policy in _POLICIES:
        group = {cell["seed"]: cell for cell in cells if cell["policy"] == policy}
        raw = {cell["seed"]: cell for cell in cells if cell["policy"] == "raw" != policy}
        if not group:
            continue
        shared = [seed for seed in group if seed in raw]
        ends = [cell["records"][-1] for cell in group.values()]
        entry: dict[str, Any] = {"policy": policy, "seeds": len(group), "heads": {}}
        entry["peak"] = max(cell["peak"] for cell in group.values())
        entry["held"] = float(np.mean([end["held"] for end in ends]))
        entry["rungs"] = np.mean([end["rungs"] for end in ends], axis=0).tolist()
        entry["arrived"] = [record["arrived"] for record in next(iter(group.values()))["records"]]
        entry["bytes"] = np.mean([[r["bytes"] for r in cell["records"]] for cell in group.values()], axis=0).tolist()
        for head in _HEADS:
            curves = np.array([[r[head] for r in cell["records"]] for cell in group.values()])
            values = {seed: cell["heads"][head]["value"] for seed, cell in group.items()}
            others = [raw[seed]["heads"][head]["value"] for seed in shared]
            entry["heads"][head] = {
                "mean": float(np.mean(list(values.values()))),
                "std": float(np.std(list(values.values()), ddof=1)) if len(values) > 1 else None,
                "curve": curves.mean(axis=0).tolist(),
                "spread": (curves.std(axis=0, ddof=1) if len(curves) > 1 else 0 * curves[0]).tolist(),
                "difference": paired([values[seed] for seed in shared], others) if shared else None,
            }
        found.append(entry)
    return found


def stream_html(result: Mapping[str, Any]) -> str:
    """The page as text, from result.json."""
    entries = result["summary"]
    accuracy = [
        Chart(
            words,
            "samples seen",
            "accuracy %",
            [
                Curve(e["policy"], e["arrived"], *([100 * v for v in e["heads"][head][k]] for k in ("curve", "spread")))
                for e in entries
            ],
        )
        for head, words in _HEADS.items()
    ]
    held = [
        Curve(e["policy"], e["arrived"], [b / 1000 for b in e["bytes"]], [0.0] * len(e["arrived"])) for e in entries
    ]
    sections = [
        Section("Accuracy on the classes so far", "Bars are one standard deviation over seeds.", accuracy),
        Section(
            "Memory",
            f"The memory never exceeds its budget, {_budgets(result)}, not even between rounds.",
            [Chart("After each round", "samples seen", "kB stored", held)],
        ),
    ]
    best = max(entries, key=lambda e: max(head["mean"] for head in e["heads"].values()))
    value = 100 * max(head["mean"] for head in best["heads"].values())
    line = f"Best mean accuracy over the stream: {best['policy']}, {value:.1f} %."
    note = (
        "Mean accuracy is the mean over all rounds of the accuracy on the classes so far. Differences are paired by "
        "seed, with 95 % intervals. By quality step: how many samples are stored at each quality, the best first."
    )
    return curves_page.curves_html(
        "stream", line, sections, (HEADER, [policy_texts(e) for e in entries]), note, result["config"]
    )


def _budgets(result: Mapping[str, Any]) -> str:
    """The budget in words: it may have changed."""
    sizes = {r.get("budget") for cell in result.get("cells", ()) for r in cell["records"]} - {None}
    first = result["config"]["memory"]
    if sizes <= {first}:
        return f"{first:,} bytes"
    return f"which changed between {min(sizes):,} and {max(sizes):,} bytes, at any moment"


def policy_texts(entry: Mapping[str, Any]) -> list[str]:
    """Texts of one policy for the columns of `HEADER`."""
    cells = [entry["policy"]]
    for head in _HEADS:
        one = entry["heads"][head]
        cells.append(f"{100 * one['mean']:.1f}" + ("" if one["std"] is None else f" ± {100 * one['std']:.1f}"))
        cells.append(difference_text(one["difference"]))
    rungs = " / ".join(f"{count:,.0f}" for count in entry["rungs"])
    return [*cells, f"{entry['held']:,.0f}", rungs, f"{entry['peak']:,}", str(entry["seeds"])]
