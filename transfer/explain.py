"""Say why a step of a compression removed what it removed: channels, importance, rank, and the classes they served.

    python -m transfer explain --run runs/pets-small --step 2
    python -m transfer explain --run runs/pets-small --step 2 --layer layer3.0.conv1
    python -m transfer explain --run runs/pets-small --step 2 --json

Without --layer one line per layer, with it one per channel or head. Rank 1 is the most important of its layer. A class
was served by a channel whose removal raises the loss of its images, to first order on the target's training images;
training after the step may win it back. Reads journal.jsonl; writes nothing. Steps that were rolled back count too, and
so does the step that waits for `transfer approve`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prune.runs.files import InputError, printable


@dataclass(frozen=True)
class Config:
    run: Path
    """Run directory of `transfer compress`."""
    step: int
    """Step of its journal."""
    layer: str | None = None
    """List every channel (or head) that this layer lost."""
    json: bool = False
    """Print JSON."""


def run(config: Config) -> dict[str, Any]:
    """Print why; returns the same as a mapping."""
    import json

    from transfer.compression import approval, journal
    from transfer.compression.removed_parts import unit_of

    entries = journal.need_journal(config.run)
    waits = approval.waiting(config.run, entries) if config.step == len(entries) else None
    entries += [] if waits is None else [waits]
    if not 0 <= config.step < len(entries):
        raise InputError(f"--step {config.step}: the journal of {config.run} has the steps 0 to {len(entries) - 1}")
    entry = entries[config.step]
    layers = _layers(entries, config)
    found = {key: entry[key] for key in ("step", "base", "kind", "verdict", "params", "accuracy")}
    found |= {"reason": journal.reason(entry), "ratio": entry["what"].get("ratio")}
    found |= {"criterion": entry["what"].get("importance"), "layers": layers}
    if config.json:
        print(json.dumps(found, indent=1, allow_nan=False))
        return found
    print(printable(journal.describe(entry, "passed its test, waits for a person" if waits else "")))
    if config.layer is None:
        _print(("layer", "removed", "importance", "rank", "classes served most, rise of their loss"), _by_layer(layers))
    else:
        columns = ("in the original", "importance", "rank", "class served most", "rise")
        _print((unit_of(layers[0]), *columns), _channels(layers[0]))
    return found


def _layers(entries: Sequence[dict[str, Any]], config: Config) -> list[dict[str, Any]]:
    """What the step removed from each layer, or from the one that was asked for."""
    import difflib

    from transfer.compression.removed_parts import in_original

    entry = entries[config.step]
    where = f"step {config.step} ({entry['kind']})"
    if "removed" not in entry["what"]:
        if entry["kind"] in ("original", "rollback", "int8", "int4"):
            raise InputError(f"{where} of {config.run} removed nothing: choose a step that shrinks")
        raise InputError(f"{where} of {config.run} was made by an older version, which recorded no reasons")
    if not entry["what"]["removed"]:
        raise InputError(f"{where} of {config.run} removed nothing: {entry['reason']}; choose another step")
    layers = [{**one, "original": in_original(entries, config.step, one["layer"])} for one in entry["what"]["removed"]]
    if config.layer is None:
        return layers
    names = [one["layer"] for one in layers]
    if config.layer not in names:
        near = difflib.get_close_matches(config.layer, names, n=3, cutoff=0.5) or names[:8]
        hint = f"it removed from {', '.join(near)}" if near else "it removed nothing"
        raise InputError(f"--layer {config.layer}: {where} removed nothing from it; {hint}")
    return [layers[names.index(config.layer)]]


def _by_layer(layers: Sequence[dict[str, Any]]) -> list[list[str]]:
    from transfer.compression.removed_parts import layer_texts

    return [layer_texts(one) for one in layers]


def _channels(one: dict[str, Any]) -> list[list[str]]:
    if "weights" in one:
        raise InputError(f"--layer {one['layer']}: single weights were removed, no channels; leave --layer out")
    nothing = [None] * len(one["channels"])
    columns = (
        one["channels"],
        one["original"] or nothing,
        one["importance"],
        one["rank"],
        one.get("serves", nothing),
        one.get("rise", nothing),
    )
    return [["" if value is None else str(value) for value in row] for row in zip(*columns)]


def _print(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for head in header:
        table.add_column(head, overflow="fold")
    for cells in rows:
        table.add_row(*(Text(printable(cell)) for cell in cells))
    if not console.is_terminal:  # a file or a pipe has no width of its own: as wide as the table
        console.width = 1000
        console.width = max(80, console.measure(table).maximum)
    console.print(table)
