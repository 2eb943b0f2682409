"""Lists the images of parquet files, as Hugging Face stores them; they are read one row group after another."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from prune.data.listing import AS_USUAL, Listing, Reading, first_line
from prune.data.shard_paths import Shards
from prune.data.table_columns import Columns, ImageColumn, find_columns, read_labels, row_ids
from prune.runs.files import InputError

_MEMORY = 1 << 28
"""Bytes of row groups that are kept beside the two in use: small groups are not read again for each thread."""


def list_parquet(shards: Shards, place: str, reading: Reading = AS_USUAL) -> Listing:
    """List the rows of parquet files; an id is the file's name and the row, `train-00000-of-00002/0017`.

    `reading` may name the columns of images and labels.

    Raises
    ------
    InputError
        A damaged file, no image or label column, or files with other columns or class names than the first.
    """
    counts: list[int] = []
    columns: Columns | None = None
    groups: list[np.ndarray] = []
    for path in shards.files:
        with _opened(path) as file:
            meta = file.metadata
            counts.append(meta.num_rows)
            groups.append(np.array([meta.row_group(k).num_rows for k in range(meta.num_row_groups)], np.int64))
            here = find_columns(file.schema_arrow, path, reading)
        if columns is not None and here != columns:
            raise InputError(f"{path}: its columns or class names differ from those of {shards.files[0]}")
        columns = here
    assert columns is not None
    labels = read_labels(_labels(shards.files, columns), columns, place)
    ids = [one for name, count in zip(shards.names, counts) for one in row_ids(name, count)]
    reader = _GroupReader(shards.files, groups, columns.image)
    return Listing(ids, labels.labels, labels.classes, reader.read, numbered=labels.numbered)


def _opened(path: Path) -> pa.parquet.ParquetFile:
    try:
        return pa.parquet.ParquetFile(path)
    except Exception as error:  # pyarrow raises all kinds of errors for a damaged file
        raise InputError(f"{path}: damaged, or not a parquet file ({first_line(error)})") from None


def _labels(files: list[Path], columns: Columns) -> Iterator[pa.Array]:
    for path in files:
        with _opened(path) as file:
            try:
                for batch in file.iter_batches(1 << 16, columns=[columns.label]):
                    yield batch.column(0)
            except (pa.ArrowException, OSError) as error:
                raise InputError(f"{path}: damaged: its labels cannot be read ({first_line(error)})") from None


class _GroupReader:
    """Reads images by row from any thread; the row groups in use are shared, and few are kept.

    Parameters
    ----------
    files : list of Path
    groups : list of (g,) int64
        Rows of each row group of each file.
    column : str
        The image column.
    """

    def __init__(self, files: list[Path], groups: list[np.ndarray], column: str) -> None:
        self._files, self._column = files, column
        self._ends = np.cumsum(np.concatenate(groups)) if groups else np.zeros(0, np.int64)
        self._owner = [(f, g) for f, rows in enumerate(groups) for g in range(len(rows))]
        self._kept: OrderedDict[int, ImageColumn] = OrderedDict()
        self._broken: dict[int, str] = {}
        self._open: tuple[int, pa.parquet.ParquetFile] | None = None
        self._lock = threading.Lock()

    def read(self, row: int) -> bytes:
        group = int(np.searchsorted(self._ends, row, side="right"))
        first = int(self._ends[group - 1]) if group else 0
        with self._lock:
            cells = self._kept.get(group) or self._load(group)
        return cells.bytes_of(row - first)

    def _load(self, group: int) -> ImageColumn:
        if group in self._broken:  # it would fail again for each of its rows
            raise OSError(self._broken[group])
        number, inner = self._owner[group]
        path = self._files[number]
        if self._open is None or self._open[0] != number:
            if self._open is not None:
                self._open[1].close()
            self._open = number, _opened(path)
        try:
            column = self._open[1].read_row_group(inner, columns=[self._column], use_threads=False).column(0)
        except (pa.ArrowException, OSError) as error:
            self._broken[group] = f"row group {inner} cannot be read ({first_line(error)})"
            raise OSError(self._broken[group]) from None
        cells = ImageColumn(column, path.parent)
        self._kept[group] = cells
        while len(self._kept) > 2 and sum(kept.nbytes for kept in self._kept.values()) > _MEMORY:
            self._kept.popitem(last=False)
        return cells
