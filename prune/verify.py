"""Check a beton and its manifest.

    prune verify runs/photos.beton
    prune verify runs/photos.beton --deep
    prune verify runs/photos.beton --listing files.txt --root /data/photos

Always checks header, fields, every pointer and size, and that beton and manifest agree; with --deep also the digest and
CRC-32 of every image, and that every image decodes; with --listing, that another program lists the same images. Prints
the images that could not be read when the beton was written, with the reasons. Exit code 1 when the manifest or images
are damaged or the listing differs; 2 when the files cannot be opened as a beton and its manifest.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from prune.runs.exit_codes import AnswerIsNo
from prune.runs.files import InputError, at_least, counted, note, printable

if TYPE_CHECKING:
    from prune.data.dataset import Dataset
    from prune.data.listing_comparison import Comparison
    from prune.index.manifest import Manifest


@dataclass(frozen=True)
class Config:
    beton: Annotated[Path, tyro.conf.Positional]
    """Beton of `prune write` or `prune materialize`; a folder or a pattern of several."""
    deep: bool = False
    """Read and decode every image."""
    listing: Path | None = None
    """Another program's listing to compare: paths, one a line, or a table of paths and perhaps classes."""
    root: str | None = None
    """Folder that the paths of --listing begin with; it is removed."""
    separator: str | None = None
    """What lies between the parts of the paths in --listing, where that is not /."""
    all: bool = False
    """Print every image that could not be read, and not the first 20."""
    json: bool = False
    """Print the result as JSON."""
    workers: int | None = None
    """Threads that decode; all cores when absent."""


def run(config: Config) -> None:
    """Print what was found; raise `AnswerIsNo` when something is damaged."""
    from prune.data.dataset import open_dataset

    at_least(config, 1, "workers")
    if config.listing is None and (config.root is not None or config.separator is not None):
        raise InputError("--root and --separator are for --listing")
    source = open_dataset(config.beton)
    for place, manifest in _manifests(config.beton, source):
        stated, found = manifest.meta.get("fingerprint"), _fingerprint(manifest)
        if stated != found:
            note(f"{place}: the manifest's fingerprint is {stated}, its columns give {found}: damaged")
            raise AnswerIsNo
    found = source.manifest.fingerprint
    faults = deep(source, config.workers) if config.deep else []
    skipped = source.manifest.meta.get("skipped", [])
    comparison, lines = _compared(config, source) if config.listing is not None else (None, [])
    if config.json:
        report: dict[str, Any] = {"images": len(source), "fingerprint": found, "deep": config.deep, "damaged": faults}
        report["unreadable"] = [{"id": printable(name), "reason": reason} for name, reason in skipped]
        if comparison is not None:
            report["listing"] = {"same": comparison.same, "same order": comparison.ordered, "differences": lines[1:]}
        print(json.dumps(report, indent=1))
    if faults:
        first = f"first {faults[0]['id']!r} (row {faults[0]['row']}: {faults[0]['reason']})"
        note(f"{config.beton}: {len(faults)} of {len(source)} images are damaged, {first}")
        raise AnswerIsNo
    if not config.json:
        what = "every image read and decoded" if config.deep else "structure only; --deep reads every image"
        print(f"{config.beton}: sound: {counted(len(source), 'image')}, fingerprint {found} ({what})")
        _print_skipped(config, skipped)
        for line in lines:
            print(line)
    if comparison is not None and not comparison.same:
        raise AnswerIsNo


def _manifests(beton: Path, source: Dataset) -> list[tuple[Path, Manifest]]:
    """The manifest of a beton, or those of several, each as it was stored."""
    from prune.index.manifest import Manifest, manifest_path, several, shards_at

    if not several(beton):
        return [(beton, source.manifest)]
    return [(place, Manifest.load(manifest_path(place))) for place in shards_at(beton, ".beton")]


def _print_skipped(config: Config, skipped: list[tuple[str, str]]) -> None:
    if not skipped:
        return
    print(f"{config.beton}: {counted(len(skipped), 'image')} could not be read when it was written")
    shown = skipped if config.all else skipped[:20]
    for name, reason in shown:
        print(f"  {printable(name)}: {printable(reason)}")
    if len(shown) < len(skipped):
        print(f"  and {len(skipped) - len(shown)} more: --all or --json has them all")


def _compared(config: Config, source: Dataset) -> tuple[Comparison, list[str]]:
    """How the listing differs from the beton, and the same in words."""
    import numpy as np

    from prune.data.labelled_lists import paths_and_classes
    from prune.data.listing_comparison import compare, described
    from prune.data.sample_lists import plain_ids, read_ids

    assert config.listing is not None
    if config.listing.suffix.lower() == ".npy":
        names, labels = read_ids(config.listing), None
    else:
        paths, labels = paths_and_classes(config.listing)
        names = np.array([path.encode("utf-8", "surrogateescape") for path in paths], np.bytes_)
    listed = [(names, labels)]
    if labels is None and all(len(name.split()) > 1 for name in names.tolist()):
        # Or paths with the class as a line's last word, as `prune write` reads them, too.
        split = [name.rsplit(None, 1) for name in names.tolist()]
        words = [word.decode(errors="surrogateescape") for _, word in split]
        listed.append((np.array([path for path, _ in split], np.bytes_), words))
    read = []
    for names, labels in listed:
        names = plain_ids(names, config.root, config.separator)
        read.append((compare(names, labels, source.manifest), names))
        if read[-1][0].both:
            break
    found, names = read[-1] if read[-1][0].both else read[0]
    return found, described(found, config.listing, names, source.manifest)


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
