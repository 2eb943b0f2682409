"""Writes kept and dropped images as a dataset that FiftyOne opens: its JSON format, `FiftyOneDataset`.

    DIR/metadata.json   name, media type, and facts of the index
    DIR/samples.json    for each image: its path, the tag "kept" or "dropped", its class, its scores

FiftyOne itself is not needed. It reads files without a "version" in metadata.json, as these are, as plain samples:
`fiftyone.Dataset.from_dir(DIR, dataset_type=fiftyone.types.FiftyOneDataset)`.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from prune.runs.files import InputError, atomic, counted

OWN_FIELDS = ("id", "filepath", "tags", "metadata", "ground_truth", "kept", "reason", "created_at", "last_modified_at")
"""Fields of a sample that no score may be named like."""


def field_name(score: str) -> str:
    """Name of a score as a field of a sample: letters, digits and underscores, and none of `OWN_FIELDS`.

    >>> field_name("el2n-early"), field_name("domain/pets"), field_name("tags")
    ('el2n_early', 'domain_pets', 'score_tags')
    """
    name = re.sub(r"\W", "_", score)
    return f"score_{name}" if name in OWN_FIELDS or not name[:1].isalpha() else name


def write_dataset(
    folder: Path,
    name: str,
    ids: np.ndarray,
    classes: Sequence[str],
    labels: np.ndarray,
    kept: np.ndarray,
    reasons: Mapping[int, str],
    scores: Mapping[str, np.ndarray],
    images: Path,
    info: Mapping[str, Any],
) -> None:
    """Write metadata.json and samples.json; existing ones of the same content stay.

    Parameters
    ----------
    folder : Path
    name : str
        Of the dataset.
    ids : (n,) bytes
        Paths below `images`.
    classes : sequence of str
    labels : (n,) int
    kept : (n,) bool
    reasons : mapping of int to str
        Why a kept row is kept.
    scores : mapping of str to (n,) float
        Become fields of every sample; NaN becomes null.
    images : Path
        Folder of the images; the samples hold absolute paths.
    info : mapping
        JSON-serialisable facts.

    Raises
    ------
    InputError
        An image is not in the folder, two scores have one field, or `folder` holds something else.
    """
    _check_images(ids, images)
    fields = {score: field_name(score) for score in scores}
    if len(set(fields.values())) < len(fields):
        raise InputError(f"--fiftyone: two scores would be one field: {', '.join(sorted(fields))}")
    folder.mkdir(parents=True, exist_ok=True)
    _refuse_other(folder, name, info)
    root = os.path.abspath(images)
    with atomic(folder / "samples.json") as partial, open(partial, "w", encoding="utf-8") as file:
        file.write('{"samples": [')
        for row in range(len(ids)):
            path = bytes(ids[row]).decode("utf-8", "surrogateescape")
            sample: dict[str, Any] = {
                "filepath": os.path.join(root, *path.split("/")),
                "tags": ["kept" if kept[row] else "dropped"],
                "metadata": None,
                "ground_truth": {"_cls": "Classification", "label": classes[labels[row]]},
                "kept": bool(kept[row]),
                "reason": reasons.get(row),
            }
            for score, field in fields.items():
                value = float(scores[score][row])
                sample[field] = value if np.isfinite(value) else None
            file.write(("" if row == 0 else ",") + "\n" + json.dumps(sample))
        file.write("\n]}\n")
    with atomic(folder / "metadata.json") as partial:
        content = {"name": name, "media_type": "image", "info": dict(info), "default_classes": list(classes)}
        partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _check_images(ids: np.ndarray, images: Path) -> None:
    """Raise `InputError` unless every id is a file below the folder."""
    if not images.is_dir():
        raise InputError(f"--images {images}: no such folder")
    lost = 0
    first = ""
    for name in ids.tolist():
        path = name.decode("utf-8", "surrogateescape")
        if not os.path.isfile(os.path.join(images, path)):
            lost, first = lost + 1, first or path
    if lost:
        raise InputError(
            f"--images {images}: {counted(lost, 'image is', 'images are')} not in it (first: {first!r}); FiftyOne "
            "reads the files, so it needs the folder that the source was written from"
        )


def _refuse_other(folder: Path, name: str, info: Mapping[str, Any]) -> None:
    """Raise `InputError` where the folder holds another dataset or other things."""
    there = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
    if not there:
        return
    if there <= {"metadata.json", "samples.json"} and "metadata.json" in there:
        try:
            before = json.loads((folder / "metadata.json").read_text(encoding="utf-8"))
        except ValueError:
            before = {}
        if isinstance(before, dict) and before.get("info") == json.loads(json.dumps(dict(info))):
            return
    raise InputError(f"--fiftyone {folder}: holds something else than the dataset {name}: give another folder")
