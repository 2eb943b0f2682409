"""The pruned index: which samples of a source to keep, and why; one file that any project can use.

    from prune import PrunedIndex                      # needs NumPy alone

    index = PrunedIndex.load("pets-lm-30.index.npz")   # format, checksum and content are verified
    rows = index.rows(ids)                             # the kept samples in *your* listing of relative paths
    Subset(ImageFolder(root), rows)

An index lists the samples to KEEP. `prune/README.md` describes the file for readers in other languages.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from prune.index import index_file, index_rows, index_sets
from prune.index.index_file import FIELDS, FORMAT, MEANING
from prune.index.manifest import Manifest
from prune.runs.files import InputError

REASONS = ("quota", "floor", "protected", "coverage", "random", "imported")
"""Why a sample is kept; `PrunedIndex.reasons` holds places in this list (or in the file's own, `reason_names`)."""


@dataclass(frozen=True, eq=False)
class PrunedIndex:
    """The samples to keep, one row per sample, in the source's order.

    Attributes
    ----------
    ids : (k,) bytes
        Path relative to the source's root, `/` between parts, UTF-8.
    labels : (k,) int32
    scores : (k,) float32
        The score by which the sample was ranked; NaN where there is none.
    reasons : (k,) uint8
        Place in `reason_names`.
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
        provenance : sequence of dict
            Entries made by `prune.index.provenance.record`.

        Raises
        ------
        InputError
            Rows that are negative, repeated, not ascending or beyond the manifest; columns of other lengths or with
            impossible values; an id that the manifest lists twice.
        """
        given = {"score": score, "reason": reason, "quality": quality, "nbytes": nbytes}
        return cls(**index_rows.chosen(manifest, rows, given), provenance=list(provenance)).checked()

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
        """What is kept and at which quality; scores, reasons, order and provenance do not enter."""
        return index_file.fingerprint(self.source, self.columns)

    @property
    def meta(self) -> dict[str, Any]:
        """What the file says besides its columns."""
        return {
            "format": FORMAT,
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
        return np.bincount(self.labels, minlength=len(self.classes)).astype(np.int64), self.class_total

    def checked(self) -> PrunedIndex:
        """This index, when its content is one that an index can have; `InputError` otherwise."""
        index_file.check(self.columns, self.meta)
        return self

    def save(self, path: Path) -> None:
        """Write the index, atomically; equal content gives equal bytes."""
        index_file.write(path, self.columns, self.meta)

    @classmethod
    def load(cls, path: Path) -> PrunedIndex:
        """Read an index and verify its format, checksum and content.

        Raises
        ------
        InputError
            One line that says what is wrong with the file.
        """
        columns, meta = index_file.read(path)
        source = meta["source"]
        index = cls(
            **{FIELDS[name]: column for name, column in columns.items()},
            classes=meta["classes"],
            class_total=np.array(meta["class_total"], np.int64),
            source=source["fingerprint"],
            source_samples=source["samples"],
            source_nbytes=source["nbytes"],
            provenance=meta["provenance"],
            reason_names=tuple(meta["reasons"]),
        )
        if index.fingerprint != meta["fingerprint"]:
            raise InputError(f"{path}: not a valid index: the fingerprint does not belong to the samples")
        return index

    def rows(self, ids: Iterable[Any], *, root: str | Path | None = None) -> np.ndarray:
        """Find the kept samples in a listing of paths.

        Parameters
        ----------
        ids : (n,) str, bytes or path-like
            Your listing: paths relative to the source's root, or below `root`. In any order.
        root : path, optional
            Folder that every path of the listing begins with.

        Returns
        -------
        (k,) int64
            Place of each kept sample in the listing, in the order of the index: `labels[j]` belongs to `rows[j]`.

        Raises
        ------
        InputError
            Kept samples are missing from the listing, or stand in it more than once.
        """
        return index_rows.by_id(self, ids, root)

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
            Place of each kept sample, in the order of the index; all different. `InputError` when one is missing.
        """
        return index_rows.by_digest(self, digests)

    def rows_in(self, manifest: Manifest, *, allow_changed: bool = False) -> np.ndarray:
        """Rows of the kept samples in a manifest, (k,) int64, in the order of the index.

        `InputError` when the index was made from another source. `allow_changed` accepts one as long as it holds some
        kept samples by name: those that it lacks are left out, and bytes and labels may differ.
        """
        return index_rows.in_manifest(self, manifest, allow_changed)[1]

    def rebased(self, manifest: Manifest, *, allow_changed: bool = False) -> PrunedIndex:
        """The same selection as an index of `manifest`, whose rows, labels, sizes and digests it takes.

        A change of source is recorded in the provenance. Errors as in `rows_in`.
        """
        return index_rows.rebased(self, manifest, allow_changed)

    def __or__(self, other: PrunedIndex) -> PrunedIndex:
        """Samples that either index keeps; what both keep has this index's score, reason and quality."""
        return index_sets.union(self, other)

    def __and__(self, other: PrunedIndex) -> PrunedIndex:
        """Samples that both indices keep, with this index's scores, reasons and qualities."""
        return index_sets.intersection(self, other)

    def without(self, other: PrunedIndex) -> PrunedIndex:
        """Samples that this index keeps and the other one does not."""
        return index_sets.difference(self, other)

    def sample(self, keep: float, *, seed: int = 0) -> PrunedIndex:
        """Keep a fraction of these samples, every class in proportion.

        Nested: with one seed, the samples at 0.2 are among those at 0.5. A class loses its last sample only when
        fewer samples than classes are asked for.

        Parameters
        ----------
        keep : float
            Fraction of this index's samples, in (0, 1]; round(keep * k) of them stay, at least one.
        seed : int
        """
        return index_sets.sample(self, keep, seed)
