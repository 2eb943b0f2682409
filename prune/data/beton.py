"""The beton: FFCV's file format (version 2), written and opened with NumPy alone.

Winnow's betons have three fields, `image` (RGB image: JPEG bytes or raw pixels), `label` and `position` (row of the
manifest), and open in the stock FFCV loader. This writer works in one streaming pass, keeps JPEG bytes as they are,
gives equal files for equal input, can skip unreadable images, and leaves no file behind when it is killed; FFCV's own
writer does none of these. Opening a beton checks its structure, because FFCV itself trusts every pointer.
`resumable_beton.py` adds to the writer that a killed run can resume.

Layout (little-endian): header, three field descriptors, one metadata record per sample, then pages that hold the
images (none crosses a page), then one allocation record per sample up to the end of the file.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import numpy as np

from prune.runs.files import InputError, need_file

HEADER = np.dtype(
    [("version", "<u2"), ("fields", "<u2"), ("page_size", "<u4"), ("samples", "<u8"), ("allocations", "<u8")],
    align=True,
)
FIELD = np.dtype([("type", "<u1"), ("name", "<u1", 16), ("arguments", "<u1", (1024,))], align=True)
IMAGE = np.dtype([("mode", "<u1"), ("width", "<u2"), ("height", "<u2"), ("pointer", "<u8")])
SAMPLE = np.dtype([("image", IMAGE), ("label", "<i8"), ("position", "<i8")], align=True)
ALLOCATION = np.dtype([("sample", "<u8"), ("pointer", "<u8"), ("size", "<u8")])

VERSION = 2
FIELDS = (("image", 2), ("label", 1), ("position", 1))  # FFCV's type ids of RGBImageField and IntField
JPEG, RAW = 0, 1
PAGE = 1 << 23
_PIXELS, _RATIO = 1 << 26, 256
"""A JPEG may have 67 million pixels, or 256 for each of its bytes: readers take memory for what its record says."""
DATA_START = HEADER.itemsize + len(FIELDS) * FIELD.itemsize


class BetonWriter:
    """Write a beton image by image. Use as a context manager; the file at `path` is complete when the block ends.

    Parameters
    ----------
    path : Path
        File to write (a temporary path of `prune.runs.files.atomic`).
    capacity : int
        At most this many images; space for their records is reserved at the front.
    page_size : int
        Bytes of a page, a power of two, at least 2 MiB: the largest image that can be stored.
    resume : bool
        Keep what an interrupted writer left in the file; `record_existing` its images before adding others.
    """

    def __init__(self, path: Path, capacity: int, page_size: int = PAGE, *, resume: bool = False) -> None:
        if page_size < 1 << 21 or page_size & (page_size - 1) or page_size >= 1 << 32:
            raise ValueError(f"page size {page_size}: a power of two between 2 MiB and 2 GiB is needed")
        self.page_size = page_size
        self.samples = np.zeros(capacity, SAMPLE)
        self.sizes = np.zeros(capacity, np.int64)
        self.count = 0
        first = DATA_START + capacity * SAMPLE.itemsize
        self.end = -(-first // page_size) * page_size
        """Offset of the first byte after the last image."""
        self._file: BinaryIO = open(path, "r+b" if resume else "wb", buffering=1 << 20)  # noqa: SIM115 - see __exit__
        self._file.seek(self.end)

    def add(self, data: bytes | memoryview, *, jpeg: bool, height: int, width: int, label: int) -> int:
        """Append one image and return its row.

        Raises
        ------
        ValueError
            The image does not fit a page, or its sides do not fit 16 bits.
        """
        before = self.end
        row = self._record(len(data), jpeg, height, width, label)
        self._file.write(bytes(self.end - len(data) - before))
        self._file.write(data)
        return row

    def record_existing(self, size: int, *, jpeg: bool, height: int, width: int, label: int) -> int:
        """Record an image that the file already contains, exactly where `add` would put it; return its row."""
        row = self._record(size, jpeg, height, width, label)
        self._file.seek(self.end)
        return row

    def _record(self, size: int, jpeg: bool, height: int, width: int, label: int) -> int:
        if not 0 < size <= self.page_size:
            raise ValueError(f"{size} bytes do not fit a page of {self.page_size} bytes")
        if not (0 < height < 1 << 16 and 0 < width < 1 << 16):
            raise ValueError(f"{width} x {height} pixels: sides of 1 to 65535 can be stored")
        left = -self.end % self.page_size
        begin = self.end + (left if left < size else 0)
        row = self.count
        self.samples[row] = ((JPEG if jpeg else RAW, width, height, begin), label, row)
        self.sizes[row] = size
        self.end = begin + size
        self.count += 1
        return row

    def sync(self) -> None:
        """Write every image added so far to the disk."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def close_incomplete(self) -> None:
        """Close the file without completing it."""
        self._file.close()

    def __enter__(self) -> BetonWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._file as file:
            if kind is not None:
                return
            table = np.zeros(self.count, ALLOCATION)
            table["sample"] = np.arange(self.count)
            table["pointer"] = self.samples["image"]["pointer"][: self.count]
            table["size"] = self.sizes[: self.count]
            # The last page is padded to its end: FFCV reads whole pages when it does not use the page cache.
            file.write(bytes(-self.end % self.page_size))
            end = file.tell()
            file.write(table.tobytes())
            file.truncate()
            header = np.zeros(1, HEADER)
            header[0] = (VERSION, len(FIELDS), self.page_size, self.count, end)
            fields = np.zeros(len(FIELDS), FIELD)
            for field, (name, kind_id) in zip(fields, FIELDS):
                field["type"] = kind_id
                field["name"][: len(name)] = np.frombuffer(name.encode(), np.uint8)
            file.seek(0)
            file.write(header.tobytes() + fields.tobytes())
            file.write(self.samples[: self.count].tobytes())


@dataclass(frozen=True)
class BetonFile:
    """An opened beton whose structure was checked.

    Attributes
    ----------
    path : Path
    samples : (n,) SAMPLE
        Records of the images, read into memory (32 bytes each).
    sizes : (n,) int64
        Stored bytes of each image.
    page_size : int
    """

    path: Path
    samples: np.ndarray
    sizes: np.ndarray
    page_size: int

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def labels(self) -> np.ndarray:
        """(n,) int64."""
        return self.samples["label"]

    @property
    def heights(self) -> np.ndarray:
        """(n,) uint16, pixels."""
        return self.samples["image"]["height"]

    @property
    def widths(self) -> np.ndarray:
        """(n,) uint16, pixels."""
        return self.samples["image"]["width"]

    def pages(self) -> np.ndarray:
        """Map the whole file as bytes (read-only)."""
        return np.memmap(self.path, np.uint8, "r")

    def stored(self, row: int) -> tuple[bytes, bool]:
        """Return the stored bytes of one image and whether they are a JPEG (else raw RGB pixels, row by row)."""
        record = self.samples["image"][row]
        with open(self.path, "rb") as file:
            file.seek(int(record["pointer"]))
            return file.read(int(self.sizes[row])), bool(record["mode"] == JPEG)


def open_beton(path: Path) -> BetonFile:
    """Open a beton and check all of its structure: header, fields, every pointer and size.

    Reads the records only (56 bytes an image), not the images.

    Raises
    ------
    InputError
        Missing, cut short, of another version, with other fields, or with an impossible pointer or size.
    """
    path = need_file(path, "a beton of `prune write`")
    total = path.stat().st_size
    if total < DATA_START:
        raise InputError(f"{path}: damaged: {total} bytes are too few for a beton")
    with open(path, "rb") as file:
        header = np.frombuffer(file.read(HEADER.itemsize), HEADER)[0]
        fields = np.frombuffer(file.read(len(FIELDS) * FIELD.itemsize), FIELD)
        count, end, page = int(header["samples"]), int(header["allocations"]), int(header["page_size"])
        _check_header(path, header, fields, total)
        samples = np.frombuffer(file.read(count * SAMPLE.itemsize), SAMPLE)
        file.seek(end)
        table = np.frombuffer(file.read(), ALLOCATION)
    _check_records(path, samples, table, end, page)
    return BetonFile(path, samples, table["size"].astype(np.int64), page)


def _check_header(path: Path, header: np.void, fields: np.ndarray, total: int) -> None:
    count, end, page = int(header["samples"]), int(header["allocations"]), int(header["page_size"])
    if header["version"] != VERSION:
        raise InputError(f"{path}: not a beton of format version {VERSION} (found {header['version']})")
    found = tuple((bytes(f["name"]).rstrip(b"\0").decode("latin-1"), int(f["type"])) for f in fields)
    if header["fields"] != len(FIELDS) or found != FIELDS:
        raise InputError(f"{path}: its fields are not image, label, position: write it with `prune write`")
    if page < 1 << 21 or page & (page - 1):
        raise InputError(f"{path}: damaged: page size {page}")
    if count == 0:
        raise InputError(f"{path}: holds no images")
    if DATA_START + count * SAMPLE.itemsize > total or end > total or total - end != count * ALLOCATION.itemsize:
        raise InputError(f"{path}: damaged or cut short: {count} images do not fit its {total} bytes")


def _check_records(path: Path, samples: np.ndarray, table: np.ndarray, end: int, page: int) -> None:
    image = samples["image"]
    pointer, size = table["pointer"], table["size"]
    raw = image["mode"] == RAW
    pixels = 3 * image["height"].astype(np.int64) * image["width"]
    start = DATA_START + len(samples) * SAMPLE.itemsize
    sound = (
        (table["sample"] == np.arange(len(samples), dtype=np.uint64))
        & (pointer == image["pointer"])
        & (samples["position"] == np.arange(len(samples)))
        & (image["mode"] <= RAW)
        & (pixels > 0)
        & (pointer >= start)
        & (pointer < end)
        & (size > 0)
        & (size <= page)
        & (pointer % page + size <= page)
        & (pointer + size <= end)
        & (~raw | (size == pixels.astype(np.uint64)))
        & (raw | (pixels <= np.maximum(_PIXELS, _RATIO * size.astype(np.int64))))
        & (samples["label"] >= 0)
    )
    if not sound.all():
        bad = np.flatnonzero(~sound)
        raise InputError(f"{path}: damaged: the records of {len(bad)} images are impossible, first row {bad[0]}")


def beton_bytes(sizes: np.ndarray, page_size: int) -> int:
    """Bytes of a beton that holds images of these sizes in this order.

    Parameters
    ----------
    sizes : (n,) int
        Bytes of each image.
    page_size : int
        No image crosses a page.
    """
    ends = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
    first, pages = 0, 0
    while first < len(sizes):
        first = max(first + 1, int(np.searchsorted(ends, ends[first] + page_size, side="right")) - 1)
        pages += 1
    head = -(-(DATA_START + len(sizes) * SAMPLE.itemsize) // page_size)
    return (head + pages) * page_size + len(sizes) * ALLOCATION.itemsize


def best_page(sizes: np.ndarray) -> int:
    """Page size of the smallest beton of images of these sizes, in bytes; the smaller page where two are level.

    No image crosses a page, so small pages waste room behind large images and large pages at the end of the file.

    Examples
    --------
    A hundred images of 1.5 MiB: a page of 2 MiB holds one, a page of 8 MiB five, and 20 of those and one for the header
    are 168 MiB instead of 202.

    >>> best_page(np.full(100, 3 << 19)) >> 20
    8
    >>> best_page(np.full(10, 1000)) >> 20
    2
    """
    largest = int(sizes.max(initial=1))
    pages = [1 << bits for bits in range(21, 32) if 1 << bits >= largest]
    return min((page for page in pages if page <= max(1 << 25, pages[0])), key=lambda page: beton_bytes(sizes, page))
