"""Turn another project's list of samples into an index: rows, a mask, ids, digests or uids, as .npy, .txt, .csv, ...

    prune import flm_top300.indices --source runs/imagenet.beton --holds keep --out flm-300.index.npz
    prune import pruned.txt --source runs/imagenet.manifest.npz --holds remove --out coreset.index.npz

    prune import subset.npy --source runs/datacomp.manifest.npz --holds keep --out datacomp.index.npz

--holds has no default: some projects publish what to keep, others what to remove, and the list itself shows neither.
Rows are positions in the source's manifest, or in --listing.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from prune.runs.files import InputError, need_file, note
from prune.runs.identity import Location, identity
from prune.runs.outputs import claim_file, index_record


@dataclass(frozen=True)
class Config:
    samples: Location[Annotated[Path, tyro.conf.Positional]]
    """The list: .npy, .txt, .csv, .json, .indices or .pt."""
    source: Location[Path]
    """Beton (with its manifest) or manifest of the source."""
    holds: Literal["keep", "remove"]
    """Whether the list names the samples to keep or those to remove."""
    out: Location[Path]
    """Index file to write (NAME.index.npz)."""
    kind: Literal["rows", "ids", "digests", "uids"] | None = None
    """What the list consists of, where its form leaves that open."""
    listing: Location[Path | None] = None
    """Text file of ids, one a line: rows are positions in it. Positions in the manifest when absent."""
    root: str | None = None
    """Folder that the ids of the list (or listing) begin with; it is removed."""
    separator: str | None = None
    """What lies between the parts of these ids, where that is not /: '\\' in a list made on Windows."""
    uids: Location[Path | None] = None
    """For DataComp's .npy of uids: a table with columns id and uid. Without it the images' names are their uids."""
    allow_changed: bool = False
    """Ignore listed samples that the source lacks, and record how many."""


def run(config: Config) -> Path:
    """Write the index; returns its path."""
    import numpy as np

    from prune.data.sample_lists import listed_rows, read_ids, read_list
    from prune.index.manifest import open_manifest
    from prune.index.provenance import record
    from prune.index.pruned_index import REASONS, PrunedIndex

    need_file(config.samples, "a list of samples")
    manifest = open_manifest(config.source)
    inputs: dict[str, Any] = {"list": file_hash(config.samples), "source": manifest.fingerprint}
    listing = None
    if config.listing is not None:
        inputs["listing"] = file_hash(need_file(config.listing, "a listing of ids"))
        listing = read_ids(config.listing)
    given = read_list(config.samples, config.kind)
    if config.uids is not None:
        inputs["uids"] = file_hash(need_file(config.uids, "a table of ids and uids"))
        if given.kind != "uids":
            raise InputError(f"--uids is for lists of uids; {config.samples} holds {given.kind}")
    rows, missing = listed_rows(
        given,
        manifest,
        listing=listing,
        root=config.root,
        separator=config.separator,
        uids=config.uids,
        allow_changed=config.allow_changed,
    )
    facts = {"kind": given.kind, "listed": len(given.values), "missing": missing}
    step = record("import", identity(config), inputs, **facts)
    with claim_file(config.out, index_record, config, {"step": "import", **inputs}) as done:
        if done:
            return config.out
        if config.holds == "remove":
            left = np.ones(len(manifest), bool)
            left[rows] = False
            rows = np.flatnonzero(left)
        if not len(rows):
            raise InputError(f"{config.samples}: no sample would be kept; is --holds {config.holds} right?")
        reason = np.full(len(rows), REASONS.index("imported"), np.uint8)
        index = PrunedIndex.from_rows(manifest, rows, reason=reason, provenance=[step])
        index.save(config.out)
        note(f"{config.out}: keeps {len(index)} of {len(manifest)} samples")
    return config.out


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes, 32 hexadecimal digits."""
    import hashlib

    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:32]
