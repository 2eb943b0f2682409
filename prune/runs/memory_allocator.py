"""The C library's heap, set for networks on the CPU: memory that a step frees stays with the process for the next."""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3  # glibc's malloc.h


def keep_freed_memory() -> bool:
    """Keep up to 1 GiB of freed memory in the process, in blocks of up to 32 MiB; larger ones are mapped as ever.

    By default glibc hands freed activations back to the kernel and faults their pages in again one layer later: up
    to a quarter of a small network's step on the CPU (`tests/benchmarks/training.py`, part `heap`). Holds for the
    whole process.

    Returns
    -------
    bool
        False where the C library is not glibc: nothing was changed.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    values = {_TRIM_THRESHOLD: 1 << 30, _TOP_PAD: 64 << 20, _MMAP_THRESHOLD: 32 << 20}
    return all(mallopt(name, value) == 1 for name, value in values.items())
