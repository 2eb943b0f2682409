"""Domain scores of a source for a scores file, and how wide the gate of each target should be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from prune.index.npz import open_arrays
from prune.methods.gate import describe, gate_width, hold_open, passes
from prune.runs.files import InputError, note, share_of
from prune.scores.appended_scores import gate_state
from prune.scores.domain import ALL, domain_scores
from prune.scores.feature_files import Features, check_order


def domain_gates(
    source: Features,
    targets: Sequence[Features],
    seed: int,
    workers: int | None,
    *,
    tell: bool = True,
    growing: bool = False,
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Score the source by how much its images look like the targets, and find the gates' widths.

    Returns
    -------
    arrays : dict of str to float32 array
        "sample/domain" for all targets, "sample/domain/NAME" for each, (n,); for a source that is `growing` also
        "append/gate-mean" and the like, the models.
    gates : dict of str to dict
        The fields of `prune.methods.gate.Gate`, by the score's name.
    """
    found = domain_scores(
        source.features,
        {target.name: np.asarray(target.features) for target in targets},
        keys=source.keys(seed),
        target_keys={target.name: target.keys(seed) for target in targets},
        workers=workers,
    )
    gates = {}
    for name, odds in found.source.items():
        gate = gate_width(odds, found.targets[name], found.weights[name])
        gates[name] = {key: value for key, value in asdict(gate).items() if key != "odds"}
        if tell and (name == ALL or len(targets) > 1):
            note(describe(gate, "the targets" if name == ALL else name.removeprefix(f"{ALL}/")))
    arrays = {f"sample/{name}": values.astype("<f4") for name, values in found.source.items()}
    return (arrays | gate_state(found.models) if growing else arrays), gates


def borrowed_gates(scores: Path, source: Features) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Domain scores and gates of another scores file on the same source.

    Raises
    ------
    InputError
        It has none, or is of another source.
    """
    arrays, meta = open_arrays(scores, "winnow-scores/1")
    if meta.get("fingerprint") != source.source:
        raise InputError(f"{scores}: scores of another source than {source.path}'s")
    check_order(scores, meta.get("order"), source.path, source.order, "score the same beton for both")
    found = {name: np.asarray(values) for name, values in arrays.items() if name.split("/")[1:2] == [ALL]}
    if not found:
        raise InputError(f"{scores}: has no domain scores; make them with `prune score --also domain`")
    return found, dict(meta.get("gates", {}))


@dataclass(frozen=True)
class OpenGate:
    """A gate that a selection uses.

    Attributes
    ----------
    score : str
        Name of the domain score.
    width : float
        Share of the source that passes, in (0, 1]; 1 is an open gate.
    odds : (n,) float32
        The score; empty for an open gate.
    """

    score: str
    width: float
    odds: np.ndarray


def chosen_gate(wanted: str, arrays: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> OpenGate:
    """The gate that a user asks for, from a scores file.

    Parameters
    ----------
    wanted : str
        "open", "auto" (the width that the scores file recorded), or SCORE:SHARE.
    arrays, meta : mapping
        Of the scores file.

    Raises
    ------
    InputError
        The scores file lacks the score, or the share is no share.
    """
    if wanted == "open":
        return OpenGate(ALL, 1.0, np.empty(0, np.float32))
    name, _, share = (ALL, "", "auto") if wanted == "auto" else wanted.rpartition(":")
    name = name or ALL
    if f"sample/{name}" not in arrays:
        way_out = "make it with `prune score --also domain`"
        raise InputError(f"--gate {wanted}: the scores file has no {name} score; {way_out}")
    if share == "auto":
        if name not in meta.get("gates", {}):
            raise InputError(f"--gate {wanted}: the scores file records no width; give SCORE:SHARE")
        share = str(meta["gates"][name]["width"])
    if (width := share_of(share)) is None:
        raise InputError(f"--gate {wanted}: give auto, open, or SCORE:SHARE with a share in (0, 1]")
    return OpenGate(name, width, np.asarray(arrays[f"sample/{name}"]))


def let_through(
    gate: OpenGate,
    eligible: np.ndarray,
    label: np.ndarray,
    floor: np.ndarray,
    budget: int,
    whole: np.ndarray | None,
    always: np.ndarray | None,
    keys: np.ndarray,
) -> np.ndarray:
    """Mark the samples that pass a gate, (n,) bool; it opens further where fewer eligible ones pass than are kept.

    Floors, classes that are kept whole and samples that are always kept pass it whatever their odds.
    """
    odds = np.where(eligible, gate.odds, np.nan)
    passing = passes(gate.odds, gate.width, keys)
    if int((passing & eligible).sum()) < budget <= int((~np.isnan(odds)).sum()):
        share = budget / len(odds)
        note(f"gate: opened to {share:.1%} of the source: fewer samples pass than are to be kept")
        passing = passes(odds, share, keys)
    return hold_open(passing, gate.odds, label, floor, whole, always, keys)
