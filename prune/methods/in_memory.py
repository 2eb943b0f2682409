"""Selection on arrays, without files: `prune.select(features, labels, targets=..., keep=0.2)` returns rows.

It computes the scores that `prune score` computes and chooses as `prune select` does, with the same functions: the same
features, labels, ids and class names give the same rows.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from prune.index.index_summary import copies_sentence
from prune.methods import presets
from prune.methods.decision import Rules, decide, gate_of, largest_without_copies, parts_of
from prune.methods.gate_scores import domain_gates
from prune.methods.quota import budget_of
from prune.methods.selection_inputs import Constraints, Pool
from prune.runs.files import InputError
from prune.scores import score_source
from prune.scores.chance_votes import take_facts
from prune.scores.feature_files import Features
from prune.scores.sample_keys import sample_keys
from prune.scores.score_table import BY_NAME
from prune.scores.streaming import as_float16

ALWAYS = ("prototype", "duplicates")
"""What is computed whatever the method, as by `prune score`."""
Table = np.ndarray
"""(n, d) numbers."""


_FLAG = re.compile(r"--([a-z][a-z-]*)")


@contextmanager
def _arguments_for_flags() -> Iterator[None]:
    """Errors of the code that `prune select` shares name its flags; here they name the arguments."""
    try:
        yield
    except InputError as error:
        parts = str(error).split("`")  # every second one is a command, whose flags stay
        parts[::2] = [_FLAG.sub(lambda flag: flag[1].replace("-", "_"), part) for part in parts[::2]]
        raise InputError("`".join(parts)) from None


@_arguments_for_flags()
def select(
    features: Table,
    labels: Sequence[Any] | np.ndarray,
    *,
    targets: Mapping[str, Table] | Table | None = None,
    keep: float | None = None,
    budget: int | None = None,
    method: str = "winnow",
    mix: str | None = None,
    quota: str | None = None,
    rank: str | None = None,
    gate: str | None = None,
    floor: float | None = None,
    protect: Sequence[str] = (),
    drop_duplicates: bool = False,
    logits: Table | None = None,
    target_logits: Mapping[str, Table] | Table | None = None,
    target_labels: Mapping[str, np.ndarray] | np.ndarray | None = None,
    target_ids: Mapping[str, np.ndarray] | np.ndarray | None = None,
    classes: Sequence[str] | None = None,
    ids: Sequence[str] | np.ndarray | None = None,
    always: np.ndarray | None = None,
    never: np.ndarray | None = None,
    seed: int = 0,
    workers: int | None = None,
) -> np.ndarray:
    """Choose the samples of a source to keep, from features alone.

    Parameters
    ----------
    features : (n, d) float
        Of the source's images, by any network. They are rounded to float16, as features files are.
    labels : (n,) int or str
        Classes: whole numbers in [0, c), or names.
    targets : (m, d) float, or mapping of str to such arrays, optional
        Features of the targets' training images by the same network. Without targets classes keep their shares.
    keep : float, optional
        Fraction to keep, in (0, 1]. Give this or `budget`.
    budget : int, optional
        Number of samples to keep.
    method : str
        A named method; `prune select --help` lists them with their papers and needs.
    mix, quota, rank, gate, floor, protect, drop_duplicates
        As the flags of `prune select`. A gate other than "open" has the odds of looking like the targets computed.
    logits : (n, c) float, optional
        Of a network that knows the classes, in their order: for scores such as EL2N, and votes by label mapping (LM).
    target_logits : (m, c) float, or mapping of str to such arrays, optional
        The same of the targets' images; needed where `logits` and `targets` are given.
    target_labels : (m,) int, or mapping of str to such arrays, optional
        The targets' own classes, for method `influence`.
    target_ids : (m,) str or bytes, or mapping of str to such arrays, optional
        The gate's odds depend on the seed and these; on the row numbers when absent.
    classes : sequence of str, optional
        Names of the classes, in the order of the label numbers. When absent the numbers, or the sorted names.
    ids : (n,) str or bytes, optional
        Draws and ties depend on the seed and these; on the row numbers when absent.
    always, never : (n,) bool, optional
        Samples that are kept, and not kept, whatever their score.
    seed : int
    workers : int, optional
        Threads; one per core when absent. The result does not depend on them.

    Returns
    -------
    (k,) int64
        Rows to keep, ascending; exactly `budget`, or keep * n rounded.

    Raises
    ------
    InputError
        A ValueError: shapes that do not fit, a method that needs what is not given, or a budget that cannot be met.

    Warns
    -----
    UserWarning
        Near-duplicates are kept since the budget needs them; it names the largest keep that needs none.

    Examples
    --------
    A target that looks like the second of three classes gets that class whole:

    >>> import numpy as np
    >>> import prune
    >>> rng = np.random.default_rng(0)
    >>> labels = np.repeat([0, 1, 2], 20)
    >>> features = 9 * np.eye(3)[labels] + rng.normal(size=(60, 3))
    >>> target = 9 * np.eye(3)[[1] * 12] + rng.normal(size=(12, 3))
    >>> rows = prune.select(features, labels, targets=target, keep=1 / 3, method="dp4tl-fm")
    >>> np.bincount(labels[rows], minlength=3).tolist()
    [0, 20, 0]
    """
    rules = Rules(
        method=method,
        mix=mix,
        quota=quota,
        rank=rank,
        gate=gate,
        floor=floor,
        protect=tuple(protect),
        drop_duplicates=drop_duplicates,
        seed=seed,
    )
    source = _source(features, logits, labels, classes, ids)
    n = len(source)
    given = _targets(targets, target_logits, target_labels, target_ids, source)
    wanted = _count(keep, budget, n)
    pool = _scored(source, given, rules, workers)
    parts = parts_of(rules, keep if keep is not None else wanted / n, pool.arrays)
    needed = any(presets.needs_features(part.method.rank) for part in parts)
    constraints = Constraints(_mask("never", never, n), _mask("always", always, n), None)
    opening = gate_of(rules, pool.arrays, pool.meta)
    decision = decide(pool, rules, parts, wanted, opening, constraints, features=source.features if needed else None)
    if copies := len(decision.kept_copies()):
        most = largest_without_copies(pool, rules, parts, wanted, opening, constraints)
        said = copies_sentence({"kept": copies, "none_up_to": most}, n)
        warnings.warn(_FLAG.sub(lambda flag: flag[1], said), stacklevel=3)  # past what the decorator adds
    return decision.choice.rows


@dataclass(frozen=True)
class _InMemory(Features):
    """Features that no file holds, with the ids that were given."""

    given_ids: np.ndarray | None = None

    def ids(self) -> np.ndarray | None:
        """Ids of the images, (n,) bytes; None where none were given."""
        return self.given_ids


def _source(
    features: Table,
    logits: Table | None,
    labels: Sequence[Any] | np.ndarray,
    classes: Sequence[str] | None,
    ids: Sequence[str] | np.ndarray | None,
) -> _InMemory:
    numbers, names = _labels(labels, classes)
    found = _table("features", features, len(numbers))
    if not len(found):
        raise InputError("features: no samples")
    outputs = np.empty((len(found), 0), np.float16)
    if logits is not None:
        outputs = _table("logits", logits, len(found))
        if outputs.shape[1] != len(names):
            raise InputError(f"logits: {outputs.shape[1]} columns for {len(names)} classes")
    known = names if logits is not None else []
    return _features("source", found, outputs, numbers, names, known, _ids("ids", ids, len(numbers)))


def _targets(
    targets: Mapping[str, Table] | Table | None,
    logits: Mapping[str, Table] | Table | None,
    labels: Mapping[str, np.ndarray] | np.ndarray | None,
    ids: Mapping[str, np.ndarray] | np.ndarray | None,
    source: Features,
) -> list[Features]:
    each, outputs, classes, names_of = map(_by_target, (targets, logits, labels, ids))
    known = source.model["classes"]
    found: list[Features] = []
    for what, given in (("target_logits", outputs), ("target_labels", classes), ("target_ids", names_of)):
        if extra := sorted(set(given) - set(each)):
            raise InputError(f"{what}: {extra[0]!r} is no target")
    for name, array in each.items():
        table = _table(f"targets[{name!r}]", array, None)
        if table.shape[1] != source.features.shape[1] or not len(table):
            raise InputError(
                f"targets[{name!r}]: an array of {table.shape}; (m, {source.features.shape[1]}) is needed, features of "
                "the same network as the source's"
            )
        if known and name not in outputs:
            raise InputError(f"target_logits: those of {name!r} are missing, and logits of the source are given")
        mine = np.empty((len(table), 0), np.float16)
        if known:
            mine = _table(f"target_logits[{name!r}]", outputs[name], len(table))
            if mine.shape[1] != len(known):
                raise InputError(f"target_logits[{name!r}]: {mine.shape[1]} columns for {len(known)} classes")
        numbers, names = _labels(classes.get(name, np.zeros(len(table), np.int32)), None)
        if len(numbers) != len(table):
            raise InputError(f"target_labels[{name!r}]: {len(numbers)} for {len(table)} samples")
        mine_ids = _ids(f"target_ids[{name!r}]", names_of.get(name), len(table))
        found.append(_features(name, table, mine, numbers, names, known, mine_ids))
    return found


def _ids(name: str, ids: Sequence[str] | np.ndarray | None, n: int) -> np.ndarray | None:
    """Ids as bytes, (n,); None where none are given."""
    if ids is None:
        return None
    found = np.asarray(ids)
    found = found if found.dtype.kind == "S" else np.char.encode(found.astype(str), "utf-8")
    if found.shape != (n,) or len(np.unique(found)) < n:
        raise InputError(f"{name}: {n} different ones are needed, one for each sample")
    return found


def _by_target(given: Mapping[str, np.ndarray] | np.ndarray | None) -> dict[str, np.ndarray]:
    if given is None:
        return {}
    return dict(given) if isinstance(given, Mapping) else {"target": given}


def _features(
    name: str,
    features: np.ndarray,
    logits: np.ndarray,
    label: np.ndarray,
    classes: list[str],
    known: list[str],
    ids: np.ndarray | None,
) -> _InMemory:
    place = Path(name)
    model = {"arch": "arrays", "classes": known, "fingerprint": "arrays"}
    rows = np.arange(len(features))
    return _InMemory(
        place, features, logits, label, classes, model, name, name, place / "none", "", rows, len(rows), given_ids=ids
    )


def _labels(labels: Sequence[Any] | np.ndarray, classes: Sequence[str] | None) -> tuple[np.ndarray, list[str]]:
    """Labels as numbers, (n,) int32, and the classes' names."""
    given = np.asarray(labels)
    if given.ndim != 1 or given.dtype.kind not in "iuUS":
        raise InputError(f"labels: an array of {given.dtype} and the shape {given.shape}; one number or name a sample")
    if given.dtype.kind in "US":
        text = given.astype(str)
        names = list(classes) if classes is not None else np.unique(text).tolist()
        place = {name: number for number, name in enumerate(names)}
        if unknown := sorted(set(text.tolist()) - set(names)):
            raise InputError(f"labels: {unknown[0]!r} is not among the classes")
        return np.array([place[name] for name in text.tolist()], np.int32), names
    count = int(given.max(initial=-1)) + 1
    names = list(classes) if classes is not None else [str(k) for k in range(count)]
    if given.min(initial=0) < 0 or count > len(names):
        raise InputError(f"labels: whole numbers in [0, {len(names)}) are needed")
    return given.astype(np.int32), names


def _table(name: str, array: Table, rows: int | None) -> np.ndarray:
    """The array as float16; `InputError` unless it is a table of finite numbers."""
    table = np.asarray(array)
    if table.ndim != 2 or table.dtype.kind not in "fiu" or (rows is not None and len(table) != rows):
        wanted = "any number of" if rows is None else str(rows)
        raise InputError(f"{name}: an array of {table.dtype} and the shape {table.shape}; {wanted} rows of numbers")
    if not np.isfinite(table).all():
        raise InputError(f"{name}: not finite, first in row {int(np.isfinite(table).all(axis=1).argmin())}")
    return as_float16(table)


def _count(keep: float | None, budget: int | None, n: int) -> int:
    if (keep is None) == (budget is None):
        raise InputError("give either keep or budget")
    if keep is not None:
        return budget_of(keep, n)
    if budget is None or not 1 <= budget <= n:
        raise InputError(f"budget {budget} is outside 1 to {n}, the size of the source")
    return int(budget)


def _mask(name: str, mask: np.ndarray | None, n: int) -> np.ndarray | None:
    if mask is None:
        return None
    found = np.asarray(mask)
    if found.shape != (n,) or found.dtype.kind != "b":
        raise InputError(f"{name}: a mask of {n} booleans is needed")
    return found


def _scored(source: _InMemory, targets: list[Features], rules: Rules, workers: int | None) -> Pool:
    """The arrays that `prune score` would write for what the rules need."""
    also = {*ALWAYS, *_also(rules)}
    keys = sample_keys(rules.seed, ids=source.ids(), n=len(source))
    arrays, centre = score_source.score_source(source, targets, also=also, seed=rules.seed, keys=keys, workers=workers)
    arrays |= score_source.duplicates_of(source, centre, 0.95, True, rules.seed, keys)
    if "influence" in also:
        arrays |= score_source.influence_scores(source, targets, workers)
    votes = take_facts(arrays)
    gates: dict[str, Any] = {}
    if "domain" in also:
        odds, gates = domain_gates(source, targets, rules.seed, workers, tell=False)
        arrays |= odds
    meta = {"targets": [target.name for target in targets], "gates": gates, "votes": votes}
    return Pool(arrays, meta, source.label.astype(np.int64), source.classes, source.ids())


def _also(rules: Rules) -> set[str]:
    """Values of `prune score --also` that the rules need beyond the usual ones."""
    from prune.methods.mixing import parse_mix

    names = [rules.method] if rules.mix is None else [one.method for one in parse_mix(rules.mix)]
    ranks = [presets.PRESETS[name].rank for name in names if name in presets.PRESETS]
    ranks = [rules.rank] if rules.rank is not None else ranks
    scores = {score for rank in ranks for score in rank.partition(":")[0].split("/")}
    found = {BY_NAME[score].also for score in scores if score in BY_NAME} - {""}
    gated = rules.gate not in (None, "open") or "gate" in names
    return found | ({"domain"} if gated else set())
