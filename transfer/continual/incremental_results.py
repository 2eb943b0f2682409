"""Results of incremental learning: accuracy and forgetting of a run, means over seeds, differences to raw exemplars."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from prune.runs.files import atomic, note, write_json
from prune.runs.outputs import finish
from transfer.continual.exemplar_form import RAW
from transfer.continual.incremental_setting import HEADS, IncrementalRun, IncrementalSetting

_FORMS = ("raw", "compressed", "same-codec")


def seen_accuracies(matrix: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Accuracy over all classes seen so far, after each task, (t,) float64.

    Parameters
    ----------
    matrix : (t, t) float
        Row k, column j: accuracy on the test images of task j after learning task k; NaN above the diagonal.
    sizes : (t,) int
        Test images of each task.
    """
    sizes = np.asarray(sizes, np.float64)
    return np.array([(row[: k + 1] * sizes[: k + 1]).sum() / sizes[: k + 1].sum() for k, row in enumerate(matrix)])


def average_incremental_accuracy(accuracies: np.ndarray) -> float:
    """Mean of the accuracies after each task, the first included (iCaRL, section 4)."""
    return float(np.mean(accuracies))


def forgetting(matrix: np.ndarray) -> np.ndarray:
    """Forgetting after each task, (t,) float64: 0 after the first.

    Chaudhry, Dokania, Ajanthan and Torr, "Riemannian Walk for Incremental Learning", ECCV 2018, section 3: the mean
    over earlier tasks of the best accuracy that the task ever had before, minus its accuracy now. Negative when later
    tasks improve it.
    """
    found = np.zeros(len(matrix))
    for k in range(1, len(matrix)):
        found[k] = np.mean([matrix[j:k, j].max() - matrix[k, j] for j in range(k)])
    return found


def run_result(
    setting: IncrementalSetting,
    run: IncrementalRun,
    records: Sequence[Mapping[str, Any]],
    groups: Sequence[Sequence[str]],
) -> dict[str, Any]:
    """The content of one run's result.json, from its records (one per task, in order) and the classes of each task."""
    sizes = np.array(records[-1]["test_images"])
    heads = {}
    for head in HEADS:
        matrix = np.full((len(records), len(records)), np.nan)
        for k, record in enumerate(records):
            matrix[k, : k + 1] = record["accuracy"][head]
        seen = seen_accuracies(matrix, sizes)
        heads[head] = {
            "value": average_incremental_accuracy(seen),
            "accuracies": seen.tolist(),
            "forgetting": forgetting(matrix).tolist(),
            "matrix": [row[: k + 1].tolist() for k, row in enumerate(matrix)],
        }
    return {
        "task": "incremental",
        "metric": "average incremental accuracy",
        "form": run.form,
        "memory": run.memory,
        "seed": run.seed,
        "codec": None if run.form == RAW else setting.codec.name,
        "quality": records[-1]["quality"],
        "heads": heads,
        "records": [{k: v for k, v in r.items() if k not in ("accuracy", "test_images")} for r in records],
        "classes": [list(group) for group in groups],
        "test_images": sizes.tolist(),
        "n": int(sizes.sum()),
    }


def publish(
    out: Path, result: Mapping[str, Any], page: Callable[[Mapping[str, Any]], str], named: Callable[[Any], str]
) -> None:
    """Write OUT/result.json, report.html and DONE, and print the mean accuracy of each entry of the summary.

    Parameters
    ----------
    out : Path
    result : mapping
        Has "config" with the inputs' fingerprints, "cells" (one per run) and "summary".
    page : function
        Turns the result into HTML.
    named : function
        Names an entry of the summary.
    """
    write_json(out / "result.json", dict(result))
    with atomic(out / "report.html") as partial:
        partial.write_text(page(result), encoding="utf-8")
    config = result["config"]
    finish(out, runs=len(result["cells"]), inputs={k: config[k] for k in ("train", "test", "init")})
    for entry in result["summary"]:
        values = ", ".join(f"{head} {100 * one['mean']:.2f} %" for head, one in entry["heads"].items())
        note(f"{named(entry)}: {values}")


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


def summary(runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One entry for each memory size and form, over its seeds; larger memories first.

    Parameters
    ----------
    runs : sequence of mapping
        `run_result` of every run.

    Returns
    -------
    list of dict
        "memory", "form", "seeds", "quality", "exemplars" and byte counts after the last task (means), and "heads": for
        each head "mean", "std", "last" (accuracy after the last task), "forgetting" (likewise), "curve", "spread" (mean
        and standard deviation after each task), "difference" to raw exemplars of as many bytes, by seed (or None).
    """
    groups: dict[tuple[int, str], list[Mapping[str, Any]]] = {}
    for run in sorted(runs, key=lambda r: (-r["memory"], _FORMS.index(r["form"]), r["seed"])):
        groups.setdefault((run["memory"], run["form"]), []).append(run)
    return [_entry(group, groups.get((memory, "raw"))) for (memory, _), group in groups.items()]


def _entry(group: Sequence[Mapping[str, Any]], raw: Sequence[Mapping[str, Any]] | None) -> dict[str, Any]:
    first, last = group[0], [run["records"][-1] for run in group]
    entry: dict[str, Any] = {"memory": first["memory"], "form": first["form"], "seeds": len(group)}
    entry["quality"] = sorted({run["quality"] for run in group})
    for key in ("exemplars", "bytes", "pixel_bytes", "file_bytes", "equivalent"):
        entry[key] = float(np.mean([record[key] for record in last]))
    entry["held"] = np.mean([[record["bytes"] for record in run["records"]] for run in group], axis=0).tolist()
    entry["seen"] = [record["classes"] for record in first["records"]]
    entry["heads"] = {}
    for head in first["heads"]:
        runs = {run["seed"]: run["heads"][head] for run in group}
        others = {run["seed"]: run["heads"][head]["value"] for run in raw or []} if first["form"] != "raw" else {}
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
