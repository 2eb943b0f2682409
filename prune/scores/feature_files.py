"""Features files: open and check them, compare which source and order of images they belong to, write them.

A folder or a pattern names the features of several betons that are one source; they are read as one, not joined.
"""

from __future__ import annotations

import fnmatch
import glob
import hashlib
import json
import os
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from prune.index.joined_rows import JoinedRows
from prune.index.manifest import Manifest, manifest_exists, merged, several
from prune.index.npz import array_crc32, open_arrays, save_arrays
from prune.runs.files import InputError, counted, need_file
from prune.scores.class_votes import columns_of
from prune.scores.logit_summary import LogitSummary, joined_summary, opened_summary
from prune.scores.quantised_rows import QuantisedRows, checked_steps
from prune.scores.sample_keys import sample_keys

FORMAT = "winnow-features/2"
"""The newest format: that of files with 8-bit features. All others are `_PLAIN`, which older versions read, too."""
_PLAIN = "winnow-features/1"
_SUFFIX = ".features.npz"


def content_fingerprint(path: Path) -> str:
    """Fingerprint of an npz file from the CRC-32 and size of its members, without reading the data."""
    with zipfile.ZipFile(path) as archive:
        members = sorted((i.filename, i.CRC, i.file_size) for i in archive.infolist())
    return hashlib.sha256(json.dumps(members).encode()).hexdigest()[:32]


def order_fingerprint(manifest: Path) -> str | None:
    """CRC-32 of a manifest's ids in their order, of several betons' as of one's; None when there is no such file.

    Arrays over rows are valid for one order only, and a manifest's own fingerprint does not depend on the order.
    """
    if not manifest_exists(manifest):
        return None
    if several(manifest):
        return f"{array_crc32(Manifest.load(manifest).ids):08x}"
    try:
        with zipfile.ZipFile(manifest) as archive:
            return f"{archive.getinfo('id.npy').CRC:08x}"
    except (zipfile.BadZipFile, KeyError):
        raise InputError(f"{manifest}: damaged, or not a manifest of `prune write`") from None


def check_order(path: Path, order: str | None, other: Path, other_order: str | None, way_out: str) -> None:
    """Raise `InputError` when two files on one source list its images in different orders.

    The orders are `order_fingerprint`s. Files of older versions have None, and are not compared.
    """
    if None not in (order, other_order) and order != other_order:
        raise InputError(f"{path}: lists the images in another order than {other}; {way_out}")


def beside(path: Path, place: Path) -> str:
    """Path of `path` relative to the folder of the file `place`, links resolved."""
    return os.path.relpath(Path(path).resolve(), Path(place).resolve().parent)


@dataclass(frozen=True)
class Features:
    """A checked features file, memory-mapped.

    Attributes
    ----------
    features : (n, d) float16 (or wider)
        Of a file with 8-bit features `QuantisedRows`, which are read like float32.
    logits : (n, k) float
        Columns are `model["classes"]`; none where the file holds a summary instead.
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
    rows : (n,) int64
        Rows of the source that the file holds, ascending: all of them, or those of an index.
    total : int
        Images of the source.
    order : str, optional
        `order_fingerprint` of the manifest that the rows follow; None for files of older versions.
    hashes : (n, v) uint64, optional
        Perceptual hashes of thumbnails; None in other files and in those of older versions.
    summary : LogitSummary, optional
        Of files of `prune features --logits summary`.
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
    rows: np.ndarray
    total: int
    order: str | None = None
    hashes: np.ndarray | None = None
    summary: LogitSummary | None = None

    def __len__(self) -> int:
        return len(self.label)

    def ids(self) -> np.ndarray | None:
        """Ids of the images from their manifest, (n,) bytes; None when it is missing, or belongs to other rows."""
        if not manifest_exists(self.manifest):
            return None
        held = Manifest.load(self.manifest)
        ours = held.fingerprint == self.source if self.order is None else self.order == order_fingerprint(self.manifest)
        if not ours or len(held) != self.total:
            return None
        return held.ids[self.rows] if self.partial else held.ids

    def keys(self, seed: int) -> np.ndarray:
        """Keys of the images (`prune.scores.sample_keys`), (n,) uint64, from their ids where the manifest has them."""
        return sample_keys(seed, ids=self.ids(), n=len(self))

    @property
    def partial(self) -> bool:
        """Whether the file holds a part of the source's images only."""
        return len(self) < self.total

    def columns(self, wanted: list[str]) -> np.ndarray | None:
        """Columns of the logits for the class names in `wanted`; None when the surrogate does not know them all."""
        return columns_of(self.model["classes"], wanted)

    def all_logits(self, needed_by: str) -> np.ndarray:
        """The logits, (n, k); `InputError` that names what needs them where the file holds a summary of them."""
        if self.summary is not None:
            raise InputError(
                f"{needed_by}: {self.path} holds a summary of the logits, not all of them: run `prune features "
                "--logits all` with another --out"
            )
        return self.logits


def open_features(path: Path) -> Features:
    """Map a features file, or those of a folder or a pattern as one (`prune features` of each beton of a source).

    Raises
    ------
    InputError
        Missing, damaged, of inconsistent shapes, or not one row per row of the manifest; of several files also: shards
        that are missing, or files that are not of one source and one surrogate.
    """
    path = Path(path)
    if several(path):
        parts = [_open_one(place) for place in features_at(path)]
        # `prune features` of several betons that are one source writes one file, which is whole by itself.
        return parts[0] if len(parts) == 1 and several(parts[0].manifest) else _joined(path, parts)
    return _open_one(path)


def features_at(path: Path) -> list[Path]:
    """The features files at a path, in a folder, or of a pattern such as `runs/photos/*.features.npz`.

    Raises
    ------
    InputError
        Nothing there.
    """
    path = Path(path)
    if not several(path):
        return [need_file(path, "a features file of `prune features`")]
    pattern = os.path.join(glob.escape(str(path)), f"*{_SUFFIX}") if path.is_dir() else str(path)
    if not (found := sorted(Path(name) for name in glob.glob(pattern) if name.endswith(_SUFFIX))):
        what = "no features in it" if path.is_dir() else "no file matches"
        raise InputError(f"{path}: {what}; features files of `prune features` are expected")
    return found


def _joined(path: Path, parts: Sequence[Features]) -> Features:
    """Features of the betons of one source as one, in the order of the ids."""
    first = parts[0]
    for part in parts[1:]:
        if part.model != first.model:
            raise InputError(f"{part.path}: another surrogate than {first.path}'s made these features")
        if part.features.shape[1] != first.features.shape[1] or (part.hashes is None) != (first.hashes is None):
            raise InputError(f"{part.path}: other arrays than in {first.path}: they are not one source")
        if (part.summary is None) != (first.summary is None):
            kind = {True: "all logits", False: "a summary of the logits"}
            raise InputError(
                f"{part.path}: holds {kind[part.summary is None]}, and {first.path} {kind[first.summary is None]}: run "
                "`prune features` for one of them again, with the other's --logits"
            )
    manifests = []
    for part in parts:
        if part.partial:
            raise InputError(f"{part.path}: holds a part of its beton's images: make it again without --index")
        if several(part.manifest) and manifest_exists(part.manifest):
            raise InputError(
                f"{path}: {part.path.name} holds the features of several betons, and there are other files beside it: "
                f"name one of them, such as {part.path}"
            )
        if not part.manifest.is_file():
            raise InputError(f"{part.path}: its manifest is not at {part.manifest}; several files need theirs")
        manifests.append(Manifest.load(part.manifest))
        way_out = "run `prune features` again with this beton"
        check_order(part.path, part.order, part.manifest, order_fingerprint(part.manifest), way_out)
        if manifests[-1].fingerprint != part.source:
            raise InputError(f"{part.path}: features of other images than those of {part.manifest}: {way_out}")
    manifest = _common_manifest(path, [part.manifest for part in parts])
    whole, order = merged(manifests, [part.path for part in parts])
    hashes = None if first.hashes is None else JoinedRows([part.hashes for part in parts], order)
    name = path.name.split("*")[0].split("?")[0].split("[")[0].rstrip("-_.") or path.absolute().parent.resolve().name
    content = hashlib.sha256(json.dumps([part.content for part in parts]).encode()).hexdigest()[:32]
    return Features(
        path=path,
        features=JoinedRows([part.features for part in parts], order),  # type: ignore[arg-type]
        logits=JoinedRows([part.logits for part in parts], order),  # type: ignore[arg-type]
        label=np.asarray(whole.labels, np.int32),
        classes=first.classes,
        model=first.model,
        name=name,
        source=whole.fingerprint,
        manifest=manifest,
        content=content,
        rows=np.arange(len(whole)),
        total=len(whole),
        order=f"{array_crc32(whole.ids):08x}",
        hashes=hashes,  # type: ignore[arg-type]
        summary=joined_summary([part.summary for part in parts], order),
    )


def _common_manifest(path: Path, places: Sequence[Path]) -> Path:
    """The pattern that names these manifests and no others; `InputError` where betons beside them have no features."""
    if len(folders := sorted({place.parent for place in places})) > 1:
        raise InputError(f"{path}: the betons are in {folders[0]} and {folders[1]}: one source lies in one folder")
    begin = os.path.commonprefix([place.name for place in places])  # noqa: RUF071
    for pattern in (f"{glob.escape(begin)}*.manifest.npz", "*.manifest.npz"):
        found = {place for place in folders[0].glob("*.manifest.npz") if fnmatch.fnmatchcase(place.name, pattern)}
        if found == set(places):
            return folders[0] / pattern
    lost = sorted(set(folders[0].glob("*.manifest.npz")) - set(places))
    beton = lost[0].name.replace(".manifest.npz", ".beton") if lost else places[0].name
    raise InputError(
        f"{path}: {counted(len(lost), 'beton')} of {folders[0]} without features, first {beton}: run `prune features` "
        "for it, or name one file"
    )


def _open_one(path: Path) -> Features:
    arrays, meta = open_arrays(path, FORMAT)
    stored = "i" if "steps" in arrays else "f"
    for name, ndim, kinds in (("label", 1, "iu"), ("position", 1, "iu"), ("features", 2, stored), ("logits", 2, "f")):
        if name not in arrays or arrays[name].ndim != ndim or arrays[name].dtype.kind not in kinds:
            raise InputError(f"{path}: array {name!r} is missing or has the wrong shape or type")
        if len(arrays[name]) != len(arrays["label"]):
            raise InputError(f"{path}: arrays of different lengths ({name}: {len(arrays[name])})")
    for key in ("classes", "model", "name", "fingerprint", "manifest"):
        if key not in meta:
            raise InputError(f"{path}: the meta lacks {key!r}")
    if wrong := _wrong_in(meta):
        raise InputError(f"{path}: the meta's {wrong} is not what `prune features` writes")
    n, rows = len(arrays["label"]), np.asarray(arrays["position"], np.int64)
    total = int(meta.get("source_size", n))
    if (np.diff(rows, prepend=-1) <= 0).any() or (n and rows[-1] >= total):
        raise InputError(f"{path}: does not hold rows of its manifest in order; run `prune features` again")
    label, names = np.asarray(arrays["label"]), meta["classes"]
    if n and (label.min() < 0 or label.max() >= len(names)):
        raise InputError(f"{path}: labels outside [0, {len(names)})")
    summary = opened_summary(path, arrays, meta)
    if summary is None and arrays["logits"].shape[1] != len(meta["model"].get("classes", [])):
        raise InputError(
            f"{path}: {arrays['logits'].shape[1]} logits for {len(meta['model'].get('classes', []))} surrogate classes"
        )
    features: Any = arrays["features"]
    return Features(
        path=path,
        features=checked_steps(path, features, arrays["steps"]) if stored == "i" else features,  # type: ignore[arg-type]
        logits=arrays["logits"],
        label=label,
        classes=names,
        model=meta["model"],
        name=str(meta["name"]),
        source=str(meta["fingerprint"]),
        manifest=(path.resolve().parent / meta["manifest"]).resolve(),
        content=content_fingerprint(path),
        rows=rows,
        total=total,
        order=meta.get("order"),
        hashes=arrays.get("hashes"),
        summary=summary,
    )


def _wrong_in(meta: dict[str, Any]) -> str:
    """The first entry of a features file's meta that is of another type; '' where there is none."""

    def names(value: Any) -> bool:
        return isinstance(value, list) and all(isinstance(name, str) for name in value)

    fine = {
        "classes": names(meta["classes"]),
        "model": isinstance(meta["model"], dict) and names(meta["model"].get("classes", [])),
        "manifest": isinstance(meta["manifest"], str) and _is_path(meta["manifest"]),
        "source_size": isinstance(meta.get("source_size", 0), int),
        "order": isinstance(meta.get("order"), (str, type(None))),
    }
    return next((name for name, right in fine.items() if not right), "")


def _is_path(text: str) -> bool:
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        return False


def hashes_of(path: Path, source: Features) -> np.ndarray:
    """Perceptual hashes of a source's rows, (n, v) uint64, from a file of thumbnails of the same source.

    Raises
    ------
    InputError
        The file has no hashes, or lacks some of the rows, or is of another source or order.
    """
    held = open_features(path)
    if held.hashes is None:
        raise InputError(
            f"{path}: holds no hashes; those are in files of `prune features --thumbnail` (written again, with another "
            "--out, where the file is of an older version)"
        )
    if held.source != source.source:
        raise InputError(f"{path}: of another source than {source.path}")
    check_order(path, held.order, source.path, source.order, "run `prune features --thumbnail` with the same beton")
    at = np.minimum(np.searchsorted(held.rows, source.rows), len(held.rows) - 1)
    if not np.array_equal(held.rows[at], source.rows):
        raise InputError(f"{path}: lacks images of {source.path}")
    return np.asarray(held.hashes[at], np.uint64)


def write_features(
    path: Path,
    features: np.ndarray | QuantisedRows,
    logits: np.ndarray,
    held: Manifest,
    manifest: Path,
    model: Mapping[str, Any],
    made: Mapping[str, Any] | None = None,
    rows: np.ndarray | None = None,
    hashes: np.ndarray | None = None,
    summary: LogitSummary | None = None,
) -> None:
    """Write a features file from features, (n, d) float, and logits, (n, k) float16, which may be memory-mapped.

    `held` is the manifest at the path `manifest`; `model` has the keys "arch", "classes" and "fingerprint"; `made`
    names what the file was made from. `rows` are the rows of the manifest that the arrays hold, ascending; all when
    absent. `hashes`, (n, v) uint64, are perceptual hashes, which thumbnails have. A `summary` is written instead of the
    logits. `features` may be `QuantisedRows`.
    """
    rows = np.arange(len(held), dtype=np.int64) if rows is None else np.asarray(rows, np.int64)
    arrays: dict[str, np.ndarray] = {
        "features": features.codes if isinstance(features, QuantisedRows) else features,
        **({"steps": features.steps} if isinstance(features, QuantisedRows) else {}),
        "logits": logits if summary is None else np.empty((len(rows), 0), np.float16),
        "label": np.asarray(held.labels, np.int32)[rows],
        "position": rows,
        **({} if hashes is None else {"hashes": hashes.astype("<u8")}),
        **({} if summary is None else {"summary": summary.values, "head": summary.head}),
    }
    meta: dict[str, Any] = {
        "format": FORMAT if isinstance(features, QuantisedRows) else _PLAIN,
        "name": path.name.removesuffix(".features.npz").removesuffix(".npz"),
        "classes": held.classes,
        "fingerprint": held.fingerprint,
        "manifest": beside(manifest, path),
        "order": order_fingerprint(manifest),
        "model": dict(model),
        **({} if summary is None else {"summary": list(summary.names)}),
        **({"source_size": len(held)} if len(rows) < len(held) else {}),
        **({} if made is None else {"made": dict(made)}),
    }
    save_arrays(path, arrays, meta)
