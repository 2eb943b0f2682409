"""Two models on the same new images, and on a reference: what `transfer watch` reports."""

from __future__ import annotations

import shlex
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from prune.data.dataset import open_dataset
from prune.data.loader import open_loader
from prune.models import networks
from prune.runs.files import InputError
from transfer.compression import journal, recovery_training
from transfer.compression.acceptance import predicted
from transfer.compression.device import need_device
from transfer.evaluation.target_splits import kept_rows
from transfer.watching import comparison
from transfer.watching.incoming_images import New, read_images

if TYPE_CHECKING:
    from transfer.watch import Config


@dataclass(frozen=True)
class Model:
    """A model that answers: classes, side of its images, and features and logits of images (n, r, r, 3) uint8.

    An ONNX file gives answers alone; its logits then stand for its features.
    """

    name: str
    classes: list[str]
    resolution: int
    answer: Any


def open_model(place: Path) -> Model:
    """Open a model directory, or an ONNX file; of a quantised step the int8 file, which is what a device runs."""
    place = Path(place)
    if (place / journal.INT8).is_file():
        place = place / journal.INT8
    if place.is_file():
        need_device()
        from transfer.compression import onnx_model

        opened = onnx_model.session(place)
        facts = onnx_model.facts(opened, place)

        def ask(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            logits = onnx_model.predict(opened, images)
            return logits, logits

        return Model(str(place), list(facts["classes"]), int(facts["resolution"]), ask)
    network, spec = networks.load_model(place)

    def run(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        blank = np.zeros(len(images), np.int64)
        with torch.inference_mode():
            parts = [
                [v.float().numpy() for v in networks.features_and_logits(network, x)]
                for x, _ in recovery_training.normalised(images, blank, spec, 256)
            ]
        features, logits = (np.concatenate(part) for part in zip(*parts))
        return features, logits

    return Model(str(place), list(spec["classes"]), int(spec["resolution"]), run)


@dataclass(frozen=True)
class Reference:
    """Images as the models were made for, (m, r, r, 3) uint8, and what the original says of them.

    Attributes
    ----------
    labels : (m,) int64
        By the models' classes; -1 for an image of another class.
    features, logits : (m, d), (m, c) float32
    """

    images: np.ndarray
    labels: np.ndarray
    features: np.ndarray
    logits: np.ndarray


def watch(config: Config) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Compare the two models; what there is to say, and a line for each image."""
    original, compressed = _models(config)
    new = read_images(config.images, original.classes, original.resolution)
    known = _reference(config, original)
    features, logits = original.answer(new.images)
    mine = compressed.answer(new.images)
    theirs = None if known is None else compressed.answer(known.images)
    report = _report(config, original.classes, new, logits, mine[1], known, theirs and theirs[1])
    report |= {
        "original": original.name,
        "compressed": compressed.name,
        "images": len(new.images),
        "labelled": int((new.labels >= 0).sum()),
        "unreadable": new.unreadable,
        "similarity": comparison.similarity(features, mine[0]),
    }
    if known is not None and theirs is not None:
        report["reference_similarity"] = comparison.similarity(known.features, theirs[0])
        report["drift"] = {
            "original": comparison.drift(known.features, features),
            "compressed": comparison.drift(theirs[0], mine[0]),
        }
    report["rollback"] = None
    if config.run is not None and config.compressed is None and report["alarms"]:
        report["rollback"] = _earlier(config, original.classes, new, logits, known)
    return report, _lines(new, original.classes, logits, mine[1])


def _models(config: Config) -> tuple[Model, Model]:
    run = config.run
    original = open_model(config.original or journal.place(run, 0))  # type: ignore[arg-type]
    compressed = open_model(config.compressed or run)  # type: ignore[arg-type]
    if original.classes != compressed.classes:
        raise InputError(f"{compressed.name}: its classes are not those of {original.name}")
    if original.resolution != compressed.resolution:
        raise InputError(
            f"{compressed.name}: takes {compressed.resolution} px, {original.name} {original.resolution} px"
        )
    return original, compressed


def _reference(config: Config, original: Model) -> Reference | None:
    if config.reference is None:
        return None
    source = open_dataset(config.reference)
    rows, _ = kept_rows(source.manifest, config.index)
    rows = np.sort(np.random.default_rng(0).permutation(rows)[: config.most])
    loader = open_loader(source, resolution=original.resolution, batch_size=256, loader="torch", workers=1)
    with closing(loader):
        images, labels = recovery_training.images_of(loader, rows)
    place = {name: label for label, name in enumerate(original.classes)}
    table = np.array([place.get(name, -1) for name in source.manifest.classes])
    return Reference(images, table[labels], *original.answer(images))


def _report(
    config: Config,
    names: list[str],
    new: New,
    logits: np.ndarray,
    mine: np.ndarray,
    known: Reference | None,
    theirs: np.ndarray | None,
) -> dict[str, Any]:
    """Classes, disagreement and alarms.

    Parameters
    ----------
    logits, mine : (n, c) float32
        Of the original and of the compressed model on the new images.
    theirs : (m, c) float32, optional
        Of the compressed model on the reference.
    """
    answers, found, labelled = predicted(logits), predicted(mine), new.labels >= 0
    whole = bool(labelled.all())
    allowed = np.full(len(names), config.allowed / 100)
    if known is not None and theirs is not None:
        mistakes = comparison.mistakes(predicted(known.logits), predicted(theirs), known.labels if whole else None)
        allowed += comparison.shares(*mistakes, len(names), least=config.least)
    groups, wrong = comparison.mistakes(answers, found, new.labels if whole else None)
    classes = comparison.by_class(groups, wrong, names, allowed, least=config.least)
    report: dict[str, Any] = {
        "measure": "lost answers" if whole else "disagreement",
        "disagreement": float((answers != found).mean()),
        "classes": classes,
        "alarms": [row["class"] for row in classes if row["alarm"]],
    }
    if labelled.any():
        labels = new.labels[labelled]
        report["top1"] = {
            "original": float((answers[labelled] == labels).mean()),
            "compressed": float((found[labelled] == labels).mean()),
        }
    return report


def _earlier(config: Config, names: list[str], new: New, logits: np.ndarray, known: Reference | None) -> dict[str, Any]:
    """The newest accepted step before the one that stands that would not alarm on these images; else the original."""
    assert config.run is not None
    lines = journal.read(config.run)
    stands, step = journal.current(lines), lines[journal.current(lines)].get("base", 0)
    while step:
        model = open_model(journal.place(config.run, step))
        theirs = None if known is None else model.answer(known.images)[1]
        if not _report(config, names, new, logits, model.answer(new.images)[1], known, theirs)["alarms"]:
            break
        step = lines[step]["base"]
    command = f"transfer rollback --run {shlex.quote(str(config.run))} --to {step}"
    return {"from": stands, "to": step, "command": command}


def _lines(new: New, classes: list[str], first: np.ndarray, second: np.ndarray) -> list[dict[str, Any]]:
    answers, theirs = first.argmax(1), second.argmax(1)
    sure, yours = _confidence(first), _confidence(second)
    return [
        {
            "path": path,
            "label": classes[label] if label >= 0 else "",
            "original": classes[answers[i]],
            "original_confidence": f"{sure[i]:.4f}",
            "compressed": classes[theirs[i]],
            "compressed_confidence": f"{yours[i]:.4f}",
            "agree": int(answers[i] == theirs[i]),
        }
        for i, (path, label) in enumerate(zip(new.paths, new.labels))
    ]


def _confidence(logits: np.ndarray) -> np.ndarray:
    likely = np.exp(logits - logits.max(1, keepdims=True))
    found: np.ndarray = (likely / likely.sum(1, keepdims=True)).max(1)
    return found
