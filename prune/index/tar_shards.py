"""WebDataset shards (.tar files) of a source, reduced to the samples that an index keeps."""

from __future__ import annotations

import os
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

    A sample's key is its path in the shard up to the first dot of the file name. Of a source that was written from
    shards, an id is shard and key, `train-000000/dog/17`: this way is taken where it finds all that is kept. Else the
    key must equal the id up to the same dot; or, when `source` (the manifest) shows that file names alone are unique,
    the file name's part of it.

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
    ways = [dict.fromkeys(shards, wanted)]
    if prefixed := _by_shard(index, shards):
        ways.insert(0, prefixed)
    partial = out.with_name(f".{out.name}.partial")
    lost: list[int] | None = None
    try:
        for way in ways:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            found: set[int] = set()
            for shard in shards:
                found |= _filter(shard, partial / shard.name, way[shard])
            missing = sorted(set(range(len(index))) - found)
            if not missing:
                partial.rename(out)
                return
            lost = missing if lost is None or len(missing) < len(lost) else lost
        assert lost is not None
        raise InputError(
            f"{len(lost)} of {len(index)} kept samples are in none of the shards (first: {shown(index.ids[lost[0]])})"
        )
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


def _by_shard(index: PrunedIndex, shards: Sequence[Path]) -> dict[Path, dict[bytes, int]]:
    """Key to sample for each shard, where ids begin with its name; {} where none begins with any shard's name."""
    wanted: dict[Path, dict[bytes, int]] = {shard: {} for shard in shards}
    shard_of = {os.fsencode(shard.stem): shard for shard in shards}
    for row, name in enumerate(index.ids.tolist()):
        begin, _, rest = name.partition(b"/")
        if begin in shard_of:
            wanted[shard_of[begin]][key_of(rest)] = row
    return wanted if any(wanted.values()) else {}


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
