"""Which images that a watch found may enter a preservation set, and why; those unlike it are proposed to a person."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from prune.index.manifest import Manifest
from prune.runs.files import InputError, counted, note
from transfer.compression.preservation_growth import anomalies
from transfer.compression.preservation_versions import PreservationSet
from transfer.watching.found_images import FoundImages, read_found, write_proposals
from transfer.watching.side_by_side import Predictor

_OTHERWISE = 0.1
"""Share of answers that may differ from those in the CSV: files and networks round differently near a tie."""


def additions(
    place: Path,
    root: Path | None,
    manifest: Manifest,
    members: PreservationSet,
    original: Predictor,
    features: np.ndarray,
    rate: float,
    propose: Path | None,
) -> tuple[FoundImages, list[str], np.ndarray]:
    """Read the images of a CSV and sort out those that are unlike the set and have no label.

    What the original answers on an image unlike all that it knows is no label: such an image waits for a person.

    Parameters
    ----------
    place, root
        The CSV, and what its paths are relative to.
    manifest : Manifest
        Of the training images.
    members : PreservationSet
    original : Predictor
    features : (m, d) float
        Of the members by the original.
    rate : float
        False alarms; see `preservation_growth.anomalies`.
    propose : Path, optional
        CSV to write of those that wait.

    Returns
    -------
    found : FoundImages
        Those that may enter, k of them.
    why : list of str
    features : (k, d) float
    """
    classes, view = list(manifest.classes), (original.resolution, original.crop_ratio)
    known = set(np.asarray(manifest.digests).tolist())
    known |= set() if members.later is None else set(np.asarray(members.later.manifest.digests).tolist())
    found = read_found(place, root, classes, known, *view)
    if not len(found.ids):
        note(f"{place}: brings nothing new")
        if propose is not None:
            write_proposals(propose, [], [], np.zeros(0), 0.0)
        return found, [], features[:0]
    fresh, logits = original.predict(found.images)
    stated = found.original >= 0
    differ = int((found.original != logits.argmax(1))[stated].sum())
    if differ > _OTHERWISE * stated.sum():
        raise InputError(
            f"--model {original.name}: answers {differ} of {int(stated.sum())} images otherwise than the original in "
            f"{place}: give the original that the watch compared"
        )
    distances, threshold = anomalies(features, fresh, rate)
    unlike = np.zeros(len(fresh), bool) if threshold is None else distances > threshold
    if threshold is None:
        note(
            f"no image is tested for being unlike the set: {counted(len(features), 'image')} are too few for a "
            f"false-alarm rate of {rate:g}"
        )
    proposed = np.flatnonzero(unlike & found.answered)
    if len(proposed):
        way = "" if propose else "; --propose FILE lists them"
        note(f"{counted(len(proposed), 'image')} unlike the set and without a label: not added{way}")
    if propose is not None:
        answers = [classes[found.original[row]] for row in proposed]
        write_proposals(propose, [found.paths[row] for row in proposed], answers, distances[proposed], threshold or 0.0)
    reasons = [
        ("the models disagreed" if answered else "lost answer") if broke else "unlike the set" if far else "coverage"
        for broke, answered, far in zip(found.broke, found.answered, unlike, strict=True)
    ]
    rows = np.flatnonzero(~(unlike & found.answered))
    return found.part(rows), [reasons[row] for row in rows], fresh[rows]
