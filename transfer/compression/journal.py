"""The journal of a compression, and what comes next: a pure function of the lines that are there.

RUN/journal.jsonl has one JSON line a step. Step 0 is the original; every later step was tried on top of the step `base`
and was accepted or rolled back. What is tried next depends on the lines alone, so a run that was killed goes on from
its journal, and a rollback by hand is one more line.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prune.runs.files import InputError, atomic

ACCEPTED, ROLLED_BACK = "accepted", "rolled-back"
SHRINKING = ("channels", "inner", "rewind")
"""Kinds of steps that take a ratio: channels everywhere, channels inside the blocks, single weights."""
KINDS = (*SHRINKING, "int8")

WEIGHTS, SPEC, INT8 = "model.safetensors", "model.json", "model.int8.onnx"
"""Files of a step's model directory; the last one where it was quantised."""

Line = dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """What the user wants.

    Attributes
    ----------
    kinds : tuple of str
        Tried in this order, each until it is refused at the smallest ratio or the size is reached.
    ratio : float
        Share of the channels (or weights) that a step removes at first.
    least : float
        Smallest ratio that is still tried.
    size : float
        Share of the original's parameters at which shrinking ends.
    steps : int
        Steps tried at most.
    """

    kinds: tuple[str, ...] = ("channels", "inner", "int8")
    ratio: float = 0.2
    least: float = 0.04
    size: float = 0.25
    steps: int = 30


@dataclass(frozen=True)
class Trial:
    """A step to try: its number, the step it builds on, its kind and, for those that shrink, the ratio."""

    step: int
    base: int
    kind: str
    ratio: float | None


def following(lines: Sequence[Line], plan: Plan) -> Trial | None:
    """What to try after these lines; None when nothing is left to try.

    A refused step is tried again with half its ratio, down to the least; then the next kind begins at the full ratio.
    A rollback by hand counts as a refusal. A kind that takes no ratio is tried once.
    """
    kind, ratio, base = 0, plan.ratio, 0
    for line in lines[1:]:
        by_hand = line["kind"] == "rollback"
        if by_hand or line["verdict"] == ACCEPTED:
            base = line["what"]["to"] if by_hand else line["step"]
        if not by_hand and line["kind"] not in SHRINKING:
            kind = plan.kinds.index(line["kind"]) + 1
        elif by_hand or line["verdict"] == ROLLED_BACK:
            ratio /= 2
            if ratio < plan.least:
                kind, ratio = kind + 1, plan.ratio
        # What an int8 step holds cannot be shrunk any more.
        if any(one["step"] == base and one["kind"] == "int8" for one in lines):
            return None
        if not by_hand and line["kind"] in plan.kinds:
            kind = max(kind, plan.kinds.index(line["kind"]))
    small = lines[base]["params"] <= plan.size * lines[0]["params"] * 1.005
    while kind < len(plan.kinds) and small and plan.kinds[kind] in SHRINKING:
        kind, ratio = kind + 1, plan.ratio
    if kind >= len(plan.kinds) or len(lines) > plan.steps:
        return None
    name = plan.kinds[kind]
    return Trial(len(lines), base, name, ratio if name in SHRINKING else None)


def current(lines: Sequence[Line]) -> int:
    """The step that stands after these lines."""
    base = 0
    for line in lines:
        if line["kind"] == "rollback":
            base = line["what"]["to"]
        elif line["verdict"] == ACCEPTED:
            base = line["step"]
    return base


def accepted(lines: Sequence[Line]) -> list[int]:
    """Steps that one can go back to."""
    return [line["step"] for line in lines if line["verdict"] == ACCEPTED and line["kind"] != "rollback"]


def read(run: Path) -> list[Line]:
    """Lines of a journal, in order; none where there is no journal.

    Raises
    ------
    InputError
        A damaged line, or lines that are not a journal's.
    """
    place = Path(run) / "journal.jsonl"
    if not place.is_file():
        return []
    lines: list[Line] = []
    for number, text in enumerate(place.read_text(encoding="utf-8", errors="replace").splitlines()):
        try:
            line = json.loads(text)
            sound = line["step"] == number and {"kind", "what", "params", "verdict", "files"} <= line.keys()
        except (ValueError, KeyError, TypeError, AttributeError):
            sound = False
        if not sound:
            raise InputError(f"{place}: line {number + 1} is damaged or not of a compression's journal")
        lines.append(line)
    return lines


def write(run: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    """Write the whole journal, or leave the old one."""
    with atomic(Path(run) / "journal.jsonl") as partial:
        partial.write_text("".join(json.dumps(line, allow_nan=False) + "\n" for line in lines), encoding="utf-8")


def place(run: Path, step: int) -> Path:
    """Model directory of an accepted step; step 0 is the original."""
    return Path(run) / ("original" if step == 0 else f"steps/{step:02d}")


def digests(directory: Path) -> dict[str, str]:
    """SHA-256 of the files of a step, 32 hexadecimal digits each."""
    found = {}
    for name in (WEIGHTS, SPEC, INT8):
        if (directory / name).is_file():
            with open(directory / name, "rb") as file:
                found[name] = hashlib.file_digest(file, "sha256").hexdigest()[:32]
    return found


def intact(run: Path, line: Line) -> Path:
    """Directory of an accepted step whose files are those that the guard accepted.

    Raises
    ------
    InputError
        A file is missing, or is not the one that the journal names.
    """
    directory = place(run, line["step"])
    found = digests(directory)
    for name, digest in line["files"].items():
        if name not in found:
            raise InputError(f"{directory / name}: no such file: step {line['step']} is not whole")
        if found[name] != digest:
            raise InputError(f"{directory / name}: damaged or replaced: it is not what the guard accepted")
    return directory
