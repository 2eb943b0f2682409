"""A step that passed the acceptance test and waits for a person's answer before it is accepted.

RUN/waiting is the step's complete model directory, with its journal entry as step.json. The answer is a key of that
entry, "approved": a bool. The command of the run then moves the directory among the accepted steps, or records the
rejection; killed at any point, it does so the next time.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from prune.runs.exit_codes import NeedsApproval
from prune.runs.files import InputError, note, read_json, write_json
from transfer.compression import journal
from transfer.compression.journal import ROLLED_BACK, Entry

STEP = "step.json"


def place(run: Path) -> Path:
    """Directory of the step that waits."""
    return Path(run) / "waiting"


def waiting(run: Path, entries: Sequence[Entry]) -> Entry | None:
    """The entry of the step that waits, answered or not; None when there is none after these entries.

    Raises
    ------
    InputError
        step.json is damaged, or a file is not the one that was tested.
    """
    if not (place(run) / STEP).is_file():
        return None
    entry: Entry = read_json(place(run) / STEP)
    if not journal.is_entry(entry):
        raise InputError(f"{place(run) / STEP}: damaged: remove {place(run)}, and the step is tried again")
    if entry["step"] != len(entries):  # settled already, or a rollback by hand came between
        return None
    journal.verify(place(run), entry)
    return entry


def need_answer(run: Path, entries: Sequence[Entry]) -> None:
    """End with exit code 75 while a step waits and has no answer."""
    entry = waiting(run, entries)
    if entry is not None and entry.get("approved") is None:
        note(
            f"{journal.describe(entry, 'passed its test')}. It waits for a person: `transfer explain --run {run} "
            f"--step {entry['step']}` says what it removed, `transfer approve --run {run}` accepts it, with --reject "
            "it is rolled back; then run the same command again"
        )
        raise NeedsApproval


def hold(run: Path, model: Path) -> None:
    """Let the step in the directory `model`, complete with its step.json, wait."""
    shutil.rmtree(place(run), ignore_errors=True)
    os.replace(model, place(run))


def answer(run: Path, *, approved: bool) -> Entry:
    """Record a person's answer; returns the entry of the step that waits.

    Raises
    ------
    InputError
        No step waits.
    """
    entry = waiting(run, journal.read_journal(run))
    if entry is None:
        raise InputError(f"{run}: no step waits for an answer")
    write_json(place(run) / STEP, {**entry, "approved": approved})
    return entry


def settle(run: Path, entries: list[Entry]) -> list[Entry]:
    """The entries after the answer: an approved step becomes an accepted one, a rejected one is rolled back."""
    entry = waiting(run, entries)
    if entry is not None and entry.get("approved") is not None:
        if entry["approved"]:
            target = journal.step_directory(run, entry["step"])
            target.parent.mkdir(exist_ok=True)
            os.replace(place(run), target)
        else:
            entry |= {"verdict": ROLLED_BACK, "reason": "rejected by a person"}
        entries = [*entries, entry]
        journal.write_journal(run, entries)
    if entry is None or entry.get("approved") is False:
        shutil.rmtree(place(run), ignore_errors=True)
    return entries
