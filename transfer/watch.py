"""Compare a compressed model with its original on new images: disagreement, drift, alarms, how far to roll back.

    python -m transfer watch --run runs/pets-small --images new.csv --reference pets.train.beton --out seen.csv
    python -m transfer watch --original runs/pets --compressed runs/device/model.int8.onnx --images new.csv

new.csv has a column `path` (relative to the file, or absolute) and may have a column `label`. Prints a table of
classes: how often the two models disagree (or, with labels, how often the compressed model is wrong where the original
is right). An alarm is raised for a class whose share is certainly more than --allowed points above its share on the
reference. With --reference the report also shows whether the features of the new images have drifted. With --run and an
alarm the earlier steps are compared on the same images, and the newest without an alarm is named. --out gets one line
for each image. Seconds for a thousand images of 32 px.
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
    """Run directory of `transfer compress`: its original and its current model are compared."""
    original: Path | None = None
    """Model directory of the original; that of --run when absent."""
    compressed: Path | None = None
    """Model directory or ONNX file of the compressed model; that of --run when absent."""
    reference: Path | None = None
    """Beton of images of the kind that the models were trained for."""
    index: Path | None = None
    """Only the images of --reference that this index keeps, for instance a preservation set."""
    most: int = 2000
    """Largest number of images of the reference that are compared."""
    allowed: float = 5.0
    """Points of disagreement in a class that raise no alarm, in addition to those on the reference."""
    least: int = 5
    """A class with fewer new images raises no alarm."""
    out: Path | None = None
    """CSV to write: path, predictions and confidences of both models, agreement."""
    json: bool = False
    """Print everything as JSON instead of a table."""


def run(config: Config) -> dict[str, Any]:
    """Compare; returns the report that `--json` prints."""
    import json

    _check(config)
    from prune.data.dataset import open_dataset
    from transfer.compression.journal import step_directory
    from transfer.evaluation.target_splits import kept_rows
    from transfer.watching import side_by_side, watch_report
    from transfer.watching.incoming_images import read_incoming

    original = side_by_side.open_predictor(config.original or step_directory(_run(config), 0))
    compressed = side_by_side.open_predictor(config.compressed or _run(config))
    side_by_side.need_alike(original, compressed)
    new = read_incoming(config.images, original.classes, original.resolution, original.crop_ratio)
    reference = None
    if config.reference is not None:
        dataset = open_dataset(config.reference)
        rows, _ = kept_rows(dataset.manifest, config.index)
        reference = side_by_side.read_reference(dataset, rows, config.most, original)
    report, lines = side_by_side.compare(
        original,
        compressed,
        new,
        reference,
        allowed=config.allowed,
        least=config.least,
        run=None if config.compressed is not None else config.run,
    )
    if config.out is not None:
        watch_report.write_lines(config.out, lines)
    print(json.dumps(report, indent=1, allow_nan=False) if config.json else watch_report.report_text(report))
    return report


def _run(config: Config) -> Path:
    assert config.run is not None
    return config.run


def _check(config: Config) -> None:
    if config.run is None and (config.original is None or config.compressed is None):
        raise InputError("give --run, or --original and --compressed")
    if config.run is not None and not (config.run / "journal.jsonl").is_file():
        raise InputError(f"--run {config.run}: not a run of `transfer compress` (no journal.jsonl there)")
    if config.index is not None and config.reference is None:
        raise InputError("--index: chooses images of --reference; give both")
    if not 0 <= config.allowed <= 100:
        raise InputError(f"--allowed {config.allowed}: points from 0 to 100 are needed")
    at_least(config, 1, "least", "most")
    if config.out is not None and config.out.is_dir():
        raise InputError(f"--out {config.out}: is a directory; a CSV file is expected")
    if config.out is not None and config.out.resolve() == config.images.resolve():
        raise InputError(f"--out {config.out}: is the file of --images")
