"""Chooses what decodes the images of a training or an evaluation: FFCV's library, or Pillow in PyTorch's DataLoader.

- `ffcv`: `ffcv_loader.py`, whose decoding is the compiled function in `jpeg_decoder.py`
- `torch`: `torch_loader.py`, which decodes with Pillow (`stored_images.decode`)

Both take the rows of an epoch in order, crop each image to the box that `crops.py` drew for it, resize it with OpenCV's
area interpolation, and mirror it where the draw says so. Both check every image's CRC-32 against the manifest, so that
damaged bytes are an error and never silently other pixels.

A loader is expensive to open and cheap to use again: open few, call `epoch` often.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from prune.data.batches import Loader
from prune.data.dataset import Dataset, open_dataset
from prune.data.local_copy import on_this_node
from prune.data.torch_loader import TorchLoader
from prune.runs.cores import at_least_one, share_of_cores
from prune.runs.extras import DISTRIBUTION
from prune.runs.files import InputError


def open_loader(
    beton: Path | Dataset,
    *,
    resolution: int,
    batch_size: int,
    workers: int | None = None,
    loader: Literal["ffcv", "torch"] = "ffcv",
) -> Loader:
    """Open a beton for reading in batches.

    Parameters
    ----------
    beton : Path or Dataset
    resolution : int
        Largest side in pixels with which `epoch` will be called.
    batch_size : int
    workers : int, optional
        Decoding threads (ffcv) or processes (torch); this process's share of the cores when absent.
    loader : {"ffcv", "torch"}
        `torch` needs no FFCV.

    Raises
    ------
    InputError
        The beton or its manifest is missing or damaged, a value is out of range, or FFCV cannot be imported.
    """
    source = beton if isinstance(beton, Dataset) else open_dataset(beton)
    if resolution < 1 or batch_size < 1:
        raise InputError(f"resolution {resolution} and batch size {batch_size} must be at least 1")
    workers = share_of_cores() if workers is None else at_least_one(workers)
    source = on_this_node(source)
    if loader == "torch":
        return TorchLoader(source, resolution, batch_size, workers)
    if loader != "ffcv":
        raise InputError(f"--loader {loader}: ffcv and torch are possible")
    try:
        from prune.data.ffcv_loader import FfcvLoader
    except (ImportError, OSError) as error:
        raise InputError(
            f"FFCV cannot be used ({error}): use --loader torch, or pip install '{DISTRIBUTION}[ffcv]'"
        ) from None
    return FfcvLoader(source, resolution, batch_size, min(workers, len(os.sched_getaffinity(0))))
