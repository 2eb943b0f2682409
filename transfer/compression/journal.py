"""The compression journal: one entry per tried step; the next trial is a pure function of the entries.

RUN/journal.jsonl has one JSON line per entry. Step 0 is the original; every later step was tried on top of the step
`base` and was accepted or rolled back. What is tried next depends on the entries alone: a killed run resumes from its
journal, and a rollback by hand is one more entry.
"""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prune.runs.files import InputError, atomic, read_json
from transfer.compression import removed_parts

ACCEPTED, ROLLED_BACK = "accepted", "rolled-back"
SHRINKING = ("channels", "inner", "rewind", "both", "heads")
"""Kinds of steps that remove a ratio: channels everywhere (of a language model: in its MLPs), channels inside the
blocks, single weights; of a language model also heads and channels, and heads alone."""
QUANTISING = ("int8", "int4")
KINDS = (*SHRINKING, *QUANTISING)

WEIGHTS, SPEC, INT8, INT4 = "model.safetensors", "model.json", "model.int8.onnx", "model.int4.onnx"
"""Files of a step's model directory; the last two exist where the step was quantised."""
_FILES = (WEIGHTS, INT8, INT4, SPEC)

Entry = dict[str, Any]


@dataclass(frozen=True)
class CompressionPlan:
    """Which steps to try, and where to end.

    Attributes
    ----------
    kinds : tuple of str
        Tried in this order, each until it is rejected at the smallest ratio or the size is reached.
    ratio : float
        Share of the channels (or weights) that a step removes at first.
    least : float
        Smallest ratio that is tried.
    size : float
        Share of the original's parameters at which shrinking ends.
    steps : int
        Largest number of steps tried; see `tried`.
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

    def __str__(self) -> str:
        return f"step {self.step} {self.kind}" + (f" {self.ratio:.3g}" if self.ratio else "")


def next_trial(entries: Sequence[Entry], plan: CompressionPlan) -> Trial | None:
    """Find the step to try after these entries; None when the compression is done.

    A rejected step is tried again with half its ratio, down to the smallest; then the next kind starts at the full
    ratio. A rollback by hand counts as a rejection. A kind without a ratio is tried once.
    """
    kind, ratio, base = 0, plan.ratio, 0
    if other := {entry["kind"] for entry in entries} - {"original", "rollback", *plan.kinds}:
        raise InputError(f"the journal has a step of the kind {min(other)!r}, which is not among the run's kinds")
    for entry in entries[1:]:
        by_hand = entry["kind"] == "rollback"
        if by_hand or entry["verdict"] == ACCEPTED:
            base = entry["what"]["to"] if by_hand else entry["step"]
        if not by_hand and entry["kind"] not in SHRINKING:
            kind = plan.kinds.index(entry["kind"]) + 1
        elif by_hand or entry["verdict"] == ROLLED_BACK:
            ratio /= 2
            if ratio < plan.least:
                kind, ratio = kind + 1, plan.ratio
        if not by_hand and entry["kind"] in plan.kinds:
            kind = max(kind, plan.kinds.index(entry["kind"]))
        # A quantised network cannot be shrunk any more; fewer bits may follow.
        quantised = [one["kind"] for one in entries if one["step"] == base and one["kind"] in QUANTISING]
        kind = max([kind, *(plan.kinds.index(name) + 1 for name in quantised)])
    small = _is_small(entries, base, plan)
    while kind < len(plan.kinds) and small and plan.kinds[kind] in SHRINKING:
        kind, ratio = kind + 1, plan.ratio
    if kind >= len(plan.kinds) or tried(entries) >= plan.steps:
        return None
    name = plan.kinds[kind]
    return Trial(len(entries), base, name, ratio if name in SHRINKING else None)


def tried(entries: Sequence[Entry]) -> int:
    """How many steps count towards the largest number: not the original, nor an entry with "counted": false.

    That mark is on attempts that found nothing to remove and on rollbacks by hand. Journals of older versions do not
    have it; there both count, so that such a run resumes as it would have.
    """
    return sum(entry.get("counted", True) for entry in entries[1:])


def removed_nothing(what: Mapping[str, Any]) -> bool:
    """Whether a shrinking step, of which an entry's "what" says this, found nothing that it may remove."""
    return what.get("removed") == []


def uncounted(so: bool) -> dict[str, bool]:
    """What an entry has in addition where it does not count; see `tried`."""
    return {"counted": False} if so else {}


def _is_small(entries: Sequence[Entry], step: int, plan: CompressionPlan) -> bool:
    """Whether a step has the size at which shrinking ends, to within half a percent of it."""
    return bool(entries[step]["params"] <= plan.size * entries[0]["params"] * 1.005)


def current_step(entries: Sequence[Entry]) -> int:
    """The step whose model is the run's own after these entries."""
    base = 0
    for entry in entries:
        if entry["kind"] == "rollback":
            base = entry["what"]["to"]
        elif entry["verdict"] == ACCEPTED:
            base = entry["step"]
    return base


def kept_steps(entries: Sequence[Entry]) -> list[Entry]:
    """The original and the accepted steps that the run's current model consists of, each built on the one before."""
    found, step = [], current_step(entries)
    while step:
        found.append(entries[step])
        step = entries[step]["base"]
    return [entries[0], *reversed(found)]


def undone_steps(entries: Sequence[Entry]) -> dict[int, int]:
    """Accepted steps that the current model does not contain, each with the rollback that took it out."""
    found: dict[int, int] = {}
    for at, entry in enumerate(entries):
        if entry["kind"] == "rollback":
            before, after = ({one["step"] for one in kept_steps(entries[: at + more])} for more in (0, 1))
            found |= dict.fromkeys(before - after, at)
            found = {step: by for step, by in found.items() if step not in after}
    return dict(sorted(found.items()))


def accepted_steps(entries: Sequence[Entry]) -> list[int]:
    """Steps that a rollback can go to."""
    return [entry["step"] for entry in entries if entry["verdict"] == ACCEPTED and entry["kind"] != "rollback"]


def read_journal(run: Path) -> list[Entry]:
    """Entries of a journal, in order; none where there is no journal.

    Raises
    ------
    InputError
        A line is damaged, or is not an entry of a compression journal.
    """
    place = Path(run) / "journal.jsonl"
    if not place.is_file():
        return []
    entries: list[Entry] = []
    for number, text in enumerate(place.read_text(encoding="utf-8", errors="replace").splitlines()):
        try:
            entry = json.loads(text)
            sound = is_entry(entry) and entry["step"] == number
        except (ValueError, RecursionError):
            sound = False
        if not sound:
            raise InputError(f"{place}: line {number + 1} is damaged or not of a compression journal")
        entries.append(entry)
    return entries


def need_journal(run: Path, flag: str = "") -> list[Entry]:
    """Entries of a journal, at least one.

    Parameters
    ----------
    run : Path
    flag : str
        Stands before the path in messages, such as "--run ".

    Raises
    ------
    InputError
        As of `read_journal`; or a run that has no step yet, or another directory.
    """
    if entries := read_journal(run):
        return entries
    settings = read_json(run / "config.json") if (run / "config.json").is_file() else None
    if isinstance(settings, dict) and {"kinds", "least", "steps"} <= set(settings):
        raise InputError(
            f"{flag}{run}: no step yet: the compression has not come to its first one; where it was stopped, the same "
            "command resumes it"
        )
    raise InputError(f"{flag}{run}: no journal.jsonl there: not a run of `transfer compress`")


def is_entry(entry: Any) -> bool:
    """Whether this is an entry that a run writes, and not a damaged one."""
    try:
        return _is_sound(entry)
    except (KeyError, TypeError, AttributeError):
        return False


def _is_sound(entry: Entry) -> bool:
    """Whether an entry has values that a run writes: names of files become paths, and numbers decide the next step."""
    what, files, step = entry["what"], entry["files"], entry["step"]
    by_hand = entry["kind"] == "rollback"
    numbers = [entry["params"], entry["bytes"], entry["accuracy"], entry.get("beyond") or 0, what.get("ratio") or 0]
    return (
        entry["kind"] in ("original", "rollback", *KINDS)
        and (entry["kind"] == "original") == (step == 0)
        and entry["verdict"] in (ACCEPTED, ROLLED_BACK)
        and isinstance(entry["reason"], str)
        and all(type(n) in (int, float) and -1e18 < n < 1e18 for n in numbers)
        and all(type(n) is int and 0 <= n < max(step, 1) for n in (entry["base"], what["to"] if by_hand else 0))
        and removed_parts.is_sound(what.get("removed", []))
        and isinstance(entry.get("approved"), bool | None)
        and isinstance(entry.get("counted", True), bool)
        and all(_is_test(one) for one in entry.get("tests", ()))
        and all(type(one) is int and one >= 0 for one in entry.get("broke", ()))
        and _names_a_set(what.get("preserve"))
        and all(name in _FILES and isinstance(digest, str) for name, digest in files.items())
    )


def _names_a_set(named: Any) -> bool:
    return named is None or (
        all(type(named[key]) is int for key in ("version", "images", "later")) and isinstance(named["checksum"], str)
    )


def _is_test(one: Mapping[str, Any]) -> bool:
    numbers = [one[key] for key in ("original", "value", "lost", "margin")]
    return (
        isinstance(one["test"], str)
        and isinstance(one["holds"], bool)
        and all(n is None or (type(n) in (int, float) and -1e18 < n < 1e18) for n in numbers)
    )


def write_journal(run: Path, entries: Sequence[Mapping[str, Any]]) -> None:
    """Write the whole journal, or keep the old one."""
    with atomic(Path(run) / "journal.jsonl") as partial:
        partial.write_text("".join(json.dumps(entry, allow_nan=False) + "\n" for entry in entries), encoding="utf-8")


def summary(entries: Sequence[Entry]) -> dict[str, Any]:
    """What result.json records of a journal: figures and accepted steps are those of the current model."""
    final = entries[current_step(entries)]
    text = "perplexity" in final
    return {
        "task": "compress-language" if text else "compress",
        "metric": "perplexity on held-out text" if text else "accuracy on the preservation set",
        "value": final["perplexity"] if text else final["accuracy"],
        "original": entries[0],
        "final": final,
        "step": final["step"],
        "accepted": len(kept_steps(entries)) - 1,
        "undone": list(undone_steps(entries)),
        "rolled_back": sum(entry["verdict"] == ROLLED_BACK and entry.get("counted", True) for entry in entries),
        "refused_within_one_error": sum(0 < (entry.get("beyond") or 0) <= 1 for entry in entries),
    }


def why_larger(entries: Sequence[Entry], plan: CompressionPlan) -> str | None:
    """One line where a compression ended above its size, and which kinds it did not try; None where it got there."""
    current = current_step(entries)
    if _is_small(entries, current, plan) or not set(plan.kinds) & set(SHRINKING):
        return None
    share = entries[current]["params"] / entries[0]["params"]
    used_up = tried(entries) >= plan.steps
    untried = [kind for kind in plan.kinds if kind not in {entry["kind"] for entry in entries}]
    why = f"--steps {plan.steps} are used up" if used_up else "no smaller step was accepted"
    left = f"; {', '.join(untried)} not tried" if untried else ""
    return f"--size {plan.size:g} is not reached ({share:.3f} of the parameters): {why}{left}"


def describe(entry: Entry, verdict: str = "") -> str:
    """One tried step in words; `verdict` instead of its own, for a step that waits for a person."""
    quality = f"perplexity {entry['perplexity']}" if "perplexity" in entry else f"accuracy {entry['accuracy']:.4f}"
    size = f"{entry['params']:,} parameters, {entry['bytes'] / 1e6:.2f} MB, {quality}"
    ratio = f" {entry['what']['ratio']:.3g}" if entry["what"].get("ratio") else ""
    return f"step {entry['step']} {entry['kind']}{ratio}: {size}: {verdict or entry['verdict']}, {reason(entry)}"


def reason(entry: Entry) -> str:
    """Why a step was accepted or rolled back, whether a person approved it, and whether it counts towards --steps."""
    uncounted = "; does not count towards --steps" if not entry.get("counted", True) else ""
    return str(entry["reason"]) + ("; approved by a person" if entry.get("approved") is True else "") + uncounted


def step_directory(run: Path, step: int) -> Path:
    """Model directory of an accepted step; step 0 is the original."""
    return Path(run) / ("original" if step == 0 else f"steps/{step:02d}")


def make_current(run: Path, step: Path) -> None:
    """Copy the files of a step's model directory to `run`, model.json last: `run` is then this model's directory."""
    for name in (INT8, INT4):
        if not (step / name).exists():
            (run / name).unlink(missing_ok=True)
    for name in _FILES:
        if (step / name).exists():
            copy_whole(step / name, run / name)


def copy_whole(source: Path, target: Path) -> None:
    """Copy a file, whole or not at all; an `OSError` of a disk that is full names the copy, not its source."""
    try:
        with atomic(target) as partial:
            shutil.copyfile(source, partial)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            error.filename, error.filename2 = str(target), None
        raise


def file_digests(directory: Path) -> dict[str, str]:
    """SHA-256 of the files of a step, 32 hexadecimal digits each."""
    found = {}
    for name in _FILES:
        if (directory / name).is_file():
            with open(directory / name, "rb") as file:
                found[name] = hashlib.file_digest(file, "sha256").hexdigest()[:32]
    return found


def verified_directory(run: Path, entry: Entry) -> Path:
    """Model directory of an accepted step, after its files were compared with the journal's digests.

    Raises
    ------
    InputError
        A file is missing, or is not the one that was accepted.
    """
    directory = step_directory(run, entry["step"])
    verify(directory, entry)
    return directory


def verify(directory: Path, entry: Entry) -> None:
    """Compare the files of a step's model directory with the digests in its entry; `InputError` where one differs."""
    found = file_digests(directory)
    for name, digest in entry["files"].items():
        if name not in found:
            raise InputError(f"{directory / name}: no such file: step {entry['step']} is incomplete")
        if found[name] != digest:
            raise InputError(f"{directory / name}: damaged or replaced: it is not the file that was accepted")
