r"""Build the preservation set: cases of a target's train split on which a compressed model must not lose.

    python -m transfer preserve --model runs/first --train pets.train.beton --out pets.preserve.index.npz \
        --rest pets.rest.index.npz
    python -m transfer preserve --train pets.train.beton --list must.txt --size 0 --out pets.preserve.index.npz

Half of every class's share covers the class (k-center on the model's features), half are its hardest (smallest margin)
and most uncertain (entropy) images in turns; no class falls below --floor. Images of --list are all in, the rest fills
up around them. The set is an index like any other. A model that knows these images by heart answers them better than
any smaller one can: fine-tune the one to be compressed on the others (--rest, then `transfer finetune --index`). Test
images never enter: only the train split is read. Seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from prune.runs.files import InputError, note
from prune.runs.identity import Location, RunOption, identity
from prune.runs.outputs import claim_file, flat, index_record

if TYPE_CHECKING:
    import numpy as np

    from prune.data.dataset import Dataset
    from prune.index.manifest import Manifest
    from prune.index.pruned_index import PrunedIndex


@dataclass(frozen=True)
class Config:
    train: Location[Path]
    """Target's training images, `X.beton`."""
    out: Location[Path]
    """Index file to write (NAME.index.npz)."""
    rest: Location[Path | None] = None
    """Index file to write with all other training images, to train on."""
    model: Location[Path | None] = None
    """Model directory whose features and answers choose; not needed with --list and --size 0."""
    size: int = 500
    """Images of the set; those of --list count. 0: --list alone."""
    floor: int = 20
    """Least number of images of each class; smaller classes are taken whole."""
    list: Location[Path | None] = None
    """Your own cases: .txt of ids, .npy of rows, .csv or an index (.index.npz)."""
    index: Location[Path | None] = None
    """Choose only among the images that this index keeps, for instance those held back from training."""
    mistakes: bool = False
    """Hardest by EL2N, the model's mistakes first: only with another model than the one that will be compressed, which
    cannot lose what it answers wrongly."""
    loader: Literal["ffcv", "torch"] = "torch"
    """ffcv for large sets."""
    workers: RunOption[int | None] = None
    """Decoding threads."""


def run(config: Config) -> Path:
    """Write the index; returns its path."""
    import numpy as np

    from prune.data.dataset import open_dataset
    from prune.index.provenance import record
    from prune.index.pruned_index import REASONS, PrunedIndex
    from prune.models import networks

    _check(config)
    source = open_dataset(config.train)
    own, allowed = _listed(config, source.manifest), _allowed(config, source.manifest)
    inputs: dict[str, Any] = {
        "train": source.manifest.fingerprint,
        "model": None if config.model is None else networks.fingerprint(_model(config.model)),
        "list": _digest(own),
        "index": None if allowed is None else _digest(allowed),
    }
    step = record("preserve", identity(config), inputs)
    with claim_file(config.out, index_record, config, {"step": "preserve", **inputs}) as done:
        if done:
            _save_rest(config, source, PrunedIndex.load(config.out))
            return config.out
        reason = np.full(len(own), REASONS.index("imported"), np.uint8)
        rows, score = own, np.full(len(own), np.nan, np.float32)
        if config.size:
            rows, reason, score = _chosen(config, source, own, allowed)
        index = PrunedIndex.from_rows(source.manifest, rows, score=score, reason=reason, provenance=[step])
        index.save(config.out)
        _save_rest(config, source, index)
        counts = index.per_class()[0]
        few = f"{counts.min()} to {counts.max()} a class"
        note(f"{config.out}: {len(index)} of {len(source)} training images, {few}")
    return config.out


def _check(config: Config) -> None:
    if config.out.is_dir():
        raise InputError(f"--out {config.out}: is a directory; an index file is expected")
    if config.rest is not None and (config.rest.is_dir() or config.rest == config.out):
        raise InputError(f"--rest {config.rest}: an index file of its own is expected")
    if config.size < 0 or config.floor < 0:
        raise InputError(f"--size {config.size} --floor {config.floor}: 0 or more is needed")
    if config.size and config.model is None:
        raise InputError("--model: choosing images needs a model; with --list alone give --size 0")
    if not config.size and config.list is None:
        raise InputError("--size 0: nothing would be in the set; give --list")


def _save_rest(config: Config, source: Dataset, chosen: PrunedIndex) -> None:
    import numpy as np

    from prune.index.provenance import record
    from prune.index.pruned_index import PrunedIndex

    if config.rest is None:
        return
    inputs = {"train": source.manifest.fingerprint, "preserve": chosen.fingerprint}
    step = record("preserve-rest", {}, inputs)
    with claim_file(config.rest, index_record, None, flat(step)) as done:
        if not done:
            rows = np.setdiff1d(np.arange(len(source)), chosen.rows_in(source.manifest))
            PrunedIndex.from_rows(source.manifest, rows, provenance=[step]).save(config.rest)


def _model(directory: Path) -> Path:
    if not (directory / "model.json").is_file() or not (directory / "model.safetensors").is_file():
        raise InputError(f"{directory}: not a trained model (no model.json and model.safetensors there)")
    return directory


def _listed(config: Config, manifest: Manifest) -> np.ndarray:
    """Ascending rows of the user's cases."""
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
    from transfer.evaluation.target_splits import kept_rows

    return None if config.index is None else kept_rows(manifest, config.index)[0]


def _digest(rows: np.ndarray) -> str:
    import hashlib

    return hashlib.sha256(rows.astype("<i8").tobytes()).hexdigest()[:32]


def _chosen(
    config: Config, source: Dataset, own: np.ndarray, allowed: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows, reasons and scores of the set."""
    import numpy as np

    from prune.features import extract
    from prune.models.networks import load_model
    from transfer.compression.preservation_set import preserve

    assert config.model is not None
    network, spec = load_model(config.model)
    rows = np.arange(len(source), dtype=np.int64) if allowed is None else np.union1d(allowed, own)
    passes = extract(
        network,
        source,
        rows,
        resolution=spec["resolution"],
        mean=spec["mean"],
        std=spec["std"],
        loader=config.loader,
        workers=config.workers or (1 if config.loader == "torch" else None),
    )
    features, logits, _ = (np.concatenate(part) for part in zip(*passes))
    label = np.asarray(source.manifest.labels)[rows]
    if config.mistakes and list(spec["classes"]) != list(source.manifest.classes):
        raise InputError(f"--mistakes: {config.model} knows other classes than {config.train}")
    places, reason, score = preserve(
        features,
        logits,
        label,
        len(source.manifest.classes),
        config.size,
        floor=config.floor,
        always=np.isin(rows, own),
        mistakes=config.mistakes,
    )
    return rows[places], reason, score
