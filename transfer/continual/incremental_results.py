"""Runs of incremental learning brought together: means over seeds, and differences to raw exemplars."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from prune.runs.files import atomic, note, write_json
from prune.runs.run_directory import finish


def publish(
    out: Path, result: Mapping[str, Any], page: Callable[[Mapping[str, Any]], str], named: Callable[[Any], str]
) -> None:
    """Write OUT/result.json, report.html and DONE, and say the mean accuracy of each line of the summary.

    Parameters
    ----------
    out : Path
    result : dict
        Holds "config" with the inputs' fingerprints, "cells" and "summary".
    page : function
        The result to HTML.
    named : function
        A line of the summary to what it is about.
    """
    write_json(out / "result.json", dict(result))
    with atomic(out / "report.html") as partial:
        partial.write_text(page(result), encoding="utf-8")
    config = result["config"]
    finish(out, runs=len(result["cells"]), inputs={k: config[k] for k in ("train", "test", "init")})
    for line in result["summary"]:
        values = ", ".join(f"{head} {100 * one['mean']:.2f} %" for head, one in line["heads"].items())
        note(f"{named(line)}: {values}")


def paired(values: Sequence[float], reference: Sequence[float]) -> dict[str, float | int | None]:
    """Mean difference of paired values with its 95 % interval by Student's t; no interval from one pair.

    Examples
    --------
    >>> paired([3.0, 5.0], [1.0, 1.0])["value"]
    3.0
    """
    from scipy.stats import t

    gap = np.asarray(values, float) - np.asarray(reference, float)
    value, n = float(gap.mean()), len(gap)
    if n < 2:
        return {"value": value, "low": None, "high": None, "n": n}
    half = float(t.ppf(0.975, n - 1) * gap.std(ddof=1) / np.sqrt(n))
    return {"value": value, "low": value - half, "high": value + half, "n": n}


def summary(cells: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One entry for each memory size and form, over its seeds; larger memories first, then the forms as they came.

    Returns
    -------
    list of dict
        "memory", "form", "seeds", "quality", "exemplars" and byte counts after the last task (means), and "heads": for
        each head "mean", "std", "last" (accuracy after the last task), "forgetting" (likewise), "curve", "spread" (mean
        and standard deviation after each task), "difference" to raw exemplars of as many bytes, by seed (or None).
    """
    groups: dict[tuple[int, str], list[Mapping[str, Any]]] = {}
    for cell in sorted(cells, key=lambda c: (-c["memory"], _FORMS.index(c["form"]), c["seed"])):
        groups.setdefault((cell["memory"], cell["form"]), []).append(cell)
    return [_entry(group, groups.get((memory, "raw"))) for (memory, _), group in groups.items()]


_FORMS = ("raw", "compressed", "same-codec")


def _entry(group: Sequence[Mapping[str, Any]], raw: Sequence[Mapping[str, Any]] | None) -> dict[str, Any]:
    first, last = group[0], [cell["records"][-1] for cell in group]
    entry: dict[str, Any] = {"memory": first["memory"], "form": first["form"], "seeds": len(group)}
    entry["quality"] = sorted({cell["quality"] for cell in group})
    for key in ("exemplars", "bytes", "pixel_bytes", "file_bytes", "equivalent"):
        entry[key] = float(np.mean([record[key] for record in last]))
    entry["held"] = np.mean([[record["bytes"] for record in cell["records"]] for cell in group], axis=0).tolist()
    entry["seen"] = [record["classes"] for record in first["records"]]
    entry["heads"] = {}
    for head in first["heads"]:
        runs = {cell["seed"]: cell["heads"][head] for cell in group}
        others = {cell["seed"]: cell["heads"][head]["value"] for cell in raw or []} if first["form"] != "raw" else {}
        values = [run["value"] for run in runs.values()]
        curves = np.array([run["accuracies"] for run in runs.values()])
        shared = [seed for seed in runs if seed in others]
        entry["heads"][head] = {
            "mean": float(np.mean(values)),
            "std": float(np.std(values, ddof=1)) if len(values) > 1 else None,
            "last": float(curves[:, -1].mean()),
            "forgetting": float(np.mean([run["forgetting"][-1] for run in runs.values()])),
            "curve": curves.mean(axis=0).tolist(),
            "spread": (curves.std(axis=0, ddof=1) if len(values) > 1 else np.zeros(curves.shape[1])).tolist(),
            "difference": paired([runs[s]["value"] for s in shared], [others[s] for s in shared]) if shared else None,
        }
    return entry
