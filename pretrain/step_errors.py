"""Errors of torch in a training step that a flag can mend, in one line: too little memory, a batch of one image."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from prune.runs.files import InputError


@contextmanager
def in_one_line(images: int) -> Iterator[None]:
    """Turn them into `InputError`.

    Parameters
    ----------
    images : int
        Of one forward pass.
    """
    try:
        yield
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise InputError("batch norm cannot learn from one image alone: raise --batch-size or --micro-batch") from None
    except (torch.OutOfMemoryError, RuntimeError) as error:
        if "does not have a deterministic implementation" in str(error):
            name = str(error).split(" does not have")[0].split()[-1]
            raise InputError(
                f"--deterministic: {name} has no deterministic implementation on CUDA, and the network needs it: "
                "train without --deterministic"
            ) from None
        if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        raise InputError(
            f"out of memory with {images} images in one forward pass: try --micro-batch {max(1, images // 2)}"
        ) from None
