"""Where the samples of an index stand elsewhere: in a listing of paths, among digests, in a manifest."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from prune.index.index_file import COLUMNS, shown
from prune.index.manifest import Manifest
from prune.index.matching import as_ids, find, find_digests
from prune.index.provenance import record
from prune.runs.files import InputError

if TYPE_CHECKING:
    from prune.index.pruned_index import PrunedIndex


def by_id(index: PrunedIndex, ids: Iterable[Any], root: str | Path | None) -> np.ndarray:
    """See `PrunedIndex.rows`."""
    listing = as_ids(ids, root)
    rows, repeated = find(index.ids, listing)
    if (lost := np.flatnonzero(rows < 0)).size:
        hint = f"the listing begins with {shown(listing[0])}" if len(listing) else "the listing is empty"
        raise InputError(
            f"{len(lost)} of {len(index)} kept samples are missing from the listing "
            f"(first: {shown(index.ids[lost[0]])}); {hint}"
        )
    if repeated.any():
        first = shown(index.ids[np.argmax(repeated)])
        raise InputError(f"{int(repeated.sum())} kept samples stand in the listing more than once (first: {first})")
    return rows


def by_digest(index: PrunedIndex, digests: Iterable[int]) -> np.ndarray:
    """See `PrunedIndex.rows_by_digest`."""
    rows = find_digests(index.digests, as_digests(digests))
    if (lost := np.flatnonzero(rows < 0)).size:
        raise InputError(
            f"{len(lost)} of {len(index)} kept samples have no file with their digest "
            f"(first: {shown(index.ids[lost[0]])}, {index.digests[lost[0]]:016x})"
        )
    return rows


def as_digests(digests: Iterable[int]) -> np.ndarray:
    """Turn digests into (n,) uint64; signed 64-bit arrays (torch has no other) keep their bits."""
    array = digests if isinstance(digests, np.ndarray) else np.array(list(digests), np.uint64)
    if array.dtype == np.int64:
        return array.view(np.uint64)
    if array.dtype != np.uint64:
        raise InputError(f"digests must be 64-bit integers, not {array.dtype}")
    return array


def in_manifest(index: PrunedIndex, manifest: Manifest, allow_changed: bool) -> tuple[np.ndarray, np.ndarray]:
    """See `PrunedIndex.rows_in`; also which samples of the index the rows belong to.

    Returns
    -------
    found : (m,) int64
        Samples of the index, ascending.
    rows : (m,) int64
        Their rows in the manifest.
    """
    if manifest.fingerprint == index.source:
        everything, rows = np.arange(len(index)), index.positions
        fits = not len(rows) or (rows.min() >= 0 and rows.max() < len(manifest))
        if fits and np.array_equal(manifest.ids[rows], index.ids):
            return everything, rows
        return everything, by_id(index, np.asarray(manifest.ids), None)
    rows, repeated = find(index.ids, np.asarray(manifest.ids))
    if repeated.any():
        raise InputError(f"{int(repeated.sum())} kept samples stand in the source more than once")
    found, lost = np.flatnonzero(rows >= 0), np.flatnonzero(rows < 0)
    if allow_changed and (len(found) or not len(index)):
        return found, rows[found]
    changed = int((manifest.digests[rows[found]] != index.digests[found]).sum())
    first = f" (first: {shown(index.ids[lost[0]])})" if len(lost) else ""
    way = "; --allow-changed uses what is there" if len(found) and not allow_changed else ""
    raise InputError(
        f"the index was made from another source: {index.source} with {index.source_samples} images, not "
        f"{manifest.fingerprint} with {len(manifest)}; of its {len(index)} samples {len(lost)} are missing here{first} "
        f"and {changed} have other bytes{way}"
    )


def rebased(index: PrunedIndex, manifest: Manifest, allow_changed: bool) -> PrunedIndex:
    """See `PrunedIndex.rebased`."""
    found, rows = in_manifest(index, manifest, allow_changed)
    order = np.argsort(rows, kind="stable")
    found, rows = found[order], rows[order]
    provenance = list(index.provenance)
    if manifest.fingerprint != index.source:
        changed = int((manifest.digests[rows] != index.digests[found]).sum())
        inputs = {"index": index.fingerprint, "from": index.source, "to": manifest.fingerprint}
        facts = {"missing": len(index) - len(found), "other_bytes": changed}
        provenance.append(record("rebase", {"allow_changed": True}, inputs, **facts))
    fresh = type(index).from_rows(
        manifest,
        rows,
        score=index.scores[found],
        quality=index.quality[found],
        nbytes=np.where(index.quality[found] == 0, manifest.nbytes[rows], index.nbytes[found]),
        provenance=provenance,
    )
    return replace(fresh, reasons=index.reasons[found], reason_names=index.reason_names)


def chosen(manifest: Manifest, rows: np.ndarray, given: Mapping[str, np.ndarray | None]) -> dict[str, Any]:
    """See `PrunedIndex.from_rows`: all fields of the index but its provenance."""
    rows = checked(rows, len(manifest))
    blank = {"score": np.nan, "reason": 0, "quality": 0, "nbytes": manifest.nbytes[rows]}
    columns = {}
    for name, default in blank.items():
        column = np.asarray(given[name] if given[name] is not None else np.broadcast_to(default, rows.shape))
        if column.shape != rows.shape:
            raise InputError(f"column {name!r} has the shape {column.shape}; {rows.shape} is expected")
        columns[name] = column.astype(COLUMNS[name])
        if name != "score" and (changed := np.flatnonzero(columns[name] != column)).size:
            raise InputError(f"column {name!r}: {column[changed[0]]} is no value that it can hold ({COLUMNS[name]})")
    return {
        "ids": np.asarray(manifest.ids[rows]),
        "labels": manifest.labels[rows].astype(np.int32),
        "scores": columns["score"],
        "reasons": columns["reason"],
        "quality": columns["quality"],
        "nbytes": columns["nbytes"],
        "positions": rows,
        "digests": manifest.digests[rows].astype(np.uint64),
        "classes": list(manifest.classes),
        "class_total": np.bincount(manifest.labels, minlength=len(manifest.classes)).astype(np.int64),
        "source": manifest.fingerprint,
        "source_samples": len(manifest),
        "source_nbytes": int(manifest.nbytes.sum(dtype=np.int64)),
    }


def checked(rows: np.ndarray, n: int) -> np.ndarray:
    """Return ascending rows in [0, n) as int64, or raise with the count and the first offender."""
    rows = np.asarray(rows)
    if rows.ndim != 1 or (len(rows) and rows.dtype.kind not in "iu"):
        raise InputError(f"rows must be a list of whole numbers, not {rows.dtype} of the shape {rows.shape}")
    rows = rows.astype(np.int64)
    step = np.diff(rows, prepend=-1)
    for bad, what in (
        (rows < 0, "negative"),
        (rows >= n, f"beyond the {n} samples of the source"),
        (step == 0, "repeated"),
        (step < 0, "not in ascending order"),
    ):
        if bad.any():
            raise InputError(f"{int(bad.sum())} rows are {what} (first: {rows[np.argmax(bad)]})")
    return rows
