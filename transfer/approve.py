"""Answer for a step of `transfer compress --approve` that waits: accept it, or roll it back.

    python -m transfer approve --run runs/pets-small
    python -m transfer approve --run runs/pets-small --reject

The step passed the acceptance test; its model lies in RUN/waiting, complete, so that it can be looked at first. The
answer is recorded, after its files were compared with their digests; the same `transfer compress` command then
continues. A rejection counts like one of the acceptance test: the step is tried with half its ratio. Until the command
runs again, a later answer replaces an earlier one.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from prune.runs.files import note
from prune.runs.run_lock import directory_lock


@dataclass(frozen=True)
class Config:
    run: Path
    """Run directory of `transfer compress`."""
    reject: bool = False
    """Roll the step back instead."""


def run(config: Config) -> None:
    """Record the answer."""
    from transfer.compression import approval, journal

    journal.need_journal(config.run)
    with directory_lock(config.run, None):
        entry = approval.answer(config.run, approved=not config.reject)
    said = "rejected" if config.reject else "approved"
    note(f"{config.run}: step {entry['step']} is {said}; the same `transfer compress` command continues")
