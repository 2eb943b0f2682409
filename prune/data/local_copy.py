"""Copies a beton once to the node's own disk and reads it there: shared file systems are slow at many small reads.

WINNOW_LOCAL names a directory of the node, such as `/scratch/$USER` or `$SLURM_TMPDIR`; variables are expanded on the
node. All processes and jobs of a node share the copy: the first one writes it, the others wait.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np

from prune.data.beton import BetonFile
from prune.data.dataset import Dataset
from prune.data.several_betons import SeveralBetons
from prune.runs.files import note

SPARE = 1.05  # of the file's size must be free: a full disk breaks other jobs of the node too


def on_this_node(source: Dataset) -> Dataset:
    """The data set, read from the node's disk where WINNOW_LOCAL is set; else unchanged.

    The copy's name holds the manifest's fingerprint, a checksum of the images' order and places, and the file's size,
    so that another beton is never read in its stead, not even one of the same images in another order. Where the disk
    is too small or not writable, a note says so and the images are read from the original.
    """
    folder = os.path.expandvars(os.environ.get("WINNOW_LOCAL", ""))
    if not folder:
        return source
    if "$" in folder:
        note(f"WINNOW_LOCAL={folder}: a variable in it is not set; reading {source.beton.path} where it is")
        return source
    beton = source.beton
    try:
        if not isinstance(beton, SeveralBetons):
            copy = _copied(beton, source.manifest.fingerprint, source.manifest.crc32, Path(folder))
            return replace(source, beton=replace(beton, path=copy))
        owner = np.searchsorted(beton.begins, beton.samples["image"]["pointer"].astype(np.int64), side="right") - 1
        parts = []
        for k, part in enumerate(beton.parts):
            checks = source.manifest.crc32[owner == k]
            parts.append(replace(part, path=_copied(part, source.manifest.fingerprint, checks, Path(folder))))
        return replace(source, beton=replace(beton, parts=tuple(parts)))
    except OSError as error:
        note(f"WINNOW_LOCAL={folder}: {error}; reading {beton.path} where it is")
        return source


def _layout(beton: BetonFile, checks: np.ndarray) -> int:
    """CRC-32 of the images' records and checksums, in their order; the fingerprint does not depend on the order."""
    return zlib.crc32(beton.samples.view(np.uint8).data, zlib.crc32(np.ascontiguousarray(checks).data))


def _copied(beton: BetonFile, fingerprint: str, checks: np.ndarray, folder: Path) -> Path:
    origin = beton.path
    size = origin.stat().st_size
    place = folder / f"{fingerprint}-{_layout(beton, checks):08x}-{size}.beton"
    if place.exists():
        return place
    folder.mkdir(parents=True, exist_ok=True)
    with open(f"{place}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if place.exists():  # written while we waited
            return place
        if shutil.disk_usage(folder).free < size * SPARE:
            raise OSError(f"less than {size * SPARE / 1e9:,.1f} GB are free")
        partial = place.with_suffix(".partial")
        try:
            shutil.copyfile(origin, partial)
            os.replace(partial, place)
        finally:
            partial.unlink(missing_ok=True)
    note(f"{origin}: copied to {place} ({size / 1e6:,.1f} MB)")
    return place
