"""Check a beton and its manifest.

    prune verify runs/photos.beton
    prune verify runs/photos.beton --deep

Always checks header, fields, every pointer and size, and that beton and manifest agree; with --deep also the digest and
CRC-32 of every image, and that every image decodes. Exit code 1 when the manifest or images are damaged; 2 when the
files cannot be opened as a beton and its manifest.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from prune.runs.exit_codes import AnswerIsNo
from prune.runs.files import at_least, note

if TYPE_CHECKING:
    from prune.data.dataset import Dataset
    from prune.index.manifest import Manifest


@dataclass(frozen=True)
class Config:
    beton: Annotated[Path, tyro.conf.Positional]
    """Beton of `prune write` or `prune materialize`; a folder or a pattern of several."""
    deep: bool = False
    """Read and decode every image."""
    json: bool = False
    """Print the result as JSON."""
    workers: int | None = None
    """Threads that decode; all cores when absent."""


def run(config: Config) -> None:
    """Print what was found; raise `AnswerIsNo` when something is damaged."""
    from prune.data.dataset import open_dataset

    at_least(config, 1, "workers")
    source = open_dataset(config.beton)
    for place, manifest in _manifests(config.beton, source):
        stated, found = manifest.meta.get("fingerprint"), _fingerprint(manifest)
        if stated != found:
            note(f"{place}: the manifest's fingerprint is {stated}, its columns give {found}: damaged")
            raise AnswerIsNo
    found = source.manifest.fingerprint
    faults = deep(source, config.workers) if config.deep else []
    if config.json:
        report = {"images": len(source), "fingerprint": found, "deep": config.deep, "damaged": faults}
        print(json.dumps(report, indent=1))
    if faults:
        first = f"first {faults[0]['id']!r} (row {faults[0]['row']}: {faults[0]['reason']})"
        note(f"{config.beton}: {len(faults)} of {len(source)} images are damaged, {first}")
        raise AnswerIsNo
    if not config.json:
        what = "every image read and decoded" if config.deep else "structure only; --deep reads every image"
        print(f"{config.beton}: sound: {len(source)} images, fingerprint {found} ({what})")


def _manifests(beton: Path, source: Dataset) -> list[tuple[Path, Manifest]]:
    """The manifest of a beton, or those of several, each as it was stored."""
    from prune.index.manifest import Manifest, manifest_path, several, shards_at

    if not several(beton):
        return [(beton, source.manifest)]
    return [(place, Manifest.load(manifest_path(place))) for place in shards_at(beton, ".beton")]


def _fingerprint(manifest: Manifest) -> str:
    from prune.index.manifest import fingerprint

    return fingerprint(manifest.ids, manifest.labels, manifest.digests)


def deep(source: Dataset, workers: int | None = None) -> list[dict[str, Any]]:
    """Read and decode every image; list those that do not match the manifest or do not decode.

    Returns
    -------
    list of dict
        "row", "id" and "reason" of each damaged image, by row.
    """
    from prune.data.stored_images import Stored, decode_as_coded
    from prune.index.manifest import digest
    from prune.runs.cores import in_order
    from prune.runs.progress import track

    beton, manifest = source.beton, source.manifest

    def check(row: int) -> str | None:
        data, jpeg = beton.stored(row)
        if zlib.crc32(data) != manifest.crc32[row] or digest(data) != manifest.digests[row]:
            return "its bytes do not match the manifest"
        height, width = int(beton.heights[row]), int(beton.widths[row])
        try:
            shape = decode_as_coded(Stored(data, jpeg, height, width)).shape
        except Exception as error:  # Pillow's plugins raise all kinds of errors for a broken file
            return f"does not decode ({type(error).__name__})"
        return None if shape == (height, width, 3) else f"decodes to {shape[1]} x {shape[0]} pixels"

    reasons = track(in_order(check, range(len(beton)), workers), len(beton), "verifying")
    return [
        {"row": row, "id": bytes(manifest.ids[row]).decode("utf-8", "backslashreplace"), "reason": reason}
        for row, reason in enumerate(reasons)
        if reason
    ]
