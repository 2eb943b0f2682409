"""Take over features and logits that were computed elsewhere, so that `prune score` reads them.

    prune adopt --arrays clip.npz --manifest runs/photos.manifest.npz --model clip --out runs/photos.features.npz

FILE.npz holds `features` (n, d), and where there are any `logits` (n, k), whose classes --names lists; without logits
the model serves FM and every score that looks at features. Rows are in the manifest's order, or in any order beside an
array `id` with the path of every image. Do the same, with the same --model, for the targets' training images.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from prune.run import InputError, identity, need_file, note, refuse_other

if TYPE_CHECKING:
    import numpy as np

    from prune.manifest import Manifest


@dataclass(frozen=True)
class Config:
    arrays: Path
    """NumPy archive (.npz) with `features`, and perhaps `logits` and `id`."""
    manifest: Path
    """X.manifest.npz of the images."""
    model: str
    """Any name for what made the features; source and targets must share it."""
    out: Path
    """Features file to write; NAME.features.npz makes NAME the source's or target's name."""
    names: Path | None = None
    """Text file with what the logits stand for, one class a line; the manifest's own classes when absent."""


def run(config: Config) -> Path:
    """Write the features file; returns its path."""
    import numpy as np

    from prune.arrays import open_arrays
    from prune.manifest import Manifest
    from prune.scores.feature_files import FORMAT, content_fingerprint, save_features

    manifest = Manifest.load(need_file(config.manifest, "the manifest of the images"))
    try:
        arrays = np.load(need_file(config.arrays, "an archive of arrays"), allow_pickle=False)
        given = {name: arrays[name] for name in ("features", "logits", "id") if name in arrays.files}
        made = {**identity(config), "arrays": content_fingerprint(config.arrays), "manifest": manifest.fingerprint}
    except InputError:
        raise
    except Exception as error:  # zipfile, zlib and NumPy's parser raise whatever damage leads them to
        raise InputError(f"{config.arrays}: not a plain .npz archive ({type(error).__name__}: {error})") from None
    logits = given.get("logits", np.empty((len(manifest), 0), np.float16))
    names = (
        manifest.classes if config.names is None else need_file(config.names, "names").read_text("utf-8").split("\n")
    )
    names = [name.strip() for name in names if name.strip()] if "logits" in given else []
    for name, array in (("features", given.get("features")), ("logits", logits)):
        _check(config.arrays, name, array, len(manifest))
    if logits.shape[1] != len(names):
        raise InputError(f"{config.arrays}: {logits.shape[1]} logits, and {len(names)} class names; see --names")
    made["names"] = names
    if config.out.exists():
        refuse_other(config.out, open_arrays(config.out, FORMAT)[1].get("made", {}), made)
        note(f"{config.out}: there already")
        return config.out
    rows = slice(None) if "id" not in given else _rows(config.arrays, given["id"], manifest)
    features = given["features"][rows]
    save_features(
        config.out, features, logits[rows], config.manifest, logit_classes=names, model=config.model, made=made
    )
    note(f"{config.out}: {len(features)} images, {features.shape[1]} features, {len(names)} logits")
    return config.out


def _check(path: Path, name: str, array: np.ndarray | None, n: int) -> None:
    import numpy as np

    if array is None or array.ndim != 2 or array.dtype.kind not in "fiu":
        raise InputError(f"{path}: {name!r} is missing, or not a table of numbers")
    if len(array) != n:
        raise InputError(f"{path}: {name!r} has {len(array)} rows, and the manifest lists {n} images")
    bad = [begin for begin in range(0, n, 8192) if not np.isfinite(array[begin : begin + 8192]).all()]
    if bad:
        row = bad[0] + int(np.flatnonzero(~np.isfinite(array[bad[0] : bad[0] + 8192]).all(axis=1))[0])
        raise InputError(f"{path}: {name!r} is not finite, first in row {row}")


def _rows(path: Path, ids: np.ndarray, manifest: Manifest) -> np.ndarray:
    """Row of the archive for every row of the manifest, (n,) int64."""
    import numpy as np

    if ids.dtype.kind not in "SU" or ids.shape != (len(manifest),):
        raise InputError(f"{path}: 'id' must be {len(manifest)} strings")
    ids = ids if ids.dtype.kind == "S" else np.char.encode(ids, "utf-8")
    order = np.argsort(ids, kind="stable")
    place = np.minimum(np.searchsorted(ids[order], manifest.ids), len(ids) - 1)
    found = order[place]
    if (lost := np.flatnonzero(ids[found] != manifest.ids)).size:
        first = bytes(manifest.ids[lost[0]]).decode(errors="replace")
        raise InputError(f"{path}: {len(lost)} images of the manifest are not among the ids; the first is {first}")
    return found
