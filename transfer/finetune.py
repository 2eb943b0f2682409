"""Fine-tune a model on a target, backbone and classifier, and evaluate it on the target's test images.

    python -m transfer finetune --model runs/backbone --train pets.train.beton --test pets.test.beton --out runs/tuned
    python -m transfer finetune ... --head probe        starts from the linear probe's classifier instead of zeros
    accelerate launch -m transfer finetune ...          several processes

Trains in the loop of `pretrain`, which resumes within an epoch, with a recipe that follows from the target's size.
Writes a model directory (model.safetensors, model.json with the target's classes, metrics.jsonl, provenance.json) and
OUT/result.json, OUT/predictions.npz. The model after the last epoch is evaluated; the test images choose nothing. 0.1
to 2 minutes for 5,000 images of 32 px and a small network.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from prune.models.model_spec import need_model
from prune.runs.compute_device import DeviceFlag, using
from prune.runs.files import InputError, at_least, positive
from prune.runs.identity import Location, OnceUnrecorded, RunOption
from prune.runs.outputs import claim
from prune.runs.path_checks import Written

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

    from pretrain.distributed import Ranks
    from pretrain.hooks import Progress
    from pretrain.recipe import Recipe
    from prune.data.dataset import Dataset
    from prune.models.networks import TrainedModel
    from transfer.evaluation.logistic import Linear


@dataclass(frozen=True)
class Config:
    model: Location[Path]
    """Model directory of `pretrain`."""
    train: Location[Path]
    """Target's training images: `X.beton`, a directory of class folders, or torchvision:NAME:ROOT:SPLIT."""
    test: Location[Path]
    """Target's test images, as --train; a beton must be written with the training images' class list."""
    out: Location[Path]
    """Run directory."""
    index: Location[Path | None] = None
    """Train on the target's images that this index keeps; all of --train when absent."""
    recipe: Literal["auto", "small", "medium", "large"] = "auto"
    """Schedule; auto: by the number of training images (the bounds are 2,000 and 20,000)."""
    head: Literal["new", "probe"] = "new"
    """Classifier to start from: zeros, or the linear probe's, which distorts the features less (arXiv 2202.10054)."""
    epochs: float | None = None
    """Passes over the training images instead of the recipe's."""
    lr: float | None = None
    """Peak learning rate instead of the recipe's."""
    batch_size: int | None = None
    """Images per step over all processes instead of the recipe's; the learning rate follows in proportion."""
    micro_batch: RunOption[int | None] = None
    """Largest number of images per forward pass and process; larger steps accumulate gradients."""
    features: Location[Written[Path | None]] = None
    """With --head probe: directory of features shared by evaluations of this model; OUT/features when absent."""
    seed: int = 0
    """Decides order, augmentation, and the probe's validation part."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """auto: bf16 where the hardware has it, fp16 on other GPUs, fp32 on other CPUs."""
    loader: OnceUnrecorded[Literal["auto", "ffcv", "torch"]] = "auto"
    """Image loader; torch works without FFCV. auto: torch for few small images, read before FFCV has compiled."""
    workers: RunOption[int | None] = None
    """Decoding threads per process; its share of the cores when absent."""
    device: RunOption[DeviceFlag] = "auto"
    """auto: the GPU, where there is one; a job that was given a GPU and cannot use it is refused."""
    compile: RunOption[Literal["auto", "on", "off"]] = "auto"
    """torch.compile; auto: where the recipe wants it, on a GPU, if this machine has a compiler."""
    deterministic: RunOption[bool] = False
    """On a GPU: only operations that give the same bits each time, at some cost in speed; CPUs need no flag."""


def run(config: Config) -> None:
    """Fine-tune, resume, or return at once when the run is done."""
    with using(config.device):
        _run(config)


def _run(config: Config) -> None:
    positive(config, "epochs", "lr", "batch_size", "micro_batch")
    at_least(config, 0, "seed")
    at_least(config, 1, "workers")
    if config.features is not None and config.head != "probe":
        raise InputError("--features: is used with --head probe only")
    need_model(config.model)
    from prune.models.networks import open_model
    from transfer.evaluation.evaluation_result import note_up_to_date
    from transfer.evaluation.output import need_other
    from transfer.evaluation.target_splits import fingerprints, kept_rows, open_splits

    need_other(config.out, config.model)
    model = open_model(config.model)
    train, test = open_splits(config.train, config.test, config.out)
    inputs = fingerprints(model, train, test)
    rows, index = kept_rows(train.manifest, config.index)
    inputs |= {"index": index} if index else {}
    with claim(config.out, config, inputs) as done:
        if done:
            return note_up_to_date(config.out)
        _finetune(config, model, train, test, rows, inputs)


def _finetune(
    config: Config, model: TrainedModel, train: Dataset, test: Dataset, rows: np.ndarray, inputs: dict[str, str]
) -> None:
    """Train on these rows, (n,) int64 ascending, evaluate, and write the results; every process calls this."""
    import shutil
    import time

    from pretrain.distributed import dtype_of, open_ranks
    from transfer.evaluation import finetuning
    from transfer.evaluation.evaluation_result import note_result

    dtype_of(config.precision)
    begin = time.perf_counter()
    name, recipe = _recipe(config, model, len(rows))
    spec = {**model.spec, "classes": train.manifest.classes, "recipe": f"finetune-{name}"}
    spec |= {"index": inputs.get("index"), "source": inputs["train"]}
    network = finetuning.with_new_head(model.network, spec)
    how = {"compile": config.compile, "deterministic": config.deterministic}
    with open_ranks(config.precision, **how) as ranks:  # type: ignore[arg-type]
        if config.head == "probe":
            finetuning.set_head(network, _probe(config, model, train, test, rows, ranks.device.type))
        network = network.to(ranks.device)
        progress = finetuning.train_on_target(
            network,
            train,
            rows,
            recipe,
            ranks,
            config.out,
            mean=spec["mean"],
            std=spec["std"],
            seed=config.seed,
            micro_batch=config.micro_batch,
            loader=config.loader,
            workers=config.workers,
        )
        if ranks.rank == 0:
            result = _evaluate(config, network, spec, recipe, test, progress, inputs, begin, len(rows), ranks)
            shutil.rmtree(config.out / "checkpoint", ignore_errors=True)
            note_result(config.out, result)
        ranks.wait()


def _recipe(config: Config, model: TrainedModel, images: int) -> tuple[str, Recipe]:
    """Name of the recipe for this number of training images, and the recipe with the flags taken into account."""
    from transfer.evaluation import finetune_recipes

    name = finetune_recipes.size_of(images) if config.recipe == "auto" else config.recipe
    batch_norm = finetune_recipes.has_batch_norm(model.network)
    recipe = finetune_recipes.for_network(name, model.spec, batch_norm=batch_norm)
    return name, finetune_recipes.with_flags(recipe, config.batch_size, config.lr, config.epochs)


def _probe(config: Config, model: TrainedModel, train: Dataset, test: Dataset, rows: np.ndarray, device: str) -> Linear:
    """Fit a linear probe to the features of these rows; every process finds the same."""
    import numpy as np

    from transfer.evaluation.logistic import train_linear
    from transfer.evaluation.target_splits import split_features

    place = config.features or config.out / "features"
    found, _ = split_features(model, train, test, place, config.loader, config.workers)
    x, y = np.asarray(found.features)[rows], np.asarray(found.label)[rows]
    return train_linear(x, y, seed=config.seed, device=device)[0]


def _evaluate(
    config: Config,
    network: nn.Module,
    spec: dict[str, Any],
    recipe: Recipe,
    test: Dataset,
    progress: Progress,
    inputs: dict[str, str],
    begin: float,
    images: int,
    ranks: Ranks,
) -> dict[str, Any]:
    """Predict the test images and write the predictions, the model and the results; returns result.json."""
    import time
    from dataclasses import asdict

    import numpy as np

    from pretrain import training_flops
    from prune.models.evaluation_view import passes
    from prune.models.forward_flops import forward_flops
    from prune.models.networks import save_model
    from prune.runs.identity import plain
    from prune.runs.outputs import finish
    from transfer.evaluation import evaluation_result, finetuning
    from transfer.evaluation.target_splits import target_name

    label = np.asarray(test.manifest.labels)
    found = finetuning.predict(network, spec, test, ranks.device, loader=config.loader, workers=config.workers)
    measured = evaluation_result.save_predictions(config.out, label, *found, spec["classes"])
    save_model(config.out, network, spec)
    cost = training_flops.per_image(network, recipe, recipe.resolution)
    result = evaluation_result.write_result(
        config.out,
        "finetune",
        target_name(config.train),
        measured,
        inputs,
        n_train=images,
        samples=progress.samples + len(test),
        flops=progress.samples * cost + len(test) * passes(spec) * forward_flops(network, recipe.resolution),
        seconds=max(progress.seconds, time.perf_counter() - begin),
        recipe=spec["recipe"].removeprefix("finetune-"),
        head=config.head,
    )
    finish(
        config.out,
        seconds=result["seconds"],
        samples=progress.samples,
        flops_per_sample=cost,
        images_per_second=progress.samples / max(progress.seconds, 1e-9),
        steps=progress.step,
        epochs=len(progress.lines),
        processes=ranks.world,
        recipe={"name": spec["recipe"], **plain(asdict(recipe))},
        inputs=inputs,
    )
    return result
