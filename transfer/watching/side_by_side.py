"""Two models on the same new images and on reference images: the report of `transfer watch`."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from prune.data.dataset import Dataset
from prune.models import evaluation_view, networks
from prune.runs.extras import need_modules
from prune.runs.files import InputError
from transfer.compression import journal
from transfer.compression.acceptance import predicted_classes
from transfer.evaluation.image_arrays import normalised_batches, read_images
from transfer.watching import comparison
from transfer.watching.incoming_images import IncomingImages

Predict = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
"""Function of images (n, r, r, 3) uint8 that returns features (n, d) and logits (n, c), float32."""


@dataclass(frozen=True)
class Predictor:
    """A model that predicts images.

    An ONNX file gives logits only, which then stand for its features.
    """

    name: str
    classes: list[str]
    resolution: int
    crop_ratio: float
    predict: Predict


def open_predictor(place: Path) -> Predictor:
    """Open a model directory or an ONNX file; of a quantised step the int8 file, which is what a device runs."""
    place = Path(place)
    if (place / journal.INT8).is_file():
        place = place / journal.INT8
    if place.is_file():
        need_modules("onnx", "onnxruntime")
        from transfer.compression import onnx_model

        session = onnx_model.session(place)
        facts = onnx_model.facts(session, place)

        def predict_file(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            logits = onnx_model.predict(session, images)
            return logits, logits

        ratio = evaluation_view.crop_ratio(facts)
        return Predictor(str(place), list(facts["classes"]), int(facts["resolution"]), ratio, predict_file)
    network, spec = networks.load_model(place)

    def predict(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        blank = np.zeros(len(images), np.int64)
        with torch.inference_mode():
            parts = [
                [v.float().numpy() for v in evaluation_view.outputs(network, batch, spec)]
                for batch, _ in normalised_batches(images, blank, spec, 256)
            ]
        features, logits = (np.concatenate(part) for part in zip(*parts))
        return features, logits

    ratio = evaluation_view.crop_ratio(spec)
    return Predictor(str(place), list(spec["classes"]), int(spec["resolution"]), ratio, predict)


def need_alike(original: Predictor, compressed: Predictor) -> None:
    """Raise `InputError` when two models have different classes or take images of different sizes."""
    if original.classes != compressed.classes:
        raise InputError(f"{compressed.name}: its classes are not those of {original.name}")
    if original.resolution != compressed.resolution:
        raise InputError(
            f"{compressed.name}: takes {compressed.resolution} px, {original.name} {original.resolution} px"
        )
    if original.crop_ratio != compressed.crop_ratio:
        raise InputError(
            f"{compressed.name}: is shown {compressed.crop_ratio:g} of an image's shorter side, {original.name} "
            f"{original.crop_ratio:g}: export it again"
        )


@dataclass(frozen=True)
class Reference:
    """Images of the kind that the models were trained for, (m, r, r, 3) uint8, and the original's predictions.

    Attributes
    ----------
    labels : (m,) int64
        By the models' classes; -1 for an image of a class that they do not have.
    features, logits : (m, d), (m, c) float32
    """

    images: np.ndarray
    labels: np.ndarray
    features: np.ndarray
    logits: np.ndarray


def read_reference(
    dataset: Dataset, rows: np.ndarray, most: int, original: Predictor, later: Dataset | None = None
) -> Reference:
    """Read at most `most` of these images, and all later ones of a preservation set; predict them with the original."""
    rows = np.sort(np.random.default_rng(0).permutation(rows)[:most])
    side, ratio = original.resolution, original.crop_ratio
    images, labels = read_images(dataset, rows, side, loader="torch", workers=1, ratio=ratio)
    if later is not None:
        more = read_images(later, np.arange(len(later)), side, loader="torch", workers=1, ratio=ratio)
        images, labels = np.concatenate([images, more[0]]), np.concatenate([labels, more[1]])
    place = {name: label for label, name in enumerate(original.classes)}
    table = np.array([place.get(name, -1) for name in dataset.manifest.classes])
    return Reference(images, table[labels], *original.predict(images))


def compare(
    original: Predictor,
    compressed: Predictor,
    new: IncomingImages,
    reference: Reference | None,
    *,
    allowed: float,
    least: int,
    run: Path | None = None,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Compare two models on new images.

    Parameters
    ----------
    original, compressed : Predictor
    new : IncomingImages
    reference : Reference, optional
    allowed : float
        Points of disagreement in a class that raise no alarm, in addition to those on the reference.
    least : int
        A class with fewer new images never alarms.
    run : Path, optional
        Run directory of the compression: after an alarm its earlier steps are tried.

    Returns
    -------
    report : dict
    lines : list of dict
        Predictions and confidences of each image.
    """
    features, logits = original.predict(new.images)
    mine = compressed.predict(new.images)
    theirs = None if reference is None else compressed.predict(reference.images)

    def alarms(logits_of_step: np.ndarray, on_reference: np.ndarray | None) -> dict[str, Any]:
        known = None if reference is None or on_reference is None else (reference, on_reference)
        return _by_class(original.classes, new, logits, logits_of_step, known, allowed, least)

    report = alarms(mine[1], theirs and theirs[1])
    report |= {
        "original": original.name,
        "compressed": compressed.name,
        "images": len(new.images),
        "labelled": int((new.labels >= 0).sum()),
        "unreadable": new.unreadable,
        "similarity": comparison.similarity(features, mine[0]),
    }
    if reference is not None and theirs is not None:
        report["reference_similarity"] = comparison.similarity(reference.features, theirs[0])
        report["drift"] = {
            "original": comparison.drift(reference.features, features),
            "compressed": comparison.drift(theirs[0], mine[0]),
        }
    report["rollback"] = None
    if run is not None and report["alarms"]:
        report["rollback"] = _earlier_step(run, new, reference, alarms)
    return report, prediction_lines(new, original.classes, logits, mine[1])


def _by_class(
    names: list[str],
    new: IncomingImages,
    logits: np.ndarray,
    mine: np.ndarray,
    reference: tuple[Reference, np.ndarray] | None,
    allowed: float,
    least: int,
) -> dict[str, Any]:
    """Disagreement and alarms by class.

    Parameters
    ----------
    logits, mine : (n, c) float32
        Of the original and of the compressed model on the new images.
    reference : (Reference, (m, c) float32), optional
        With the compressed model's logits.
    """
    first, second, labelled = predicted_classes(logits), predicted_classes(mine), new.labels >= 0
    whole = bool(labelled.all())
    limits = np.full(len(names), allowed / 100)
    if reference is not None:
        known, theirs = predicted_classes(reference[0].logits), predicted_classes(reference[1])
        errors = comparison.counted_errors(known, theirs, reference[0].labels if whole else None)
        limits += comparison.error_shares(*errors, len(names), least=least)
    groups, wrong = comparison.counted_errors(first, second, new.labels if whole else None)
    classes = comparison.by_class(groups, wrong, names, limits, least=least)
    report: dict[str, Any] = {
        "measure": "lost answers" if whole else "disagreement",
        "disagreement": float((first != second).mean()),
        "classes": classes,
        "alarms": [row["class"] for row in classes if row["alarm"]],
    }
    if labelled.any():
        labels = new.labels[labelled]
        report["top1"] = {
            "original": float((first[labelled] == labels).mean()),
            "compressed": float((second[labelled] == labels).mean()),
        }
    return report


def _earlier_step(
    run: Path,
    new: IncomingImages,
    reference: Reference | None,
    alarms: Callable[[np.ndarray, np.ndarray | None], dict[str, Any]],
) -> dict[str, Any]:
    """The newest accepted step before the current one that does not alarm on these images; else the original."""
    entries = journal.read_journal(run)
    current = journal.current_step(entries)
    step = entries[current].get("base", 0)
    while step:
        model = open_predictor(journal.step_directory(run, step))
        theirs = None if reference is None else model.predict(reference.images)[1]
        if not alarms(model.predict(new.images)[1], theirs)["alarms"]:
            break
        step = entries[step]["base"]
    command = shlex.join(["transfer", "rollback", "--run", str(run), "--to", str(step)])
    return {"from": current, "to": step, "command": command}


def prediction_lines(
    new: IncomingImages, classes: Sequence[str], first: np.ndarray, second: np.ndarray
) -> list[dict[str, Any]]:
    """Predictions and confidences of each image by two models, from their logits."""
    mine, theirs = first.argmax(1), second.argmax(1)
    sure, surely = _confidence(first), _confidence(second)
    return [
        {
            "path": path,
            "label": classes[label] if label >= 0 else "",
            "original": classes[mine[i]],
            "original_confidence": f"{sure[i]:.4f}",
            "compressed": classes[theirs[i]],
            "compressed_confidence": f"{surely[i]:.4f}",
            "agree": int(mine[i] == theirs[i]),
        }
        for i, (path, label) in enumerate(zip(new.paths, new.labels))
    ]


def _confidence(logits: np.ndarray) -> np.ndarray:
    likely = np.exp(logits - logits.max(1, keepdims=True))
    confidence: np.ndarray = (likely / likely.sum(1, keepdims=True)).max(1)
    return confidence
