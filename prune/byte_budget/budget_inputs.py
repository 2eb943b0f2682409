"""The inputs of `prune budget`: amounts of bytes, curves, the worth of samples, and true bytes of predicted curves."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from prune.byte_budget.codec_files import open_tables
from prune.data.dataset import Dataset, open_dataset, stored_image
from prune.data.image_codecs import encode_level
from prune.data.jpeg_tables import JpegTables
from prune.data.stored_images import decode
from prune.index.npz import open_arrays
from prune.index.pruned_index import PrunedIndex
from prune.methods.quota import floors_of
from prune.runs.cores import in_order
from prune.runs.files import InputError
from prune.runs.progress import track
from prune.scores.feature_files import check_order

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}


@dataclass(frozen=True)
class Curves:
    """A curves file; one row per sample of the source.

    Attributes
    ----------
    level : (levels,) uint8
        0 first, then values of an index's quality column.
    nbytes, fmse : (n, levels)
    dropped : (n,)
    measured : (n,) bool
    digest : str
        Of levels, bytes and FMSE.
    order : str, optional
        `order_fingerprint` of the source; older files lack it.
    tables : str, optional
        Fingerprint of the fitted JPEG tables that were measured; None for the standard's.
    """

    level: np.ndarray
    nbytes: np.ndarray
    fmse: np.ndarray
    dropped: np.ndarray
    measured: np.ndarray
    digest: str
    order: str | None
    tables: str | None = None


def budget_of(amount: str | None, ratio: float | None, total: int) -> int:
    """Bytes of the budget: `2GB`, `1.5GiB`, `1000`, or a ratio of `total`, rounded down."""
    if ratio is not None:
        if not 0 < ratio <= 1:
            raise InputError(f"--ratio {ratio} is outside (0, 1]")
        return int(ratio * total)
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?i?)b?\s*", (amount or "").lower())
    if not found or found[2] not in _UNITS or float(found[1]) <= 0:
        raise InputError(f"--bytes {amount}: a size like 2GB, 500MB, 1.5GiB or 100000 is needed")
    return int(float(found[1]) * _UNITS[found[2]])


def floors(floor: float | None, sizes: np.ndarray) -> np.ndarray | None:
    """Samples that each class must keep, (classes,) int64; a class that is smaller is kept whole."""
    return floors_of(floor, sizes) if floor else None


def read_curves(path: Path, index: PrunedIndex) -> Curves:
    """Open the curves and check that they are those of the index's source."""
    arrays, meta = open_arrays(path, "winnow-curves/1")
    if meta.get("fingerprint") != index.source:
        raise InputError(f"{path}: curves of another source than the index's ({meta.get('fingerprint')})")
    if len(index) and (index.positions.min() < 0 or index.positions.max() >= len(arrays["nbytes"])):
        raise InputError("the index does not know the rows of its samples: load it against its manifest first")
    if "digest" in arrays and not np.array_equal(arrays["digest"][index.positions], index.digests):
        raise InputError(
            f"{path}: lists the images in another order than the index; run `prune curves` and `prune select` on the "
            "same beton"
        )
    sha = hashlib.sha256()
    for name in ("level", "nbytes", "fmse", "dropped"):
        sha.update(np.ascontiguousarray(arrays[name]).data)
    names = ("level", "nbytes", "fmse", "dropped", "measured")
    columns = {name: arrays[name] for name in names}
    return Curves(**columns, digest=sha.hexdigest()[:32], order=meta.get("order"), tables=meta.get("tables"))


def read_score(path: Path, name: str, index: PrunedIndex, curves_path: Path, curves: Curves) -> tuple[np.ndarray, str]:
    """A score of a scores file for the samples of the index, (k,) float64, and the fingerprint of the whole score."""
    arrays, meta = open_arrays(path, "winnow-scores/1")
    if meta.get("fingerprint") != index.source:
        raise InputError(f"{path}: made for another source than the index")
    way_out = "run `prune score` and `prune curves` on the same beton"
    check_order(path, meta.get("order"), curves_path, curves.order, way_out)
    score = arrays.get(f"sample/{name}")
    if score is None:
        names = ", ".join(sorted(key[7:] for key in arrays if key.startswith("sample/")))
        raise InputError(f"--value {name}: the scores file holds {names or 'none'}")
    fingerprint = hashlib.sha256(np.ascontiguousarray(score).data).hexdigest()[:32]
    return np.asarray(score, np.float64)[index.positions], fingerprint


def fitted_tables(path: Path | None, wanted: str | None, maker: object) -> JpegTables | None:
    """The fitted tables of `--tables` where `maker`, a file, was measured or planned with them.

    Raises
    ------
    InputError
        It was made with tables and none are given, with others, or with none.
    """
    tables = open_tables(path)
    if tables is None and wanted is not None:
        raise InputError(f"{maker}: made with fitted JPEG tables ({wanted}): give their file with --tables")
    if tables is not None and tables.fingerprint != wanted:
        known = "the standard's tables" if wanted is None else f"tables {wanted}"
        raise InputError(f"--tables {path}: are tables {tables.fingerprint}, and {maker} was made with {known}")
    return tables


def weights(score: np.ndarray, *, lowest: bool) -> np.ndarray:
    """What each sample is worth, in (0, 1]: its rank by the score; equal scores share a rank, NaN comes last.

    Parameters
    ----------
    score : (n,) float
    lowest : bool
        The lowest scores are worth most.

    Returns
    -------
    (n,) float32
    """
    score = np.where(np.isnan(score), -np.inf, -score if lowest else score)
    _, place, count = np.unique(score, return_inverse=True, return_counts=True)
    ends = np.cumsum(count)
    return ((ends - (count - 1) / 2)[place] / max(1, len(score))).astype(np.float32)


def open_source(path: Path, index: PrunedIndex) -> Dataset:
    """Open the source of an index; `InputError` when it is another one, or in another order."""
    source = open_dataset(path)
    if source.manifest.fingerprint != index.source:
        raise InputError(f"--source {path}: not the source of the index")
    if not np.array_equal(source.manifest.digests[index.positions], index.digests):
        raise InputError(f"--source {path}: lists the images in another order than the index; give its own beton")
    return source


def true_bytes(source: Dataset, rows: np.ndarray, levels: np.ndarray, tables: JpegTables | None) -> np.ndarray:
    """Encode images of a source and count: (m,) int64.

    Parameters
    ----------
    rows : (m,) int
    levels : (m,) int
        Of the quality column; 0 for the stored bytes.
    tables : JpegTables, optional
    """

    def size(item: tuple[int, int]) -> int:
        row, level = item
        stored = stored_image(source, row)
        return len(encode_level(decode(stored), level, tables)) if level else len(stored.data)

    items = list(zip(rows.tolist(), levels.tolist()))
    return np.array(list(track(in_order(size, items), len(items), "counting")), np.int64)
