"""One look of a deployment: the new images of the stage's share, counted, tested, decided, and what a rollback does.

`transfer watch --history` calls it. Everything that decides is in the history; files and models are only read here.
"""

from __future__ import annotations

import hashlib
import shlex
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from prune.runs.files import InputError
from prune.runs.run_lock import directory_lock
from transfer.compression import journal
from transfer.compression.acceptance import predicted_classes
from transfer.compression.preservation_versions import checksum_of
from transfer.compression.rolling_back import roll_back
from transfer.watching import comparison, watch_history
from transfer.watching.deployment_stages import (
    ALARM,
    ALL,
    PASSED,
    ROLLBACK,
    STAY,
    Rule,
    current_stage,
    decided,
    group_rows,
)
from transfer.watching.incoming_images import IncomingImages
from transfer.watching.sequential_test import log_threshold
from transfer.watching.side_by_side import Reference, open_predictor

LOST, APART = "lost answers", "disagreement"
"""What counts as an error, with and without labels; fixed by the first look."""
_WORDS = {
    "original": "another original",
    "compressed": "another compressed model",
    "reference": "another --reference or --index",
    "points": "another --allowed",
    "stages": "other --stages",
    "each": "another --each",
    "error": "another --error",
}


def model_digest(place: Path) -> str:
    """Identifies a model by its files: a directory, or an ONNX file; 32 hexadecimal digits."""
    if place.is_file():
        return checksum_of(place)
    found = journal.file_digests(place)
    return hashlib.sha256(" ".join(f"{name}={found[name]}" for name in sorted(found)).encode()).hexdigest()[:32]


def refuse_other(history: Path, head: Mapping[str, Any], made: Mapping[str, Any]) -> None:
    """Raise `InputError` when a history was begun with other models or settings; it names the first difference."""
    for name, words in _WORDS.items():
        if head["made"].get(name) != made[name]:
            pair = f"{head['made'].get(name)}, not {made[name]}"
            raise InputError(f"{history}: was begun with {words} ({pair}); give the same again, or another --history")


def begin(
    made: Mapping[str, Any],
    classes: Sequence[str],
    labelled: bool,
    reference: tuple[Reference, np.ndarray] | None,
    preserve: Mapping[str, Any] | None,
    least: int,
) -> dict[str, Any]:
    """The head of a history: what is compared, and which share of errors is allowed in each class and in all.

    Parameters
    ----------
    made : mapping
        Fingerprints of models and reference, and the settings that decide.
    classes : sequence of str
    labelled : bool
        Whether all images of the first look have labels.
    reference : (Reference, (m, c) float32), optional
        With the compressed model's logits: its share of errors there is allowed in addition.
    preserve : mapping, optional
        Version of the preservation set among the reference.
    least : int
        Classes with fewer images on the reference get the share of all.
    """
    limits, over_all = np.full(len(classes), made["points"] / 100), made["points"] / 100
    if reference is not None:
        known, theirs = predicted_classes(reference[0].logits), predicted_classes(reference[1])
        groups, wrong = comparison.counted_errors(known, theirs, reference[0].labels if labelled else None)
        limits += comparison.error_shares(groups, wrong, len(classes), least=least)
        over_all += float(wrong.mean()) if len(wrong) else 0.0
    allowed = {name: round(float(limit), 9) for name, limit in zip(classes, limits, strict=True)}
    return {
        "format": watch_history.FORMAT,
        "made": dict(made),
        "measure": LOST if labelled else APART,
        "stages": list(made["stages"]),
        "each": made["each"],
        "error": made["error"],
        "allowed": {ALL: round(over_all, 9), **{name: limit for name, limit in allowed.items() if name != ALL}},
        "preserve": None if preserve is None else dict(preserve),
    }


def counted(
    measure: str, classes: Sequence[str], first: np.ndarray, second: np.ndarray, labels: np.ndarray
) -> dict[str, list[int]]:
    """Images and errors of every class that has images, and of all.

    Parameters
    ----------
    measure : str
        `LOST` or `APART`; under the first one only images with a label count.
    first, second : (n,) int
        What the original and the compressed model predict.
    labels : (n,) int
        -1: unknown.
    """
    groups, wrong = comparison.counted_errors(first, second, labels if measure == LOST else None)
    images = np.bincount(groups, minlength=len(classes))
    errors = np.bincount(groups[wrong], minlength=len(classes))
    found = {name: [int(images[c]), int(errors[c])] for c, name in enumerate(classes) if images[c]}
    return {ALL: [len(groups), int(wrong.sum())], **found}


def look(
    rule: Rule,
    looks: Sequence[Mapping[str, Any]],
    digests: Sequence[int],
    counts: Mapping[str, Sequence[int]],
) -> dict[str, Any]:
    """The record of one look, with its decision; `digests` are those of the images that it counted."""
    return {
        "number": len(looks) + 1,
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "counts": {name: list(pair) for name, pair in counts.items()},
        "seen": [f"{one:016x}" for one in digests],
        **decided(rule, looks, counts),
        "rollback": None,
    }


def way_back(
    run: Path,
    new: IncomingImages,
    classes: Sequence[str],
    head: Mapping[str, Any],
    first: np.ndarray,
    alarms: Sequence[str],
    least: int,
) -> dict[str, Any]:
    """The newest earlier step that loses no more than allowed where the current one alarms; else the original.

    A step is trusted only where this look has at least `least` images of every group that alarms: of fewer, the
    original is the way back.
    """
    entries = journal.read_journal(run)
    current = journal.current_step(entries)
    step = entries[current].get("base", 0) if current else 0
    while step:
        model = open_predictor(journal.step_directory(run, step))
        second = predicted_classes(model.predict(new.images)[1])
        counts = counted(head["measure"], classes, first, second, new.labels)
        pairs = [counts.get(name, [0, 0]) for name in alarms]
        if all(n >= least and wrong <= head["allowed"][name] * n for name, (n, wrong) in zip(alarms, pairs)):
            break
        step = entries[step]["base"]
    command = shlex.join(["transfer", "rollback", "--run", str(run), "--to", str(step)])
    return {"from": current, "to": step, "command": command}


def carry_out(run: Path, last: Mapping[str, Any]) -> None:
    """Put the earlier step of a rollback in place, or find that it is: a watch may have been killed before.

    Raises
    ------
    InputError
        The run's model is neither that which alarmed nor that of the rollback.
    """
    back = last["rollback"]
    with directory_lock(run, None):
        current = journal.current_step(journal.read_journal(run))
        if current not in (back["from"], back["to"]):
            raise InputError(f"{run}: its model is that of step {current}; begin another --history for it")
        if current != back["to"]:
            roll_back(run, back["to"], f"by watch, look {last['number']}")


def rolled_back(last: Mapping[str, Any], number: int) -> dict[str, Any]:
    """The record of a rollback after an alarm."""
    kept = {name: last[name] for name in ("stage", "share", "alarms", "evidence", "rollback")}
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return {"number": number, "time": now, "counts": {}, "seen": [], **kept, "decision": ROLLBACK}


def report(
    head: Mapping[str, Any], looks: Sequence[Mapping[str, Any]], compared: int, known: int, wanted: int
) -> dict[str, Any]:
    """What `transfer watch --history` prints.

    A deployment without stages, whose looks are all "passed", stays until `wanted` images are compared.
    """
    rule = watch_history.rule_of(head)
    last = looks[-1] if looks else None
    ended = last is not None and last["decision"] in (ALARM, ROLLBACK)
    images = sum(one["counts"].get(ALL, (0, 0))[0] for one in looks)
    decision = last["decision"] if last else STAY
    if decision == PASSED and not rule.each and images < wanted:
        decision = STAY
    return {
        "look": len(looks),
        "images": images,
        "wanted": rule.each or wanted,
        "staged": bool(rule.each),
        "compared": compared,
        "compared_before": known,
        "measure": head["measure"],
        "decision": decision,
        "stage": (last["stage"] if last else 0) + 1,
        "stages": list(rule.shares),
        "next_share": 0.0 if ended else rule.shares[current_stage(looks)],
        "alarms": list(last["alarms"]) if last else [],
        "rollback": last["rollback"] if last else None,
        "preserve": head["preserve"],
        "threshold": round(log_threshold(rule.error, len(rule.allowed)), 6),
        "classes": group_rows(rule, looks),
    }
