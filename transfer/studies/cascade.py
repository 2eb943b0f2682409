"""The gate of a study: what may be kept at all, found before any network is trained. Only the summary reads files.

Thumbnails of the source and of the guiding targets' train splits tell which source images look like the targets. The
surrogate is trained on those that pass, features are computed of those alone, and every pruning method chooses among
them. One gate serves all seeds, since no network plays a part in it. The costs list it under the stage `gate`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prune.runs.files import InputError, share_of

OPEN, AUTO = "open", "auto"
THUMBNAILS = "features/thumbnails"
SCORES = "scores/gate.scores.npz"
INDEX = "indices/gate.index.npz"


def gate_setting(value: str | None) -> str | None:
    """A gate as study.json stores it: "open", "auto", or a share such as "0.35"; None when it is not given.

    Raises
    ------
    InputError
        None of these.

    Examples
    --------
    >>> gate_setting("0.350")
    '0.35'
    """
    if value is None or value in (OPEN, AUTO):
        return value
    if (share := share_of(value)) is None:
        raise InputError(f"--gate {value}: give auto, open, or a share in (0, 1]")
    return f"{share:g}"


def selection_gate(gate: str) -> str:
    """The gate of a study that has one, as `prune select --gate` takes it."""
    return gate if gate == AUTO else f"domain:{gate}"


def passing_share(gate: str) -> float:
    """Share of the source that passes, as far as it is known before the study runs: 1 for "auto"."""
    return 1.0 if gate in (OPEN, AUTO) else float(gate)


def gate_summary(gate: str, out: Path) -> dict[str, Any] | None:
    """The gate as results.json records it; None for a study without one, or before its scores exist.

    Returns
    -------
    dict
        "width", the share that passes, "found", what `prune score` recorded of the odds (`prune.methods.gate.Gate`),
        and "text", both in a sentence.
    """
    if gate == OPEN or not (out / SCORES).exists():
        return None
    from prune.index.npz import open_arrays
    from prune.methods.gate import Gate, describe

    found = open_arrays(out / SCORES, "winnow-scores/1")[1]["gates"]["domain"]
    if gate == AUTO:
        text = describe(Gate(**found, odds=float("nan")))
        return {"width": found["width"], "found": found, "text": f"{text[0].upper()}{text[1:]}."}
    text = f"Gate: the {100 * float(gate):g}% of the source that look most like the targets pass."
    return {"width": float(gate), "found": found, "text": text}
