"""One run at a time in an output: a lock whose file names its holder.

The lock is flock(2), which the system releases when its holder ends, however that happens. Where the file system has
no such locks (Lustre mounted without them), the holder renews a heartbeat instead, and only a holder that has been
silent for two minutes is taken for dead.
"""

from __future__ import annotations

import errno
import json
import os
import shlex
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from prune.runs.files import InputError, note
from prune.runs.path_checks import check_place, need_directory

SILENCE = 120.0
"""Seconds without a heartbeat after which a holder is taken for dead, where the file system has no locks."""
_TOKEN = os.urandom(8).hex()  # tells this process from one of the same number in another container
_UNSUPPORTED = {errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOLCK}


@contextmanager
def directory_lock(out: Path, flag: str | None = "--out") -> Iterator[None]:
    """Hold the directory `out`, which is made when absent; the lock is `out/.lock` until the block ends.

    `flag` names another place in its message; None: there is no other, as for the run that a step changes.

    Raises
    ------
    InputError
        Another run holds it, `out` is a file, or no file can be made there.
    """
    need_directory(out)
    out.mkdir(parents=True, exist_ok=True)
    with _held(out, out / ".lock", flag):
        yield


@contextmanager
def file_lock(out: Path, flag: str | None = "--out") -> Iterator[None]:
    """Hold the file `out`, which may not exist yet; the lock lies beside it until the block ends.

    `flag` names another place in its message, as in `directory_lock`.

    Raises
    ------
    InputError
        Another run holds it, or no file can be made there.
    """
    missing = [folder for folder in out.parents if not folder.exists()]
    out.parent.mkdir(parents=True, exist_ok=True)
    place = out.with_name(f".{out.name}.lock")
    try:
        with _held(out, place, flag):
            yield
    finally:
        with suppress(OSError):  # a folder in which something was written stays
            for folder in missing:
                folder.rmdir()


def remove_left_lock(place: Path) -> None:
    """Remove the lock file of a holder that was killed, where nobody holds it: the output is done, no run will."""
    beat = place.with_name(f"{place.name}.beat")
    if os.environ.get("RANK", "0") != "0" or not place.is_file() or beat.exists():
        return
    from filelock import FileLock, Timeout

    with suppress(Timeout, OSError):
        lock = FileLock(place, timeout=0, fallback_to_soft=False)
        with lock:
            place.unlink(missing_ok=True)


@contextmanager
def _held(out: Path, place: Path, flag: str | None) -> Iterator[None]:
    if os.environ.get("RANK", "0") != "0":  # rank 0 holds it for all ranks of the run
        yield
        return
    check_place(place)  # filelock takes /proc, which makes no files, for a holder that it must wait for
    from filelock import FileLock, SoftFileLease, Timeout

    way_out = "wait for its end" + (f", or give another {flag}" if flag else "")
    try:
        if os.environ.get("WINNOW_LOCKS") == "heartbeat":
            raise OSError(errno.ENOSYS, "locks are switched off by WINNOW_LOCKS")
        lock: FileLock | SoftFileLease = FileLock(place, timeout=_patience(place, 15), fallback_to_soft=False)
        lock.acquire()
    except Timeout:
        raise InputError(f"{out}: {_holder(place)}; {way_out}") from None
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        note(f"{out}: the file system has no locks; a heartbeat in {place.name}.beat keeps other runs away")
        lock = SoftFileLease(f"{place}.beat", timeout=_patience(place, SILENCE + 10), lease_duration=SILENCE)
        try:
            lock.acquire()
        except Timeout:
            raise InputError(f"{out}: {_holder(place)}; {way_out}") from None
    try:
        place.write_text(json.dumps(_ourselves()) + "\n", encoding="utf-8")
        yield
    finally:
        place.unlink(missing_ok=True)  # still held: whoever waits for it finds that it is gone, and begins anew
        lock.release()


def _ourselves() -> dict[str, str | int]:
    command = " ".join([Path(sys.argv[0]).name, *map(shlex.quote, sys.argv[1:])])[:200]
    started = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
    return {"host": socket.gethostname(), "process": os.getpid(), "start": started, "command": command, "token": _TOKEN}


def _read(place: Path) -> dict[str, str | int]:
    try:
        found = json.loads(place.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _patience(place: Path, seconds: float) -> float:
    """Seconds to wait for a lock: none for a holder that lives, some for one that has ended but left traces.

    Its children may still hold the lock for a moment; its last heartbeat may be young.
    """
    holder = _read(place)
    process = holder.get("process")
    if holder.get("host") != socket.gethostname() or not isinstance(process, int):
        return seconds if place.with_name(f"{place.name}.beat").exists() else 0
    if process == os.getpid():  # in containers several processes have this number, and the other may have ended
        return 0 if holder.get("token") == _TOKEN else seconds
    return 0 if Path(f"/proc/{process}").exists() else seconds


def _holder(place: Path) -> str:
    """Who holds a lock, in words."""
    holder = _read(place)
    if not holder:
        return "another run is at work there"
    who = f"host {holder.get('host')}, process {holder.get('process')}, since {holder.get('start')}"
    return f"another run is at work there ({who})"
