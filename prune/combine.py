"""Combine indices of one source: keep what any of them keeps, what all keep, or what only the first keeps.

    prune combine pets.index.npz cars.index.npz --how union --out both.index.npz
    prune combine winnow.index.npz validation.index.npz --how without --out train.index.npz

A sample that several keep has the score, reason and quality of the first that keeps it. Indices of different sources
are refused; with --source and --allow-changed their samples are first matched to that source by name.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from prune.runs.files import InputError, note
from prune.runs.identity import Location, identity
from prune.runs.outputs import claim_file, index_record

if TYPE_CHECKING:
    from prune.index.pruned_index import PrunedIndex


@dataclass(frozen=True)
class Config:
    indices: Location[Annotated[tuple[Path, ...], tyro.conf.Positional]]
    """Two or more index files."""
    out: Location[Path]
    """Index file to write (NAME.index.npz)."""
    how: Literal["union", "intersection", "without"] = "union"
    """Keep samples of any index, of all of them, or of the first alone."""
    source: Location[Path | None] = None
    """Beton or manifest to which the samples of all indices are matched first."""
    allow_changed: bool = False
    """With --source: accept indices of other sources, and ignore samples that --source lacks."""


def run(config: Config) -> Path:
    """Write the index; returns its path."""
    from dataclasses import replace
    from functools import reduce

    from prune.index.manifest import open_manifest
    from prune.index.provenance import record
    from prune.index.pruned_index import PrunedIndex

    if len(config.indices) < 2:
        raise InputError("combine needs at least two indices")
    if config.allow_changed and config.source is None:
        raise InputError("--allow-changed needs --source: the beton or manifest to which the samples are matched")
    indices = [PrunedIndex.open(path, verify=True) for path in config.indices]  # mapped: they may be large
    inputs = {str(place): index.fingerprint for place, index in enumerate(indices)}
    if config.source is not None:
        manifest = open_manifest(config.source)
        inputs["source"] = manifest.fingerprint
        indices = [index.rebased(manifest, allow_changed=config.allow_changed) for index in indices]
    step = record("combine", identity(config), inputs)
    with claim_file(config.out, index_record, config, {"step": "combine", **inputs}) as done:
        if done:
            return config.out
        joined = reduce(_HOW[config.how], indices)
        if not len(joined):
            raise InputError(f"--how {config.how}: no sample would be kept; nothing is written")
        replace(joined, provenance=[*joined.provenance, step]).save(config.out)
        note(f"{config.out}: keeps {len(joined)} of {joined.source_samples} samples")
    return config.out


def _union(left: PrunedIndex, right: PrunedIndex) -> PrunedIndex:
    return left | right


def _intersection(left: PrunedIndex, right: PrunedIndex) -> PrunedIndex:
    return left & right


def _without(left: PrunedIndex, right: PrunedIndex) -> PrunedIndex:
    return left.without(right)


_HOW = {"union": _union, "intersection": _intersection, "without": _without}
