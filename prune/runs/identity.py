"""What identifies a run: the fields of its `Config` that decide the result, marked where they are declared.

Every field counts unless its type says otherwise:

    keep: float = 0.3                        # decides the result
    workers: RunOption[int | None] = None    # changes how the step runs, not what it makes
    scores: Location[Path]                   # where an input lies; its fingerprint counts instead

A step that finds its own output compares what is recorded there with its settings and inputs. A field that an older
record lacks counts as its default.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_type_hints

from prune.runs.files import InputError

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Mark:
    """Why a field is no part of a run's identity."""

    reason: str


RunOption = Annotated[T, Mark("changes how the step runs, not what it makes")]
Location = Annotated[T, Mark("location")]
Growing = Annotated[T, Mark("a finished run takes more of them and does only what is new")]
Recorded = Annotated[T, Mark("recorded under another name, as what it comes to")]


@dataclasses.dataclass(frozen=True)
class Since:
    """A field that decides the result and that older runs did not record: their records fit any value."""

    reason: str


OnceUnrecorded = Annotated[T, Since("older runs of this step did not record it")]


def marked(config: type) -> frozenset[str]:
    """Names of the fields of a config class that are no part of a run's identity."""
    hints = {} if config is type(None) else get_type_hints(config, include_extras=True)
    return frozenset(name for name, hint in hints.items() if any(isinstance(a, Mark) for a in get_args(hint)[1:]))


def _once_unrecorded(config: type) -> frozenset[str]:
    hints = {} if config is type(None) else get_type_hints(config, include_extras=True)
    return frozenset(name for name, hint in hints.items() if any(isinstance(a, Since) for a in get_args(hint)[1:]))


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
    """The fields of a config that decide what a step makes, as JSON can hold them."""
    if config is None:
        return {}
    without = marked(type(config))
    return {name: value for name, value in plain(config).items() if name not in without}


def differences(record: Mapping[str, Any], config: Any, inputs: Mapping[str, Any]) -> list[str]:
    """Name what differs between a record and a run, as `key: recorded -> now`.

    Parameters
    ----------
    record : mapping
        Settings and inputs that an output was made with. A setting that it lacks counts as its default, or as the
        value now where older runs did not record it. A setting that is no part of the identity is ignored.
    config : dataclass instance or None
        The settings now; None where only inputs decide.
    inputs : mapping
        What the run reads, by fingerprint (or anything that JSON can hold).
    """
    now = identity(config) | dict(plain(inputs))
    fields = () if config is None else dataclasses.fields(config)
    defaults = {f.name: plain(f.default) for f in fields if f.default is not dataclasses.MISSING}
    defaults |= {name: now[name] for name in _once_unrecorded(type(config))}
    old = {key: value for key, value in record.items() if key in now or key not in marked(type(config))}
    pairs = {key: (old.get(key, defaults.get(key)), now.get(key)) for key in sorted(now.keys() | old.keys())}
    return [f"{key}: {was!r} -> {value!r}" for key, (was, value) in pairs.items() if was != value]


def refuse_other(
    place: Path, record: Mapping[str, Any], config: Any, inputs: Mapping[str, Any], flag: str = "--out"
) -> None:
    """Raise `InputError` when `place`, which `flag` names, was made with other settings or from other inputs."""
    if changed := differences(record, config, inputs):
        raise made_otherwise(place, changed, flag)


def made_otherwise(place: Path, changed: Sequence[str], flag: str = "--out") -> InputError:
    """The error that names the settings in which an output differs from the requested one."""
    return InputError(f"{place} was made with other settings ({'; '.join(changed)}): give another {flag}, or remove it")
