"""What a study, a plan of bytes, or a run of `incremental` or `stream` offers to whoever decides on storage.

An option is one way to store the data: a mapping with "name", "images", "bytes", "accuracy" ("value", "low", "high" in
percent, or None), "verdict", "seconds" and "samples" of training (None where no record has them), of a study
"even_seconds" (see the function of that name), "decode_ms", "worth"
(share of the source's), and "less": what a tenth fewer bytes cost, in points of accuracy or percent of the worth. What
is not known is None, and `Unknown` names the command that finds it out.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from prune.byte_budget.allocation import values
from prune.byte_budget.budget_inputs import Curves
from prune.byte_budget.budget_policy import StorageOptions, allocate_by_policy
from prune.index.pruned_index import PrunedIndex
from prune.runs.files import InputError
from transfer.pages.reproduce import study_command
from transfer.verdicts.controls import CONTROLS

Option = dict[str, Any]
TENTH = 0.9
"""A tenth less."""


class Unknown(NamedTuple):
    """Something that no record has, and the command that finds it out."""

    what: str
    command: str


def option(name: str, group: str, **known: Any) -> Option:
    """An option of which only `known` is known."""
    empty: Option = dict.fromkeys(
        ("images", "bytes", "accuracy", "verdict", "seconds", "samples", "decode_ms", "worth", "less")
    )
    return {"name": name, "group": group, **empty, **known}


def study_options(
    analysis: Mapping[str, Any],
    results: Mapping[str, Any],
    indices: Mapping[tuple[str, float], PrunedIndex],
    study: Path,
) -> tuple[list[Option], list[Unknown]]:
    """The conditions of a study but for its controls of equal compute; bytes are those of the indices that still exist.

    Parameters
    ----------
    analysis : mapping
        From `analyse`.
    results : mapping
        From `load_results`.
    indices : mapping of (method, keep) to PrunedIndex
    study : Path
        Its directory, for commands.
    """
    evaluation = analysis["evaluations"][0]
    rows = [row for row in analysis["rows"] if row["evaluation"] == evaluation]
    rows = [row for row in rows if row["target"] == rows[0]["target"]]
    rows = [row for row in rows if row["method"] not in CONTROLS or row["method"] in ("full", "random")]
    costs = {(row["method"], row["keep"]): row for row in analysis["ledger"]["rows"]}
    speed = seconds_per_flop([analysis["ledger"]["full"], *(one["pretraining"] for one in costs.values())])
    any_index = next(iter(indices.values()), None)
    found, unknown = [], []
    for row in rows:
        key = (row["method"], row["keep"])
        whole = row["method"] == "full"
        cost = {"pretraining": analysis["ledger"]["full"]} if whole else costs.get(key, {})
        training, once = cost.get("pretraining"), cost.get("preparation") or {}
        size = any_index.source_nbytes if whole and any_index else None
        count = any_index.source_samples if whole and any_index else None
        index = indices.get(key)
        found.append(
            option(
                "all data" if whole else f"{row['method']} at keep {row['keep']:g}",
                "all data" if whole else row["method"],
                keep=row["keep"],
                images=count if index is None else len(index),
                bytes=size if index is None else int(index.nbytes.sum(dtype="i8")),
                accuracy={"value": row["mean"], "low": row["low"], "high": row["high"]},
                verdict=row["verdict"],
                seconds=training and training["seconds"] + once.get("seconds", 0.0),
                even_seconds=even_seconds(training, once, speed),
                training_ms=training and training["samples"] and 1e3 * training["seconds"] / training["samples"],
                samples=training and training["samples"],
                flops=(training and training["flops"] + once.get("flops", 0.0)) or None,
                seeds=len(row["seeds"]),
                less=_less_by_keep(rows, row),
            )
        )
    curves = (
        "prune curves SOURCE.beton --model SURROGATE --out curves.npz, then transfer decide INDEX --curves curves.npz"
    )
    unknown.append(Unknown("worth of what a part keeps", curves))
    if gone := [one["name"] for one in found if one["bytes"] is None]:
        unknown.append(Unknown(f"bytes of {', '.join(gone)}", "the study's own command, which makes its indices again"))
    if lost := sorted({row["keep"] for row in rows if _less_by_keep(rows, row) is None and row["method"] != "full"}):
        keeps = [*analysis["keeps"], *(round(TENTH * keep, 6) for keep in lost)]
        keeps = [keep for keep in dict.fromkeys(keeps) if keep < 1]
        command = study_command({**(results.get("config") or {}), "keeps": keeps, "ladder": None})
        command = command or f"transfer study ... --keeps {' '.join(f'{keep:g}' for keep in keeps)}"
        names = " and ".join(f"{keep:g}" for keep in lost)
        unknown.append(Unknown(f"a tenth less than keep {names}", f"cd {shlex.quote(str(study))} && {command}"))
    return found, unknown


def seconds_per_flop(trainings: Iterable[Mapping[str, float] | None]) -> float | None:
    """Mean seconds that a FLOP took in all trainings of one network; None where none has FLOPs.

    >>> seconds_per_flop([{"seconds": 20.0, "flops": 10.0}, {"seconds": 10.0, "flops": 2.0}, None])
    2.5
    """
    known = [one for one in trainings if one and one["flops"] > 0]
    return sum(one["seconds"] for one in known) / sum(one["flops"] for one in known) if known else None


def even_seconds(training: Mapping[str, float] | None, once: Mapping[str, float], speed: float | None) -> float | None:
    """Seconds of a training at the mean speed of all, by its FLOPs, and of its preparation as measured.

    All trainings of a study are of one network, so that their FLOPs compare what they cost, whatever else the machine
    did during one of them. Preparations work without a network, too, which FLOPs do not count. None without FLOPs.

    >>> even_seconds({"flops": 2.0}, {"seconds": 3.0}, 2.5)
    8.0
    """
    if not training or not training["flops"] or speed is None:
        return None
    return training["flops"] * speed + once.get("seconds", 0.0)


def _less_by_keep(rows: Sequence[Mapping[str, Any]], row: Mapping[str, Any]) -> dict[str, Any] | None:
    """Points of accuracy that a tenth less of the keep costs, between the measured keeps of the method, in logarithms.

    All data belong to every method, as keep 1; for all data themselves the random part counts.
    """
    method = "random" if row["method"] == "full" else row["method"]
    points = {one["keep"]: one["mean"] for one in rows if one["method"] in (method, "full")}
    wanted = TENTH * row["keep"]
    if len(points) < 2 or wanted < min(points) * (1 - 1e-9):
        return None
    keeps = sorted(points)
    there = float(np.interp(math.log(wanted), [math.log(k) for k in keeps], [points[k] for k in keeps]))
    return {"points": there - row["mean"]}


def plan_options(
    index: PrunedIndex, curves: Curves | None, names: Mapping[str, str]
) -> tuple[list[Option], list[Unknown]]:
    """An index, with planned qualities or not, beside its whole source.

    Parameters
    ----------
    index : PrunedIndex
    curves : Curves, optional
        Of its source: they tell worth and what a tenth less costs.
    names : mapping of str to str
        "index", "source" and "model" as typed, for commands.
    """
    worth, less = (None, None) if curves is None else plan_worth(index, curves)
    found = [
        option("the whole source", "source", images=index.source_samples, bytes=index.source_nbytes,
               worth=None if curves is None else 1.0),
        option("the plan", "plan", images=len(index), bytes=int(index.nbytes.sum(dtype="i8")), worth=worth,
               less=None if less is None else {"worth": less}),
    ]  # fmt: skip
    quoted = {key: shlex.quote(text) for key, text in names.items()}
    unknown = []
    if curves is None:
        command = (
            f"prune curves {quoted['source']} --model {quoted['model']} --out curves.npz, then "
            f"transfer decide {quoted['index']} --curves curves.npz"
        )
        unknown.append(Unknown("worth, and what a tenth less costs", command))
    return found, unknown


def plan_worth(index: PrunedIndex, curves: Curves) -> tuple[float, float]:
    """Share of the source's worth that a plan keeps, and of that the share that a tenth fewer bytes lose.

    The worth of an image at a level is 1 - FMSE / mean FMSE of dropping it, as `prune budget` counts it; with a tenth
    less, the same samples are allocated anew on all levels that are no finer than the planned one.
    """
    rows = index.positions
    column = {int(level): k for k, level in enumerate(curves.level.tolist())}
    if other := sorted(set(np.unique(index.quality).tolist()) - set(column)):
        raise InputError(
            f"--curves: measured no quality {other[0]}, which the index plans; give those it was planned with"
        )
    at = np.array([column[int(level)] for level in index.quality])
    dropped = np.asarray(curves.dropped, np.float32).mean(keepdims=True)
    value = values(curves.fmse[rows], dropped).astype(np.float64)
    sizes = np.array(curves.nbytes[rows], np.int64)
    each = np.arange(len(rows))
    now = value[each, at]
    coarser = sizes <= sizes[each, at][:, None]
    value, sizes = np.where(coarser, value, now[:, None]), np.where(coarser, sizes, sizes[each, at][:, None])
    options = StorageOptions(curves.level, sizes, value, index.labels, None, each)
    fewer, _ = allocate_by_policy(options, int(TENTH * sizes[each, at].sum()), "adaptive")
    total = float(now.sum())
    return total / index.source_samples, 1.0 - fewer.value / total if total else 0.0


def run_options(result: Mapping[str, Any], place: Path) -> tuple[list[Option], list[Unknown]]:
    """Policies of `transfer stream`, or forms and memories of `transfer incremental`, from result.json."""
    stream, found = result.get("task") == "stream", []
    for entry in result["summary"]:
        head, best = max(entry["heads"].items(), key=lambda one: one[1]["mean"])
        std = None if best["std"] is None else 100 * best["std"]
        name = entry["policy"] if stream else f"{entry['form']}, {entry['memory']:,} bytes"
        held = entry["held"] if stream else entry["exemplars"]
        size = entry["peak"] if stream else round(entry["bytes"])
        accuracy = {"value": 100 * best["mean"], "std": std, "head": head}
        found.append(
            option(name, entry["policy"] if stream else entry["form"], images=round(held), bytes=int(size),
                   accuracy=accuracy, memory=entry.get("memory"))
        )  # fmt: skip
    if not stream:
        for one in found:
            one["less"] = _less_by_memory(found, one)
    task = "stream" if stream else "incremental"
    memory = result["config"].get("memory") if stream else min(one["memory"] for one in found)
    again = shlex.quote(f"{place}-2")
    unknown = [Unknown("time, money and energy of the training", f"time transfer {task} ... --out {again}")]
    if stream or any(one["less"] is None for one in found):
        fewer = int(TENTH * int(memory))
        command = f"transfer {task} ... --memory {fewer} --out {shlex.quote(f'{place}-{fewer}')}"
        unknown.append(Unknown("what a tenth less memory costs", command))
    unknown.append(Unknown("decoding time", "prune codecs BETON --model MODEL"))
    return found, unknown


def _less_by_memory(options: Sequence[Option], one: Option) -> dict[str, Any] | None:
    points = {o["memory"]: o["accuracy"]["value"] for o in options if o["group"] == one["group"]}
    wanted = TENTH * one["memory"]
    if wanted < min(points):
        return None
    sizes = sorted(points)
    there = float(np.interp(math.log(wanted), [math.log(m) for m in sizes], [points[m] for m in sizes]))
    return {"points": there - points[one["memory"]]}


def chosen_of(kind: str, options: Sequence[Option], margin: float | None) -> tuple[str | None, str]:
    """The option to take, and why in one sentence; None where the records do not decide.

    Of a study: of the parts that hold the one with the fewest bytes, else all data. Of a run: the most accurate.
    """
    if kind == "plan":
        plan, source = options[1], options[0]
        share = 100 * plan["bytes"] / source["bytes"]
        worth = "" if plan["worth"] is None else f" and keeps {100 * plan['worth']:.1f} % of its worth"
        known = plan["accuracy"]
        accuracy = "its accuracy is not measured" if known is None else f"its accuracy is {known['value']:.1f} %"
        return None, f"The plan stores {share:.1f} % of the source's bytes{worth}; {accuracy}."
    if kind != "study":
        best = max(options, key=lambda one: (one["accuracy"]["value"], -one["bytes"]))
        value = best["accuracy"]["value"]
        return best["name"], f"{best['name']} is the most accurate of what ran, {value:.1f} %."
    holding = [one for one in options if one["verdict"] == "holds"]
    by = "bytes" if all(one["bytes"] is not None for one in holding) else "keep"
    whole = next((one for one in options if one["group"] == "all data"), None)
    if not holding:
        tried = sum(one["group"] != "all data" for one in options)
        why = f"No part is shown to hold within {margin:g} points of all data ({tried} tried): keep all data."
        if any(one["verdict"] == "undecided" and one.get("seeds", 2) < 2 for one in options):
            why = (
                f"Undecided: one seed is too few for a verdict ({tried} tried, {margin:g} points allowed). Keep all "
                "data until more seeds decide: the study's own command with more --seeds."
            )
        return (whole["name"] if whole else None), why
    best = min(holding, key=lambda one: (one[by], one.get("even_seconds") or one["seconds"] or 0.0))
    fewest = "the fewest bytes" if by == "bytes" else "the smallest keep"
    among = f"of {len(holding)} parts that hold the one with {fewest}" if len(holding) > 1 else "it alone holds"
    saved = ""
    if whole and whole["bytes"] and best["bytes"]:
        saved = f", and stores {100 * (1 - best['bytes'] / whole['bytes']):.0f} % fewer bytes"
    return best["name"], f"Take {best['name']}: {among}, within {margin:g} points of all data{saved}."
