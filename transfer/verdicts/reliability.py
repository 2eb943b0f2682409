"""Reliability diagrams of a study's conditions: how often predictions are right at each level of confidence."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from prune.index.npz import open_arrays
from transfer.evaluation.metrics import calibration_error
from transfer.verdicts.results_file import Condition, condition_of

BINS = 10


def reliability_diagram(confidence: np.ndarray, correct: np.ndarray, bins: int = BINS) -> dict[str, list[float]]:
    """Mean confidence, accuracy and share of the images, in percent, of each equal-width bin that is not empty.

    Guo et al., "On Calibration of Modern Neural Networks" (2017), section 2.

    Parameters
    ----------
    confidence : (n,) float in [0, 1]
    correct : (n,) bool
    bins : int
    """
    at = np.clip(np.ceil(confidence.astype(np.float64) * bins).astype(np.int64) - 1, 0, bins - 1)
    count = np.bincount(at, minlength=bins)
    full = count > 0
    sums = (np.bincount(at, np.asarray(v, np.float64), bins)[full] for v in (confidence, correct))
    mean, right = (100 * one / count[full] for one in sums)
    return {"confidence": mean.tolist(), "accuracy": right.tolist(), "share": (100 * count[full] / len(at)).tolist()}


def reliability_by_evaluation(
    results: Mapping[str, Any], folder: Path, conditions: list[Condition]
) -> dict[str, list[dict[str, Any]]]:
    """By evaluation, the diagram and the calibration error in percent of each condition that has predictions.

    All seeds and targets are pooled.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    for evaluation in dict.fromkeys(one["evaluation"] for one in results["cells"]):
        for method, keep in conditions:
            sure, right = [], []
            for one in results["cells"]:
                if one["evaluation"] != evaluation or condition_of(one) != (method, keep) or not one.get("predictions"):
                    continue
                arrays, _ = open_arrays(folder / one["predictions"], "winnow-predictions/1")
                sure.append(np.asarray(arrays["confidence"]))
                right.append(np.asarray(arrays["predicted"] == arrays["label"]))
            if sure:
                confidence, correct = np.concatenate(sure), np.concatenate(right)
                entry = {"method": method, "keep": keep, "ece": 100 * calibration_error(confidence, correct)}
                found.setdefault(evaluation, []).append({**entry, **reliability_diagram(confidence, correct)})
    return found
