"""How far the confidence of predictions can be trusted: reliability diagrams of a study's conditions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from prune.index.npz import open_arrays
from transfer.evaluation.metrics import calibration_error

BINS = 10


def diagram(confidence: np.ndarray, correct: np.ndarray, bins: int = BINS) -> dict[str, list[float]]:
    """Mean confidence, accuracy in percent and share of the images of each equal-width bin that is not empty.

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


def reliability(
    results: Mapping[str, Any], folder: Path, conditions: list[tuple[str, float]]
) -> dict[str, list[dict[str, Any]]]:
    """By evaluation: for each condition that has predictions its diagram and calibration error in percent.

    All seeds and targets are pooled.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    for evaluation in dict.fromkeys(cell["evaluation"] for cell in results["cells"]):
        for method, keep in conditions:
            sure, right = [], []
            for cell in results["cells"]:
                own = (cell["method"], 1.0 if cell["method"] == "full" else cell["keep"])
                if cell["evaluation"] != evaluation or own != (method, keep) or not cell.get("predictions"):
                    continue
                arrays, _ = open_arrays(folder / cell["predictions"], "winnow-predictions/1")
                sure.append(np.asarray(arrays["confidence"]))
                right.append(np.asarray(arrays["predicted"] == arrays["label"]))
            if sure:
                confidence, correct = np.concatenate(sure), np.concatenate(right)
                entry = {"method": method, "keep": keep, "ece": 100 * calibration_error(confidence, correct)}
                found.setdefault(evaluation, []).append({**entry, **diagram(confidence, correct)})
    return found
