"""Where an index came from: one entry per step, appended, never rewritten.

An entry says step, config, inputs by fingerprint and versions. It holds no time and no place on a disk, so that the
same command on the same inputs gives the same bytes on every machine.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from prune.runs.files import InputError
from prune.runs.run_directory import identity, plain, refuse_other, versions


def record(step: str, config: Any, inputs: Mapping[str, Any], **facts: Any) -> dict[str, Any]:
    """Describe one step.

    Parameters
    ----------
    step : str
        For instance "select".
    config : dataclass instance or mapping
        Settings. Paths are left out: what lay there stands in `inputs`.
    inputs : mapping
        Name to fingerprint (or to anything that JSON can hold).
    facts : optional
        What else a reader months later should know; JSON-serialisable.

    Returns
    -------
    dict
        {"step", "config", "inputs", "versions", **facts}
    """
    return {
        "step": step,
        "config": identity(_without_paths(config)),
        "inputs": plain(inputs),
        "versions": dict(_versions()),
        **plain(facts),
    }


@cache
def _versions() -> dict[str, str]:
    return versions()


def _without_paths(config: Any) -> dict[str, Any]:
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        config = {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
    return {key: value for key, value in config.items() if not _is_path(value)}


def _is_path(value: Any) -> bool:
    several = isinstance(value, (list, tuple)) and len(value) > 0
    return isinstance(value, Path) or (several and all(isinstance(v, Path) for v in value))


def already_made(out: Path, entry: Mapping[str, Any]) -> bool:
    """Say whether the index at `out` is what the step described by `entry` would write.

    Returns
    -------
    bool
        True: it stands there, whole. False: nothing is there.

    Raises
    ------
    InputError
        Something else is there: another step, config or inputs, or a damaged file.
    """
    from prune.index.pruned_index import PrunedIndex

    out = Path(out)
    if not out.exists():
        return False
    try:
        last = PrunedIndex.load(out).provenance[-1:]
    except InputError as error:
        raise InputError(f"{error}; give another --out, or remove it") from None
    old = last[0] if last else {}
    refuse_other(out, _flat(old), _flat(entry))
    return True


def _flat(entry: Mapping[str, Any]) -> dict[str, Any]:
    flat = {"step": entry.get("step")}
    for part in ("config", "inputs"):
        flat |= {f"{part}.{key}": value for key, value in (entry.get(part) or {}).items()}
    return flat
