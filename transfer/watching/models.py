"""Two models on the same new images, and on a reference: what `transfer watch` reports."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from prune import networks
from prune.index import PrunedIndex
from prune.loading import open_loader
from prune.run import InputError
from prune.source import open_source
from transfer.compression import recovery, staircase
from transfer.compression.device import need_device
from transfer.compression.guard import predicted
from transfer.watching import comparison
from transfer.watching.images import New, read_images

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
    if (place / staircase.INT8).is_file():
        place = place / staircase.INT8
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
                for x, _ in recovery.normalised(images, blank, spec, 256)
            ]
        features, logits = (np.concatenate(part) for part in zip(*parts))
        return features, logits

    return Model(str(place), list(spec["classes"]), int(spec["resolution"]), run)


def watch(config: Config) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Compare the two models; what there is to say, and a line for each image."""
    original, compressed = _models(config)
    new = read_images(config.images, original.classes, original.resolution)
    old = _reference(config, original)
    features, logits = original.answer(new.images)
    answers = predicted(logits)
    seen = None if old is None else original.answer(old)
    mine = compressed.answer(new.images)
    report = _report(config, original, new, answers, old, seen, compressed)(mine)
    report |= {
        "original": original.name,
        "compressed": compressed.name,
        "images": len(new.images),
        "labelled": int((new.labels >= 0).sum()),
        "unreadable": new.unreadable,
        "similarity": comparison.similarity(features, mine[0]),
    }
    if old is not None and seen is not None:
        theirs = compressed.answer(old)[0]
        report["reference_similarity"] = comparison.similarity(seen[0], theirs)
        report["drift"] = {
            "original": comparison.drift(seen[0], features),
            "compressed": comparison.drift(theirs, mine[0]),
        }
    report["rollback"] = None
    if config.run is not None and config.compressed is None and report["alarms"]:
        report["rollback"] = _earlier(config, original, new, answers, old, seen)
    return report, _lines(new, original.classes, logits, mine[1])


def _models(config: Config) -> tuple[Model, Model]:
    run = config.run
    original = open_model(config.original or staircase.place(run, 0))  # type: ignore[arg-type]
    compressed = open_model(config.compressed or run)  # type: ignore[arg-type]
    if original.classes != compressed.classes:
        raise InputError(f"{compressed.name}: its classes are not those of {original.name}")
    if original.resolution != compressed.resolution:
        raise InputError(
            f"{compressed.name}: takes {compressed.resolution} px, {original.name} {original.resolution} px"
        )
    return original, compressed


def _reference(config: Config, original: Model) -> np.ndarray | None:
    """Images of the reference, (m, r, r, 3) uint8."""
    if config.reference is None:
        return None
    source = open_source(config.reference)
    rows = np.arange(len(source), dtype=np.int64)
    if config.index is not None:
        rows = np.sort(PrunedIndex.load(config.index).rows_in(source.manifest)).astype(np.int64)
    rows = np.sort(np.random.default_rng(0).permutation(rows)[: config.most])
    if not len(rows):
        raise InputError(f"{config.index}: keeps no image of {config.reference}")
    loader = open_loader(source, resolution=original.resolution, batch_size=256, loader="torch", workers=1)
    with closing(loader):
        return recovery.images_of(loader, rows)[0]


def _report(
    config: Config,
    original: Model,
    new: New,
    answers: np.ndarray,
    old: np.ndarray | None,
    seen: tuple[np.ndarray, np.ndarray] | None,
    compressed: Model,
) -> Any:
    """A function from the compressed model's features and logits to classes, disagreement and alarms."""
    count = len(original.classes)
    allowed = np.full(count, config.allowed / 100)
    if old is not None and seen is not None:
        before = predicted(seen[1])
        apart = before != predicted(compressed.answer(old)[1])
        total = np.bincount(before, minlength=count)
        allowed += np.divide(np.bincount(before[apart], minlength=count), total, out=np.zeros(count), where=total > 0)
    labelled = new.labels >= 0
    whole = bool(labelled.all())

    def report(mine: tuple[np.ndarray, np.ndarray]) -> dict[str, Any]:
        theirs = predicted(mine[1])
        apart = theirs != answers
        # With labels an answer that was wrong before may change: that loses nothing.
        wrong, groups = (apart & (answers == new.labels), new.labels) if whole else (apart, answers)
        classes = comparison.by_class(groups, wrong, original.classes, allowed, least=config.least)
        found: dict[str, Any] = {
            "measure": "lost answers" if whole else "disagreement",
            "disagreement": float(apart.mean()),
            "classes": classes,
            "alarms": [row["class"] for row in classes if row["alarm"]],
        }
        if labelled.any():
            labels = new.labels[labelled]
            found["top1"] = {
                "original": float((answers[labelled] == labels).mean()),
                "compressed": float((theirs[labelled] == labels).mean()),
            }
        return found

    return report


def _earlier(
    config: Config, original: Model, new: New, answers: np.ndarray, old: np.ndarray | None, seen: Any
) -> dict[str, Any]:
    """The newest accepted step before the one that stands that would not alarm on these images; else the original."""
    assert config.run is not None
    lines = staircase.read(config.run)
    stands, step = staircase.current(lines), lines[staircase.current(lines)].get("base", 0)
    while step:
        model = open_model(staircase.place(config.run, step))
        if not _report(config, original, new, answers, old, seen, model)(model.answer(new.images))["alarms"]:
            break
        step = lines[step]["base"]
    return {"from": stands, "to": step, "command": f"transfer rollback --run {config.run} --to {step}"}


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
    return (likely / likely.sum(1, keepdims=True)).max(1)
