"""Work through the trials of a compression: resume, try, keep a step or roll it back, record it, stop on a signal.

What a trial does is the caller's; images and language models are compressed by the same loop. An accepted step's
directory is complete before it gets its name, and contains its journal entry as step.json; the journal follows. A run
that was killed between the two reads the entry from the directory.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from pretrain import preemption
from prune.runs.files import InputError, note, read_json, write_json
from transfer.compression import approval, journal
from transfer.compression.journal import ACCEPTED, CompressionPlan, Entry, Trial

_WRITTEN = ("original", "steps", "waiting", "work", "export")  # directories of a run


def check_places(model: Path, out: Path) -> None:
    """Refuse a run directory whose files would replace those of the model, or would be written among them."""
    if out == model or model in out.parents:
        raise InputError(f"--out {out}: lies in the directory of --model, which is only read; give another")
    if out in model.parents and model.relative_to(out).parts[0] in _WRITTEN:
        raise InputError(f"--model {model}: lies where --out {out} keeps its own steps; give another --out")


def work_through(
    out: Path, plan: CompressionPlan, record_original: Callable[[], Entry], attempt: Callable[[Trial], Entry]
) -> list[Entry]:
    """Try steps until the plan ends, after those that the journal has; returns all entries.

    Parameters
    ----------
    out : Path
        Run directory.
    plan : CompressionPlan
    record_original : callable
        Writes the original to the run directory; returns its entry, the first of the journal, after writing that.
    attempt : callable
        Tries a step and returns its entry; an accepted one is kept by `keep`.

    Raises
    ------
    Requeue
        A signal came; the journal has all finished steps.
    NeedsApproval
        A step waits for a person's answer.
    """
    entries = _resume(out, plan) or [record_original()]
    while (trial := journal.next_trial(entries, plan)) is not None:
        journal.verified_directory(out, entries[trial.base])
        entry = attempt(trial)
        approval.need_answer(out, entries)
        entries.append(entry)
        journal.write_journal(out, entries)
        note(journal.describe(entries[-1]))
        if preemption.stop_requested():
            note(f"stopping on a signal after step {entries[-1]['step']}; the same command resumes")
            raise preemption.Requeue
    shutil.rmtree(out / "work", ignore_errors=True)
    return entries


def _resume(out: Path, plan: CompressionPlan) -> list[Entry]:
    """Entries of an earlier run, with that of a step whose directory exists and that the journal does not have yet."""
    entries = journal.read_journal(out)
    directory = journal.step_directory(out, len(entries))
    if entries and (directory / "step.json").is_file():
        entries.append(read_json(directory / "step.json"))
        journal.write_journal(out, entries)
    if entries:
        approval.need_answer(out, entries)
        entries = approval.settle(out, entries)
        journal.make_current(out, journal.step_directory(out, journal.current_step(entries)))
        note(f"{out}: {_continuation(out, entries, plan)}")
    return entries


def _continuation(out: Path, entries: list[Entry], plan: CompressionPlan) -> str:
    """From which state a run resumes, and with what."""
    current, trial = journal.current_step(entries), journal.next_trial(entries, plan)
    share = entries[current]["params"] / entries[0]["params"]
    state = (
        f"resuming after step {entries[-1]['step']} with the model of step {current} ({share:.3f} of the parameters)"
    )
    if trial is None:
        return f"{state}; no step is left to try"
    begun = any((out / "work" / f"{trial.step}" / "checkpoint").glob("*"))
    return f"{state}; next is {trial}" + (", whose training has begun" if begun else "")


def scratch_of(out: Path, trial: Trial) -> Path:
    """Directory in which a step works; what an earlier trial left there is removed, what this one left stays."""
    work = out / "work"
    if not (work / f"{trial.step}").is_dir():
        shutil.rmtree(work, ignore_errors=True)
    scratch = work / f"{trial.step}"
    scratch.mkdir(parents=True, exist_ok=True)
    return scratch


def keep(out: Path, entry: Entry, model: Path, *, approve: bool) -> None:
    """Give an accepted step's complete model directory its place, or let it wait for a person; remove the scratch."""
    if entry["verdict"] == ACCEPTED:
        write_json(model / "step.json", entry)
        if approve:
            approval.hold(out, model)
        else:
            place = journal.step_directory(out, entry["step"])
            place.parent.mkdir(exist_ok=True)
            os.replace(model, place)
            journal.make_current(out, place)
    shutil.rmtree(out / "work")
