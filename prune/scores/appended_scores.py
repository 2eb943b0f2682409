"""Scores of a source that has grown: earlier images keep theirs, and earlier class means and gate score the new ones.

`prune score` leaves in its file what that takes: mean features and median distances of the classes, the gate's fitted
models, and the fingerprint of each beton's manifest. 10,000 classes of 512 features take 20 MB, a gate of one target 4
kB.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from prune.index.joined_rows import JoinedRows
from prune.index.manifest import FORMAT, Manifest, manifest_exists, merged, several, shards_at
from prune.index.matching import find, shown
from prune.index.npz import array_crc32, open_arrays, open_meta
from prune.runs.files import InputError, counted, need_file
from prune.scores.domain import ALL, Models, odds_of_new
from prune.scores.feature_files import Features, content_fingerprint, order_fingerprint
from prune.scores.geometry import class_medians, from_median, prototype
from prune.scores.one_pass import one_pass
from prune.scores.partial_features import spread_rows
from prune.scores.sample_keys import sample_keys

_AGAIN = "score all images without --append"
_MEANS, _MEDIANS = "append/means", "append/medians"
_GATE = {"mean": "append/gate-mean", "weights": "append/gate-weights", "constants": "append/gate-constants"}


@dataclass(frozen=True)
class Earlier:
    """An earlier scores file, found again in a source that has grown.

    Attributes
    ----------
    path : Path
    arrays, meta : dict
        Of the file.
    rows : (n,) int64
        Row of the source of each of its images.
    ids : (m,) bytes
        Of the source's images, m of them.
    """

    path: Path
    arrays: dict[str, np.ndarray]
    meta: dict[str, Any]
    rows: np.ndarray
    ids: np.ndarray

    @property
    def new(self) -> np.ndarray:
        """Rows of the source that the file does not hold, ascending, int64."""
        absent = np.ones(len(self.ids), bool)
        absent[self.rows] = False
        return np.flatnonzero(absent)

    @property
    def settings(self) -> dict[str, Any]:
        """Settings of the first scoring."""
        found: dict[str, Any] = self.meta.get("scored_with", self.meta.get("config", {}))
        return found


def class_state(means: np.ndarray, distances: np.ndarray | None, labels: np.ndarray) -> dict[str, np.ndarray]:
    """What a scores file keeps of its classes: "append/means" (c, d) float32 and "append/medians" (c,) float64.

    Parameters
    ----------
    means : (c, d) float
        Mean features, NaN for a class without images.
    distances : (n,) float32, optional
        Of `prune.scores.geometry.prototype`; no medians without.
    labels : (n,) int
    """
    found = {_MEANS: means.astype("<f4")}
    if distances is not None:
        found[_MEDIANS] = class_medians(distances, labels, len(means)).astype("<f8")
    return found


def gate_state(models: Models) -> dict[str, np.ndarray]:
    """What a scores file keeps of its gate, float32: mean (d,), weights (t, folds, d) and constants (t, folds)."""
    return {place: getattr(models, name).astype("<f4") for name, place in _GATE.items()}


def manifest_parts(place: Path) -> dict[str, str]:
    """Fingerprints of a source's manifests by file name; several, where the place is a pattern, none if it is gone."""
    if not manifest_exists(place):
        return {}
    places = shards_at(place, ".manifest.npz") if several(place) else [place]
    return {one.name: _fingerprint(one) for one in places}


def check_settings(config: Any, free: Collection[str]) -> None:
    """Raise `InputError` for settings that are given beside --append and not `free`: they are those of the first."""
    for field in dataclasses.fields(config):
        if field.name not in free and getattr(config, field.name) != field.default:
            flag = field.name.replace("_", "-")
            raise InputError(f"--{flag}: the settings are those of {config.append}: leave it out, or {_AGAIN}")
    if len(config.source) > 1:
        raise InputError("--append: takes the features of one surrogate; name those of all shards by their folder")


def open_earlier(path: Path, source: Features) -> Earlier:
    """Open an earlier scores file, and find its images in a source that holds them and more.

    Raises
    ------
    InputError
        Nothing can be appended to it, it is of other classes or another surrogate, or some of its images are gone from
        the source, or changed.
    """
    arrays, meta = open_arrays(need_file(path, "a scores file of `prune score`"), "winnow-scores/1")
    if _MEANS not in arrays or "label" not in arrays:
        raise InputError(
            f"{path}: holds no class means to append by (an older version wrote it, or it is of several surrogates, of "
            f"clusters or of a part of its source): {_AGAIN}, with another --out"
        )
    if wrong := _wrong_in(arrays, meta):
        raise InputError(f"{path}: {wrong} is not what `prune score` writes: {_AGAIN}, with another --out")
    if any(name.startswith("leak/") for name in arrays):
        raise InputError(f"{path}: marks leaks, and those among new images would be missed: {_AGAIN}")
    if meta.get("classes") != source.classes:
        raise InputError(f"{source.path}: has other classes than {path}: {_AGAIN}")
    if meta.get("surrogate", {}).get("fingerprint") != source.model["fingerprint"]:
        raise InputError(f"{source.path}: features by another surrogate than {path}'s: {_AGAIN}")
    if arrays[_MEANS].shape != (len(source.classes), source.features.shape[1]):
        raise InputError(f"{path}: has class means of another shape than {source.path}'s features: {_AGAIN}")
    if source.partial:
        raise InputError(f"{source.path}: holds a part of its source's images; --append needs features of all")
    now = _manifest_of(source)
    rows = _found_again(path, len(arrays["label"]), _manifest_then(path, meta, source), now, source)
    return Earlier(path, arrays, meta, rows, now.ids)


def append(
    earlier: Earlier,
    source: Features,
    borrowed: tuple[Mapping[str, np.ndarray], Mapping[str, Any]] | None = None,
    workers: int | None = None,
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Arrays of a scores file for the grown source.

    Features and logits of new images alone are read. Votes, class means and the gate stay as they are.

    Parameters
    ----------
    earlier : Earlier
    source : Features
    borrowed : tuple, optional
        Domain scores of the whole source and the gates' widths (`prune.methods.gate_scores.borrowed_gates`), where the
        earlier scores took theirs from another file.
    workers : int, optional

    Returns
    -------
    arrays : dict of str to array
        In the source's order. A score that new images cannot have is NaN for them; they have no `duplicate_of` (-1).
    lines : list of str
        What to know of the new images.
    """
    new = earlier.new
    found = _scores(earlier, source, new, workers) | _odds(earlier, source, new, borrowed, workers)
    arrays = spread_rows(earlier.arrays, earlier.rows, source.total)
    arrays |= {"label": source.label.astype("<i4"), "position": np.arange(source.total, dtype="<i8")}
    if not len(new):
        return arrays, ["no new images"]
    for name in [name for name in found if name in arrays]:
        arrays[name][new] = found[name]
    lines = [f"{counted(len(new), 'new image')}; votes, class means and gate are those of {earlier.path}"]
    if lost := [name.removeprefix("sample/") for name in earlier.arrays if _over_samples(name) and name not in found]:
        lost = list(dict.fromkeys({"duplicate_of": "near-duplicates", "duplicate_by": "near-duplicates",
                                   "looks_like": "suspects"}.get(name, name) for name in lost))  # fmt: skip
        lines.append(f"not found for new images: {', '.join(lost)}; for these {_AGAIN}")
    if empty := int(np.isnan(arrays[_MEANS][source.label[new], :1]).sum()):
        lines.append(f"{counted(empty, 'new image is', 'new images are')} of classes that had none: no votes for them")
    return arrays, lines + _gate_line(earlier, found)


def facts(earlier: Earlier) -> dict[str, Any]:
    """What the meta of the new file takes from the earlier one, and the chain of files that led to it."""
    one = {
        "scores": content_fingerprint(earlier.path),
        "source": earlier.meta["fingerprint"],
        "images": len(earlier.rows),
    }
    kept = {key: earlier.meta.get(key, {}) for key in ("agreement", "seed_agreement", "gates", "votes")}
    return {**kept, "scored_with": earlier.settings, "appended": [*earlier.meta.get("appended", []), one]}


def _wrong_in(arrays: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> str:
    """The first array or entry of the meta that is of another shape or type; '' where there is none."""
    lists, dicts = ("targets", "appended"), ("surrogate", "config", "scored_with", "parts", "gates", "votes")
    for kind, keys in ((list, lists), (dict, dicts)):
        for key in keys:
            if not isinstance(meta.get(key, kind()), kind):
                return f"the meta's {key}"
    for key in ("config", "scored_with"):
        if not isinstance(meta.get(key, {}).get("seed", 0), int):
            return f"the meta's {key}"
    for gate in meta.get("gates", {}).values():
        if not isinstance(gate, dict) or not isinstance(gate.get("width", 1.0), (int, float)):
            return "the meta's gates"
    if arrays[_MEANS].ndim != 2:
        return _MEANS
    (c, d), n, t = arrays[_MEANS].shape, len(arrays["label"]), len(meta.get("targets", []))
    shapes = {_MEDIANS: (c,), _GATE["mean"]: (d,), _GATE["constants"]: (t, None), _GATE["weights"]: (t, None, d)}
    for name, values in arrays.items():
        shape = (n,) if _over_samples(name) else shapes.get(name, values.shape)
        if len(values.shape) != len(shape) or any(b not in (a, None) for a, b in zip(values.shape, shape)):
            return name
    return ""


def _over_samples(name: str) -> bool:
    return name.startswith(("sample/", "duplicate_", "looks_like"))


def _scores(earlier: Earlier, source: Features, new: np.ndarray, workers: int | None) -> dict[str, np.ndarray]:
    """Scores of new rows from their own features and logits, and from the earlier class means, by array name."""
    features, labels = _some(source.features, new), source.label[new]
    columns, logits, summary = source.columns(source.classes), _some(source.logits, new), source.summary
    if summary is not None:
        summary = dataclasses.replace(summary, values=_some(summary.values, new))
    passed = one_pass(features, logits, labels, len(source.classes), columns, workers, summary=summary)
    if not passed.finite:
        raise InputError(f"{source.path}: features or logits that are not finite; the surrogate has diverged")
    found = dict(passed.scores)
    if _MEDIANS in earlier.arrays:
        found["prototype"] = prototype(features, labels, earlier.arrays[_MEANS], workers)
        found["moderate"] = from_median(found["prototype"], labels, earlier.arrays[_MEDIANS])
    return {f"sample/{name}": values for name, values in found.items()}


def _odds(
    earlier: Earlier,
    source: Features,
    new: np.ndarray,
    borrowed: tuple[Mapping[str, np.ndarray], Mapping[str, Any]] | None,
    workers: int | None,
) -> dict[str, np.ndarray]:
    """Domain scores of new rows, by the earlier models or from another file; empty where the earlier ones have none."""
    gated = f"sample/{ALL}" in earlier.arrays
    own = gated and all(place in earlier.arrays for place in _GATE.values())
    if own or not gated:
        if borrowed is not None:
            why = "has a gate of its own" if own else "has no gate"
            raise InputError(f"--gate: {earlier.path} {why}: leave it out, or {_AGAIN}")
        if not own:
            return {}
        models = Models(**{name: np.asarray(earlier.arrays[place]) for name, place in _GATE.items()})
        keys = sample_keys(int(earlier.settings.get("seed", 0)), ids=np.asarray(earlier.ids[new]))
        odds = odds_of_new(_some(source.features, new), keys, earlier.meta["targets"], models, workers)
        return {f"sample/{name}": values for name, values in odds.items()}
    if borrowed is None:
        raise InputError(
            f"{earlier.path}: its gate came from another file: append to that file as well, and give the result with "
            f"--gate, or {_AGAIN}"
        )
    for name, values in borrowed[0].items():
        if not np.array_equal(values[earlier.rows], earlier.arrays.get(name, ()), equal_nan=True):
            raise InputError(
                f"--gate: has other odds of earlier images than {earlier.path}: append to the file that its gate came "
                f"from, or {_AGAIN}"
            )
    return {name: np.asarray(values[new]) for name, values in borrowed[0].items()}


def _gate_line(earlier: Earlier, found: Mapping[str, np.ndarray]) -> list[str]:
    """How many of the new images look like the targets as much as what passed among the earlier ones."""
    width = earlier.meta.get("gates", {}).get(ALL, {}).get("width", 1.0)
    if f"sample/{ALL}" not in found or not width < 1:
        return []
    odds = earlier.arrays[f"sample/{ALL}"]
    least = np.sort(np.where(np.isnan(odds), -np.inf, odds))[len(odds) - max(1, round(width * len(odds)))]
    share = float((found[f"sample/{ALL}"] >= least).mean())
    return [f"gate: {share:.1%} of new images look as much like the targets as the {width:.1%} that passed before"]


def _some(array: np.ndarray, rows: np.ndarray) -> Any:
    """Some rows of an array, (k,) int64, to be read from its files in blocks."""
    if isinstance(array, JoinedRows):
        return JoinedRows(array.parts, rows if array.order is None else array.order[rows])
    return JoinedRows([array], rows)


def _manifest_of(source: Features) -> Manifest:
    if not manifest_exists(source.manifest):
        raise InputError(f"{source.path}: its manifest is not at {source.manifest}; --append finds images by their ids")
    held = Manifest.load(source.manifest)
    other = source.order is not None and source.order != order_fingerprint(source.manifest)
    if other or held.fingerprint != source.source:
        raise InputError(f"{source.path}: features of other images than those of {source.manifest}")
    return held


def _manifest_then(path: Path, meta: Mapping[str, Any], source: Features) -> Manifest:
    """Manifest of the earlier source: of betons that are still there, in this source or where they were."""
    before = (path.resolve().parent / str(meta.get("manifest", ""))).parent
    now = source.manifest
    held = {_fingerprint(one): one for one in (shards_at(now, ".manifest.npz") if several(now) else [now])}
    places = []
    for name, wanted in meta.get("parts", {}).items():
        same = (one for one in (now.parent / name, before / name) if one.is_file() and _fingerprint(one) == wanted)
        place = next(same, held.get(wanted))
        if place is None:
            raise InputError(
                f"{path}: images of {name} that it scored are gone from {source.path}, or have other bytes or labels: "
                f"{_AGAIN}"
            )
        places.append(place)
    if not places:
        raise InputError(f"{path}: does not say which images it scored, their manifest was not there: {_AGAIN}")
    then, _ = merged([Manifest.load(place) for place in places], places)
    if then.fingerprint != meta.get("fingerprint") or f"{array_crc32(then.ids):08x}" != meta.get("order"):
        raise InputError(f"{path}: its images are not those of {places[0]}, which lists others: {_AGAIN}")
    return then


def _found_again(path: Path, n: int, then: Manifest, now: Manifest, source: Features) -> np.ndarray:
    """Row in the source of each of n earlier images, (n,) int64; `InputError` for images that are gone or changed."""
    rows, _ = find(then.ids, now.ids)
    if len(then) != n:
        raise InputError(f"{path}: has scores of {n} images, and its source had {len(then)}: {_AGAIN}")
    for wrong, what in (
        (rows < 0, "gone"),
        (now.digests[rows] != then.digests, "changed: other bytes"),
        (now.labels[rows] != then.labels, "changed: another label"),
    ):
        if wrong.any():
            first = shown(then.ids[int(np.argmax(wrong))])
            many = counted(int(wrong.sum()), "image")
            raise InputError(f"{source.path}: {many} of {path} {what}, first {first}: {_AGAIN}")
    return rows


def _fingerprint(manifest: Path) -> str:
    return str(open_meta(manifest, FORMAT).get("fingerprint") or Manifest.load(manifest).fingerprint)
