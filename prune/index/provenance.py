"""The record of how an index was made: one entry per step, appended, never rewritten.

An entry holds step, config, inputs by fingerprint, and versions. It holds no time and no path, so that the same command
on the same inputs gives the same bytes on every machine.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from typing import Any

from .version import versions


def record(step: str, config: Mapping[str, Any], inputs: Mapping[str, Any], **facts: Any) -> dict[str, Any]:
    """Describe one step.

    Parameters
    ----------
    step : str
        For instance "select".
    config : mapping
        Settings that decide the result, without paths of inputs: their fingerprints are in `inputs`.
    inputs : mapping
        Name to fingerprint (or to anything that JSON can hold).
    facts : optional
        What else belongs in the record; JSON-serialisable.

    Returns
    -------
    dict
        {"step", "config", "inputs", "versions", **facts}, with the types that JSON gives back.
    """
    entry = {"step": step, "config": config, "inputs": inputs, "versions": _versions(), **facts}
    found: dict[str, Any] = json.loads(json.dumps(entry))
    return found


@cache
def _versions() -> dict[str, str]:
    return versions()
