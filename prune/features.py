"""Run a network once over all images of betons and store its features and logits.

    prune features --model runs/surrogate --betons runs/source.beton runs/pets.beton --out runs/features
    prune features --thumbnail --betons runs/source.beton runs/pets.beton --out runs/thumbnails      (no network)
    accelerate launch --multi_gpu -m prune features ...       (all GPUs; each takes a part of every beton)

Writes OUT/<name>.features.npz for each beton: float16 or --features-dtype, rows in the beton's order, memory-mapped.
--sample 0.1 passes over a tenth of the source, which is enough for class votes. --logits summary stores of a source's
logits only what `prune score` needs: of thousands of classes they are the most.
<name>.features.json beside it records the seconds that the pass took.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from prune.models.model_spec import need_model
from prune.runs.compute_device import DeviceFlag, using
from prune.runs.files import InputError, at_least, note
from prune.runs.identity import Location, Recorded, RunOption
from prune.runs.path_checks import need_directory

if TYPE_CHECKING:
    from prune.index.manifest import Manifest
    from prune.index.pruned_index import PrunedIndex

KINDS = ("float16", "float32", "int8")


@dataclass(frozen=True)
class Config:
    betons: Location[tuple[Path, ...]]
    """Betons of `prune write`; source and targets' train splits can go into one call. A folder of betons, or a pattern
    in quotes, is one source."""
    out: Location[Path]
    """Directory for <name>.features.npz."""
    model: Location[Path | None] = None
    """Directory of a `pretrain` run: model.safetensors and model.json."""
    thumbnail: Recorded[bool] = False
    """Instead of a network: an 8 x 8 thumbnail and histograms, at the speed of decoding. They tell domains apart."""
    index: Location[Path | None] = None
    """Only the images that this index of the first beton keeps; other betons are read whole."""
    sample: Recorded[float] = 1.0
    """Share of the first beton's images, of those that --index keeps: a tenth is enough for class votes (--method
    evidence, dp4tl-lm, dp4tl-fm). Images without features have no scores of their own, and no near-duplicates."""
    seed: Recorded[int] = 0
    """Decides --sample."""
    resolution: int | None = None
    """Side of the images in pixels; the model's evaluation resolution when absent."""
    batch_size: RunOption[int] = 256
    """Images per batch and process."""
    logits: Literal["all", "summary"] = "all"
    """all, or a summary: the scores that `prune score` computes from them, 24 bytes an image instead of two for every
    class. For betons whose classes are the model's, as a source's; of others, targets among them, all are stored."""
    features_dtype: str = "float16"
    """float16; float32: twice the bytes; or int8: half of float16's, in 255 steps from an image's least feature to its
    largest (docs/scale.md says what a selection loses)."""
    precision: str = "auto"
    """auto, bf16 or fp32; auto: bf16 where the hardware multiplies it."""
    loader: Literal["ffcv", "torch"] = "ffcv"
    """Image loader; torch works without FFCV."""
    workers: RunOption[int | None] = None
    """Decoding threads per process."""
    device: RunOption[DeviceFlag] = "auto"
    """auto: the GPU, where there is one; a job that was given a GPU and cannot use it is refused."""


def run(config: Config) -> None:
    """Write the features of each beton that has none yet."""
    with using(config.device):
        _run(config)


def _run(config: Config) -> None:
    _check(config)
    from prune.data.dataset import open_dataset
    from prune.index.pruned_index import PrunedIndex
    from prune.models.extraction_settings import ExtractionSettings, features_inputs, have_features
    from prune.models.model_spec import model_fingerprint
    from prune.models.thumbnail_extraction import describe_to_file

    settings = ExtractionSettings(
        config.resolution,
        config.precision,
        config.loader,
        config.batch_size,
        config.workers,
        config.logits,
        config.features_dtype,
    )
    index = None if config.index is None else PrunedIndex.load(config.index)
    datasets = [open_dataset(path) for path in config.betons]
    if config.sample < 1:
        index = _sampled(datasets[0].manifest, index, config.sample, config.seed)
    places = [config.out / f"{dataset.name}.features.npz" for dataset in datasets]
    if config.model is None:
        for dataset, out in zip(datasets, places):
            describe_to_file(dataset, out, config.workers, config.features_dtype)
        return
    indices = [index, *([None] * (len(datasets) - 1))]
    key = model_fingerprint(config.model)
    every = list(zip(datasets, places, indices))
    made = [have_features(out, settings, features_inputs(key, data, one), data) for data, out, one in every]
    if all(made):  # before torch is imported, which takes seconds
        for out in places:
            note(f"{out}: up to date")
        return
    from prune.models.feature_extraction import extract_to_file
    from prune.models.networks import open_model

    model = open_model(config.model)
    for dataset, out, one in every:
        extract_to_file(model, dataset, out, settings, one)


def _sampled(manifest: Manifest, index: PrunedIndex | None, share: float, seed: int) -> PrunedIndex:
    """A share of an index, or of a whole source; every class in proportion."""
    from prune.index.matching import sampled_rows
    from prune.index.provenance import record
    from prune.index.pruned_index import PrunedIndex

    if index is not None:
        return index.sample(share, seed=seed)
    rows = sampled_rows(manifest.labels, manifest.ids, share, seed)
    entry = record("sample", {"keep": share, "seed": seed}, {"source": manifest.fingerprint})
    return PrunedIndex.from_rows(manifest, rows, provenance=[entry])


def _check(config: Config) -> None:
    if not config.betons:
        raise InputError("--betons: name at least one")
    if (config.model is None) == (not config.thumbnail):
        raise InputError("give either --model or --thumbnail")
    if config.thumbnail and config.index is not None:
        raise InputError("--index goes with --model: thumbnails are computed of all images")
    if not 0 < config.sample <= 1:
        raise InputError(f"--sample {config.sample}: a share in (0, 1] is needed")
    if config.sample < 1 and config.thumbnail:
        raise InputError("--sample goes with --model: thumbnails are computed of all images")
    if config.features_dtype not in KINDS:
        raise InputError(f"--features-dtype {config.features_dtype}: give {', '.join(KINDS[:-1])} or {KINDS[-1]}")
    if config.thumbnail and config.logits != "all":
        raise InputError(f"--logits {config.logits} goes with --model: thumbnails have no logits")
    from prune.data.dataset import dataset_name

    names = [dataset_name(path) for path in config.betons]
    if twice := {n for n in names if names.count(n) > 1}:
        raise InputError(f"--betons: two are named {min(twice)!r}; their features would overwrite each other")
    at_least(config, 1, "resolution", "batch_size", "workers")
    need_model(config.model)
    need_directory(config.out)
