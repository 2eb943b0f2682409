"""Makes the gallery of an index: kept and dropped images of each class side by side, and duplicates.

`gallery_choice.py` chooses the images, `thumbnails.py` shrinks them, `gallery_page.py` writes the HTML.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from prune.data.dataset import Dataset
from prune.data.sample_fields import most_frequent
from prune.data.stored_images import Stored
from prune.gallery.gallery_choice import Strip, duplicate_groups, panels
from prune.gallery.gallery_page import ClassSection, Picture, gallery_html
from prune.gallery.thumbnails import data_uri
from prune.index.index_summary import classes_to_list, ranked_by, sentence
from prune.index.pruned_index import PrunedIndex

PAGE_BYTES = 14_000_000
"""Most bytes of a page; they are divided among its images."""
_GROUPS, _GROUP_PICTURES = 40, 6
_LARGEST, _SMALLEST = 6_000, 1_500  # bytes of an image


def gallery(
    index: PrunedIndex,
    rows: np.ndarray,
    source: Dataset,
    numbers: dict[str, Any],
    *,
    score: str = "",
    scores: np.ndarray | None = None,
    duplicate_of: np.ndarray | None = None,
    classes: Sequence[int] | None = None,
    most_classes: int = 100,
    pictures: int = 4,
    why: Callable[[int], str] | None = None,
) -> str:
    """Make the page.

    Parameters
    ----------
    index : PrunedIndex
    rows : (k,) int64
        Rows of the kept samples in the source.
    source : Dataset
        Beton and manifest.
    numbers : dict
        `prune.index.index_summary.summary` of the index.
    score : str
        Name of `scores`.
    scores : (n,) float, optional
        Of all samples; when absent, the scores that the index holds for the kept samples.
    duplicate_of : (n,) int64, optional
    classes : sequence of int, optional
        Labels to show; when absent at most `most_classes`, those with the largest and the smallest kept shares.
    pictures : int
        Most images in a strip; fewer where the page would exceed `PAGE_BYTES`.
    why : callable, optional
        Says of a row why it is kept or dropped, in sentences.

    Returns
    -------
    str
        HTML.
    """
    manifest = source.manifest
    n = len(manifest)
    kept = np.zeros(n, bool)
    kept[rows] = True
    if scores is None:
        scores = np.full(n, np.nan, np.float32)
        scores[rows] = index.scores[: len(rows)] if len(rows) == len(index) else np.nan
    labels = np.asarray(manifest.labels)
    total = np.bincount(labels, minlength=len(manifest.classes))
    if classes is None:
        classes = classes_to_list(np.bincount(labels[kept], minlength=len(total)), total, most_classes).tolist()
    pictures, limit = _shares(len(classes) + 1, pictures)
    album = _Album(source, kept, scores, score, limit, why)
    chosen = panels(labels, kept, scores, [-1, *classes], pictures, _titles(index, score))
    sections = [
        ClassSection(
            "All classes" if panel.label < 0 else str(manifest.classes[panel.label]),
            _of(panel.kept_count, panel.kept_count + panel.dropped_count),
            _of(panel.dropped_count, panel.kept_count + panel.dropped_count),
            album.strips(panel.kept),
            album.strips(panel.dropped),
        )
        for panel in chosen
    ]
    groups = duplicate_groups(np.asarray(manifest.digests), duplicate_of, kept, _GROUPS)
    words = [sentence(numbers)]
    if len(classes) < (total > 0).sum():
        words.append(f"{len(classes)} of {int((total > 0).sum())} classes are shown.")
    facts = [
        ("source", source.name),
        ("reasons", ", ".join(f"{name} {count:,}" for name, count in numbers["reasons"].items()) or "-"),
        ("made by", " → ".join(str(entry.get("step")) for entry in index.provenance) or "-"),
        *((name, most_frequent(counts)) for name, counts in numbers.get("fields", {}).items()),
        ("score shown", score or "none"),
        ("index", index.fingerprint),
    ]
    shown = [[album.picture(int(row)) for row in group[:_GROUP_PICTURES]] for group in groups]
    return gallery_html(f"What {source.name} keeps", words, facts, sections, shown)


def _shares(sections: int, pictures: int) -> tuple[int, int]:
    """Images in a strip and bytes of an image, so that the page stays below `PAGE_BYTES`."""
    for count in range(pictures, 0, -1):
        images = sections * 4 * count + _GROUPS * _GROUP_PICTURES
        limit = int((PAGE_BYTES / images - 450) * 3 / 4)  # base64 adds a third; a figure's markup takes about 450
        if limit >= _SMALLEST:
            break
    return count, max(500, min(limit, _LARGEST))


def _titles(index: PrunedIndex, score: str) -> tuple[str, str]:
    name, way = ranked_by(index)
    name = score or name or "score"
    ends = {"top": ("best: highest", "worst: lowest"), "bottom": ("worst: highest", "best: lowest")}
    high, low = ends.get(way if ranked_by(index)[0] == name else "", ("highest", "lowest"))
    return f"{high} {name}", f"{low} {name}"


def _of(count: int, total: int) -> str:
    return f"{count:,} of {total:,} ({100 * count / total:.0f} %)" if total else "0"


class _Album:
    """Turns rows into pictures; an image is read and encoded once."""

    def __init__(
        self,
        source: Dataset,
        kept: np.ndarray,
        scores: np.ndarray,
        score: str,
        limit: int,
        why: Callable[[int], str] | None,
    ) -> None:
        self.source, self.kept, self.scores, self.score, self.limit = source, kept, scores, score, limit
        self._why = why
        self._done: dict[int, Picture] = {}

    def strips(self, strips: Sequence[Strip]) -> list[tuple[str, list[Picture]]]:
        return [(strip.title, [self.picture(int(row)) for row in strip.rows]) for strip in strips]

    def picture(self, row: int) -> Picture:
        if row not in self._done:
            name = bytes(self.source.manifest.ids[row]).decode("utf-8", "backslashreplace")
            value = self.scores[row]
            caption = f"{value:.3g}" if np.isfinite(value) else ""
            state = "kept" if self.kept[row] else "dropped"
            title = f"{name} (row {row}, {state})"
            why = self._why(row) if self._why else ""
            self._done[row] = Picture(self._uri(row), bool(self.kept[row]), caption, title, why)
        return self._done[row]

    def _uri(self, row: int) -> str:
        data, jpeg = self.source.beton.stored(row)
        if zlib.crc32(data) != int(self.source.manifest.crc32[row]):
            return ""
        height, width = int(self.source.beton.heights[row]), int(self.source.beton.widths[row])
        try:
            return data_uri(Stored(data, jpeg, height, width), self.limit)
        except Exception:  # Pillow raises all kinds of errors for a broken image; the page shows the others
            return ""
