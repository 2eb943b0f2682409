"""Go back to an accepted step of a compression, or to the original: exactly the files that were accepted.

    python -m transfer rollback --run runs/pets-small --to 2
    python -m transfer rollback --run runs/pets-small --to 0      (the original)

RUN's own model becomes that step's. Every step is kept, so a later rollback can also go forwards. The journal gets an
entry. A run that is not done counts the rollback as a rejection and resumes from there.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

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
    from transfer.compression.rolling_back import roll_back

    journal.need_journal(config.run)
    with directory_lock(config.run, None):
        roll_back(config.run, config.to)
