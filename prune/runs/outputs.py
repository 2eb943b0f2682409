"""A run's output: who is at work on it, which settings made it, and whether it is done.

Two questions, one answer each: `claim` for steps that write a directory, `claim_file` for steps that write one file.
"""

from __future__ import annotations

import glob
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prune.index.version import versions
from prune.runs.files import InputError, atomic, note, read_json, write_json
from prune.runs.identity import identity, plain, refuse_other
from prune.runs.path_checks import need_directory
from prune.runs.run_lock import directory_lock, file_lock, remove_left_lock


@contextmanager
def claim(out: Path, config: Any, inputs: Mapping[str, Any] | None = None) -> Iterator[bool]:
    """Hold the run directory `out` for `config` until the block ends.

    Ranks above 0 check the settings and take no lock: rank 0 holds the directory for all of them.

    Parameters
    ----------
    out : Path
    config : dataclass instance
        Settings; what is marked (`prune.runs.identity`) does not count.
    inputs : mapping, optional
        Fingerprints of what the run reads; they count like settings.

    Yields
    ------
    bool
        True when an earlier run with the same settings has finished (`DONE` is there): there is nothing to do.

    Raises
    ------
    InputError
        The directory holds a run with other settings, or other things, or another run is at work in it.
    """
    out, inputs = Path(out), dict(inputs or {})
    need_directory(out)
    if _finished(out, config, inputs) or os.environ.get("RANK", "0") != "0":
        remove_left_lock(out / ".lock")
        yield (out / "DONE").exists()
        return
    fresh = not out.exists()
    with directory_lock(out):
        new = not _finished(out, config, inputs) and not (out / "config.json").exists()
        if new:
            write_json(out / "config.json", identity(config) | plain(inputs))
        try:
            yield (out / "DONE").exists()
        except InputError:  # a mistake that was found late leaves nothing either
            if new and {p.name for p in out.iterdir()} <= {"config.json", ".lock", ".lock.beat"}:
                (out / "config.json").unlink()
                if fresh:
                    shutil.rmtree(out)
            raise


def _finished(out: Path, config: Any, inputs: Mapping[str, Any]) -> bool:
    """Whether `out` holds a finished run with these settings; `InputError` when it holds anything else."""
    if (out / "config.json").exists():
        refuse_other(out, read_json(out / "config.json"), config, inputs)
    else:
        _refuse_foreign(out)
    return (out / "DONE").exists()


def _refuse_foreign(out: Path) -> None:
    """Raise `InputError` when a directory without a run holds other things than a run that begins.

    The betons of a target's folders are written to data/ before.
    """
    there = sorted(p.name for p in out.iterdir()) if out.is_dir() else []
    if foreign := [name for name in there if not name.startswith(".") and name not in ("config.json", "data")]:
        raise InputError(f"{out}: holds {foreign[0]!r} and no run of this project; give another --out")


def finish(out: Path, **facts: Any) -> None:
    """Write `provenance.json` (facts, versions, time) and then `DONE`."""
    write_json(
        out / "provenance.json",
        {**facts, "versions": versions(), "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())},
    )
    with atomic(out / "DONE") as partial:
        partial.write_text("")


@contextmanager
def claim_file(
    out: Path,
    record: Callable[[Path], Mapping[str, Any]],
    config: Any,
    inputs: Mapping[str, Any] | None = None,
    flag: str = "--out",
) -> Iterator[bool]:
    """Hold the file `out`, which a step with these settings is about to write, until the block ends.

    Parameters
    ----------
    out : Path
    record : callable
        Reads from a file the settings and inputs that it was made with; `InputError` for a damaged file.
    config : dataclass instance
        Settings; what is marked (`prune.runs.identity`) does not count.
    inputs : mapping, optional
        Fingerprints of what the step reads; they count like settings.
    flag : str
        The flag that names `out`, for messages.

    Yields
    ------
    bool
        True: `out` exists, whole and made with these settings; a note says so, and there is nothing to do.

    Raises
    ------
    InputError
        Something else is there (a directory, a damaged file, other settings or inputs), or another run writes it.
    """
    out, inputs = Path(out), dict(inputs or {})
    if is_up_to_date(out, record, config, inputs, flag):
        remove_left_lock(out.with_name(f".{out.name}.lock"))
        yield True
        note(f"{out}: up to date")  # not where the caller found a reason why it is not
        return
    with file_lock(out, flag):
        yield is_up_to_date(out, record, config, inputs, flag)  # another run may have written it meanwhile


def is_up_to_date(
    out: Path, record: Callable[[Path], Mapping[str, Any]], config: Any, inputs: Mapping[str, Any], flag: str = "--out"
) -> bool:
    """Whether `out` is there, made with these settings; parameters and errors as of `claim_file`."""
    if out.is_dir():
        raise InputError(f"{out}: is a directory; {flag} names a file")
    if not out.exists():
        return False
    try:
        found = record(out)
    except InputError as error:
        raise InputError(f"{error}; give another {flag}, or remove it") from None
    refuse_other(out, found, config, inputs, flag)
    return True


@contextmanager
def scratch(out: Path) -> Iterator[Path]:
    """A folder beside `out`, which this process holds (`claim_file`), for what does not fit the memory.

    It is removed at the end; what a killed run of the same step left is removed first.
    """
    for left in out.parent.glob(f".{glob.escape(out.name)}.*.scratch"):
        shutil.rmtree(left, ignore_errors=True)
    folder = out.with_name(f".{out.name}.{os.getpid()}.scratch")
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write_text(out: Path, text: str) -> None:
    """Write a text file, whole; one of the same content stays as it is.

    Raises
    ------
    InputError
        A directory, or a file of other content: it may be somebody's own.
    """
    if out.is_dir():
        raise InputError(f"--out {out}: is a directory")
    if out.exists():
        if out.read_text(encoding="utf-8", errors="replace") != text:
            raise InputError(f"--out {out}: exists with other content: give another --out, or remove it")
        note(f"{out}: up to date")
        return
    with atomic(out) as partial:
        partial.write_text(text, encoding="utf-8")


def index_record(path: Path) -> dict[str, Any]:
    """The last step in an index file's provenance, for `claim_file`: its name, settings and inputs."""
    from prune.index.pruned_index import PrunedIndex

    steps = PrunedIndex.load(path).provenance
    return flat(steps[-1]) if steps else {}


def flat(step: Mapping[str, Any]) -> dict[str, Any]:
    """Name, settings and inputs of a provenance entry under one another's names."""
    return {"step": step.get("step"), **(step.get("config") or {}), **(step.get("inputs") or {})}
