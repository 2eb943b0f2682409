"""Single precision as such on a GPU: no TF32, which torch uses for convolutions and a training for all products."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def full_precision(wanted: bool = True) -> Iterator[None]:
    """Multiply float32 with all its 24 bits within the block; with `wanted` False nothing changes."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    if wanted:
        torch.set_float32_matmul_precision("highest")
        torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]
