"""What a disk that takes no more says to the user: the file, the disk, the room that is needed, and what to do."""

from __future__ import annotations

import errno
import os
import re
import shutil
from pathlib import Path

from prune.index.whole_files import needing

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_MAY_NOT = (errno.EROFS, errno.EACCES, errno.EPERM)
_GONE = (errno.EIO, errno.ENODEV, errno.ENXIO, errno.ESTALE, errno.ENOTCONN, errno.EREMOTEIO)
_SAFE = "what was whole before is unchanged"


def in_words(error: OSError, out: Path | None = None) -> str:
    """Describe a failure to read or write in one line.

    Parameters
    ----------
    error : OSError
        Its notes (`BaseException.add_note`) are part of the line: the room that is needed, what is safe.
    out : Path, optional
        What the step writes, for an error that names no file.
    """
    full = error.errno in (*_NO_ROOM, errno.EFBIG)
    name = (error.filename2 if full else None) or error.filename or out  # of a copy the second is what is written
    file = Path(os.fsdecode(name)) if isinstance(name, (str, bytes, os.PathLike)) else None
    head = f"{file}: " if file else ""
    reason = error.strerror or str(error)
    notes = "".join(f"; {text}" for text in getattr(error, "__notes__", []))
    if isinstance(error, (FileExistsError, NotADirectoryError)):
        return f"{head}a file lies where a folder is needed"
    if error.errno in _NO_ROOM:
        disk, free = _disk(file)
        what = "the quota there is used up" if error.errno == errno.EDQUOT else f"{disk} has {_size(free)} left"
        return f"{head}{reason}: {what}{notes}; {_SAFE}: make room on {disk}, and give the same command again"
    if error.errno == errno.EFBIG:
        return (
            f"{head}{reason}: the limit on the size of a file is reached{notes}; {_SAFE}: raise it (ulimit -f "
            "unlimited), and give the same command again"
        )
    if error.errno in _MAY_NOT:
        return f"{head}{reason}{notes}; {_SAFE}: give a place where you may write, or change its permissions"
    if error.errno in _GONE:
        disk, _ = _disk(file)
        return (
            f"{head}{reason}: {disk} does not answer as a disk should{notes}; {_SAFE} as far as the disk is: connect "
            "it again, and give the same command again"
        )
    return head + reason + notes


def _disk(file: Path | None) -> tuple[str, int | None]:
    """The mount point under a file, and its free bytes."""
    place = (file or Path()).absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    while not os.path.ismount(place) and place != place.parent:
        place = place.parent
    try:
        return f"the disk at {place}", shutil.disk_usage(place).free
    except OSError:
        return f"the disk at {place}", None


def _size(count: int | None) -> str:
    return "an unknown number of bytes" if count is None else f"{count / 1e6:,.1f} MB"


def as_os_error(error: Exception, path: Path) -> OSError | None:
    """The error of the system that a library has put into words, as safetensors does; None where there is none.

    Examples
    --------
    >>> as_os_error(ValueError("I/O error: No space left on device (os error 28)"), Path("x")).filename
    'x'
    """
    found = re.search(r"\(os error (\d+)\)", str(error))
    if found is None:
        return None
    number = int(found[1])
    return OSError(number, os.strerror(number), str(path))


def reserve(path: Path) -> None:
    """Take the room of a sparse file from the disk; `OSError` when there is too little.

    A page of a mapped file that finds no room ends the process by SIGBUS, where no line can be printed any more.
    """
    handle = os.open(path, os.O_RDWR)
    try:
        if size := os.fstat(handle).st_size:
            with needing(path, size):
                try:
                    os.posix_fallocate(handle, 0, size)
                except OSError as error:
                    if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
                        raise
    finally:
        os.close(handle)
