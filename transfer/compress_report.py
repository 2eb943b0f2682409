"""Turn compressions into one page: accuracy against size and latency, their journals, classes near their margin.

    python -m transfer compress-report --runs runs/pets-small --out pets-small.html
    python -m transfer compress-report --runs runs/with-margins runs/without --out both.html

Reads journal.jsonl and config.json of each run; a run that has not ended is shown as far as it is done. The page opens
without a network.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from prune.runs.files import InputError, atomic, note, read_json


@dataclass(frozen=True)
class Config:
    runs: tuple[Path, ...]
    """Directories of `transfer compress`."""
    out: Path
    """Page to write."""


def run(config: Config) -> Path:
    """Write the page; returns its path."""
    from transfer.compression import journal
    from transfer.pages import compress_page

    if config.out.is_dir():
        raise InputError(f"--out {config.out}: is a directory; a file is expected")
    if not config.runs:
        raise InputError("--runs: name at least one")
    found = {}
    for place in config.runs:
        lines = journal.need_journal(place)
        name = place.resolve().name
        found[name if name not in found else str(place)] = (lines, read_json(place / "config.json"))
    text = compress_page.compression_html(found)
    with atomic(config.out) as partial:
        partial.write_text(text, encoding="utf-8")
    note(f"{config.out}: {len(text.encode()) / 1e6:.1f} MB, opens without a network")
    note(compress_page.outcome_sentences(found))
    return config.out
