"""Go back to an accepted step of a compression, or to the original: exactly the files that were accepted.

    python -m transfer rollback --run runs/pets-small --to 2
    python -m transfer rollback --run runs/pets-small --to 0      (the original)

RUN's own model becomes that step's. Every step is kept, so a later rollback can also go forwards. The journal gets an
entry. A run that is not done counts the rollback as a rejection and resumes from there.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from prune.runs.files import InputError, note, read_json, write_json
from prune.runs.run_lock import directory_lock


@dataclass(frozen=True)
class Config:
    run: Path
    """Run directory of `transfer compress`."""
    to: int
    """Step to go back to; 0 is the original. The journal lists the steps."""


def run(config: Config) -> None:
    """Verify the step's files and make them the run's model."""
    from transfer.compression import journal

    if not journal.read_journal(config.run):
        raise InputError(f"{config.run}: no journal.jsonl there: not a run of `transfer compress`")
    with directory_lock(config.run):
        _roll_back(config)


def _roll_back(config: Config) -> None:
    from transfer.compression import journal

    entries = journal.read_journal(config.run)
    steps = journal.accepted_steps(entries)
    if config.to not in steps:
        raise InputError(f"--to {config.to}: the accepted steps of {config.run} are {', '.join(map(str, steps))}")
    journal.make_current(config.run, journal.verified_directory(config.run, entries[config.to]))
    before = journal.current_step(entries)
    if before == config.to:
        return note(f"{config.run}: its model is that of step {config.to} already")
    entry = {**entries[config.to], "step": len(entries), "base": config.to, "kind": "rollback"}
    entries.append({**entry, "what": {"to": config.to}, "reason": f"by hand, from step {before}", "seconds": 0.0})
    journal.write_journal(config.run, entries)
    if (config.run / "result.json").exists():
        result = {**read_json(config.run / "result.json"), **journal.summary(entries)}
        write_json(config.run / "result.json", result)
    note(f"{config.run}: its model is that of step {config.to}")
