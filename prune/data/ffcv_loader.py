"""Batches decoded by FFCV's library in threads; `jpeg_decoder.py` is the compiled function that they run.

FFCV's own pipeline ignores every seed for crops and flips, pads or drops samples or cannot start in mid-epoch, returns
the previous image's pixels where a JPEG does not decode, waits for ever when its thread dies, and compiles for seconds
at every start. This one is given its boxes, checks each image's CRC-32 and the decoder's return code, and keeps its
compiled code on disk. Scratch memory belongs to a thread, not to an image of a batch: it stays in the cache.
"""

from __future__ import annotations

import queue
import sys
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from threading import Barrier

import numpy as np
import torch

from prune.data import read_ahead
from prune.data.batches import Batch, Draw, by_blocks, drawing
from prune.data.beton import JPEG
from prune.data.crops import Crops
from prune.data.dataset import Dataset, damage_error
from prune.data.jpeg_decoder import DAMAGED, REFUSED, WAITING, fill
from prune.data.stored_images import Stored, cut_out
from prune.runs import compute_device

AHEAD = 3
"""Batches that are decoded ahead of the one in use."""
READ_AHEAD = 16
"""Batches for which the system is asked at once to read them from the disk, when half of the last ones are begun."""


@dataclass
class _Work:
    """A batch that threads are decoding."""

    rows: np.ndarray
    crops: Crops
    images: torch.Tensor
    status: np.ndarray
    parts: list[Future[None]]


class FfcvLoader:
    """`prune.data.batches.Loader` on FFCV's decoders."""

    def __init__(self, source: Dataset, resolution: int, batch_size: int, workers: int) -> None:
        self.source, self.resolution, self.batch_size, self.workers = source, resolution, batch_size, workers
        beton = source.beton
        self._data = np.asarray(beton.pages())
        self._pinned = compute_device.current() == "cuda"
        self._largest = int(3 * np.max(beton.heights.astype(np.int64) * beton.widths))
        self._scratch: queue.SimpleQueue[tuple[np.ndarray, np.ndarray]] = queue.SimpleQueue()
        self._buffers: list[np.ndarray] = []
        self._pool = ThreadPoolExecutor(workers, "decode")
        barrier = Barrier(workers)
        wait([self._pool.submit(self._begin, barrier) for _ in range(workers)])  # returns when all threads run

    def _begin(self, barrier: Barrier) -> None:
        self._scratch.put((np.empty(self._largest, np.uint8), np.empty(self._largest, np.uint8)))
        barrier.wait()

    def __len__(self) -> int:
        return len(self.source)

    @property
    def labels(self) -> np.ndarray:
        return self.source.beton.labels

    def epoch(
        self, rows: np.ndarray, *, crops: Crops | Draw | None = None, resolution: int | None = None
    ) -> Iterator[Batch]:
        side = resolution or self.resolution
        if side > self.resolution:
            raise ValueError(f"resolution {side}: the loader was opened for at most {self.resolution}")
        return self._batches(np.ascontiguousarray(rows, np.int64), drawing(self.source, crops), side)

    def _batches(self, rows: np.ndarray, draw: Draw, side: int) -> Iterator[Batch]:
        parts = by_blocks(rows, self.batch_size, draw)
        waiting: deque[_Work] = deque()
        asked = submitted = 0  # images
        try:
            while True:
                while len(waiting) <= AHEAD and (part := next(parts, None)) is not None:
                    if asked < len(rows) and submitted >= asked - READ_AHEAD * self.batch_size // 2:
                        self._ask(rows[asked : (asked := asked + READ_AHEAD * self.batch_size)])
                    waiting.append(self._submit(*part, side))
                    submitted += len(part[0])
                if not waiting:
                    return
                work = waiting[0]
                for each in work.parts:
                    each.result()
                waiting.popleft()
                self._mend(work, side)
                yield (
                    work.images.permute(0, 3, 1, 2),
                    torch.from_numpy(self.labels[work.rows]),
                    torch.from_numpy(work.rows.copy()),
                )
        finally:  # also when the caller stops early: wait for the threads that write into these batches
            wait([part for work in waiting for part in work.parts if not part.cancel()])

    def _ask(self, rows: np.ndarray) -> None:
        """Have the system read these images from the disk before their turn comes."""
        beton = self.source.beton
        pointers = beton.samples["image"]["pointer"][rows].astype(np.int64)
        read_ahead.will_need(self._data, read_ahead.runs(pointers, beton.sizes[rows], beton.page_size))

    def _submit(self, rows: np.ndarray, crops: Crops, side: int) -> _Work:
        images = self._room(len(rows), side)
        work = _Work(rows, crops, images, np.full(len(rows), WAITING, np.uint8), [])
        beton = self.source.beton
        records, boxes = beton.samples["image"][rows], crops.boxes.astype(np.int64)
        if int(3 * (boxes[:, 2] * boxes[:, 3]).max()) > self._largest or boxes[:, 2:].min() < 1:
            raise ValueError("a box holds no pixel, or more than the largest image")
        columns = (
            records["pointer"].astype(np.int64),
            beton.sizes[rows],
            records["mode"] == JPEG,
            records["height"].astype(np.int64),
            records["width"].astype(np.int64),
            np.asarray(self.source.manifest.crc32[rows]),
            boxes,
            np.asarray(crops.flip, bool),
            images.numpy(),
        )
        count = min(self.workers, len(rows))
        for k in range(count):
            part = slice(len(rows) * k // count, len(rows) * (k + 1) // count)
            arguments = [column[part] for column in columns]
            work.parts.append(self._pool.submit(self._fill, arguments, work.status[part]))
        return work

    def _room(self, count: int, side: int) -> torch.Tensor:
        """Memory for a batch (count, side, side, 3), reused from an earlier batch once no view of that is left.

        Fresh memory of this size comes from the kernel page by page, which costs a tenth of decoding.
        """
        if self._pinned:  # torch keeps pinned memory itself
            return torch.empty((count, side, side, 3), dtype=torch.uint8, pin_memory=True)
        for buffer in self._buffers:
            if sys.getrefcount(buffer) == 3:  # the list, this loop, the call: every tensor on it would hold one more
                break
        else:
            buffer = np.empty(self.batch_size * self.resolution**2 * 3, np.uint8)
            if len(self._buffers) < 2 * AHEAD:
                self._buffers.append(buffer)
        return torch.from_numpy(buffer)[: count * side * side * 3].view(count, side, side, 3)

    def _fill(self, arguments: list[np.ndarray], status: np.ndarray) -> None:
        scratch = self._scratch.get()
        try:
            fill(self._data, *arguments, *scratch, status)
        finally:
            self._scratch.put(scratch)

    def _mend(self, work: _Work, side: int) -> None:
        """Raise for damaged bytes; decode with Pillow what turbojpeg refused or warned about."""
        if not work.status.any():
            return
        assert not (work.status == WAITING).any()
        if (work.status == DAMAGED).any():
            raise damage_error(self.source, int(work.rows[work.status == DAMAGED][0]))
        for slot in np.flatnonzero(work.status == REFUSED):
            row = int(work.rows[slot])
            record = self.source.beton.samples["image"][row]
            stored = Stored(*self.source.beton.stored(row), int(record["height"]), int(record["width"]))
            image = cut_out(stored, work.crops.boxes[slot], bool(work.crops.flip[slot]), side)
            work.images[slot] = torch.from_numpy(image.copy())

    def close(self) -> None:
        """End the decoding threads."""
        self._pool.shutdown(cancel_futures=True)
