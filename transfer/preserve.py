r"""Build the preservation set: images of a target's train split on which a compressed model must not get worse.

    python -m transfer preserve --model runs/first --train pets.train.beton --out pets.preserve.index.npz \
        --rest pets.rest.index.npz
    python -m transfer preserve --train pets.train.beton --list must.txt --size 0 --out pets.preserve.index.npz

Of the images that are chosen from a class, half cover the class (k-center on the model's features). The others are its
hardest images (smallest margin) and its most uncertain ones (highest entropy), in turns. No class gets fewer than
--floor. All images of --list are in the set, which is filled up with others. The set is an index like any other. A
network predicts images that it was trained on better than any smaller one can: fine-tune the model to be compressed on
the other images (--rest, then `transfer finetune --index`). Only the train split is read, never test images. Seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from prune.runs.compute_device import DeviceFlag, using
from prune.runs.files import InputError, note
from prune.runs.identity import Location, RunOption, identity
from prune.runs.outputs import claim_file, flat, index_record

if TYPE_CHECKING:
    import numpy as np

    from prune.data.dataset import Dataset
    from prune.index.manifest import Manifest
    from prune.index.pruned_index import PrunedIndex
    from prune.models.networks import TrainedModel


@dataclass(frozen=True)
class Config:
    train: Location[Path]
    """Target's training images, `X.beton`."""
    out: Location[Path]
    """Index file to write (NAME.index.npz)."""
    rest: Location[Path | None] = None
    """Index file to write with all other training images, to train on."""
    model: Location[Path | None] = None
    """Model directory whose features and predictions choose; not needed with --list and --size 0."""
    size: int = 500
    """Images of the set, those of --list included. 0: only those of --list."""
    floor: int = 20
    """Smallest number of images of each class; smaller classes are included whole."""
    list: Location[Path | None] = None
    """Images that are in the set in any case: .txt of ids, .npy of rows, .csv or an index (.index.npz)."""
    index: Location[Path | None] = None
    """Choose only among the images that this index keeps, for instance those held out from training."""
    mistakes: bool = False
    """Rank hardness by EL2N, the model's mistakes first. For another model than the one that will be compressed, which
    cannot lose what it predicts wrongly."""
    loader: Literal["ffcv", "torch"] = "torch"
    """Image loader; ffcv for large sets."""
    workers: RunOption[int | None] = None
    """Decoding threads."""
    device: RunOption[DeviceFlag] = "auto"
    """auto: the GPU, where there is one; a job that was given a GPU and cannot use it is refused."""


def run(config: Config) -> Path:
    """Write the index; returns its path."""
    with using(config.device):
        return _run(config)


def _run(config: Config) -> Path:
    from prune.data.dataset import open_dataset
    from prune.index.provenance import record
    from prune.index.pruned_index import PrunedIndex
    from prune.models.networks import open_model

    _check(config)
    dataset = open_dataset(config.train)
    listed, allowed = _listed(config, dataset.manifest), _allowed(config, dataset.manifest)
    model = None if config.model is None else open_model(config.model)
    inputs: dict[str, Any] = {
        "train": dataset.manifest.fingerprint,
        "model": None if model is None else model.fingerprint,
        "list": _digest(listed),
        "index": None if allowed is None else _digest(allowed),
    }
    found: list[PrunedIndex] = []

    def last_step(path: Path) -> dict[str, Any]:
        found.append(PrunedIndex.load(path))
        return flat(found[-1].provenance[-1]) if found[-1].provenance else {}

    with claim_file(config.out, last_step, config, {"step": "preserve", **inputs}) as done:
        if done:
            index = found[-1]
        else:
            rows, reason, score = _chosen(config, model, dataset, listed, allowed)
            step = record("preserve", identity(config), inputs)
            index = PrunedIndex.from_rows(dataset.manifest, rows, score=score, reason=reason, provenance=[step])
            index.save(config.out)
            counts = index.per_class()[0]
            each = f"{counts.min()} to {counts.max()} per class"
            note(f"{config.out}: {len(index)} of {len(dataset)} training images, {each}")
        if config.rest is not None:
            _save_rest(config.rest, dataset, index)
    return config.out


def _check(config: Config) -> None:
    if config.out.is_dir():
        raise InputError(f"--out {config.out}: is a directory; an index file is expected")
    if config.rest is not None and (config.rest.is_dir() or config.rest == config.out):
        raise InputError(f"--rest {config.rest}: an index file other than --out is expected")
    if config.size < 0 or config.floor < 0:
        raise InputError(f"--size {config.size} --floor {config.floor}: 0 or more is needed")
    if config.size and config.model is None:
        raise InputError("--model: choosing images needs a model; with --list alone give --size 0")
    if not config.size and config.list is None:
        raise InputError("--size 0: nothing would be in the set; give --list")


def _save_rest(out: Path, dataset: Dataset, chosen: PrunedIndex) -> None:
    """Write an index of all training images outside the preservation set."""
    import numpy as np

    from prune.index.provenance import record
    from prune.index.pruned_index import PrunedIndex

    step = record("preserve-rest", {}, {"train": dataset.manifest.fingerprint, "preserve": chosen.fingerprint})
    with claim_file(out, index_record, None, flat(step)) as done:
        if not done:
            rows = np.setdiff1d(np.arange(len(dataset)), chosen.rows_in(dataset.manifest))
            PrunedIndex.from_rows(dataset.manifest, rows, provenance=[step]).save(out)


def _listed(config: Config, manifest: Manifest) -> np.ndarray:
    """Ascending rows of the images of --list."""
    import numpy as np

    from prune.data.sample_lists import listed_rows, read_list
    from prune.index.pruned_index import PrunedIndex
    from prune.runs.files import need_file

    if config.list is None:
        return np.zeros(0, np.int64)
    need_file(config.list, "a list of samples")
    if config.list.name.endswith(".index.npz"):
        return np.sort(PrunedIndex.load(config.list).rows_in(manifest))
    return listed_rows(read_list(config.list), manifest)[0]


def _allowed(config: Config, manifest: Manifest) -> np.ndarray | None:
    """Ascending rows of the images of --index."""
    from transfer.evaluation.target_splits import kept_rows

    return None if config.index is None else kept_rows(manifest, config.index)[0]


def _digest(rows: np.ndarray) -> str:
    import hashlib

    return hashlib.sha256(rows.astype("<i8").tobytes()).hexdigest()[:32]


def _chosen(
    config: Config, model: TrainedModel | None, dataset: Dataset, listed: np.ndarray, allowed: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows, reasons and scores of the set."""
    import numpy as np

    from prune.index.pruned_index import REASONS
    from prune.models.feature_extraction import extract
    from transfer.compression.preservation_set import preserve

    if not config.size:
        reason = np.full(len(listed), REASONS.index("imported"), np.uint8)
        return listed, reason, np.full(len(listed), np.nan, np.float32)
    assert model is not None
    rows = np.arange(len(dataset), dtype=np.int64) if allowed is None else np.union1d(allowed, listed)
    workers = config.workers or (1 if config.loader == "torch" else None)
    passes = extract(model.network, model.spec, dataset, rows, loader=config.loader, workers=workers)
    features, logits, _ = (np.concatenate(part) for part in zip(*passes))
    label = np.asarray(dataset.manifest.labels)[rows]
    if config.mistakes and list(model.spec["classes"]) != list(dataset.manifest.classes):
        raise InputError(f"--mistakes: {config.model} has other classes than {config.train}")
    places, reason, score = preserve(
        features,
        logits,
        label,
        len(dataset.manifest.classes),
        config.size,
        floor=config.floor,
        always=np.isin(rows, listed),
        mistakes=config.mistakes,
    )
    return rows[places], reason, score
