"""Which share of the traffic a compressed model may have: stages, and the decision after each look. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from prune.runs.files import InputError
from transfer.watching.sequential_test import by_start, log_evidence_of_looks, log_threshold, surely_at_least

STAY, ADVANCE, PASSED, ALARM, ROLLBACK = "stay", "advance", "passed", "alarm", "rollback"
ALL = "all images"
"""Name of the group of all images, which is tested like a class."""


@dataclass(frozen=True)
class Rule:
    """What decides, fixed before the first look.

    Attributes
    ----------
    shares : tuple of float
        Percent of the traffic in each stage, increasing.
    each : int
        Images to compare in a stage before the next one.
    error : float
        Probability that a model that is nowhere worse than allowed is ever alarmed.
    allowed : dict of str to float
        Of every class, and of `ALL`: the share of errors that is allowed.
    """

    shares: tuple[float, ...]
    each: int
    error: float
    allowed: dict[str, float]


def stages_of(text: str) -> tuple[float, ...]:
    """Read `1,10,50,100`.

    Raises
    ------
    InputError
        Not numbers in (0, 100] that increase.
    """
    try:
        shares = tuple(float(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"--stages {text}: percents of the traffic are expected, as in 1,10,50,100") from None
    if wrong := [share for share in shares if not 0 < share <= 100]:
        raise InputError(f"--stages {text}: {wrong[0]:g} is no share of the traffic; percents from above 0 to 100")
    if any(after <= before for before, after in zip(shares, shares[1:])):
        raise InputError(f"--stages {text}: each stage must be larger than the one before, as in 1,10,50,100")
    return shares


def is_in_share(digest: int, share: float) -> bool:
    """Whether an image belongs to a share of the traffic in percent; those of a small share are in every larger one.

    Parameters
    ----------
    digest : int
        64 bits of the file's bytes (`prune.index.manifest.digest`).
    share : float
    """
    return digest < math.ldexp(share / 100, 64)


def current_stage(looks: Sequence[Mapping[str, Any]]) -> int:
    """Number of the stage after these looks, from 0."""
    return 0 if not looks else int(looks[-1]["stage"]) + (looks[-1]["decision"] == ADVANCE)


def group_rows(rule: Rule, looks: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """For every group: images, share of errors, what is allowed, evidence, the alarm, and since when.

    "since" is the look from which on the evidence is largest, "low" the share of errors from there on that is certain.
    """
    threshold = log_threshold(rule.error, len(rule.allowed))
    pairs = [[look["counts"].get(name, (0, 0)) for name in rule.allowed] for look in looks]
    counts = np.array(pairs, np.int64).reshape(len(looks), len(rule.allowed), 2)
    allowed = np.array(list(rule.allowed.values()))
    parts = by_start(counts[..., 1], counts[..., 0], allowed)
    evidence = log_evidence_of_looks(counts[..., 1], counts[..., 0], allowed)
    rows = []
    for g, name in enumerate(rule.allowed):
        start = int(parts[:-1, g].argmax()) if len(looks) else 0
        images, wrong = counts[:, g].sum(0).tolist()
        late = counts[start:, g].sum(0).tolist()
        reserved = float(np.log((start + 1) * (start + 2)))
        rows.append(
            {
                "class": name,
                "n": images,
                "wrong": wrong / images if images else None,
                "since": start + 1,
                "low": surely_at_least(late[1], late[0], threshold + reserved),
                "allowed": float(allowed[g]),
                "evidence": round(float(evidence[g]), 6),
                "alarm": bool(evidence[g] >= threshold),
            }
        )
    return rows


def decided(rule: Rule, looks: Sequence[Mapping[str, Any]], counts: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    """The decision after one more look.

    An alarm ends the deployment. Without one a stage is passed after `each` compared images, the next stage begins, and
    the last stage stays passed.

    Parameters
    ----------
    rule : Rule
    looks : sequence of mapping
        Those before.
    counts : mapping
        Group name to images and errors of this look.

    Returns
    -------
    dict
        "stage", "share", "decision", "alarms", "evidence" (the largest, as a logarithm).
    """
    stage = current_stage(looks)
    here = [*looks, {"stage": stage, "counts": counts, "decision": STAY}]
    rows = group_rows(rule, here)
    seen = sum(look["counts"].get(ALL, (0, 0))[0] for look in here if look["stage"] == stage)
    last = stage == len(rule.shares) - 1
    alarms = [row["class"] for row in rows if row["alarm"]]
    decision = ALARM if alarms else (PASSED if last else ADVANCE) if seen >= rule.each else STAY
    return {
        "stage": stage,
        "share": rule.shares[stage],
        "decision": decision,
        "alarms": alarms,
        "evidence": max(row["evidence"] for row in rows),
    }
