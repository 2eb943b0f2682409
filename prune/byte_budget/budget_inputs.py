"""What `prune budget` is given: amounts, curves, sample values, and the true bytes where curves were predicted."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from prune.index.npz import open_arrays
from prune.index.pruned_index import PrunedIndex
from prune.methods.quota import floors_of
from prune.runs.files import InputError
from prune.scores.feature_files import check_order

if TYPE_CHECKING:
    from prune.byte_budget.allocation import Plan

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
        `order_fingerprint` of the source; older files do not tell.
    """

    level: np.ndarray
    nbytes: np.ndarray
    fmse: np.ndarray
    dropped: np.ndarray
    measured: np.ndarray
    digest: str
    order: str | None


def check(config: Any) -> None:
    """Refuse settings that contradict each other, before anything is read."""
    if (config.bytes is None) == (config.ratio is None):
        raise InputError("give either --bytes or --ratio")
    if config.quality is not None and config.policy != "uniform":
        raise InputError("--quality is for --policy uniform")
    if config.scores is None and config.value not in (None, "index"):
        raise InputError(f"--value {config.value}: give --scores, the file that holds this score")
    if config.value is None and config.scores is not None:
        raise InputError("--scores: name the score with --value")
    if config.floor is not None:
        try:
            floors_of(config.floor, np.empty(0, np.int64))
        except InputError as error:
            raise InputError(f"--{error}") from None


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
    """Open the curves and see that they are of the index's source."""
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
    return Curves(**{name: arrays[name] for name in names}, digest=sha.hexdigest()[:32], order=meta.get("order"))


def weights(config: Any, index: PrunedIndex, curves: Curves) -> tuple[np.ndarray | None, dict[str, str]]:
    """Worth of each sample, in (0, 1]: the place of its score among the others'; NaN is worth least."""
    if config.value is None:
        return None, {}
    prints = {}
    if config.value == "index":
        score = np.asarray(index.scores, np.float64)
    else:
        arrays, meta = open_arrays(config.scores, "winnow-scores/1")
        name = f"sample/{config.value}"
        if meta.get("fingerprint") != index.source:
            raise InputError(f"{config.scores}: made for another source than the index")
        way_out = "run `prune score` and `prune curves` on the same beton"
        check_order(config.scores, meta.get("order"), config.curves, curves.order, way_out)
        if name not in arrays:
            there = ", ".join(sorted(key[7:] for key in arrays if key.startswith("sample/")))
            raise InputError(f"--value {config.value}: the scores file holds {there or 'none'}")
        score = np.asarray(arrays[name], np.float64)[index.positions]
        prints["value"] = hashlib.sha256(np.ascontiguousarray(arrays[name]).data).hexdigest()[:32]
    score = np.where(np.isnan(score), -np.inf, -score if config.lowest else score)
    _, place, count = np.unique(score, return_inverse=True, return_counts=True)
    ends = np.cumsum(count)
    return ((ends - (count - 1) / 2)[place] / max(1, len(score))).astype(np.float32), prints


def exact_source(config: Any, index: PrunedIndex, curves: Curves) -> Any:
    """The source, where curves were predicted and bytes have to be counted; else nothing."""
    from prune.data.dataset import open_dataset

    if curves.measured[index.positions].all():
        return None
    if config.source is None:
        raise InputError(f"{config.curves}: measured in part: give --source, so that what is chosen can be counted")
    source = open_dataset(config.source)
    if source.manifest.fingerprint != index.source:
        raise InputError(f"--source {config.source}: not the source of the index")
    if not np.array_equal(source.manifest.digests[index.positions], index.digests):
        raise InputError(
            f"--source {config.source}: lists the images in another order than the index; give its own beton"
        )
    task_known = curves.measured[index.positions]
    return source, np.repeat(task_known[:, None], len(curves.level), axis=1)


def count_chosen(task: Any, plan: Plan, columns: list[int], source: Any) -> bool:
    """Encode what the plan chose by predicted bytes and note the true ones; whether the plan has to be made again."""
    from prune.data.dataset import checked
    from prune.data.image_codecs import encode_level
    from prune.data.stored_images import decode
    from prune.runs.cores import in_order
    from prune.runs.progress import track

    opened, known = source
    kept = np.flatnonzero(plan.level >= 0)
    at = np.array(columns)[plan.level[kept]]
    new = ~known[kept, at]
    kept, at = kept[new], at[new]

    def size(item: tuple[int, int]) -> int:
        row, level = item
        stored = checked(opened, row)
        return len(encode_level(decode(stored), level)) if level else len(stored.data)

    items = list(zip(task.index.positions[kept].tolist(), task.level[at].tolist()))
    before = task.nbytes[kept, at]
    task.nbytes[kept, at] = list(track(in_order(size, items), len(items), "counting"))
    known[kept, at] = True
    return bool((task.nbytes[kept, at] != before).any())
