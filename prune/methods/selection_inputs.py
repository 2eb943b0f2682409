"""What `prune select` reads: scores, manifest, lists of ids and weights, checked."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from prune.index.manifest import Manifest, manifest_path
from prune.index.npz import open_arrays
from prune.methods.quota import floors_of, largest_floor
from prune.runs.files import InputError, need_file, read_json
from prune.scores.class_votes import combine, sharpen
from prune.scores.feature_files import Features, check_order, content_fingerprint, open_features, order_fingerprint


@dataclass(frozen=True)
class Given:
    """The scores file and the manifest, or the manifest alone.

    Attributes
    ----------
    arrays : dict of str to array
        Of the scores file.
    meta : dict
    manifest : Manifest
    classes : list of str
        What quotas are for: classes, or clusters where the scores file has them.
    label : (n,) int64
        Place in `classes` of every sample.
    prints : dict of str to str
        Fingerprints.
    order : str, optional
        `order_fingerprint` of the manifest.
    """

    arrays: dict[str, np.ndarray]
    meta: dict[str, Any]
    manifest: Manifest
    classes: list[str]
    label: np.ndarray
    prints: dict[str, Any]
    order: str | None


@dataclass(frozen=True)
class Wishes:
    """Samples never and always kept, (n,) bool, and class weights, (c,) float; None where the user names none."""

    never: np.ndarray | None
    always: np.ndarray | None
    weights: np.ndarray | None


def read(scores: Path | None, place: Path | None) -> Given:
    """Open and check the scores file (may be None) and the manifest (found through the scores file when None)."""
    arrays: dict[str, np.ndarray] = {}
    meta: dict[str, Any] = {}
    prints: dict[str, Any] = {}
    if scores is not None:
        arrays, meta = open_arrays(need_file(scores, "a scores file of `prune score`"), "winnow-scores/1")
        prints["scores"] = content_fingerprint(scores)
    place = manifest_place(scores, meta, place)
    manifest = manifest_of(scores, meta, place)
    check_lengths(scores, arrays, len(manifest))
    prints["source"] = manifest.fingerprint
    grouped = "group" in arrays
    classes = list(meta["groups"] if grouped else manifest.classes)
    label = np.asarray(arrays["group"] if grouped else manifest.labels, np.int64)
    return Given(arrays, meta, manifest, classes, label, prints, order_fingerprint(place))


def wishes(
    given: Given, never: Path | None, always: Path | None, weights: Path | None
) -> tuple[Wishes, dict[str, Any]]:
    """Read the user's lists; what was read, and fingerprints of it."""
    no, no_print = listed(never, given.manifest.ids)
    yes, yes_print = listed(always, given.manifest.ids)
    weight, weight_print = (None, None) if weights is None else weight_file(weights, given.classes)
    return Wishes(no, yes, weight), {"never": no_print, "always": yes_print, "weights": weight_print}


def manifest_place(scores: Path | None, meta: Mapping[str, Any], given: Path | None) -> Path:
    """Where the source's manifest is: where the user says, or the scores file."""
    if given is None and scores is None:
        raise InputError("give --scores, or --manifest for a random draw")
    place = _place(scores, meta, "manifest", given)
    return need_file(manifest_path(place) if place.suffix == ".beton" else place, "the manifest of the source")


def _place(scores: Path | None, meta: Mapping[str, Any], what: str, given: Path | None) -> Path:
    """Where the source's manifest or features are: where the user says, or the scores file."""
    if given is not None or scores is None:
        return Path(given or "")
    place = _said(scores, meta, what)
    if not place.is_file():
        raise InputError(f"{scores}: no {what} of its source at {place}; say where with --{what}")
    return place


def _said(scores: Path, meta: Mapping[str, Any], what: str) -> Path:
    return scores.resolve().parent / str(meta.get(what, ""))


def manifest_of(scores: Path | None, meta: Mapping[str, Any], place: Path) -> Manifest:
    """The manifest at `place`, which must be the one that the scores file was made for."""
    manifest = Manifest.load(place)
    if scores is None:
        return manifest
    if meta.get("fingerprint") != manifest.fingerprint:
        raise InputError(
            f"{scores}: made for another source (fingerprint {meta.get('fingerprint')}, {place} has "
            f"{manifest.fingerprint}); run `prune features` and `prune score` again"
        )
    way_out = "say with --manifest where the one it was made for is"
    check_order(scores, meta.get("order"), place, order_fingerprint(place), way_out)
    return manifest


def check_lengths(scores: Path | None, arrays: Mapping[str, np.ndarray], n: int) -> None:
    """Every array over samples has one entry for each of the n samples."""
    for name, values in arrays.items():
        if name.split("/")[0] in ("sample", "duplicate_of", "looks_like", "leak", "group") and values.shape != (n,):
            raise InputError(f"{scores}: {name} has shape {values.shape}, and the source has {n} samples")


def features_of(scores: Path | None, given: Given, place: Path | None) -> Features:
    """The source's features, mapped: where the user says, or the scores file."""
    if place is None and scores is None:
        raise InputError("this rank looks at the source's features: say where they are with --features")
    found = open_features(_place(scores, given.meta, "features", place))
    if found.source != given.manifest.fingerprint:
        raise InputError(f"{found.path}: features of another source than the manifest's")
    other = scores or Path("the manifest")
    check_order(found.path, found.order, other, given.order, "run `prune features` for the beton of this manifest")
    return found


def features_print(scores: Path | None, given: Given, place: Path | None) -> str | None:
    """Fingerprint of the features that a rank looks at; None for those that the fingerprint of the scores covers."""
    if place is None and (scores is None or not _said(scores, given.meta, "features").is_file()):
        return None  # an index that stands needs them no more; to make one, they are asked for later
    content = features_of(scores, given, place).content
    return None if [content] == given.meta.get("inputs", {}).get("source", [])[:1] else content


def class_weights(
    arrays: Mapping[str, np.ndarray], there: Sequence[str], wanted: Sequence[str], how: str
) -> dict[str, np.ndarray]:
    """Class weights by rule, (c,) float64, the wanted targets (all when none is named) combined.

    Besides the votes as they are, "soft" is the mean of LM's and FM's soft votes, each sharpened to the breadth of the
    hard ones: two readings of the same images, and where one is vague the other often is not. "votes" are LM's, or FM's
    where the surrogate allows no LM.
    """
    chosen = [_target(name, there) for name in wanted] or list(there)
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


def _target(name: str, there: Sequence[str]) -> str:
    """`pets` may stand for `pets.train`."""
    for known in there:
        if name in (known, known.removesuffix(".train")):
            return known
    raise InputError(f"--targets {name}: the scores file knows {', '.join(there) or 'no target'}")


def weight_file(path: Path, classes: Sequence[str]) -> tuple[np.ndarray, dict[str, float]]:
    """Weights of the classes from a JSON object {class: weight}, as array and as what was read."""
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


def listed(path: Path | None, ids: np.ndarray) -> tuple[np.ndarray | None, str | None]:
    """Mark the samples that a text file of ids names, (n,) bool, with the fingerprint of the list."""
    if path is None:
        return None, None
    lines = sorted({line.strip() for line in need_file(path, "a list of ids").read_bytes().splitlines()} - {b""})
    wanted = np.array(lines, dtype="S") if lines else np.empty(0, ids.dtype)
    marked = np.isin(ids, wanted)
    if int(marked.sum()) != len(wanted):
        absent = wanted[~np.isin(wanted, ids[marked])]
        first = absent[0].decode(errors="replace")
        raise InputError(f"{path}: {len(absent)} ids are not in the source; the first is {first}")
    return marked, hashlib.sha256(b"\n".join(lines)).hexdigest()[:32]


def floors(floor: float | None, size: np.ndarray, budget: int) -> np.ndarray | None:
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


def protected(names: Sequence[str], classes: Sequence[str]) -> np.ndarray | None:
    """Mark the classes of these names, (c,) bool."""
    if not names:
        return None
    marked = np.zeros(len(classes), bool)
    for name in names:
        if name not in classes:
            raise InputError(f"--protect {name}: no such class in the source")
        marked[list(classes).index(name)] = True
    return marked
