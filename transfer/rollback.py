"""Go back to an accepted step of a compression, or to the original: bit for bit what the guard accepted.

    python -m transfer rollback --run runs/pets-small --to 2
    python -m transfer rollback --run runs/pets-small --to 0      (the original)

RUN's own model becomes that step's; every step stays where it is, so one can also go forwards again. The journal gets a
line. A run that is not done counts it as a refusal and goes on from there.
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
    """Check the step's files and make them the run's model."""
    from transfer.compression import journal

    if not journal.read(config.run):
        raise InputError(f"{config.run}: no journal.jsonl there: not a run of `transfer compress`")
    with directory_lock(config.run):
        _go_back(config)


def _go_back(config: Config) -> None:
    from transfer.compression import journal
    from transfer.compression.compression_loop import show, summary

    lines = journal.read(config.run)
    steps = journal.accepted(lines)
    if config.to not in steps:
        raise InputError(f"--to {config.to}: the steps of {config.run} that stand are {', '.join(map(str, steps))}")
    directory = journal.intact(config.run, lines[config.to])

    show(config.run, directory)
    if journal.current(lines) == config.to:
        return note(f"{config.run}: step {config.to} stands already")
    reason = f"by hand, from step {journal.current(lines)}"
    line = {**lines[config.to], "step": len(lines), "base": config.to, "kind": "rollback", "what": {"to": config.to}}
    lines.append({**line, "reason": reason, "seconds": 0.0})
    journal.write(config.run, lines)
    if (config.run / "result.json").exists():
        write_json(config.run / "result.json", {**read_json(config.run / "result.json"), **summary(lines)})
    note(f"{config.run}: step {config.to} stands")
