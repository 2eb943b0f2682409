"""What every evaluation leaves: predictions.npz and result.json with accuracies, inputs and cost."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from prune.index.npz import save_arrays
from prune.runs.files import note, read_json, write_json
from transfer.evaluation.metrics import calibration_error, per_class

FORMAT = "winnow-predictions/1"


def accuracies(label: np.ndarray, predicted: np.ndarray, confidence: np.ndarray, classes: list[str]) -> dict[str, Any]:
    """Measure predictions for result.json: top-1, its mean over classes, each class, calibration.

    Parameters
    ----------
    label, predicted : (n,) int
    confidence : (n,) float
        Probability of the predicted class.
    classes : list of str
    """
    right = predicted == label
    by_class = per_class(label, predicted, len(classes))
    return {
        "metric": "top1",
        "value": float(right.mean()),
        "mean_per_class": float(np.nanmean(by_class)),
        # None for a class without test images.
        "per_class": [None if value != value else float(value) for value in by_class],
        "classes": classes,
        "ece": calibration_error(confidence, right),
        "n": len(label),
    }


def save_predictions(
    out: Path, label: np.ndarray, predicted: np.ndarray, confidence: np.ndarray, classes: list[str]
) -> dict[str, Any]:
    """Write OUT/predictions.npz in the order of the test images' beton; returns their `accuracies`."""
    label, predicted, confidence = label.astype(np.int32), predicted.astype(np.int32), confidence.astype(np.float32)
    arrays = {"label": label, "predicted": predicted, "confidence": confidence}
    save_arrays(out / "predictions.npz", arrays, {"format": FORMAT, "classes": classes})
    return accuracies(label, predicted, confidence, classes)


def write_result(
    out: Path,
    task: str,
    target: str,
    measured: Mapping[str, Any],
    inputs: Mapping[str, str],
    *,
    n_train: int,
    samples: int,
    flops: float,
    seconds: float,
    **settings: Any,
) -> dict[str, Any]:
    """Write OUT/result.json; returns its content.

    Parameters
    ----------
    out : Path
    task, target : str
        Names of the evaluation and of the target.
    measured : mapping
        `accuracies` of the predictions.
    inputs : mapping of str to str
        Fingerprints of the model and of the splits.
    n_train : int
        Training images that the classifier was fitted to.
    samples : int
        Images that passed through the network, repetitions counted.
    flops, seconds : float
    **settings
        What else describes this evaluation.
    """
    result = {
        "task": task,
        "target": target,
        **measured,
        **inputs,
        **settings,
        "n_train": n_train,
        "samples": samples,
        "flops": flops,
        "seconds": round(seconds, 3),
    }
    write_json(out / "result.json", result)
    return result


def note_result(out: Path, result: Mapping[str, Any]) -> None:
    """Print the accuracy of a finished evaluation."""
    note(f"{out}: top-1 {result['value']:.4f} on {result['n']} test images of {result['target']}")


def note_up_to_date(out: Path) -> None:
    """Print that an evaluation finished earlier, and its accuracy."""
    note(f"{out}: up to date, top-1 {read_json(out / 'result.json')['value']:.4f}")
