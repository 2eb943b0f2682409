r"""Shrink a model step by step: a step is accepted when a preservation set loses no more than its margins.

    python -m transfer compress --model runs/pets-model --train pets.train.beton --preserve pets.preserve.index.npz \
        --size 0.5 --out runs/pets-small
    python -m transfer rollback --run runs/pets-small --to 2

A step removes channels (or quantises), trains shortly on the target's other images, and is tested: accuracy on the
preservation set, overall and in each class, against the original. Within the margins it is accepted; otherwise it is
rolled back and tried with half the ratio, and then the next kind of step follows. OUT holds the current model
(model.safetensors, model.json), original/, steps/NN/ (each accepted step, complete), journal.jsonl (one line per step)
and result.json. The same command resumes a run that was killed. With --approve each step that passed waits for a person
(exit code 75, `transfer approve`). Minutes for ResNet-18 on 32 px and two cores.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from prune.runs.compute_device import DeviceFlag, using
from prune.runs.files import InputError, at_least, need_file, note, write_json
from prune.runs.identity import Location, OnceUnrecorded, RunOption
from prune.runs.outputs import claim, finish

if TYPE_CHECKING:
    import numpy as np

    from pretrain.distributed import Ranks
    from pretrain.recipe import Recipe
    from prune.data.batches import Loader
    from prune.data.dataset import Dataset
    from prune.models.networks import TrainedModel
    from transfer.compression.compression_loop import Compression
    from transfer.compression.journal import CompressionPlan, Entry
    from transfer.compression.preservation_versions import PreservationSet
    from transfer.compression.wider_tests import WiderTests


@dataclass(frozen=True)
class Config:
    model: Location[Path]
    """Model directory with the target's classes; only read."""
    train: Location[Path]
    """Target's training images, `X.beton`."""
    preserve: Location[Path]
    """Preservation set: an index of `transfer preserve`, or your own."""
    out: Location[Path]
    """Run directory."""
    index: Location[Path | None] = None
    """Train on the images that this index keeps; on all of --train but the preservation set when absent."""
    kinds: tuple[Literal["channels", "inner", "heads", "both", "rewind", "int8"], ...] = ("channels", "inner", "int8")
    """Kinds of steps, in order: channels everywhere, channels inside the blocks, whole attention heads, heads and
    channels inside the blocks, single weights, quantisation. Where neither `heads` nor `both` is named, attention
    loses channels within its heads; else heads keep their dimension."""
    size: float = 0.25
    """Share of the original's parameters at which shrinking ends."""
    ratio: float = 0.2
    """Share of the channels (or weights) that a step removes at first; a rejected step is tried with half."""
    least: float = 0.04
    """Smallest ratio that is tried before the next kind of step."""
    steps: int = 30
    """Largest number of steps tried; attempts that find nothing to remove, and rollbacks, do not count."""
    importance: Literal["data", "magnitude", "random"] = "data"
    """How channels are ranked: gradients and activations on the target's images, norms of weights, or at random."""
    importance_images: int = 512
    """Images, balanced over the classes, by which `data` ranks, and by which the journal names the classes that a
    channel served; never of the preservation set."""
    protect: tuple[str, ...] = ()
    """Layers that no step may touch, with all that is in them (`layer4 conv1`): their channels stay, training leaves
    their weights as they are, and int8 keeps them in fp32."""
    margin: float | None = 1.0
    """Points of accuracy that may be lost on the preservation set, of whose n images one is 100 / n points; None: any
    loss is allowed."""
    class_margin: float | None = 10.0
    """Points that each class may lose; None: any loss is allowed."""
    groups: Location[Path | None] = None
    """Table of groups (CSV: id and one or more columns): each is tested like a class."""
    group_margin: float | None = 10.0
    """Points that each group may lose; None: any loss is allowed."""
    group_margins: tuple[str, ...] = ()
    """Margins of single groups, COLUMN=GROUP=POINTS (camera=front=2)."""
    ece_margin: float | None = None
    """Points by which the expected calibration error may rise; None: it is not tested."""
    metric: str | None = None
    """Your own metric, MODULE:FUNCTION, called with labels (n,) and logits (n, classes); larger is better. Importing it
    runs its code, so that only this command line can name it, never a plan or a stored configuration."""
    metric_margin: float = 0.0
    """By how much your metric may fall, in its unit."""
    slack: float = 0.0
    """Standard errors allowed in addition to each margin: with few images per class, an equally good network loses some
    points by chance. 0 rejects at the first image too many."""
    recipe: str | None = None
    """Recipe of the training after each step; that of the model when absent, with a fifth of its learning rate."""
    recovery_epochs: float = 3.0
    """Epochs of training after each step. On two small targets 3 kept the accuracy where 1 lost 1 to 2 points."""
    last_epochs: float | None = None
    """Epochs of training after the step that reaches --size; as after the others when absent."""
    learning_rate: float | None = None
    """Peak learning rate of the training after each step."""
    batch_size: int | None = None
    """Images of a training step; the recipe's when absent."""
    distil: float = 0.5
    """Weight of the original's predictions in the loss, in [0, 1]."""
    seed: int = 0
    """Decides order, augmentation and random draws."""
    approve: RunOption[bool] = False
    """Stop before a step is accepted, with exit code 75, until a person answers by `transfer approve`."""
    latency: RunOption[Literal["onnx", "none"]] = "onnx"
    """Measure batch-1 latency of each accepted step in ONNX Runtime on one thread."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Precision of the training; auto: bf16 where the hardware has it, fp32 elsewhere."""
    loader: OnceUnrecorded[Literal["auto", "ffcv", "torch"]] = "auto"
    """Image loader; torch works without FFCV. auto: torch for small targets."""
    workers: RunOption[int | None] = None
    """Decoding threads."""
    threads: RunOption[int | None] = None
    """Threads of torch; OMP_NUM_THREADS or the machine's cores when absent."""
    checkpoint_minutes: RunOption[float] = 10.0
    """Write a checkpoint of the training whenever this time has passed, and after an epoch once a tenth of it has."""
    device: RunOption[DeviceFlag] = "auto"
    """auto: the GPU, where there is one; a job that was given a GPU and cannot use it is refused."""


_NARROWING = frozenset({"channels", "inner", "heads", "both"})  # kinds that change the network's shape


def run(config: Config) -> None:
    """Compress, resume, or return at once when the run is done."""
    with using(config.device):
        _run(config)


def _run(config: Config) -> None:
    _check(config)
    from pretrain.distributed import open_ranks
    from prune.data.dataset import open_dataset
    from prune.data.loader import open_loader
    from prune.models.networks import open_model
    from transfer.compression import approval, compression_loop, journal
    from transfer.evaluation.target_splits import loader_for

    dataset, model = open_dataset(config.train), open_model(config.model)
    recipe, last_recipe = _recipes(config, dataset, model)
    _check_protected(config, model)
    preserved, rows, inputs = _rows(config, dataset, model)
    with claim(config.out, config, inputs) as done:
        if done:
            step = journal.current_step(journal.read_journal(config.out))
            return note(f"{config.out}: up to date, its model is that of step {step}")
        approval.need_answer(config.out, journal.read_journal(config.out))
        if model.spec.get("source") == dataset.manifest.fingerprint and model.spec.get("index") is None:
            note(
                f"{config.model}: was trained on the preservation set too, so steps will look worse than they are. "
                "Better: `transfer preserve --rest`, then `transfer finetune --index`"
            )
        loader, workers = loader_for(config.loader, config.workers, len(dataset))
        side, batch = int(model.spec["resolution"]), min(recipe.batch, len(rows))
        with (
            open_ranks(config.precision, config.threads) as ranks,
            closing(open_loader(dataset, resolution=side, batch_size=batch, workers=workers, loader=loader)) as images,
        ):
            ranks.announce(workers, compiled=False)
            recipes = recipe, last_recipe
            compression = _compression(config, dataset, model, preserved, rows, recipes, ranks, images)
            entries = compression_loop.compress(compression, config.model)
        _finish(config, entries, dataset.name.removesuffix(".train"), inputs, len(preserved))


def _recipes(config: Config, dataset: Dataset, model: TrainedModel) -> tuple[Recipe, Recipe]:
    """Recipes of the training after each step and after the last one; checks that the model is one of this target."""
    from dataclasses import replace

    from pretrain.recipes import RECIPES
    from transfer.compression.recovery_training import recovery_recipe

    if list(model.spec["classes"]) != list(dataset.manifest.classes):
        raise InputError(
            f"{config.model}: its classes are not those of {config.train}: fine-tune it on the target first"
        )
    last_epochs = config.recovery_epochs if config.last_epochs is None else config.last_epochs
    if not (config.recovery_epochs or last_epochs):  # without training only the batch size counts
        idle = replace(next(iter(RECIPES.values())), epochs=0.0, batch=64)
        return idle, idle
    options = config.learning_rate, config.batch_size
    first, last = (
        recovery_recipe(model.spec, model.network, config.recipe, epochs, *options)
        for epochs in (config.recovery_epochs, last_epochs)
    )
    return first, last


def _check_protected(config: Config, model: TrainedModel) -> None:
    """Check the names of the protected layers, and that the kinds of steps have something that they may remove."""
    from torch import nn

    from transfer.compression import channel_pruning, rewinding
    from transfer.compression.protected_layers import check_names, is_protected
    from transfer.compression.shrinking import heads_of

    network, protect, heads = model.network, config.protect, heads_of(config.kinds)
    if not protect and heads == "thin":
        return
    check_names(network, protect)
    if _NARROWING & set(config.kinds):
        channel_pruning.groups(network, int(model.spec["resolution"]), protect, heads)
    layers = [name for name, m in network.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    spared = [name for name in layers if is_protected(name, protect)]
    if len(spared) == len(layers) or ("rewind" in config.kinds and not rewinding.prunable(network, protect)):
        raise InputError(f"--protect {' '.join(protect)}: no layer is left that a step may touch; protect fewer")


def _rows(config: Config, dataset: Dataset, model: TrainedModel) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """Rows of the preservation set, rows to train on, and the fingerprints of all inputs."""
    import hashlib

    import numpy as np

    from transfer.compression.preservation_versions import open_preservation
    from transfer.compression.wider_tests import open_metric
    from transfer.evaluation.target_splits import kept_rows

    inputs: dict[str, Any] = {"model": model.fingerprint, "train": dataset.manifest.fingerprint}
    if config.groups is not None:
        inputs["groups"] = hashlib.sha256(need_file(config.groups, "a table of groups").read_bytes()).hexdigest()[:32]
    if config.metric is not None:
        inputs["metric_source"] = open_metric(config.metric)[1]
    preservation = open_preservation(config.preserve, dataset.manifest)
    _wider_tests(config, dataset, preservation)  # their mistakes are found before any training
    preserved, inputs["preserve"] = preservation.rows, preservation.fingerprint
    rows, inputs["index"] = kept_rows(dataset.manifest, config.index)
    rows = np.setdiff1d(rows, preserved)
    if not len(rows):
        raise InputError("no training image is left outside the preservation set: make it smaller")
    if model.spec.get("widths") and "rewind" in config.kinds:
        raise InputError(f"{config.model}: its channels were pruned: --kinds rewind needs a network at full width")
    return preserved, rows, inputs


def _compression(
    config: Config,
    dataset: Dataset,
    model: TrainedModel,
    preserved: np.ndarray,
    rows: np.ndarray,
    recipes: tuple[Recipe, Recipe],
    ranks: Ranks,
    loader: Loader,
) -> Compression:
    """Read the images that the steps need, and predict the preservation set with the original."""
    import numpy as np

    from prune.models.evaluation_view import crop_ratio
    from transfer.compression.acceptance import AcceptanceTest, Margins, predicted_classes
    from transfer.compression.compression_loop import Compression
    from transfer.compression.importance import Importance
    from transfer.compression.preservation_versions import open_preservation
    from transfer.compression.recovery_training import Recovery
    from transfer.compression.smallest_margin import unresolved
    from transfer.evaluation.image_arrays import balanced_rows, predictor, read_with

    classes = tuple(model.spec["classes"])
    ratio = crop_ratio(model.spec)
    preservation = open_preservation(config.preserve, dataset.manifest)
    parts = read_with(loader, preserved, ratio), preservation.read_later(int(model.spec["resolution"]), ratio)
    images, labels = (np.concatenate(part) for part in zip(*parts))
    logits = predictor(model.network, model.spec, ranks.device)(images)
    original = predicted_classes(logits)
    wider = _wider_tests(config, dataset, preservation)
    margins = Margins(config.margin, config.class_margin, config.slack)
    each = dict(zip(classes, np.bincount(labels, minlength=len(classes)).tolist()))
    sizes = {group.name: (int(group.rows.sum()), group.margin) for group in wider.groups}
    for line in unresolved(len(labels), each, sizes, margins):
        note(line)
    sample = rows[:0]
    if config.importance == "data" or _NARROWING & set(config.kinds):
        known = np.asarray(dataset.manifest.labels)[rows]
        sample = balanced_rows(rows, known, config.importance_images, config.seed)
    ranked = read_with(loader, sample, ratio) if len(sample) else (images[:0], labels[:0])
    seconds = 60 * config.checkpoint_minutes
    return Compression(
        config.out,
        model.network,
        model.spec,
        plan=_plan(config),
        test=AcceptanceTest(images, labels, original, classes, margins, wider, wider.values(labels, logits)),
        importance=Importance(config.importance, *ranked, model.spec, config.seed, ranks.device),
        recovery=Recovery(
            loader, rows, ranks, model.network, *recipes, config.distil, config.seed, seconds, config.protect
        ),
        measure_latency=config.latency == "onnx",
        approve=config.approve,
        preserve=preservation.record,
    )


def _wider_tests(config: Config, dataset: Dataset, preservation: PreservationSet) -> WiderTests:
    """The tests beside accuracy overall and by class."""
    import numpy as np

    from transfer.compression.wider_tests import WiderTests, groups_of, open_metric

    groups: list[Any] = []
    if config.groups is not None:
        ids, rows = np.asarray(dataset.manifest.ids), preservation.rows
        if preservation.later is not None:  # the table may name them, too
            rows = np.concatenate([rows, len(ids) + np.arange(len(preservation.later))])
            ids = np.concatenate([ids, np.asarray(preservation.later.manifest.ids)])
        groups = groups_of(config.groups, ids, rows, config.group_margins, config.group_margin)
    metric = None if config.metric is None else open_metric(config.metric)[0]
    return WiderTests(tuple(groups), config.ece_margin, metric, config.metric or "", config.metric_margin)


def _plan(config: Config) -> CompressionPlan:
    from transfer.compression.journal import CompressionPlan

    return CompressionPlan(tuple(config.kinds), config.ratio, config.least, config.size, config.steps)


def _finish(config: Config, entries: list[Entry], target: str, inputs: dict[str, Any], images: int) -> None:
    """Write the result, and report where the compression ended."""
    from transfer.compression import journal
    from transfer.compression.int8_worth import slower_sentence

    result = journal.summary(entries)
    write_json(config.out / "result.json", {**result, "target": target, **inputs})
    finish(config.out, seconds=sum(entry["seconds"] for entry in entries), inputs=inputs)
    first, final = result["original"], result["final"]
    parameters, size = final["params"] / first["params"], final["bytes"] / first["bytes"]
    images = first["what"].get("preserve", {}).get("images", images)
    note(
        f"{config.out}: ends with step {final['step']} at {parameters:.3f} of the parameters and {size:.3f} of the "
        f"file: {journal.describe(final)}"
    )
    base = next((entry for entry in entries if entry["step"] == final.get("base")), first)
    fp32, int8 = base.get("latency_ms"), final.get("latency_ms")
    if final["kind"] == "int8" and fp32 and int8 and (text := slower_sentence(fp32, int8)) is not None:
        note(text)
    if (text := journal.why_larger(entries, _plan(config))) is not None:
        note(text)
    if doubtful := result["refused_within_one_error"]:
        note(
            f"{doubtful} of {result['rolled_back']} rejections are within one standard error of a margin: with "
            f"{images} images they may be due to chance. A larger preservation set decides more surely; wider margins, "
            "or --slack 1, accept such steps"
        )


def _check(config: Config) -> None:
    from transfer.compression.trials import check_places
    from transfer.evaluation.output import need_one_process

    need_one_process()
    check_places(config.model.resolve(), config.out.resolve())
    _refuse_text(config.model)
    for name, low, high in (("size", 0.0, 1.0), ("ratio", 0.0, 0.95), ("least", 0.0, 0.95)):
        if not low < (value := getattr(config, name)) <= high:
            raise InputError(f"--{name} {value}: a share in ({low:g}, {high:g}] is needed")
    if not 0 <= config.distil <= 1:
        raise InputError(f"--distil {config.distil}: a weight in [0, 1] is needed")
    if config.group_margins and config.groups is None:
        raise InputError("--group-margins: needs --groups, the table of the groups")
    at_least(config, 0, "group_margin", "ece_margin", "metric_margin")
    at_least(
        config, 0, "margin", "class_margin", "slack", "recovery_epochs", "last_epochs", "checkpoint_minutes", "seed"
    )
    at_least(config, 1, "steps", "importance_images", "batch_size", "workers", "threads")
    if not config.kinds or len(set(config.kinds)) < len(config.kinds):
        raise InputError("--kinds: name each kind once, and at least one")
    if "int8" in config.kinds[:-1]:
        raise InputError("--kinds: int8 comes last: a quantised network cannot be shrunk")
    if "rewind" in config.kinds and _NARROWING & set(config.kinds):
        raise InputError("--kinds: rewind removes single weights of the whole network; it does not go with channels")
    if "int8" in config.kinds or config.latency == "onnx":
        from prune.runs.extras import need_modules

        need_modules("onnx", "onnxruntime", "onnxscript")


def _refuse_text(model: Path) -> None:
    from transfer.language.causal_lm import is_language_model

    if is_language_model(model):
        raise InputError(
            f"--model {model}: a language model: `transfer compress-language --model {model} --text FILE "
            "--prompts FILE --out OUT` compresses it"
        )
