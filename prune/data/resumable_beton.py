"""A beton whose writing resumes after a kill: the images are in a partial file, their sizes in a journal beside it.

The journal's first line identifies the work; 4 bytes (little-endian) follow for the size of each image that is safely
on the disk. Images beyond the journal's end are written again.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from prune.data.beton import BetonWriter

Shape = Callable[[int], tuple[bool, int, int, int]]
"""Row -> whether it is a JPEG, height, width, label."""
Check = Callable[[int, bytes], bool]
"""Row and stored bytes -> whether they are that image."""
SAFE_BYTES = 1 << 28
"""Bytes of images between two entries in the journal: at most so many are written again after a kill."""


class ResumableBeton:
    """The partial file and the journal of the beton `out`.

    Use as a context manager; `sizes` are then the sizes of the images that an earlier run of the same work has written.
    The caller holds `out` (`prune.runs.outputs.claim_file`), so that there is one writer.

    Parameters
    ----------
    out : Path
        The beton, when it is complete.
    work : str
        Identifies the work in one line; what another work has left is overwritten.
    """

    def __init__(self, out: Path, work: str) -> None:
        self.out = out
        self.partial = out.with_name(f".{out.name}.partial")
        self._journal_path = out.with_name(f".{out.name}.journal")
        self._head = work.encode() + b"\n"
        self.sizes = np.zeros(0, "<i4")
        self._journalled = self._waiting = 0

    def __enter__(self) -> ResumableBeton:
        self.out.parent.mkdir(parents=True, exist_ok=True)
        self._journal = open(self._journal_path, "a+b", buffering=0)
        self._journal.seek(0)
        text = self._journal.read()
        if text.startswith(self._head) and self.partial.exists():
            body = text[len(self._head) :]
            self.sizes = np.frombuffer(body[: len(body) // 4 * 4], "<i4")
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._journal.close()

    def start(
        self,
        capacity: int,
        page_size: int,
        shape: Shape,
        check: Check,
    ) -> BetonWriter:
        """Open the writer after the images that are already written and whole; `writer.count` says how many.

        Parameters
        ----------
        capacity, page_size : int
            As for `BetonWriter`.
        shape : callable
            Row to (jpeg, height, width, label).
        check : callable
            Row and stored bytes to whether the image is right.
        """
        good = self._good(capacity, page_size, shape, check) if len(self.sizes) else 0
        self._journal.truncate(0)
        self._journal.write(self._head + self.sizes[:good].tobytes())
        self._journalled = good
        if not good:
            return BetonWriter(self.partial, capacity, page_size)
        return self._after(good, capacity, page_size, shape)

    def _good(self, capacity: int, page_size: int, shape: Shape, check: Check) -> int:
        """How many images at the beginning of the partial file are right."""
        if len(self.sizes) > capacity or self.sizes.min() <= 0 or self.sizes.max() > page_size:
            return 0
        writer = self._after(len(self.sizes), capacity, page_size, shape)
        writer.close_incomplete()
        pointers = writer.samples["image"]["pointer"]
        with open(self.partial, "rb") as file:
            for row, size in enumerate(self.sizes.tolist()):
                file.seek(int(pointers[row]))
                data = file.read(size)
                if len(data) < size or not check(row, data):
                    return row
        return len(self.sizes)

    def _after(self, count: int, capacity: int, page_size: int, shape: Shape) -> BetonWriter:
        """A writer that resumes after the first `count` images."""
        writer = BetonWriter(self.partial, capacity, page_size, resume=True)
        for row, size in enumerate(self.sizes[:count].tolist()):
            jpeg, height, width, label = shape(row)
            writer.record_existing(size, jpeg=jpeg, height=height, width=width, label=label)
        return writer

    def image_added(self, writer: BetonWriter, size: int) -> None:
        """Count the image just added; from time to time sync all to the disk and then enter them in the journal."""
        self._waiting += size
        if self._waiting >= SAFE_BYTES:
            writer.sync()
            self._journal.write(writer.sizes[self._journalled : writer.count].astype("<i4").tobytes())
            os.fsync(self._journal.fileno())
            self._journalled, self._waiting = writer.count, 0

    def finish(self) -> None:
        """Rename the complete beton into place and remove the journal."""
        with open(self.partial, "rb") as file:
            os.fsync(file.fileno())
        os.replace(self.partial, self.out)
        self._journal_path.unlink()

    def discard(self) -> None:
        """Remove the partial file and the journal."""
        self.partial.unlink(missing_ok=True)
        self._journal_path.unlink(missing_ok=True)
