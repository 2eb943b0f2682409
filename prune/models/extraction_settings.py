"""How images pass through a network, and whether a features file is up to date: both without torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from prune.data.dataset import Dataset
from prune.index.manifest import manifest_path
from prune.index.npz import open_arrays
from prune.index.pruned_index import PrunedIndex
from prune.runs.identity import RunOption
from prune.runs.outputs import is_up_to_date
from prune.scores.feature_files import FORMAT, check_order, order_fingerprint


@dataclass(frozen=True)
class ExtractionSettings:
    """How images pass through a network; a features file is made with these settings, from one model and one beton."""

    resolution: int | None = None
    precision: str = "auto"
    loader: Literal["ffcv", "torch"] = "ffcv"
    batch_size: RunOption[int] = 256
    workers: RunOption[int | None] = None
    logits: Literal["all", "summary"] = "all"
    features_dtype: str = "float16"


def features_inputs(model: str, dataset: Dataset, index: PrunedIndex | None) -> dict[str, str]:
    """What a features file is made from, by fingerprint; `model` is that of the network."""
    inputs = {"model": model, "source": dataset.manifest.fingerprint}
    return inputs if index is None else inputs | {"index": index.fingerprint}


def have_features(out: Path, settings: ExtractionSettings, inputs: dict[str, str], dataset: Dataset) -> bool:
    """Whether the features at `out` are those of these settings, inputs and order of images.

    False where there is no file, and where the settings leave open what it holds (a summary of logits).

    Raises
    ------
    InputError
        The file is damaged, was made otherwise, or lists the images in another order.
    """
    if settings.logits == "summary":  # of a network whose classes are others all logits are stored
        return False
    if not is_up_to_date(out, lambda path: open_arrays(path, FORMAT)[1]["made"], settings, inputs):
        return False
    manifest = manifest_path(dataset.beton.path)
    order = open_arrays(out, FORMAT)[1].get("order")
    check_order(out, order, manifest, order_fingerprint(manifest), "give another --out, or remove it")
    return True
