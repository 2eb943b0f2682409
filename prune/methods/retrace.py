"""Makes the selection of an index again, with the reasons: from what the index records, and the files it was made from.

decision, rules = retraced(index, given, lists)     # decision.choice.rows are the index's, or an InputError says why
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from prune.index.pruned_index import PrunedIndex
from prune.methods import presets
from prune.methods.decision import Decision, Rules, decide, gate_of, parts_of, rules_of
from prune.methods.gate_scores import OpenGate, chosen_gate
from prune.methods.group_floors import Groups, read_groups
from prune.methods.mixing import Part
from prune.methods.selection_inputs import (
    Constraints,
    SelectionInputs,
    features_of,
    file_fingerprint,
    read_constraints,
)
from prune.runs.files import InputError


@dataclass(frozen=True)
class Lists:
    """Files that the selection was given: the scores, the user's lists of ids and groups, features of other places."""

    scores: Path | None = None
    never: Path | None = None
    always: Path | None = None
    groups: Path | None = None
    features: Path | None = None


def retraced(index: PrunedIndex, given: SelectionInputs, lists: Lists) -> tuple[Decision, Rules]:
    """The decision behind an index, and its rules.

    Raises
    ------
    InputError
        The index was not made by `prune select` alone, or from other files, or another version of the program keeps
        other samples.
    """
    step = last_selection(index)
    inputs = step.get("inputs", {})
    if inputs.get("like") is not None:
        raise InputError(
            "the index was made with --like, so that an earlier index decided with the rules: `prune show --against` "
            "tells how the two differ"
        )
    check_source(index, given, lists.scores)
    _check("scores", f"--scores {lists.scores}", given.fingerprints.get("scores"), inputs)
    constraints, prints = read_constraints(given, lists.never, lists.always, None)
    _check("never", "--never", prints["never"], inputs)
    _check("always", "--always", prints["always"], inputs)
    _check("groups", "--groups", None if lists.groups is None else file_fingerprint(lists.groups), inputs)
    if (weights := inputs.get("weights")) is not None:
        constraints = Constraints(
            constraints.never, constraints.always, np.array([float(weights[name]) for name in given.classes])
        )
    groups = None if lists.groups is None else read_groups(lists.groups, given.manifest.ids)
    decision, rules = _decided(index, given, constraints, groups, lists.scores, lists.features)
    rows = np.sort(index.rows_in(given.manifest))
    if not np.array_equal(rows, decision.choice.rows):
        lost = int((~np.isin(rows, decision.choice.rows)).sum())
        version = step.get("versions", {}).get("winnow", "another version")
        raise InputError(
            f"the index was made by winnow {version}, and this one would keep {lost} other samples from the same "
            "files: make the index again with `prune select` to have it explained"
        )
    return decision, rules


def kept_by(index: PrunedIndex, given: SelectionInputs, scores: Path) -> np.ndarray:
    """What the rules of an index keep by the scores of another surrogate, (n,) bool; lists of ids play no part."""
    weights = last_selection(index).get("inputs", {}).get("weights")
    values = None if weights is None else np.array([float(weights[name]) for name in given.classes])
    decision, _ = _decided(index, given, Constraints(None, None, values), None, scores, None, as_recorded=False)
    found = np.zeros(len(given.manifest), bool)
    found[decision.choice.rows] = True
    return found


def _decided(
    index: PrunedIndex,
    given: SelectionInputs,
    constraints: Constraints,
    groups: Groups | None,
    scores: Path | None,
    place: Path | None,
    *,
    as_recorded: bool = True,
) -> tuple[Decision, Rules]:
    """The decision by the rules that an index records; floors of groups hold where groups are given."""
    config = last_selection(index).get("config", {})
    rules = rules_of(config)
    rules = rules if groups is not None else replace(rules, floor_groups=None)
    keep = config.get("keep")
    parts = parts_of(rules, len(index) / len(given.manifest) if keep is None else float(keep), given.arrays)
    gate = gate_of(rules, given.arrays, given.meta)
    if as_recorded:
        parts, gate = _recorded(last_selection(index), parts, gate, given)
    needed = any(presets.needs_features(part.method.rank) for part in parts)
    features = features_of(scores, given, place) if needed else None
    decision = decide(
        given.pool,
        rules,
        parts,
        len(index),
        gate,
        constraints,
        features=features.features if features is not None else None,
        feature_rows=features.rows if features is not None and features.partial else None,
        groups=groups,
        trace=True,
    )
    return decision, rules


def _recorded(
    step: dict[str, Any], parts: list[Part], gate: OpenGate, given: SelectionInputs
) -> tuple[list[Part], OpenGate]:
    """Methods and gate as the index records them: what a name such as winnow stands for may have changed since."""
    pairs = step.get("parts") or [step.get("method")]
    if len(pairs) == len(parts) and all(isinstance(pair, dict) for pair in pairs):
        settings = [{name: pair[name] for name in ("quota", "rank", "base", "trim") if name in pair} for pair in pairs]
        parts = [replace(part, method=replace(part.method, **own)) for part, own in zip(parts, settings)]
    width = (step.get("gate") or {}).get("width", 1.0)
    if width != gate.width:
        wanted = "open" if width == 1 else f"{step['gate']['score']}:{width}"
        gate = chosen_gate(wanted, given.arrays, given.meta)
    return parts, gate


def last_selection(index: PrunedIndex, name: str = "--index") -> dict[str, Any]:
    """What an index records of `prune select`; `InputError` when another step made it, or changed it since.

    `name` is what a message calls the index.
    """
    if not index.provenance or index.provenance[-1].get("step") != "select":
        steps = " → ".join(str(entry.get("step")) for entry in index.provenance) or "unknown"
        way = "explain its parts" if steps.endswith("combine") else "explain the one that it was made from"
        raise InputError(f"{name}: made by {steps}; only an index as `prune select` wrote it can be explained: {way}")
    return index.provenance[-1]


def check_source(index: PrunedIndex, given: SelectionInputs, scores: Path | None) -> None:
    """`InputError` when an index was made from another source than that of the scores or the manifest."""
    recorded, now = last_selection(index).get("inputs", {}).get("source"), given.fingerprints["source"]
    if recorded != now:
        named = "--manifest" if scores is None else f"--scores {scores}"
        raise InputError(
            f"{named}: of another source (fingerprint {now}) than the index was made from (fingerprint {recorded})"
        )


def _check(name: str, flag: str, now: str | None, inputs: dict[str, Any]) -> None:
    recorded = inputs.get(name)
    if recorded == now:
        return
    file = "the scores file" if name == "scores" else f"the list of --{name}"
    if recorded is None:
        way = ", and name the source with --manifest" if name == "scores" else ""
        raise InputError(f"{flag}: the index was made without {file}: leave it out{way}")
    if now is None:
        raise InputError(f"the index was made with {file}: give it with --{name}")
    raise InputError(f"{flag}: not {file} that the index was made from (fingerprint {now}, recorded {recorded})")
