"""Makes the model of an accepted step the run's own again, for `transfer rollback` and `transfer watch --rollback`."""

from __future__ import annotations

from pathlib import Path

from prune.runs.files import InputError, note, read_json, write_json
from transfer.compression import journal


def roll_back(run: Path, to: int, why: str = "by hand") -> None:
    """Verify the files of step `to`, make them the run's model, and add an entry to the journal; the caller holds it.

    Where the run's model is that of this step already, the journal stays as it is.

    Parameters
    ----------
    run : Path
    to : int
        An accepted step; 0 is the original.
    why : str
        For the journal.

    Raises
    ------
    InputError
        No accepted step, or its files are not those that were accepted.
    """
    entries = journal.read_journal(run)
    steps = journal.accepted_steps(entries)
    if to not in steps:
        raise InputError(f"--to {to}: the accepted steps of {run} are {', '.join(map(str, steps))}")
    journal.make_current(run, journal.verified_directory(run, entries[to]))
    before = journal.current_step(entries)
    if before == to:
        return note(f"{run}: its model is that of step {to} already")
    entry = {key: value for key, value in entries[to].items() if key != "approved"}
    entry |= {"step": len(entries), "base": to, "kind": "rollback", **journal.uncounted(True)}
    entries.append({**entry, "what": {"to": to}, "reason": f"{why}, from step {before}", "seconds": 0.0})
    journal.write_journal(run, entries)
    if (run / "result.json").exists():
        write_json(run / "result.json", {**read_json(run / "result.json"), **journal.summary(entries)})
    note(f"{run}: its model is that of step {to}")
