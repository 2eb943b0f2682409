"""The pruned index: which samples of a source to keep, and why; one file that any project can use.

    from prune import PrunedIndex                      # needs NumPy alone

    index = PrunedIndex.load("pets-lm-30.index.npz")   # format, checksum and content are verified
    rows = index.rows(ids)                             # the kept samples in *your* listing of relative paths
    Subset(ImageFolder(root), rows)

An index lists the samples to KEEP. `prune/README.md` describes the file for readers in other languages.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from . import composition, index_file
from .index_file import FIELDS, MEANING, class_counts, column_of
from .manifest import Manifest
from .matching import (
    as_digests,
    as_ids,
    checked_rows,
    find,
    find_digests,
    rows_of_ids,
    same_names,
    sampled_rows,
    shown,
)
from .packed_ids import taken
from .provenance import record
from .whole_files import InputError

REASONS = ("quota", "floor", "protected", "coverage", "random", "imported")
"""Why a sample is kept; `PrunedIndex.reasons` holds positions in this list (or in the file's own, `reason_names`)."""


@dataclass(frozen=True, eq=False)
class PrunedIndex:
    """The samples to keep, one row per sample, in the source's order.

    Attributes
    ----------
    ids : (k,) bytes
        Path relative to the source's root, `/` between parts, UTF-8. Of `open`, and of more than 16 million samples, an
        object that is read like an array by slices, rows and masks; `np.asarray` makes the array.
    labels : (k,) int32
    scores : (k,) float32
        The score by which the sample was ranked; NaN where there is none.
    reasons : (k,) uint8
        Position in `reason_names`.
    quality : (k,) uint8
        JPEG quality at which to store the sample, 1 to 100, or 100 more at half the resolution; 0: original bytes.
    nbytes : (k,) int32
        Stored size at that quality.
    positions : (k,) int64
        Row in the source's manifest; -1 when unknown. A hint, checked against the id before it is used.
    digests : (k,) uint64
        `prune.index.manifest.digest` of the original bytes.
    classes : list of str
    class_total : (c,) int64
        Samples of each class in the source.
    source : str
        Fingerprint of the source's manifest.
    source_samples, source_nbytes : int
        Images and bytes of the source.
    provenance : list of dict
        One entry per step, the oldest first; see `prune.index.provenance`.
    reason_names : tuple of str
    """

    ids: np.ndarray
    labels: np.ndarray
    scores: np.ndarray
    reasons: np.ndarray
    quality: np.ndarray
    nbytes: np.ndarray
    positions: np.ndarray
    digests: np.ndarray
    classes: list[str]
    class_total: np.ndarray
    source: str
    source_samples: int
    source_nbytes: int
    provenance: list[dict[str, Any]]
    reason_names: tuple[str, ...] = REASONS

    @classmethod
    def from_rows(
        cls,
        manifest: Manifest,
        rows: np.ndarray,
        *,
        score: np.ndarray | None = None,
        reason: np.ndarray | None = None,
        quality: np.ndarray | None = None,
        nbytes: np.ndarray | None = None,
        reason_names: tuple[str, ...] = REASONS,
        provenance: Sequence[dict[str, Any]],
    ) -> PrunedIndex:
        """Make an index of `rows` of a source.

        Parameters
        ----------
        manifest : Manifest
            Of the source.
        rows : (k,) int64
            Rows to keep, ascending.
        score, reason, quality, nbytes : (k,) arrays, optional
            As the columns of the index; NaN, "quota", 0 and the manifest's sizes where absent.
        reason_names : tuple of str
            `REASONS`, and the names of further reasons behind them.
        provenance : sequence of dict
            Entries made by `prune.index.provenance.record`, the oldest first.

        Raises
        ------
        InputError
            Rows that are negative, repeated, not ascending or beyond the manifest; columns of other lengths or with
            impossible values; an id that the manifest lists twice.
        """
        rows = checked_rows(rows, len(manifest))
        return cls(
            ids=taken(manifest.ids, rows),  # type: ignore[arg-type]  # packed ids are read like an array
            labels=manifest.labels[rows].astype(np.int32),
            scores=column_of("score", rows, score, np.nan),
            reasons=column_of("reason", rows, reason, 0),
            quality=column_of("quality", rows, quality, 0),
            nbytes=column_of("nbytes", rows, nbytes, manifest.nbytes[rows]),
            positions=rows,
            digests=manifest.digests[rows].astype(np.uint64),
            classes=list(manifest.classes),
            class_total=class_counts(manifest.labels, len(manifest.classes)),
            source=manifest.fingerprint,
            source_samples=len(manifest),
            source_nbytes=int(manifest.nbytes.sum(dtype=np.int64)),
            provenance=list(provenance),
            reason_names=tuple(reason_names),
        ).checked()

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        return f"<PrunedIndex: keep {len(self)} of {self.source_samples} samples of source {self.source}>"

    @property
    def columns(self) -> dict[str, np.ndarray]:
        """The columns under their names in the file."""
        return {name: getattr(self, field) for name, field in FIELDS.items()}

    @cached_property
    def fingerprint(self) -> str:
        """Identifies what is kept and at which quality; scores, reasons, order and provenance do not count."""
        return index_file.fingerprint(self.source, self.columns)

    @property
    def meta(self) -> dict[str, Any]:
        """The meta of the file: everything besides its columns."""
        return {
            "format": index_file.format_of(len(self)),
            "meaning": MEANING,
            "kept": len(self),
            "source": {"fingerprint": self.source, "samples": self.source_samples, "nbytes": self.source_nbytes},
            "fingerprint": self.fingerprint,
            "classes": self.classes,
            "class_kept": self.per_class()[0].tolist(),
            "class_total": self.class_total.tolist(),
            "reasons": list(self.reason_names),
            "provenance": self.provenance,
        }

    def per_class(self) -> tuple[np.ndarray, np.ndarray]:
        """Kept samples and all samples of each class: two (c,) int64, in the order of `classes`."""
        return class_counts(self.labels, len(self.classes)), self.class_total

    def checked(self) -> PrunedIndex:
        """Return this index; `InputError` when its content is impossible for an index."""
        index_file.check(self.columns, self.meta)
        return self

    def save(self, path: Path, *, packed: bool | None = None) -> None:
        """Write the index, atomically; equal content gives equal bytes.

        `packed` stores ids in little space (`winnow-index/2`) or as an array (`/1`, which older versions read, too);
        when absent, those of more than 16 million samples are packed.
        """
        named = {} if packed is None else {"format": index_file.PACKED if packed else index_file.FORMAT}
        index_file.write(path, self.columns, self.meta | named)

    @classmethod
    def load(cls, path: Path) -> PrunedIndex:
        """Read an index and verify format, checksum and content; `InputError` says in a line what is wrong with it."""
        columns, meta = index_file.read(path)
        index = cls._of_file(columns, meta)
        if index.fingerprint != meta["fingerprint"]:
            raise InputError(f"{path}: not a valid index: the fingerprint does not belong to the samples")
        return index

    @classmethod
    def open(cls, path: Path, *, verify: bool = False) -> PrunedIndex:
        """Map an index instead of reading it: any number of samples takes little memory.

        Meta and the columns' types and lengths are checked; with `verify` the checksum and the content, too, which
        reads the file once. `InputError` as of `load`. The file must not change meanwhile.
        """
        columns, meta = index_file.open_columns(path, mapped=True, verify=verify)
        index = cls._of_file(columns, meta)
        vars(index)["fingerprint"] = meta["fingerprint"]
        return index

    @classmethod
    def _of_file(cls, columns: dict[str, Any], meta: dict[str, Any]) -> PrunedIndex:
        source = meta["source"]
        return cls(
            **{FIELDS[name]: column for name, column in columns.items()},
            classes=meta["classes"],
            class_total=np.array(meta["class_total"], np.int64),
            source=source["fingerprint"],
            source_samples=source["samples"],
            source_nbytes=source["nbytes"],
            provenance=meta["provenance"],
            reason_names=tuple(meta["reasons"]),
        )

    def rows(self, ids: Iterable[Any], *, root: str | Path | None = None, separator: str | None = None) -> np.ndarray:
        """Find the kept samples in a listing of paths.

        Parameters
        ----------
        ids : (n,) str, bytes or path-like
            Your listing: paths relative to the source's root, or below `root`. In any order.
        root : path, optional
            Folder that every path of the listing begins with.
        separator : str, optional
            What lies between the parts of the paths where that is not this system's separator: a backslash in a
            listing made on Windows.

        Returns
        -------
        (k,) int64
            Position of each kept sample in the listing, in the order of the index: `labels[j]` belongs to `rows[j]`.

        Raises
        ------
        InputError
            Kept samples are missing from the listing, or are in it more than once.
        """
        return rows_of_ids(self.ids, as_ids(ids, root, separator))

    def rows_by_digest(self, digests: Iterable[int]) -> np.ndarray:
        """Find the kept samples by their bytes, whatever their names.

        Parameters
        ----------
        digests : (n,) uint64
            `prune.index.manifest.digest` of each of your files. Of several files with the same bytes the lowest rows
            are taken, one for each kept sample with those bytes.

        Returns
        -------
        (k,) int64
            Position of each kept sample, in the order of the index; all different. `InputError` when one is missing.
        """
        rows = find_digests(self.digests, as_digests(digests))
        if (lost := np.flatnonzero(rows < 0)).size:
            raise InputError(
                f"{len(lost)} of {len(self)} kept samples have no file with their digest "
                f"(first: {shown(self.ids[lost[0]])}, {self.digests[lost[0]]:016x})"
            )
        return rows

    def rows_in(self, manifest: Manifest, *, allow_changed: bool | None = None) -> np.ndarray:
        """Rows of the kept samples in a manifest, (k,) int64, in the order of the index.

        `InputError` when the index was made from another source. `allow_changed` accepts one as long as it holds some
        kept samples by name: those that it lacks are skipped, and bytes and labels may differ. With False the error
        names the flag --allow-changed, which the caller then has.
        """
        return self._found_in(manifest, allow_changed)[1]

    def _found_in(self, manifest: Manifest, allow_changed: bool | None) -> tuple[np.ndarray, np.ndarray]:
        """Which samples of the index a manifest holds, ascending, and their rows in it: two (m,) int64."""
        if manifest.fingerprint == self.source:
            everything, rows = np.arange(len(self)), self.positions
            fits = not len(rows) or (rows.min() >= 0 and rows.max() < len(manifest))
            if fits and same_names(self.ids, manifest.ids, rows):
                return everything, np.asarray(rows)
            return everything, rows_of_ids(self.ids, manifest.ids)
        rows, repeated = find(self.ids, manifest.ids)
        if repeated.any():
            raise InputError(f"{int(repeated.sum())} kept samples are in the source more than once")
        found, lost = np.flatnonzero(rows >= 0), np.flatnonzero(rows < 0)
        if allow_changed and (len(found) or not len(self)):
            return found, rows[found]
        changed = int((manifest.digests[rows[found]] != self.digests[found]).sum())
        first = f" (first: {shown(self.ids[lost[0]])})" if len(lost) else ""
        way = "; --allow-changed uses the others" if len(found) and allow_changed is False else ""
        raise InputError(
            f"the index was made from another source: {self.source} with {self.source_samples} images, not "
            f"{manifest.fingerprint} with {len(manifest)}; of its {len(self)} samples {len(lost)} are missing "
            f"here{first} and {changed} have other bytes{way}"
        )

    def rebased(self, manifest: Manifest, *, allow_changed: bool = False) -> PrunedIndex:
        """The same selection as an index of `manifest`, whose rows, labels, sizes and digests it takes.

        A change of source is recorded in the provenance. Errors as in `rows_in`.
        """
        found, rows = self._found_in(manifest, allow_changed)
        order = np.argsort(rows, kind="stable")
        found, rows = found[order], rows[order]
        provenance = list(self.provenance)
        if manifest.fingerprint != self.source:
            changed = int((manifest.digests[rows] != self.digests[found]).sum())
            inputs = {"index": self.fingerprint, "from": self.source, "to": manifest.fingerprint}
            facts = {"missing": len(self) - len(found), "other_bytes": changed}
            provenance.append(record("rebase", {"allow_changed": True}, inputs, **facts))
        fresh = type(self).from_rows(
            manifest,
            rows,
            score=self.scores[found],
            quality=self.quality[found],
            nbytes=np.where(self.quality[found] == 0, manifest.nbytes[rows], self.nbytes[found]),
            provenance=provenance,
        )
        return replace(fresh, reasons=self.reasons[found], reason_names=self.reason_names)

    def __or__(self, other: PrunedIndex) -> PrunedIndex:
        """Samples that either index keeps; what both keep has this index's score, reason and quality."""
        self._check_same_source(other)
        extra = find(other.ids, self.ids)[0] < 0
        names = self.reason_names + tuple(name for name in other.reason_names if name not in self.reason_names)
        codes = [names.index(name) for name in other.reason_names]
        joined = self._with(composition.union(self.columns, other.columns, extra, codes))
        return self._derived("union", other, replace(joined, reason_names=names))

    def __and__(self, other: PrunedIndex) -> PrunedIndex:
        """Samples that both indices keep, with this index's scores, reasons and qualities."""
        self._check_same_source(other)
        return self._derived("intersection", other, self._part(find(self.ids, other.ids)[0] >= 0))

    def without(self, other: PrunedIndex | np.ndarray) -> PrunedIndex:
        """Samples that this index keeps and the other one, or an array of ids, (m,) bytes, does not hold."""
        if isinstance(other, np.ndarray):
            return self._part(find(self.ids, other)[0] < 0)
        self._check_same_source(other)
        return self._derived("without", other, self._part(find(self.ids, other.ids)[0] < 0))

    def sample(self, keep: float, *, seed: int = 0) -> PrunedIndex:
        """Keep a fraction of these samples, every class in proportion.

        Nested: with one seed, the samples at 0.2 are among those at 0.5. A class loses its last sample only when
        fewer samples than classes are requested.

        Parameters
        ----------
        keep : float
            Fraction of this index's samples, in (0, 1]; round(keep * k) of them stay, at least one.
        seed : int
        """
        if not 0 < keep <= 1:
            raise InputError(f"keep {keep} is not in (0, 1]")
        chosen = sampled_rows(self.labels, self.ids, keep, seed)
        entry = record("sample", {"keep": keep, "seed": seed}, {"index": self.fingerprint})
        return replace(self._part(chosen), provenance=[*self.provenance, entry])

    def _check_same_source(self, other: PrunedIndex) -> None:
        if self.source != other.source:
            missing = find(other.ids, self.ids)[0] < 0
            first = f" (first: {shown(other.ids[np.argmax(missing)])})" if missing.any() else ""
            raise InputError(
                f"the indices come from different sources, {self.source} with {self.source_samples} images and "
                f"{other.source} with {other.source_samples}; {int(missing.sum())} of {len(other)} samples of the "
                f"second are not in the first{first}"
            )
        if self.classes != other.classes:
            raise InputError("the indices name the classes of their source differently")

    def _with(self, columns: dict[str, np.ndarray]) -> PrunedIndex:
        changes: dict[str, Any] = {FIELDS[name]: column for name, column in columns.items()}
        return replace(self, **changes)

    def _part(self, rows: np.ndarray) -> PrunedIndex:
        """These samples alone, by place or by mask."""
        return self._with(composition.part_of(self.columns, rows))

    def _derived(self, step: str, other: PrunedIndex, result: PrunedIndex) -> PrunedIndex:
        """Record in `result` how it was made of this index and another."""
        inputs = {"left": self.fingerprint, "right": other.fingerprint}
        entry = record(step, {}, inputs, right=other.provenance)
        return replace(result, provenance=[*self.provenance, entry])
