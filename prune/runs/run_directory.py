"""A run's directory: who owns it, which settings made it, and whether it is done."""

from __future__ import annotations

import dataclasses
import platform
import time
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from prune.runs.files import InputError, atomic, read_json, write_json

VERSION = "0.1.0"


_VERSIONED = ("numpy", "torch", "timm", "ffcv", "accelerate", "faiss-cpu")


NOT_IDENTITY = frozenset({"json", "force", "dry_run", "workers", "progress"})
"""Config fields that change how a step runs and not what it makes: ignored when two configs are compared."""


def plain(value: Any) -> Any:
    """Turn a config (dataclasses, paths, tuples) into what JSON can hold."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(v) for v in value]
    return value


def identity(config: Any) -> dict[str, Any]:
    """The part of a config that decides what a step makes: all but the output's place and the way of running."""
    return {k: v for k, v in plain(config).items() if k not in NOT_IDENTITY and k != "out"}


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Name each key whose value differs, as `key: old -> new`."""
    keys = sorted(old.keys() | new.keys())
    return [f"{k}: {old.get(k)!r} -> {new.get(k)!r}" for k in keys if old.get(k) != new.get(k)]


def refuse_other(place: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Raise `InputError` when `place` was made with another config or from other inputs."""
    if changed := differences(old, new):
        raise InputError(
            f"{place} was made with other settings ({'; '.join(changed)}): give another --out, or remove it"
        )


def claim(out: Path, config: Any) -> bool:
    """Take the run directory `out` for `config`.

    Returns
    -------
    bool
        True when an earlier run with the same config has finished (`DONE` stands): there is nothing to do.

    Raises
    ------
    InputError
        The directory holds a run with another config, or other things, or is a file.
    """
    out = Path(out)
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: is a file; --out must be a directory")
    place = out / "config.json"
    if place.exists():
        refuse_other(out, read_json(place), identity(config))
    else:
        _refuse_foreign(out)
        out.mkdir(parents=True, exist_ok=True)
        write_json(place, identity(config))
    return (out / "DONE").exists()


def _refuse_foreign(out: Path) -> None:
    """Raise `InputError` when a directory without a run holds other things than a run that begins.

    Another process may be claiming it now, and betons of target folders are written to data/ before.
    """
    there = sorted(p.name for p in out.iterdir()) if out.is_dir() else []
    if foreign := [name for name in there if not name.startswith(".") and name not in ("config.json", "data")]:
        raise InputError(f"{out}: holds {foreign[0]!r} and no run of ours; give another --out")


def finish(out: Path, **facts: Any) -> None:
    """Write `provenance.json` (facts, versions, time) and then `DONE`."""
    write_json(
        out / "provenance.json",
        {**facts, "versions": versions(), "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())},
    )
    with atomic(out / "DONE") as partial:
        partial.write_text("")


def versions() -> dict[str, str]:
    """Versions of Winnow, Python and the libraries whose behaviour shows in results."""
    found = {"winnow": VERSION, "python": platform.python_version()}
    for name in _VERSIONED:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
