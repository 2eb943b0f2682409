"""Everything that one surrogate gives: sample scores, class weights, near-duplicates, leaks, suspected labels."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np

from prune.index.npz import open_arrays
from prune.runs.files import InputError
from prune.runs.progress import track
from prune.scores import (
    class_votes,
    geometry,
    hierarchical_kmeans,
    leakage,
    near_duplicates,
    score_table,
    training_dynamics,
)
from prune.scores.appended_scores import class_state
from prune.scores.chance_votes import linear_head, one_order, votes_against_chance
from prune.scores.clusters import kmeans, nearest, rand_index, stream
from prune.scores.ensemble import agreement
from prune.scores.feature_files import Features, check_order
from prune.scores.hash_pairs import one_original
from prune.scores.influence import influence, target_gradient
from prune.scores.label_errors import suspects
from prune.scores.one_pass import Pass, one_pass
from prune.scores.pair_check import Check, checker, copies_by_hash
from prune.scores.sample_keys import for_purpose, sample_keys
from prune.scores.streaming import read_rows, read_scattered

_SAMPLES = 65_536
_HEAD_ROWS = 10_000
"""Images of the source from which the surrogate's last layer is found."""


def score_source(
    source: Features,
    targets: Sequence[Features],
    *,
    also: Collection[str] = (),
    temperature: float = 1.0,
    clusters: int = 0,
    seed: int = 0,
    keys: np.ndarray | None = None,
    unseen: np.ndarray | None = None,
    workers: int | None = None,
    growing: bool = False,
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Score one source by one surrogate.

    Parameters
    ----------
    source : Features
    targets : sequence of Features
        By the same surrogate.
    also : collection of str
        Values of `--also`: those of the table of scores, and "suspects".
    temperature : float
        Of soft votes, in spreads (see `prune.scores.class_votes.spread`).
    clusters : int
        Above 0: that many k-means clusters replace the classes in class weights and quotas.
    seed : int
        Of k-means.
    keys : (n,) uint64, optional
        Random numbers of the samples for this seed (`prune.scores.sample_keys`); from their row numbers when absent.
    unseen : (n,) bool, optional
        Samples that the surrogate did not train on (`prune.scores.folds`); the scores of all others become NaN.
    growing : bool
        Also return "append/NAME", what `prune.scores.appended_scores` needs of the classes.

    Returns
    -------
    arrays : dict of str to array
        "sample/NAME" (n,) f4, "class/RULE/TARGET" (c,) f4, "class/RULE-apart/TARGET" (3,) f4;
        with clusters "group", with suspects "looks_like" (n,) i4.
    centre : (d,) float64
        Mean feature of the source.
    """
    columns = source.columns(source.classes)
    _refuse_summaries(source, targets, also, votes=columns is not None and not clusters)
    keys = sample_keys(seed, n=len(source)) if keys is None else keys
    groups = group_by_clusters(source.features, clusters, seed, keys) if clusters else None
    count = int(groups.max()) + 1 if groups is not None else len(source.classes)
    found = one_pass(source.features, source.logits, source.label, count, columns, workers, groups, source.summary)
    if not found.finite:
        raise InputError(f"{source.path}: features or logits that are not finite; the surrogate has diverged")
    arrays = {f"sample/{name}": values for name, values in found.scores.items()}
    weights = class_weights(targets, found, None if clusters else columns, temperature)
    weights |= chance_weights(targets, found, source, None if clusters else columns, seed, keys)
    arrays |= {f"class/{name}": values for name, values in weights.items()}
    if groups is not None:
        arrays["group"] = groups.astype("<i4")
    centre = np.nansum(found.means * found.sizes[:, None], axis=0) / len(source)
    given = {
        "features": source.features,
        "labels": source.label if groups is None else groups,
        "means": found.means,
        "classes": count,
        "targets": [np.asarray(target.features) for target in targets] or None,
        "centre": centre,
        "seed": seed,
        "keys": keys,
        "workers": workers,
    }
    for row in score_table.SCORES:
        if row.source == "targets" and row.also in also and not targets:
            raise InputError(f"--also {row.also} needs --targets")
    scores = score_table.compute("features", given, also) | score_table.compute("targets", given, also)
    arrays |= {f"sample/{name}": values for name, values in scores.items()}
    if growing:
        arrays |= class_state(found.means, scores.get("prototype"), source.label)
    if "suspects" in also:
        if columns is None:
            raise InputError(f"--also suspects: {source.path}'s surrogate does not know the source's classes")
        arrays["looks_like"], arrays["sample/suspicion"] = suspects(
            source.logits, source.label, len(source.classes), columns, workers, unseen
        )
    if unseen is not None:
        for name in [name for name in arrays if name.startswith("sample/")]:
            arrays[name] = np.where(unseen, arrays[name], np.float32(np.nan))
    return arrays, centre


def _refuse_summaries(source: Features, targets: Sequence[Features], also: Collection[str], *, votes: bool) -> None:
    """Raise `InputError` before any work where a summary takes the place of logits that a step needs in full."""
    for step in ("suspects", "influence"):
        if step in also:
            source.all_logits(f"--also {step}")
    for target in targets if votes or "influence" in also else ():
        target.all_logits(f"votes of the target {target.name}")


def class_weights(
    targets: Sequence[Features], found: Pass, columns: np.ndarray | None, temperature: float
) -> dict[str, np.ndarray]:
    """Votes of every target, (c,) float32 under RULE/TARGET; LM only where the surrogate knows the source's classes."""
    weights: dict[str, np.ndarray] = {}
    for target in targets:

        def near(rows: slice, target: Features = target) -> np.ndarray:
            return -class_votes.squared_distances(read_rows(target.features, rows), found.means)

        def similar(rows: slice, target: Features = target) -> np.ndarray:
            return np.where(found.sizes > 0, read_rows(target.logits, rows)[:, columns].astype(np.float64), -np.inf)

        rules = {"fm": near} if columns is None else {"fm": near, "lm": similar}
        for rule, preference in rules.items():
            rows = class_votes.rows_at_once(len(found.sizes))
            hard, soft = class_votes.streamed_votes(preference, len(target), temperature, rows)
            if not np.isfinite(soft).all():
                raise InputError(f"{target.path}: features or logits that are not finite; the surrogate has diverged")
            weights[f"{rule}/{target.name}"] = hard.astype(np.float32)
            weights[f"{rule}-soft/{target.name}"] = soft.astype(np.float32)
    return weights


def chance_weights(
    targets: Sequence[Features],
    found: Pass,
    source: Features,
    columns: np.ndarray | None,
    seed: int,
    keys: np.ndarray,
) -> dict[str, np.ndarray]:
    """Votes of shuffled features of every target, (c,) float32 under RULE-chance/TARGET, and how far the votes are off.

    The latter are (3,) float32 under RULE-apart/TARGET: `distance`, `by_chance` and `error` of
    `prune.scores.chance_votes.ChanceVotes`.
    """
    weights: dict[str, np.ndarray] = {}
    absent = np.where(found.sizes > 0, 0.0, -np.inf)
    rules = {"fm": lambda x: -class_votes.squared_distances(x, found.means)}
    if columns is not None and targets:
        if source.summary is not None:
            head, constant = (part.astype(np.float64) for part in (source.summary.head[:-1], source.summary.head[-1]))
        else:
            rows = np.argsort(for_purpose(keys, "head"))[:_HEAD_ROWS]
            known = read_scattered(source.features, rows), read_scattered(source.logits, rows)[:, columns]
            head, constant = linear_head(*known)
        rules["lm"] = lambda x: x @ head + constant + absent
    for target in targets:
        features = one_order(np.asarray(target.features), seed)
        for rule, preference in rules.items():
            chance = votes_against_chance(features, preference, seed=seed)
            votes = chance.votes * (len(target) / len(features))
            weights[f"{rule}-chance/{target.name}"] = votes.astype(np.float32)
            apart = chance.distance, chance.by_chance, chance.error
            weights[f"{rule}-apart/{target.name}"] = np.array(apart, np.float32)
    return weights


def influence_scores(source: Features, targets: Sequence[Features], workers: int | None) -> dict[str, np.ndarray]:
    """Influence on the targets, (n,) f4: "sample/influence" on all of them, "sample/influence/NAME" on each."""
    columns = source.columns(source.classes)
    if columns is None:
        raise InputError(f"--also influence: {source.path}'s surrogate does not know the source's classes")
    gradients = {t.name: target_gradient(t.features, t.logits, t.label, columns) for t in targets}
    found = influence(source.features, source.logits, source.label, gradients, columns, workers)
    return {f"sample/{name}": values for name, values in found.items()}


def seed_agreement(
    source: Features, arrays: dict[str, np.ndarray], also: Collection[str], clusters: int, seed: int
) -> dict[str, float]:
    """How well what depends on k-means agrees with the same by the next seed.

    Returns
    -------
    dict of str to float
        "self-prototype", "balance": Spearman's correlation of the ranks. "clusters": adjusted Rand index.
    """
    found = {}
    other = seed + 1
    keys = source.keys(other)
    if "self-prototype" in also:
        count = int(arrays["group"].max()) + 1 if clusters else len(source.classes)
        again = geometry.self_prototype(source.features, count, other, keys)
        found["self-prototype"] = agreement([arrays["sample/self-prototype"], again])
    if "balance" in also:
        again = hierarchical_kmeans.balance(source.features, other, keys)
        found["balance"] = agreement([arrays["sample/balance"], again])
    if clusters:
        found["clusters"] = rand_index(arrays["group"], group_by_clusters(source.features, clusters, other, keys))
    return {name: round(value, 4) for name, value in found.items() if np.isfinite(value)}


def group_by_clusters(features: np.ndarray, k: int, seed: int, keys: np.ndarray) -> np.ndarray:
    """Number of the k-means cluster of every sample, (n,) int64, without empty clusters."""
    centres = kmeans(features, min(k, len(features)), seed=seed, keys=keys)
    found = np.empty(len(features), np.int64)
    for rows, x in stream(features, "clusters"):
        found[rows] = nearest(x, centres)[0]
    return np.unique(found, return_inverse=True)[1]


def leaks(
    source: Features, tests: Sequence[Features], centre: np.ndarray, similar: float, stand_out: bool
) -> dict[str, np.ndarray]:
    """Mark source images that nearly duplicate a test image: (n,) u1 under "leak/NAME".

    Where the images are at hand, those that only look alike to the surrogate are not marked.
    """
    found = {}
    for test in tests:
        of = leakage.leaks(source.features, np.asarray(test.features), centre, similar, stand_out)
        if stand_out and (check := checker(source, test)) is not None:
            of = _copies_alone(of, check)
        found[f"leak/{test.name}"] = (of >= 0).astype("u1")
    return found


def duplicates_of(
    source: Features,
    centre: np.ndarray,
    similar: float,
    stand_out: bool,
    seed: int,
    keys: np.ndarray,
    hashes: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """Near-duplicates of a source: "duplicate_of", (n,) i8, the original's row or -1.

    With hashes also "duplicate_by", (n,) u1: 1 for copies that features found, 2 for those that the hash found, 3 for
    both, 0 for images that are no copies.

    Where the images are at hand, pairs that only look alike to the surrogate are left out, unless the cosine alone is
    to decide (`stand_out` off, SemDeDup).
    """
    found = near_duplicates.near_duplicates(source.features, centre, similar, stand_out=stand_out, seed=seed, keys=keys)
    if stand_out and (found >= 0).any() and (check := checker(source)) is not None:
        found = _copies_alone(found, check)
    if hashes is None:
        return {"duplicate_of": found.astype("<i8")}
    rows = np.flatnonzero(found >= 0)
    by_features, by_hash = np.sort(np.stack([rows, found[rows]], axis=1), axis=1), copies_by_hash(source, hashes)
    n = len(source)
    joined = one_original(np.unique(np.concatenate([by_features, by_hash]), axis=0), n, keys)
    copies = np.flatnonzero(joined >= 0)
    pairs = np.sort(np.stack([copies, joined[copies]], axis=1), axis=1) @ np.array([n, 1])
    by = np.zeros(n, "u1")
    for bit, known in ((1, by_features), (2, by_hash)):
        by[copies] |= np.where(np.isin(pairs, known @ np.array([n, 1])), bit, 0).astype("u1")
    return {"duplicate_of": joined.astype("<i8"), "duplicate_by": by}


def _copies_alone(of: np.ndarray, check: Check) -> np.ndarray:
    """Partners of each row, -1 for none, without those that are no copies on the images."""
    rows = np.flatnonzero(of >= 0)
    found = of.copy()
    found[rows[~check(rows, of[rows])]] = -1
    return found


def dynamics_scores(path: Path, source: Features) -> dict[str, np.ndarray]:
    """Scores of a dynamics file, (n,) f4 under "sample/NAME"; NaN for samples that the surrogate did not train on."""
    arrays, meta = open_arrays(path, "winnow-dynamics/1")
    if meta.get("fingerprint") != source.source:
        raise InputError(f"{path}: dynamics of another source than {source.path}'s")
    check_order(
        path, meta.get("order"), source.path, source.order, "run `prune features` with the beton of the training"
    )
    position = np.asarray(arrays["position"])
    if len(position) and position.max() >= source.total:
        raise InputError(f"{path}: positions beyond the source's {source.total} samples")
    if len(arrays["probability"]) < 2:
        raise InputError(f"{path}: at least 2 epochs of dynamics are needed")
    found: dict[str, np.ndarray] = {}
    starts = range(0, len(position), _SAMPLES)
    for begin in track(starts, len(starts), "dynamics"):
        part = slice(begin, min(len(position), begin + _SAMPLES))
        probability, margin, correct = (
            np.stack([read_rows(row, part) for row in arrays[name]]) for name in ("probability", "margin", "correct")
        )
        for name, values in training_dynamics.all_scores(probability, margin, correct, len(source.classes)).items():
            whole = found.setdefault(f"sample/{name}", np.full(source.total, np.nan, np.float32))
            whole[position[part]] = values
    return found
