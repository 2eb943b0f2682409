"""Fine-tune a model on a target, backbone and head, and judge it on the target's test images.

    python -m transfer finetune --model runs/backbone --train pets.train.beton --test pets.test.beton --out runs/tuned
    python -m transfer finetune ... --head probe        begins with the linear probe's classifier, not an empty one
    accelerate launch -m transfer finetune ...          several processes

Training is that of `pretrain` (one loop, resumable in mid-epoch), with a recipe that follows from the target's size.
Writes a model directory (model.safetensors, model.json with the target's classes, metrics.jsonl, provenance.json) and
OUT/result.json, OUT/predictions.npz. The last epoch is judged; the test images choose nothing. 0.1 to 2 minutes for
5,000 images of 32 px and a small network.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from prune.runs.files import InputError, at_least, note, positive, read_json
from prune.runs.identity import Location, RunOption
from prune.runs.outputs import claim


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
    """How long and how: auto goes by the number of training images (2,000 and 20,000 are the bounds)."""
    head: Literal["new", "probe"] = "new"
    """Classifier to begin with: zeros, or the linear probe's (arXiv 2202.10054), which spares the features a shock."""
    epochs: float | None = None
    """Passes over the target instead of the recipe's."""
    lr: float | None = None
    """Peak learning rate instead of the recipe's."""
    batch_size: int | None = None
    """Images of a step over all processes instead of the recipe's; the rate follows in proportion."""
    micro_batch: RunOption[int | None] = None
    """Images of one forward pass at most in each process; more are accumulated."""
    features: Location[Path | None] = None
    """With --head probe: directory of features that evaluations of this model share; OUT/features when absent."""
    seed: int = 0
    """Order, augmentation, and the probe's validation part."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """auto: bf16 where the hardware has it, fp32 elsewhere."""
    loader: Literal["auto", "ffcv", "torch"] = "auto"
    """torch needs no FFCV. auto: torch for few small images, which are read before FFCV has compiled."""
    workers: RunOption[int | None] = None
    """Decoding threads of each process; its share of the cores when absent."""


def run(config: Config) -> None:
    """Fine-tune, or go on, or return at once when the run is done."""
    from prune.models.networks import load_model
    from transfer.evaluation.output import need_other
    from transfer.evaluation.target_splits import fingerprints, kept_rows, open_pair

    positive(config, "epochs", "lr", "batch_size", "micro_batch")
    at_least(config, 0, "seed")
    if config.features is not None and config.head != "probe":
        raise InputError("--features: serves --head probe alone")
    need_other(config.out, config.model)
    load_model(config.model)
    train, test = open_pair(config.train, config.test, config.out)
    inputs = fingerprints(config.model, train, test)
    rows, index = kept_rows(train.manifest, config.index)
    inputs |= {"index": index} if index else {}
    with claim(config.out, config, inputs) as done:
        if done:
            result = read_json(config.out / "result.json")
            return note(f"{config.out}: up to date, top-1 {result['value']:.4f}")
        from transfer.evaluation.finetuning import finetune

        finetune(config, train, test, rows, inputs)
