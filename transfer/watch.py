"""Watch a compressed model beside its original on new images: disagreement, drift, alarms, how far to go back.

    python -m transfer watch --run runs/pets-small --images new.csv --reference pets.train.beton --out seen.csv
    python -m transfer watch --original runs/pets --compressed runs/device/model.int8.onnx --images new.csv

new.csv has a column `path` (relative to the file, or absolute) and may have `label`. Prints a table of classes: how
often the two disagree (or, with labels, how often the compressed model loses an answer that the original has right),
with an alarm where that is surely more than --allowed points beyond what the reference shows. With --reference also:
have the new images' features drifted? With --run and an alarm it tries the earlier steps on the same images and names
the newest that would not alarm. --out gets a line for each image. Seconds for a thousand images of 32 px.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prune.runs.files import InputError, at_least


@dataclass(frozen=True)
class Config:
    images: Path
    """CSV of the new images: `path`, and `label` (a class name) where it is known."""
    run: Path | None = None
    """Directory of `transfer compress`: its original and the step that stands."""
    original: Path | None = None
    """Model directory of the original; that of --run when absent."""
    compressed: Path | None = None
    """Model directory or ONNX file of the compressed model; that of --run when absent."""
    reference: Path | None = None
    """Beton of images as the models were made for."""
    index: Path | None = None
    """Only these images of --reference: a preservation set, for instance."""
    most: int = 2000
    """Images of the reference that are looked at, at most."""
    allowed: float = 5.0
    """Points of disagreement in a class that are no alarm, beyond what the reference shows."""
    least: int = 5
    """A class with fewer new images never alarms."""
    out: Path | None = None
    """CSV to write: path, answers and confidences of both, agreement."""
    json: bool = False
    """Print everything as JSON instead of a table."""


def run(config: Config) -> dict[str, Any]:
    """Compare; what `--json` prints."""
    import json

    _check(config)
    from transfer.watching import side_by_side, watch_report

    found, lines = side_by_side.watch(config)
    if config.out is not None:
        watch_report.write_lines(config.out, lines)
    print(json.dumps(found, indent=1, allow_nan=False) if config.json else watch_report.table(found))
    return found


def _check(config: Config) -> None:
    if config.run is None and (config.original is None or config.compressed is None):
        raise InputError("give --run, or --original and --compressed")
    if config.run is not None and not (config.run / "journal.jsonl").is_file():
        raise InputError(f"--run {config.run}: not a run of `transfer compress` (no journal.jsonl there)")
    if config.index is not None and config.reference is None:
        raise InputError("--index: says which images of --reference count; give both")
    if not 0 <= config.allowed <= 100:
        raise InputError(f"--allowed {config.allowed}: points from 0 to 100 are needed")
    at_least(config, 1, "least", "most")
    if config.out is not None and config.out.is_dir():
        raise InputError(f"--out {config.out}: is a directory; a CSV file is expected")
    if config.out is not None and config.out.resolve() == config.images.resolve():
        raise InputError(f"--out {config.out}: is the file of --images")
