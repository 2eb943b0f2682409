"""Lists the images of Hugging Face `datasets`: a folder of `save_to_disk`, or a data set of the hub by name."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import pyarrow as pa

from prune.data.listing import AS_USUAL, Listing, Reading, first_line
from prune.data.shard_paths import Shards
from prune.data.table_columns import ImageColumn, find_columns, read_labels, row_ids
from prune.runs.files import InputError, read_json

_HUB = re.compile(r"hf://(?:datasets/)?(?P<name>[\w.-]+(?:/[\w.-]+)?)(?:/(?P<config>[\w.-]+))?(?::(?P<split>\w+))?")


def list_saved(shards: Shards, place: str, reading: Reading = AS_USUAL) -> Listing:
    """List a folder of `Dataset.save_to_disk`; an id is split and row, `train/0017` (`data/0017` without a split).

    The files are mapped, not read: memory is the system's cache.

    Raises
    ------
    InputError
        A damaged file, or no image or label column.
    """
    tables = []
    for path in shards.files:
        try:
            tables.append(pa.ipc.open_stream(pa.memory_map(str(path))).read_all())
        except (pa.ArrowException, OSError) as error:
            raise InputError(f"{path}: damaged, or not an Arrow file ({first_line(error)})") from None
    if not tables:
        raise InputError(f"{place}: holds no data")
    split = read_json(shards.files[0].parent / "state.json").get("_split")
    return _of_table(pa.concat_tables(tables), place, str(split or "data"), shards.files[0].parent, reading)


def list_hub(place: str, reading: Reading = AS_USUAL) -> Listing:
    """List `hf://OWNER/NAME[/CONFIG][:SPLIT]`, the train split without one, through `datasets`; ids as `list_saved`.

    Raises
    ------
    InputError
        Not of this form, no connection and no copy in the cache, or no such data set, config or split.
    """
    if (given := _HUB.fullmatch(place)) is None:
        raise InputError(f"{place}: hf://OWNER/NAME:SPLIT is expected, or hf://OWNER/NAME/CONFIG:SPLIT")
    import datasets

    name, split = given["name"], given["split"] or "train"
    datasets.disable_progress_bars()
    logging.getLogger("huggingface_hub").setLevel(
        logging.ERROR
    )  # each failed try is a warning otherwise, and the last one raises
    try:
        data: Any = datasets.load_dataset(name, given["config"], split=split)
    except Exception as error:  # the hub's client raises what its network and cache layers raise
        raise InputError(
            f"{place}: {first_line(error)[:200]}; without a connection, fetch it elsewhere with "
            f"`hf download {name} --repo-type dataset --local-dir DIR` and give DIR"
        ) from None
    return _of_table(data.data.table, place, split, Path("."), reading)


def _of_table(table: pa.Table, place: str, split: str, folder: Path, reading: Reading) -> Listing:
    columns = find_columns(table.schema, place, reading)
    labels = read_labels(table.column(columns.label).chunks, columns, place)
    images = ImageColumn(table.column(columns.image), folder)
    ids = row_ids(split, table.num_rows)
    return Listing(ids, labels.labels, labels.classes, images.bytes_of, numbered=labels.numbered)
