"""What the selections of a study kept: classes with weights and counts, and pictures of kept and dropped images.

Everything beside results.json is optional: the page omits what does not exist any more.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from prune.data.beton import BetonFile, open_beton
from prune.data.dataset import open_dataset
from prune.data.stored_images import Stored
from prune.gallery.thumbnails import data_uri
from prune.index.manifest import manifest_exists, manifest_path
from prune.index.npz import open_arrays
from prune.index.pruned_index import PrunedIndex
from prune.runs.files import InputError, note

PICTURES = 24
_PICTURE_BYTES = 6_000
CLASSES = 400
"""Most rows of a table of classes on the page; the CSV has all classes."""


@dataclass(frozen=True)
class Selection:
    """One index of a study, with the scores that it was made from where they still exist."""

    method: str
    keep: float
    seed: int
    place: str
    index: PrunedIndex
    scores: Mapping[str, np.ndarray]
    weights: np.ndarray | None

    @property
    def title(self) -> str:
        """`winnow at keep 0.2`."""
        return f"{self.method} at keep {self.keep:g}"


def open_selections(results: Mapping[str, Any], folder: Path) -> list[Selection]:
    """Open one index of each method and keep, that of the lowest seed; missing indices are skipped."""
    found: dict[tuple[str, float], Selection] = {}
    for entry in sorted(results.get("selections", []), key=lambda entry: entry["seed"] or 0):
        key = (entry["method"], round(float(entry["keep"]), 9))
        place = folder / entry["index"]
        if key in found or not place.is_file():
            continue
        try:
            index = PrunedIndex.load(place)
        except InputError as error:
            note(f"not on the page: {error}")
            continue
        scores = _scores(folder / (entry.get("scores") or f"scores/s{entry['seed']}.scores.npz"), index)
        found[key] = Selection(*key, entry["seed"], entry["index"], index, scores, _weights(index, scores))
    order = {name: place for place, name in enumerate(dict.fromkeys(key[0] for key in found))}
    return sorted(found.values(), key=lambda one: (order[one.method], one.keep))


def class_rows(selection: Selection) -> list[dict[str, Any]]:
    """One row per class, the heaviest (or largest) first: name, weight, size, kept, share, kept by reason."""
    index = selection.index
    kept, total = index.per_class()
    names = index.reason_names
    why = np.zeros((len(names), len(kept)), np.int64)
    np.add.at(why, (index.reasons, index.labels), 1)
    weight = selection.weights
    order = np.argsort(-(total if weight is None else weight), kind="stable")
    return [
        {
            "class": index.classes[k],
            "weight": None if weight is None else float(weight[k]),
            "size": int(total[k]),
            "kept": int(kept[k]),
            "share": float(kept[k] / total[k]) if total[k] else 0.0,
            "reasons": ", ".join(f"{names[r]} {why[r, k]}" for r in np.flatnonzero(why[:, k])),
        }
        for k in order
    ]


def source_beton(results: Mapping[str, Any], folder: Path) -> Path | None:
    """The source's beton: the study's own, or the one that its settings name; None when neither exists."""
    source = (results.get("config") or {}).get("source")
    named = source.get("train") if isinstance(source, dict) else source
    candidates = [folder / "data" / "source.beton"]
    if isinstance(named, str) and named.endswith(".beton"):
        candidates.append(folder / named)
    return next((place for place in candidates if place.is_file() or manifest_exists(manifest_path(place))), None)


def picture_groups(selection: Selection, beton: Path) -> list[dict[str, Any]]:
    """Pictures in groups: kept, dropped, hardest, near-duplicates; each group {"title", "note", "pictures"}.

    A picture is {"src": data URI, "class", "kept": bool}. Groups without a picture are omitted.
    """
    index = selection.index
    file = open_beton(beton) if beton.is_file() else open_dataset(beton).beton
    if len(file) != index.source_samples or (index.positions < 0).any():
        raise InputError(f"{beton}: holds {len(file)} images; {selection.place} is about {index.source_samples}")
    kept = np.zeros(len(file), bool)
    kept[index.positions] = True
    rng = np.random.default_rng(0)

    def sample(rows: np.ndarray) -> np.ndarray:
        return np.sort(rng.choice(rows, min(PICTURES, len(rows)), replace=False))

    groups = [
        ("Kept", "drawn at random from what the index keeps", sample(np.flatnonzero(kept))),
        ("Dropped", "drawn at random from what it drops", sample(np.flatnonzero(~kept))),
    ]
    if (el2n := selection.scores.get("sample/el2n")) is not None and len(el2n) == len(file):
        hardest = np.argsort(np.where(np.isnan(el2n), np.inf, -el2n), kind="stable")[:PICTURES]
        groups.append(("Hardest", "largest EL2N score of the surrogate; wrong labels are often among them", hardest))
    if (of := selection.scores.get("duplicate_of")) is not None and len(of) == len(file):
        copies = np.flatnonzero(np.asarray(of) >= 0)[: PICTURES // 2]
        pairs = np.stack([np.asarray(of)[copies], copies], axis=1).reshape(-1)
        groups.append(("Near-duplicates", "original and copy side by side", pairs))
    names = index.classes
    return [
        {
            "title": title,
            "note": text,
            "pictures": [
                {"src": src, "class": names[file.labels[row]], "kept": bool(kept[row])}
                for row, src in _thumbnails(file, rows)
            ],
        }
        for title, text, rows in groups
        if len(rows)
    ]


def _thumbnails(file: BetonFile, rows: Iterable[int]) -> Iterator[tuple[int, str]]:
    """Row and data URI of each image; one that cannot be decoded is skipped."""
    for row in map(int, rows):
        data, jpeg = file.stored(row)
        try:
            yield row, data_uri(Stored(data, jpeg, int(file.heights[row]), int(file.widths[row])), _PICTURE_BYTES)
        except Exception:  # whatever Pillow makes of a broken image: the page shows the rest
            continue


def _scores(place: Path, index: PrunedIndex) -> dict[str, np.ndarray]:
    """The arrays of a scores file, when it exists and is about the same source."""
    if not place.is_file():
        return {}
    arrays, meta = open_arrays(place, "winnow-scores/1")
    return arrays if meta.get("fingerprint") == index.source else {}


def _weights(index: PrunedIndex, scores: Mapping[str, np.ndarray]) -> np.ndarray | None:
    """The class weights behind a selection: those of its quota, or the soft votes where its quota used none."""
    quota = next((step["method"]["quota"] for step in index.provenance if isinstance(step.get("method"), dict)), "")
    for rule in (quota.removesuffix("-whole"), "lm-soft", "fm-soft"):
        votes = [np.asarray(v, float) for name, v in scores.items() if name.startswith(f"class/{rule}/")]
        votes = [v / v.sum() for v in votes if v.sum() > 0 and len(v) == len(index.classes)]
        if rule and votes:
            return np.asarray(np.mean(votes, axis=0))
    return None
