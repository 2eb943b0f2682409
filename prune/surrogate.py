"""Make a surrogate from any timm model with trained weights; nothing is trained.

    prune surrogate --arch resnet18 --weights resnet18.safetensors --out runs/rn18       weights from a file
    prune surrogate --arch resnet18.a1_in1k --out runs/rn18                              weights by timm's name, fetched

Writes a model directory for `prune features --model`, as `pretrain` does. For a source whose classes the model has by
name it serves label mapping (LM) and feature mapping (FM), for any other source FM; so does a model without classes,
such as DINO. Files of most training codes are read as they are: weights inside `state_dict`, `ema` or `teacher`, with
prefixes such as `module.backbone.`, with heads of other kinds beside them. ImageNet's classes are named by their
synsets (n01440764), like ImageNet's folders; other names come from --names.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prune.models.class_names import read_names
from prune.runs.files import InputError, at_least, need_file, note
from prune.runs.identity import Location
from prune.runs.outputs import claim, finish

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Config:
    arch: str
    """timm's name of the model, with the tag of its weights if there are several."""
    out: Location[Path]
    """Model directory to write."""
    weights: Location[Path | None] = None
    """File of weights (.safetensors, .pth and the like); fetched from timm's hub by name when absent."""
    names: Location[Path | None] = None
    """Text file with the name of every class, one per line, in the order of the logits."""
    resolution: int | None = None
    """Side of the images in pixels; the one that the model was trained with when absent."""


def run(config: Config) -> None:
    """Write the model directory, or return at once when it is up to date."""
    at_least(config, 1, "resolution")
    import hashlib

    from prune.models import networks
    from prune.models.image_sizes import refuse_size
    from prune.models.model_spec import model_fingerprint

    inputs: dict[str, Any] = {}
    names = read_names(config.names) if config.names is not None else None
    if config.weights is not None:
        with open(need_file(config.weights, "a file of weights"), "rb") as file:
            inputs["weights"] = hashlib.file_digest(file, "sha256").hexdigest()[:32]
    inputs["names"] = names
    with claim(config.out, config, inputs) as done:
        if done:  # tested before loading: weights by name need a connection
            note(f"{config.out}: up to date")
            return
        model, cfg = _load(config)
        count = model.num_classes
        if names is not None and len(names) != count:
            raise InputError(f"{config.names}: {len(names)} names for a model of {count} classes")
        classes = names or _imagenet(model, count) or [f"class-{k:05d}" for k in range(count)]
        side = int(cfg["input_size"][-1]) if config.resolution is None else config.resolution
        spec = {
            "arch": config.arch,
            "kwargs": {},
            "stem": "imagenet",
            "classes": classes,
            "resolution": side,
            "mean": [255 * v for v in cfg["mean"]],
            "std": [255 * v for v in cfg["std"]],
            "recipe": None,
            "index": None,
            "source": None,
        }
        refuse_size(model, side)
        networks.save_model(config.out, model, spec)
        finish(config.out, step="prune surrogate", arch=config.arch, classes=count, model=model_fingerprint(config.out))
        known = (
            f"{count} classes ({classes[0]} ... {classes[-1]})"
            if classes
            else "features only, for FM; LM needs classes"
        )
        note(f"{config.out}: {config.arch}, {known}")


def _load(config: Config) -> tuple[Any, dict[str, Any]]:
    """The model with its weights, and timm's description of it."""
    import timm

    from prune.models.weight_files import find_weights, read_checkpoint

    if not timm.is_model(config.arch):
        raise InputError(f"--arch {config.arch} is not one of timm's models; see timm.list_models()")
    if config.weights is None:
        try:
            named: Any = timm.create_model(config.arch, pretrained=True)
        except Exception as error:  # the hub's client raises what its network and cache layers raise
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise InputError(f"--arch {config.arch}: no weights by name ({reason}); give a file by --weights") from None
        return named, dict(named.pretrained_cfg)
    found = find_weights(read_checkpoint(config.weights), config.arch, config.weights)
    model: Any = timm.create_model(config.arch, pretrained=False, num_classes=found.classes)
    try:
        model.load_state_dict(found.state)
    except RuntimeError as error:
        reason = str(error).splitlines()[1].strip()
        raise InputError(f"{config.weights}: not weights of {config.arch} ({reason})") from None
    if found.where or found.ignored:
        ignored = f"; {found.ignored} other weights are ignored" if found.ignored else ""
        note(f"{config.weights}: {found.where or 'read'}{ignored}")
    return model, dict(model.pretrained_cfg)


def _imagenet(model: nn.Module, count: int) -> list[str] | None:
    """Synsets of ImageNet's classes, for a model that was trained on ImageNet and has `count` classes; else None."""
    from timm.data import ImageNetInfo, infer_imagenet_subset  # type: ignore[attr-defined]

    subset = infer_imagenet_subset(model)
    if subset is None:
        return None
    names = list(ImageNetInfo(subset).label_names())
    return names if len(names) == count and len(set(names)) == count else None
