"""Several betons read as one: their pages lie one after another in one range of addresses; no image is copied.

Array jobs write shards of a large source (`prune write --shard K/N`). Whatever reads a beton sees one table of records,
in the order of the ids, whose pointers lead into that range.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from prune.data.beton import SAMPLE, BetonFile

_ALIGNED = 1 << 21
"""Every file begins at a multiple of it: a multiple of the memory pages of all machines."""
_FIXED, _NO_RESERVE = 0x10, 0x4000  # Linux's MAP_FIXED and MAP_NORESERVE, which the module mmap does not name
_FAILED = ctypes.c_void_p(-1).value


@dataclass(frozen=True)
class SeveralBetons(BetonFile):
    """Opened betons as one; the pointers of `samples` count from the beginning of `pages()`.

    Attributes
    ----------
    parts : tuple of BetonFile
    begins : (p,) int64
        Where each part begins in `pages()`.
    """

    parts: tuple[BetonFile, ...] = ()
    begins: np.ndarray = None  # type: ignore[assignment]

    def pages(self) -> np.ndarray:
        """Map all parts as bytes (read-only), one after another with gaps between them; gaps must not be read."""
        return map_files([part.path for part in self.parts], self.begins)

    def stored(self, row: int) -> tuple[bytes, bool]:
        """As `BetonFile.stored`."""
        pointer = int(self.samples["image"]["pointer"][row])
        part = int(np.searchsorted(self.begins, pointer, side="right")) - 1
        with open(self.parts[part].path, "rb") as file:
            file.seek(pointer - int(self.begins[part]))
            return file.read(int(self.sizes[row])), bool(self.samples["image"]["mode"][row] == 0)


def join(path: Path, parts: Sequence[BetonFile], order: np.ndarray | None) -> SeveralBetons:
    """Join opened betons.

    Parameters
    ----------
    path : Path
        The folder or pattern that names them.
    parts : sequence of BetonFile
    order : (n,) int64, optional
        The row of each image in the concatenated parts; None where that is their order.
    """
    lengths = [-(-part.path.stat().st_size // _ALIGNED) * _ALIGNED for part in parts]
    begins = np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.int64)
    samples = np.empty(sum(map(len, parts)), SAMPLE)
    at = 0
    for part, begin in zip(parts, begins.tolist()):
        rows = slice(at, at + len(part))
        samples[rows] = part.samples
        samples["image"]["pointer"][rows] += np.uint64(begin)
        at += len(part)
    sizes = np.concatenate([part.sizes for part in parts])
    if order is not None:
        samples, sizes = samples[order], sizes[order]
    samples["position"] = np.arange(len(samples))
    return SeveralBetons(path, samples, sizes, max(part.page_size for part in parts), tuple(parts), begins)


def map_files(paths: Sequence[Path], begins: np.ndarray) -> np.ndarray:
    """Map files read-only into one range of addresses, each at its offset in it.

    Parameters
    ----------
    paths : sequence of Path
    begins : (p,) int64
        Ascending multiples of the memory page; a file ends before the next one begins.

    Returns
    -------
    (bytes,) uint8
        Up to the end of the last file. The range is released with the array.

    Raises
    ------
    OSError
        The system has no such range, or a file cannot be mapped.
    """
    library = ctypes.CDLL(None, use_errno=True)
    library.mmap.restype = ctypes.c_void_p
    library.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *(ctypes.c_int,) * 3, ctypes.c_long)
    library.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
    total = int(begins[-1]) + paths[-1].stat().st_size

    def call(address: int | None, size: int, protection: int, flags: int, descriptor: int) -> int:
        found = library.mmap(address, size, protection, flags, descriptor, 0)
        if found == _FAILED:
            error = ctypes.get_errno()
            raise OSError(error, f"{os.strerror(error)}: {len(paths)} files cannot be mapped together")
        return int(found)

    base = call(None, total, 0, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NO_RESERVE, -1)
    try:
        for path, begin in zip(paths, begins.tolist()):
            with open(path, "rb") as file:
                size = os.fstat(file.fileno()).st_size
                call(base + begin, size, mmap.PROT_READ, mmap.MAP_SHARED | _FIXED, file.fileno())
    except OSError:
        library.munmap(base, total)
        raise
    held = (ctypes.c_uint8 * total).from_address(base)
    pages: np.ndarray = np.ctypeslib.as_array(held)
    pages.flags.writeable = False
    weakref.finalize(held, library.munmap, base, total)
    return pages
