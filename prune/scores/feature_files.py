"""Open features files, check them against each other, and stream their rows without mapping them into memory."""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from prune.index.manifest import Manifest
from prune.index.npz import open_arrays, save_arrays
from prune.runs.files import InputError
from prune.scores.class_votes import columns_of
from prune.scores.streaming import halves

FORMAT = "winnow-features/1"


def content_fingerprint(path: Path) -> str:
    """Fingerprint of an npz file by the CRC-32 and size of its members: no pass over the data."""
    with zipfile.ZipFile(path) as archive:
        members = sorted((i.filename, i.CRC, i.file_size) for i in archive.infolist())
    return hashlib.sha256(json.dumps(members).encode()).hexdigest()[:32]


def order_fingerprint(manifest: Path) -> str | None:
    """CRC-32 of a manifest's ids in their order; None when there is no such file.

    A manifest's own fingerprint does not depend on the order, and rows mean something in one order alone.
    """
    if not Path(manifest).is_file():
        return None
    try:
        with zipfile.ZipFile(manifest) as archive:
            return f"{archive.getinfo('id.npy').CRC:08x}"
    except (zipfile.BadZipFile, KeyError):
        raise InputError(f"{manifest}: damaged, or not a manifest of `prune write`") from None


def check_order(path: Path, order: str | None, other: Path, other_order: str | None, way_out: str) -> None:
    """Raise `InputError` when two files on one source list its images in different orders.

    The orders are `order_fingerprint`s; older files have None, and nothing is compared.
    """
    if None not in (order, other_order) and order != other_order:
        raise InputError(f"{path}: lists the images in another order than {other}; {way_out}")


def beside(path: Path, place: Path) -> str:
    """Say where `path` lies seen from the folder of the file `place`, wherever links lead."""
    return os.path.relpath(Path(path).resolve(), Path(place).resolve().parent)


@dataclass(frozen=True)
class Features:
    """A checked features file, mapped.

    Attributes
    ----------
    features : (n, d) float16 (or wider)
    logits : (n, k) float
        Columns are `model["classes"]`.
    label : (n,) int
    classes : list of str
        Names of the labels.
    model : dict
        "arch", "classes", "fingerprint" of the surrogate.
    name : str
        Stem of the beton.
    source : str
        Fingerprint of the manifest.
    manifest : Path
    content : str
        Fingerprint of this file.
    order : str, optional
        `order_fingerprint` of the manifest that the rows follow; older files do not tell.
    """

    path: Path
    features: np.ndarray
    logits: np.ndarray
    label: np.ndarray
    classes: list[str]
    model: dict[str, Any]
    name: str
    source: str
    manifest: Path
    content: str
    order: str | None = None

    def __len__(self) -> int:
        return len(self.label)

    def columns(self, wanted: list[str]) -> np.ndarray | None:
        """Columns of the logits for the class names in `wanted`; None when the surrogate does not know them all."""
        return columns_of(self.model["classes"], wanted)


def open_features(path: Path) -> Features:
    """Map a features file.

    Raises
    ------
    InputError
        Missing, damaged, of inconsistent shapes, or not one row per row of the manifest.
    """
    path = Path(path)
    arrays, meta = open_arrays(path, FORMAT)
    for name, ndim in (("features", 2), ("logits", 2), ("label", 1), ("position", 1)):
        if name not in arrays or arrays[name].ndim != ndim:
            raise InputError(f"{path}: array {name!r} is missing or has the wrong shape")
        if len(arrays[name]) != len(arrays["label"]):
            raise InputError(f"{path}: arrays of different lengths ({name}: {len(arrays[name])})")
    for key in ("classes", "model", "name", "fingerprint", "manifest"):
        if key not in meta:
            raise InputError(f"{path}: the meta lacks {key!r}")
    n = len(arrays["label"])
    if not np.array_equal(arrays["position"], np.arange(n)):
        raise InputError(f"{path}: does not hold every row of its manifest in order; run `prune features` again")
    label, names = np.asarray(arrays["label"]), meta["classes"]
    if n and (label.min() < 0 or label.max() >= len(names)):
        raise InputError(f"{path}: labels outside [0, {len(names)})")
    if arrays["logits"].shape[1] != len(meta["model"].get("classes", [])):
        raise InputError(f"{path}: {arrays['logits'].shape[1]} logits for other than as many surrogate classes")
    return Features(
        path=path,
        features=arrays["features"],
        logits=arrays["logits"],
        label=label,
        classes=names,
        model=meta["model"],
        name=str(meta["name"]),
        source=str(meta["fingerprint"]),
        manifest=(path.resolve().parent / meta["manifest"]).resolve(),
        content=content_fingerprint(path),
        order=meta.get("order"),
    )


def save_features(
    path: Path,
    features: np.ndarray,
    logits: np.ndarray,
    manifest: Path,
    *,
    logit_classes: list[str],
    model: str,
    made: Mapping[str, Any] | None = None,
) -> None:
    """Write features and logits that were computed elsewhere, so that `prune score` reads them.

    Parameters
    ----------
    path : Path
        NAME.features.npz; NAME becomes the name of the source or target.
    features : (n, d) float
        One row for each row of the manifest, in its order. Stored as half floats, larger values as the largest of them.
    logits : (n, k) float
        k may be 0: FM and the scores that look at features alone.
    manifest : Path
        X.manifest.npz of the images.
    logit_classes : list of str
        What the k logits stand for. LM needs the source's class names among them.
    model : str
        Any name; source and targets must share it.
    made : mapping, optional
        What the file was made from, kept in its meta.
    """
    held = Manifest.load(manifest)
    if not len(features) == len(logits) == len(held):
        raise InputError(f"{path}: {len(features)} features and {len(logits)} logits for {len(held)} images")
    facts = {"arch": model, "classes": list(logit_classes), "fingerprint": model}
    write_features(path, halves(features), halves(logits), held, manifest, facts, made)


def write_features(
    path: Path,
    features: np.ndarray,
    logits: np.ndarray,
    held: Manifest,
    manifest: Path,
    model: Mapping[str, Any],
    made: Mapping[str, Any] | None = None,
) -> None:
    """Write a features file of half floats, (n, d) and (n, k), mapped ones in pieces.

    `held` is the manifest that lies at `manifest`, `model` has the keys "arch", "classes" and "fingerprint".
    """
    arrays: dict[str, np.ndarray] = {
        "features": features,
        "logits": logits,
        "label": np.asarray(held.labels, np.int32),
        "position": np.arange(len(held), dtype=np.int64),
    }
    meta: dict[str, Any] = {
        "format": FORMAT,
        "name": path.name.removesuffix(".features.npz").removesuffix(".npz"),
        "classes": held.classes,
        "fingerprint": held.fingerprint,
        "manifest": beside(manifest, path),
        "order": order_fingerprint(manifest),
        "model": dict(model),
        **({} if made is None else {"made": dict(made)}),
    }
    save_arrays(path, arrays, meta)
