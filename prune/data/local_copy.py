"""Copies a beton once to the node's own disk and reads it there: shared file systems are slow at many small reads.

WINNOW_LOCAL names a directory of the node, such as `/scratch/$USER` or `$SLURM_TMPDIR`; variables are expanded on the
node. All processes and jobs of a node share the copy: the first one writes it, the others wait. Others may write into
that directory too, so the copy lies where only its user can write, links are not followed, and a copy is looked at
before it is used.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np

from prune.data.beton import BetonFile, open_beton
from prune.data.dataset import Dataset
from prune.data.several_betons import SeveralBetons
from prune.runs.files import InputError, note

SPARE = 1.05  # of the file's size must be free: a full disk breaks other jobs of the node too


def on_this_node(source: Dataset) -> Dataset:
    """The data set, read from the node's disk where WINNOW_LOCAL is set; else unchanged.

    The copy's name holds the manifest's fingerprint, a checksum of the images' order and places, and the file's size,
    so that another beton is never read in its stead, not even one of the same images in another order. A copy that is
    damaged or foreign is made anew. Where the disk is too small, not writable or not safe, a note says so and the
    images are read from the original.
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
    own = _own_folder(folder)
    place = own / f"{fingerprint}-{_layout(beton, checks):08x}-{size}.beton"
    with _locked(place.with_name(f"{place.name}.lock")):
        if not (wrong := _damage(place, beton, checks)):
            return place
        if place.is_symlink() or place.exists():
            note(f"{place}: {wrong}; it is copied again from {origin}")
            place.unlink()
        if shutil.disk_usage(own).free < size * SPARE:
            raise OSError(f"less than {size * SPARE / 1e9:,.1f} GB are free")
        partial = place.with_suffix(".partial")
        partial.unlink(missing_ok=True)  # of a process that was killed: we hold the lock
        try:
            with open(origin, "rb") as source, open(_created(partial), "wb") as copy:
                shutil.copyfileobj(source, copy, 1 << 24)
                copy.flush()
                os.fsync(copy.fileno())
            os.replace(partial, place)
        finally:
            partial.unlink(missing_ok=True)
        if wrong := _damage(place, beton, checks):
            place.unlink()
            raise OSError(f"the copy of {origin} is not what was read ({wrong})")
    note(f"{origin}: copied to {place} ({size / 1e6:,.1f} MB)")
    return place


def _own_folder(folder: Path) -> Path:
    """The folder itself where only we may write into it, else a folder in it that is ours alone.

    Raises
    ------
    OSError
        A folder that cannot be trusted: others could put their files into it.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.stat()
    others_write = found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    if found.st_uid == os.geteuid() and not others_write:
        return folder
    if others_write and not found.st_mode & stat.S_ISVTX:
        raise OSError("others may rename files in it: it needs mode 700, or the sticky bit")
    own = folder / f"winnow-{os.geteuid()}"
    with suppress(FileExistsError):
        own.mkdir(mode=0o700)
    found = own.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise OSError(f"{own} is not a folder of ours")
    if found.st_mode & 0o077:
        own.chmod(0o700)
    return own


def _created(path: Path) -> int:
    """Descriptor of a new file that only we may read; never that of an existing file or of what a link names."""
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _damage(place: Path, beton: BetonFile, checks: np.ndarray) -> str:
    """What is wrong with the copy at `place`; an empty string when nothing is.

    Every image is compared with its CRC-32 once; `X.checked` beside it then records the copy's size and time, and a
    copy of which they are the same is not read again.
    """
    try:
        found = place.lstat()
    except FileNotFoundError:
        return "there is no copy"
    if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid():
        return "is not a file of ours"
    record, stamp = place.with_name(f"{place.name}.checked"), f"{found.st_size} {found.st_mtime_ns}"
    with suppress(OSError, UnicodeDecodeError):
        if not record.is_symlink() and record.read_text() == stamp:
            return ""
    try:
        copy = open_beton(place)
    except InputError:
        return "is damaged or cut short"
    if not np.array_equal(copy.samples, beton.samples) or not np.array_equal(copy.sizes, beton.sizes):
        return "holds other images"
    with open(place, "rb") as file:
        for row, (pointer, size) in enumerate(zip(copy.samples["image"]["pointer"].tolist(), copy.sizes.tolist())):
            file.seek(pointer)
            if zlib.crc32(file.read(size)) != int(checks[row]):
                return f"image {row} is damaged"
    record.unlink(missing_ok=True)
    with open(_created(record), "w") as file:
        file.write(stamp)
    return ""
