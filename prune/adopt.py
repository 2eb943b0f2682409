"""Convert features and logits that were computed elsewhere, so that `prune score` reads them.

    prune adopt --arrays clip.npz --manifest runs/photos.manifest.npz --model clip --out runs/photos.features.npz

clip.npz contains `features` (n, d) and, if there are any, `logits` (n, k), whose classes --names lists; without logits
the model serves feature mapping (FM) and every score of features. Rows are in the manifest's order, or in any order
with an array `id` that has the path of every image. Do the same, with the same --model, for the targets' training
images.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prune.runs.files import InputError, counted, need_file, note
from prune.runs.identity import Location, identity
from prune.runs.outputs import claim_file, scratch

if TYPE_CHECKING:
    import numpy as np

    from prune.index.manifest import Manifest


@dataclass(frozen=True)
class Config:
    arrays: Location[Path]
    """NumPy archive (.npz) with `features`, and optionally `logits` and `id`."""
    manifest: Location[Path]
    """X.manifest.npz of the images."""
    model: str
    """Any name for the model that computed the features; source and targets must share it."""
    out: Location[Path]
    """Features file to write, NAME.features.npz; NAME becomes the source's or target's name."""
    names: Location[Path | None] = None
    """Text file with the classes of the logits, one per line; the manifest's classes when absent."""


def run(config: Config) -> Path:
    """Write the features file; returns its path."""
    import numpy as np

    from prune.index.manifest import Manifest, manifest_at
    from prune.index.npz import open_arrays
    from prune.models.class_names import read_names
    from prune.scores.feature_files import FORMAT, content_fingerprint, write_features

    place = manifest_at(config.manifest)
    manifest = Manifest.load(place)
    need_file(config.arrays, "an archive of arrays")
    try:
        given = _open_archive(config.arrays)
        inputs: dict[str, Any] = {"arrays": content_fingerprint(config.arrays), "manifest": manifest.fingerprint}
    except InputError:
        raise
    except Exception as error:  # damage makes zipfile, zlib and NumPy's parser raise many types
        raise InputError(f"{config.arrays}: not a plain .npz archive ({type(error).__name__}: {error})") from None
    logits = given.get("logits", np.empty((len(manifest), 0), np.float16))
    names = manifest.classes if config.names is None else read_names(config.names)
    names = names if "logits" in given else []
    for name, array in (("features", given.get("features")), ("logits", logits)):
        _check_table(config.arrays, name, array, len(manifest))
    if logits.shape[1] != len(names):
        raise InputError(f"{config.arrays}: {logits.shape[1]} logits, and {len(names)} class names; see --names")
    inputs["names"] = names
    with claim_file(config.out, lambda path: open_arrays(path, FORMAT)[1].get("made", {}), config, inputs) as done:
        if done:
            return config.out
        order = None if "id" not in given else _rows_of_ids(config.arrays, given["id"], manifest)
        model = {"arch": config.model, "classes": names, "fingerprint": config.model}
        with scratch(config.out) as folder:
            features = _as_float16_in(Path(folder, "features.npy"), given["features"], order)
            logits = _as_float16_in(Path(folder, "logits.npy"), logits, order)
            write_features(config.out, features, logits, manifest, place, model, identity(config) | inputs)
        note(f"{config.out}: {counted(len(manifest), 'image')}, {features.shape[1]} features, {len(names)} logits")
    return config.out


def _as_float16_in(place: Path, table: np.ndarray, order: np.ndarray | None) -> np.ndarray:
    """Rows of a table in the given order as float16, mapped from a file that is written block by block."""
    import numpy as np

    from prune.runs.disk_errors import reserve
    from prune.scores.streaming import as_float16, blocks, read_rows, release_pages

    if 0 in table.shape:
        return np.empty(table.shape, np.float16)
    found = np.lib.format.open_memmap(place, "w+", np.float16, table.shape)
    reserve(place)
    for rows in blocks(len(table)):
        found[rows] = as_float16(read_rows(table, rows) if order is None else table[order[rows]])
        release_pages(table)
    return found


def _open_archive(path: Path) -> dict[str, np.ndarray]:
    """Check the CRC-32 of an archive's arrays and map them, or read those that are compressed."""
    import zipfile

    from prune.index.npz import map_member, read_member, refuse_bomb

    given = {}
    with zipfile.ZipFile(path) as archive:
        refuse_bomb(path, archive)
        members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        for name in ("features", "logits", "id"):
            if (info := members.get(name)) is None:
                continue
            try:
                if info.compress_type != zipfile.ZIP_STORED:
                    raise ValueError("compressed")
                given[name] = map_member(path, archive, info, checked=True)
            except ValueError:  # compressed, or a header that cannot be mapped
                given[name] = read_member(archive, info)
    return given


def _check_table(path: Path, name: str, array: np.ndarray | None, n: int) -> None:
    """Raise `InputError` unless an array is a table of finite numbers with one row for each image."""
    import numpy as np

    from prune.scores.streaming import blocks, read_rows

    if array is None or array.ndim != 2 or array.dtype.kind not in "fiu":
        raise InputError(
            f"{path}: {name!r} is missing, or not a table of numbers; numpy.savez({path.name!r}, {name}=ARRAY) writes "
            "one, a row for each image"
        )
    if len(array) != n:
        raise InputError(f"{path}: {name!r} has {len(array)} rows, and the manifest lists {n} images")
    for rows in blocks(n):
        finite = np.isfinite(read_rows(array, rows)).all(axis=1)
        if not finite.all():
            raise InputError(f"{path}: {name!r} is not finite, first in row {rows.start + int(finite.argmin())}")


def _rows_of_ids(path: Path, ids: np.ndarray, manifest: Manifest) -> np.ndarray:
    """Row of the archive for every row of the manifest, (n,) int64."""
    import numpy as np

    from prune.index.matching import find

    if ids.dtype.kind not in "SU" or ids.shape != (len(manifest),):
        raise InputError(f"{path}: 'id' must be {len(manifest)} strings")
    ids = ids if ids.dtype.kind == "S" else np.char.encode(ids, "utf-8")
    found = find(manifest.ids, ids)[0]
    if (lost := np.flatnonzero(found < 0)).size:
        first = bytes(manifest.ids[lost[0]]).decode(errors="replace")
        raise InputError(
            f"{path}: {counted(len(lost), 'image of the manifest is', 'images of the manifest are')} not among the "
            f"ids; the first is {first}"
        )
    return found
