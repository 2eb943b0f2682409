"""Inputs of `prune select`, read and checked: scores, manifest, features, and the user's lists of ids and weights."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from prune.data.text_lists import read_id_lines
from prune.index.manifest import Manifest, manifest_at, manifest_exists, several
from prune.index.npz import open_arrays
from prune.methods.quota import floors_of, largest_floor
from prune.runs.files import InputError, counted, need_file, read_json
from prune.scores.class_votes import combine, sharpen
from prune.scores.feature_files import Features, check_order, content_fingerprint, open_features, order_fingerprint


@dataclass(frozen=True)
class Pool:
    """The source to choose from.

    Attributes
    ----------
    arrays : mapping of str to array
        Of a scores file: "sample/NAME" (n,), "class/RULE/TARGET" (c,), "duplicate_of" (n,), ...
    meta : mapping
        Of a scores file: "targets", "gates", "votes".
    label : (n,) int64
        Place in `classes`.
    classes : list of str
    ids : (n,) bytes, optional
        Draws and ties depend on these; on the row numbers when absent.
    """

    arrays: Mapping[str, np.ndarray]
    meta: Mapping[str, Any]
    label: np.ndarray
    classes: list[str]
    ids: np.ndarray | None = None


@dataclass(frozen=True)
class SelectionInputs:
    """The scores file and the manifest, or the manifest alone.

    Attributes
    ----------
    arrays : dict of str to array
        Of the scores file.
    meta : dict
    manifest : Manifest
    classes : list of str
        What has quotas: the classes, or the clusters where the scores file has them.
    label : (n,) int64
        Place in `classes` of every sample.
    fingerprints : dict of str to str
    order : str, optional
        `order_fingerprint` of the manifest.
    """

    arrays: dict[str, np.ndarray]
    meta: dict[str, Any]
    manifest: Manifest
    classes: list[str]
    label: np.ndarray
    fingerprints: dict[str, Any]
    order: str | None

    @property
    def pool(self) -> Pool:
        """The arrays alone."""
        return Pool(self.arrays, self.meta, self.label, self.classes, self.manifest.ids)


@dataclass(frozen=True)
class Constraints:
    """Samples never and always kept, (n,) bool, and class weights, (c,) float; None where the user gives none."""

    never: np.ndarray | None
    always: np.ndarray | None
    weights: np.ndarray | None


def open_inputs(scores: Path | None, manifest: Path | None) -> SelectionInputs:
    """Open and check the scores file and the manifest, which the scores file names when it is not given."""
    arrays: dict[str, np.ndarray] = {}
    meta: dict[str, Any] = {}
    fingerprints: dict[str, Any] = {}
    if scores is not None:
        arrays, meta = open_arrays(need_file(scores, "a scores file of `prune score`"), "winnow-scores/1")
        fingerprints["scores"] = content_fingerprint(scores)
        if "appended" in meta:
            fingerprints["appended"] = meta["appended"]
    place = _manifest_path(scores, meta, manifest)
    opened = _open_manifest(scores, meta, place)
    _check_lengths(scores, arrays, len(opened))
    fingerprints["source"] = opened.fingerprint
    grouped = "group" in arrays
    classes = list(meta["groups"] if grouped else opened.classes)
    label = np.asarray(arrays["group"] if grouped else opened.labels, np.int64)
    return SelectionInputs(arrays, meta, opened, classes, label, fingerprints, order_fingerprint(place))


def read_constraints(
    given: SelectionInputs, never: Path | None, always: Path | None, weights: Path | None
) -> tuple[Constraints, dict[str, Any]]:
    """Read the user's lists; also returns their fingerprints."""
    no, no_print = _marked_ids(never, given.manifest.ids)
    yes, yes_print = _marked_ids(always, given.manifest.ids)
    weight, weight_print = (None, None) if weights is None else _weights_of_file(weights, given.classes)
    return Constraints(no, yes, weight), {"never": no_print, "always": yes_print, "weights": weight_print}


def _manifest_path(scores: Path | None, meta: Mapping[str, Any], given: Path | None) -> Path:
    """Path of the source's manifest: the given one, or the one that the scores file names."""
    if given is None and scores is None:
        raise InputError("give --scores, or --manifest for a random draw")
    place = _path_of(scores, meta, "manifest", given)
    return manifest_at(place)


def _path_of(scores: Path | None, meta: Mapping[str, Any], what: str, given: Path | None) -> Path:
    """Path of the source's manifest or features: the given one, or the one that the scores file names."""
    if given is not None or scores is None:
        return Path(given or "")
    place = _recorded_path(scores, meta, what)
    if not (manifest_exists(place) or (what == "features" and several(place))):
        raise InputError(f"{scores}: no {what} of its source at {place}; give the path with --{what}")
    return place


def _recorded_path(scores: Path, meta: Mapping[str, Any], what: str) -> Path:
    return scores.resolve().parent / str(meta.get(what, ""))


def _exists(place: Path) -> bool:
    return place.is_file() or several(place)


def _open_manifest(scores: Path | None, meta: Mapping[str, Any], place: Path) -> Manifest:
    """The manifest at `place`; `InputError` when the scores file was made for another one."""
    manifest = Manifest.load(place)
    if scores is None:
        return manifest
    if meta.get("fingerprint") != manifest.fingerprint:
        raise InputError(
            f"{scores}: made for another source (fingerprint {meta.get('fingerprint')}, {place} has "
            f"{manifest.fingerprint}); run `prune features` and `prune score` again"
        )
    way_out = "give the manifest that it was made for with --manifest"
    check_order(scores, meta.get("order"), place, order_fingerprint(place), way_out)
    return manifest


_OVER_SAMPLES = ("sample", "duplicate_of", "duplicate_by", "looks_like", "leak", "group")
"""Kinds of arrays of a scores file that have an entry for each sample."""


def _check_lengths(scores: Path | None, arrays: Mapping[str, np.ndarray], n: int) -> None:
    """Raise `InputError` unless every array over samples has n entries."""
    for name, values in arrays.items():
        if name.split("/")[0] in _OVER_SAMPLES and values.shape != (n,):
            raise InputError(f"{scores}: {name} has shape {values.shape}, and the source has {n} samples")


def features_of(scores: Path | None, given: SelectionInputs, place: Path | None) -> Features:
    """The source's features, memory-mapped: from the given path, or from the one that the scores file names."""
    if place is None and scores is None:
        raise InputError("this rank uses the source's features: give them with --features")
    found = open_features(_path_of(scores, given.meta, "features", place))
    if found.source != given.manifest.fingerprint:
        raise InputError(f"{found.path}: features of another source than the manifest's")
    other = scores or Path("the manifest")
    check_order(found.path, found.order, other, given.order, "run `prune features` for the beton of this manifest")
    return found


def features_fingerprint(scores: Path | None, given: SelectionInputs, place: Path | None) -> str | None:
    """Fingerprint of the features that a rank uses; None for those that the fingerprint of the scores covers."""
    if place is None and (scores is None or not _exists(_recorded_path(scores, given.meta, "features"))):
        return None  # an index that is up to date does not need them; where it has to be made, `features_of` complains
    content = features_of(scores, given, place).content
    return None if [content] == given.meta.get("inputs", {}).get("source", [])[:1] else content


def class_weights(
    arrays: Mapping[str, np.ndarray], known: Sequence[str], wanted: Sequence[str], how: str
) -> dict[str, np.ndarray]:
    """Class weights by rule, (c,) float64, combined over the wanted targets (all when none is named).

    Besides the votes themselves, "soft" is the mean of LM's and FM's soft votes, each sharpened to the breadth of the
    hard votes: where one of the two is vague, the other often is not. "votes" are LM's, or FM's where there is no LM.
    """
    chosen = wanted_targets(known, wanted)
    found: dict[str, np.ndarray] = {}
    for rule in ("lm", "lm-soft", "fm", "fm-soft"):
        names = [f"class/{rule}/{target}" for target in chosen]
        if names and all(name in arrays for name in names):
            found[rule] = combine([arrays[name] for name in names], how)
    each = []
    for target in chosen:
        readings = [(f"class/{rule}-soft/{target}", f"class/{rule}/{target}") for rule in ("lm", "fm")]
        shares = [sharpen(arrays[soft], arrays[hard]) for soft, hard in readings if soft in arrays and hard in arrays]
        each += [np.mean(shares, axis=0)] if shares else []
    if each:
        found["soft"] = combine(each, how)
    for rule in ("lm", "fm"):
        if rule in found and f"{rule}-soft" in found:
            found.setdefault("votes", found[rule])
            found.setdefault("votes-soft", found[f"{rule}-soft"])
    return found


def wanted_targets(known: Sequence[str], wanted: Sequence[str]) -> list[str]:
    """Targets whose votes count: the wanted ones, or all that the scores file knows when none is named."""
    return [_target(name, known) for name in wanted] or list(known)


def _target(name: str, known: Sequence[str]) -> str:
    """The target of this name; `pets` also means `pets.train`."""
    for target in known:
        if name in (target, target.removesuffix(".train")):
            return target
    raise InputError(f"--targets {name}: the scores file knows {', '.join(known) or 'no target'}")


def _weights_of_file(path: Path, classes: Sequence[str]) -> tuple[np.ndarray, dict[str, float]]:
    """Weights of the classes from a JSON object {class: weight}, as an array and as a dict."""
    given = read_json(path)
    if not isinstance(given, dict) or any(name not in given for name in classes):
        raise InputError(f"{path}: must be a JSON object with a weight for each of the source's {len(classes)} classes")
    try:
        weight = np.array([float(given[name]) for name in classes])
    except (TypeError, ValueError):
        raise InputError(f"{path}: a weight is not a number") from None
    if not np.isfinite(weight).all() or weight.min() < 0 or not weight.sum() > 0:
        raise InputError(f"{path}: weights must be finite and not negative, and one of them above 0")
    return weight, {name: float(w) for name, w in zip(classes, weight)}


def _marked_ids(path: Path | None, ids: np.ndarray) -> tuple[np.ndarray | None, str | None]:
    """Mark the samples that a text file of ids names, (n,) bool; also returns the list's fingerprint."""
    if path is None:
        return None, None
    lines = sorted({line.strip().encode("utf-8", "surrogateescape") for line in read_id_lines(path)})
    wanted = np.array(lines, dtype="S") if lines else np.empty(0, ids.dtype)
    marked = np.isin(ids, wanted)
    if int(marked.sum()) != len(wanted):
        absent = wanted[~np.isin(wanted, ids[marked])]
        first = absent[0].decode(errors="replace")
        hint = "; a comment begins with `# `" if first.startswith("#") else ""
        raise InputError(
            f"{path}: {counted(len(absent), 'id is', 'ids are')} not in the source; the first is {first}{hint}"
        )
    return marked, hashlib.sha256(b"\n".join(lines)).hexdigest()[:32]


def file_fingerprint(path: Path) -> str:
    """SHA-256 of a user's list, 32 hexadecimal digits; `InputError` when there is none."""
    return hashlib.sha256(need_file(path, "a list").read_bytes()).hexdigest()[:32]


def class_floors(floor: float | None, size: np.ndarray, budget: int) -> np.ndarray | None:
    """Floor of every class, (c,) int64; an `InputError` names the largest floor that the budget can meet."""
    if floor is None:
        return None
    low = floors_of(floor, size)
    if low.sum() > budget:
        fits = f"{largest_floor(size, budget)} samples" if floor >= 1 else f"{_largest_fraction(size, budget):.3f}"
        raise InputError(
            f"--floor {floor:g} needs {int(low.sum())} samples and the budget is {budget}; "
            f"the largest floor that fits is {fits}"
        )
    return low


def _largest_fraction(size: np.ndarray, budget: int) -> float:
    low, high = 0, 999
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if floors_of(middle / 1000, size).sum() <= budget else (low, middle - 1)
    return low / 1000


def protected_classes(names: Sequence[str], classes: Sequence[str]) -> np.ndarray | None:
    """Mark the classes of these names, (c,) bool."""
    if not names:
        return None
    marked = np.zeros(len(classes), bool)
    for name in names:
        if name not in classes:
            raise InputError(f"--protect {name}: no such class in the source")
        marked[list(classes).index(name)] = True
    return marked
