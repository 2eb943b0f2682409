"""WebDataset shards (.tar files) of a source, reduced to the samples that an index keeps."""

from __future__ import annotations

import shutil
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .manifest import Manifest
from .matching import shown
from .pruned_index import PrunedIndex
from .whole_files import InputError, need_file


def write_kept(index: PrunedIndex, shards: Sequence[Path], out: Path, source: Manifest | None) -> None:
    """Copy the kept samples of `shards` to shards of the same names in the new folder `out`.

    A sample's key is its path in the shard up to the first dot of the file name. It must equal the id up to the same
    dot; or, when `source` (the manifest) shows that file names alone are unique, the file name's part of it.

    Raises
    ------
    InputError
        A shard is missing or damaged, `out` exists, two shards have one name, keys are ambiguous, or kept samples are
        in none of the shards (their number and the first are named).
    """
    for shard in shards:
        need_file(shard, "a WebDataset shard")
    if len({shard.name for shard in shards}) < len(shards):
        raise InputError("two shards have the same name")
    if out.exists():
        raise InputError(f"--out {out}: exists; give another --out, or remove it")
    wanted = _wanted(index, source)
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        found: set[int] = set()
        for shard in shards:
            found |= _filter(shard, partial / shard.name, wanted)
        if lost := sorted(set(range(len(index))) - found):
            raise InputError(
                f"{len(lost)} of {len(index)} kept samples are in none of the shards "
                f"(first: {shown(index.ids[lost[0]])})"
            )
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def key_of(name: bytes) -> bytes:
    """WebDataset's key: the path up to the first dot of the file name."""
    folder, slash, file = name.rpartition(b"/")
    return folder + slash + file.partition(b".")[0]


def _wanted(index: PrunedIndex, source: Manifest | None) -> dict[bytes, int]:
    """Key to sample of the index, by full path and, where that is safe, by file name alone."""
    kept = [key_of(name) for name in index.ids.tolist()]
    everything = kept if source is None else [key_of(name) for name in np.asarray(source.ids).tolist()]
    if len(set(everything)) < len(everything):
        raise InputError("ids differ in what follows the first dot alone: WebDataset cannot tell their samples apart")
    wanted = {key: row for row, key in enumerate(kept)}
    names = [key.rpartition(b"/")[2] for key in everything]
    if source is not None and len(set(names)) == len(names):
        wanted |= {key.rpartition(b"/")[2]: row for row, key in enumerate(kept)}
    return wanted


def _filter(shard: Path, target: Path, wanted: dict[bytes, int]) -> set[int]:
    found = set()
    try:
        with tarfile.open(shard, "r:") as old, tarfile.open(target, "w", format=tarfile.GNU_FORMAT) as new:
            for member in old:
                key = key_of(member.name.encode("utf-8", "surrogateescape").removeprefix(b"./"))
                if member.isfile() and key in wanted:
                    new.addfile(member, old.extractfile(member))
                    found.add(wanted[key])
    except (tarfile.TarError, OSError, EOFError) as error:
        raise InputError(f"{shard}: not a readable tar file ({error})") from None
    return found
