"""Scores of a part of the source, brought to all of its rows: images that were not scored have NaN."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from prune.index.manifest import Manifest, manifest_exists
from prune.runs.files import InputError
from prune.scores.feature_files import Features

_ABSENT: dict[str, float] = {"sample": np.nan, "duplicate_of": -1, "duplicate_by": 0, "looks_like": -1, "leak": 0}
"""What an image without features has, by kind of array."""


def spread_rows(arrays: Mapping[str, np.ndarray], rows: np.ndarray, total: int) -> dict[str, np.ndarray]:
    """Bring arrays over some rows of a source to all of its rows.

    Parameters
    ----------
    arrays : mapping of str to (m,) array
        Of `prune.scores.score_source`; class weights are passed on as they are. `duplicate_of` counts in `rows`.
    rows : (m,) int64
        Rows of the source, each once.
    total : int
        Images of the source.

    Raises
    ------
    InputError
        Clusters of a part: images without features belong to none.
    """
    if np.array_equal(rows, np.arange(total)):
        return dict(arrays)
    if "group" in arrays:
        raise InputError("--clusters needs the features of all images of the source")
    found = {}
    for name, values in arrays.items():
        kind = name.split("/")[0]
        if kind not in _ABSENT:
            found[name] = values
            continue
        whole = np.full(total, _ABSENT[kind], values.dtype)
        whole[rows] = np.where(values >= 0, rows[values], -1) if kind == "duplicate_of" else values
        found[name] = whole
    return found


def all_labels(source: Features) -> np.ndarray:
    """Labels of all images of a source, (n,) int32; those without features have theirs in the manifest."""
    if not source.partial:
        return source.label.astype("<i4")
    if not manifest_exists(source.manifest):
        raise InputError(f"{source.path}: its manifest is not at {source.manifest}; a part of a source needs it")
    return np.asarray(Manifest.load(source.manifest).labels, "<i4")
