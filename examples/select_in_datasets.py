"""Train on what an index keeps, with Hugging Face's `datasets`: the part of a source of parquet shards.

python examples/select_in_datasets.py pets-lm-30.index.npz train-00000-of-00002.parquet train-00001-of-00002.parquet
"""

import sys
from pathlib import Path

from datasets import Dataset, load_dataset
from pyarrow.parquet import read_metadata

from prune import PrunedIndex


def ids(shards: list[str]) -> list[str]:
    """`shard/row` of every row, as `prune write` names the images of parquet files."""
    sizes = {Path(shard).stem: read_metadata(shard).num_rows for shard in shards}
    return [f"{name}/{row:0{len(str(n - 1))}d}" for name, n in sizes.items() for row in range(n)]


def kept(index_file: str, shards: list[str]) -> Dataset:
    dataset = load_dataset("parquet", data_files=shards, split="train")
    return dataset.select(PrunedIndex.load(index_file).rows(ids(shards)))  # the index is verified


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(print(__doc__, file=sys.stderr) or 2)
    part = kept(sys.argv[1], sys.argv[2:])
    print("kept", len(part), "images, of class", part.features["label"], "at first", part[0]["label"])
