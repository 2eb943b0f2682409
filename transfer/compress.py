r"""Shrink a model step by step; a preservation set can veto each step, and every accepted step can be gone back to.

    python -m transfer compress --model runs/pets-model --train pets.train.beton --preserve pets.preserve.index.npz \
        --size 0.5 --out runs/pets-small
    python -m transfer rollback --run runs/pets-small --to 2

A step removes channels (or quantises), trains shortly on the target's other images, and is judged by the guard:
accuracy on the preservation set, overall and in each class, against the original. Within the margins it stands;
otherwise it is rolled back, tried with half the ratio, and then another kind of step follows. OUT holds the model that
stands (model.safetensors, model.json), original/, steps/NN/ (each accepted step, complete), journal.jsonl (one line a
step) and result.json. The same command goes on after a kill. Minutes for ResNet-18 on 32 px and two cores.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from prune.runs.files import InputError, at_least, note
from prune.runs.identity import Location, OnceUnrecorded, RunOption
from prune.runs.outputs import claim

if TYPE_CHECKING:
    from transfer.compression.compression_loop import Job


@dataclass(frozen=True)
class Config:
    model: Location[Path]
    """Model directory whose classes are the target's; only read."""
    train: Location[Path]
    """Target's training images, `X.beton`."""
    preserve: Location[Path]
    """Preservation set: an index of `transfer preserve`, or your own."""
    out: Location[Path]
    """Run directory."""
    index: Location[Path | None] = None
    """Recover on the images that this index keeps; all of --train but the preservation set when absent."""
    kinds: tuple[Literal["channels", "inner", "rewind", "int8"], ...] = ("channels", "inner", "int8")
    """Kinds of steps, in order: channels everywhere, channels inside the blocks, single weights, quantisation."""
    size: float = 0.25
    """Share of the original's parameters at which shrinking ends."""
    ratio: float = 0.2
    """Share of the channels (or weights) that a step removes at first; a refused step is tried with half."""
    least: float = 0.04
    """Smallest ratio that is tried before the next kind of step."""
    steps: int = 30
    """Steps tried at most."""
    importance: Literal["data", "magnitude", "random"] = "data"
    """What says which channels go: gradients and activations on the target's images, norms of weights, chance."""
    importance_images: int = 512
    """Images, balanced over the classes, that `data` looks at; never of the preservation set."""
    margin: float | None = 1.0
    """Points of accuracy that may be lost on the preservation set; None: no margin."""
    class_margin: float | None = 10.0
    """Points that each class may lose; None: no margin."""
    slack: float = 0.0
    """Standard errors that are allowed on top of each margin: with few images a class, a network that is as good loses
    some points by chance. 0 refuses at the first image too many."""
    recipe: str | None = None
    """Recipe of the recovery training; that of the model when absent, with a fifth of its learning rate."""
    recovery_epochs: float = 3.0
    """Epochs of recovery after each step. On two small targets 3 kept the accuracy where 1 lost 1 to 2 points."""
    last_epochs: float | None = None
    """Epochs of recovery after the step that reaches --size; as after the others when absent."""
    learning_rate: float | None = None
    """Peak learning rate of the recovery."""
    batch_size: int | None = None
    """Images of a training step; the recipe's when absent."""
    distil: float = 0.5
    """Weight of the original's answers in the recovery's loss, in [0, 1]."""
    seed: int = 0
    """Decides order, augmentation and what is drawn."""
    latency: RunOption[Literal["onnx", "none"]] = "onnx"
    """Measure batch-1 latency of each accepted step in ONNX Runtime on one thread."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Of the recovery training."""
    loader: OnceUnrecorded[Literal["auto", "ffcv", "torch"]] = "auto"
    """torch needs no FFCV. auto: torch for small targets."""
    workers: RunOption[int | None] = None
    """Decoding threads."""
    threads: RunOption[int | None] = None
    """torch's threads; OMP_NUM_THREADS or the machine's cores when absent."""
    checkpoint_minutes: RunOption[float] = 10.0
    """Write a checkpoint of the recovery after every epoch, and whenever this time has passed."""


_WRITTEN = ("original", "steps", "work")  # directories of OUT


def run(config: Config) -> None:
    """Compress, or go on, or return at once when the run is done."""

    _check(config)
    job = _opened(config)
    from transfer.compression import compression_loop, journal

    with claim(config.out, config, job.inputs) as done:
        if done:
            return note(f"{config.out}: up to date, step {journal.current(journal.read(config.out))} stands")
        if job.spec.get("source") == job.source.manifest.fingerprint and job.spec.get("index") is None:
            note(
                f"{config.model}: was trained on the preservation set too and may know it by heart: steps will look "
                "worse than they are. Better: `transfer preserve --rest`, then `transfer finetune --index`"
            )
        compression_loop.compress(job)


def _opened(config: Config) -> Job:
    """Open the inputs and check that they go together."""
    import numpy as np

    from prune.data.dataset import open_dataset
    from prune.models import networks
    from transfer.compression import recovery_training
    from transfer.compression.compression_loop import Job
    from transfer.evaluation.target_splits import kept_rows

    source = open_dataset(config.train)
    model, spec = networks.load_model(config.model)
    if list(spec["classes"]) != list(source.manifest.classes):
        raise InputError(
            f"{config.model}: its classes are not those of {config.train}: fine-tune it on the target first"
        )
    if config.recovery_epochs or config.last_epochs:
        recovery_training.recipe_for(spec, model, config.recipe, 1.0, config.learning_rate, config.batch_size)
    inputs: dict[str, Any] = {"model": networks.fingerprint(config.model), "train": source.manifest.fingerprint}
    preserved, inputs["preserve"] = kept_rows(source.manifest, config.preserve)
    rows, inputs["index"] = kept_rows(source.manifest, config.index)
    rows = np.setdiff1d(rows, preserved)
    if not len(rows):
        raise InputError("no training image is left outside the preservation set: make it smaller")
    if spec.get("widths") and "rewind" in config.kinds:
        raise InputError(f"{config.model}: its channels were pruned: --kinds rewind goes with a network at full width")
    return Job(config, source, model, spec, preserved, rows, inputs)


def _check(config: Config) -> None:
    from transfer.evaluation.output import need_one_process

    need_one_process()
    _check_places(config.model.resolve(), config.out.resolve())
    for name, low, high in (("size", 0.0, 1.0), ("ratio", 0.0, 0.95), ("least", 0.0, 0.95)):
        if not low < (value := getattr(config, name)) <= high:
            raise InputError(f"--{name} {value}: a share in ({low:g}, {high:g}] is needed")
    if not 0 <= config.distil <= 1:
        raise InputError(f"--distil {config.distil}: a weight in [0, 1] is needed")
    at_least(
        config, 0, "margin", "class_margin", "slack", "recovery_epochs", "last_epochs", "checkpoint_minutes", "seed"
    )
    at_least(config, 1, "steps", "importance_images", "batch_size", "workers", "threads")
    if not config.kinds or len(set(config.kinds)) < len(config.kinds):
        raise InputError("--kinds: name each kind once, and at least one")
    if "int8" in config.kinds[:-1]:
        raise InputError("--kinds: int8 comes last: a quantised network cannot be shrunk")
    if "rewind" in config.kinds and {"channels", "inner"} & set(config.kinds):
        raise InputError("--kinds: rewind removes single weights of the whole network; it does not go with channels")
    if "int8" in config.kinds or config.latency == "onnx":
        from transfer.compression.device import need_device

        need_device()


def _check_places(model: Path, out: Path) -> None:
    """Refuse an OUT whose files would replace the model's, or come to lie among them."""
    if out == model or model in out.parents:
        raise InputError(f"--out {out}: lies in the directory of --model, which is only read; give another")
    if out in model.parents and model.relative_to(out).parts[0] in _WRITTEN:
        raise InputError(f"--model {model}: lies where --out {out} keeps its own steps; give another --out")
