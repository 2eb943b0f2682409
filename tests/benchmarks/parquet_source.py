"""Parquet as a source: memory and time of `prune write`, beside the same images in class folders and in tar shards.

    python tests/benchmarks/parquet_source.py --rows 1280000 --compare 40000 \
        --results tests/benchmarks/results/parquet.md

Generated JPEGs of 32 px, 1,000 classes, in parquet shards of 20,000 rows and row groups of 1,000, as Hugging Face
writes them. Each writing is a process of its own; the peak is that process's. --compare writes fewer images from
parquet, tars and folders in turns, three times, and compares medians. The limits apply to processor seconds, which
other work on the same cores hardly changes; wall seconds are listed, too. Exit code 1 when a limit is broken: 2 GiB at
all rows, and 0.8 of the speed from folders.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

GIB, RATIO = 2.0, 0.8
SHARD, GROUP, CLASSES, DISTINCT = 20_000, 1_000, 1_000, 4_096


def images() -> list[bytes]:
    """JPEGs of 32 px that differ: smooth patterns with some noise, about 1 kB each."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    made = []
    for _ in range(DISTINCT):
        coarse = Image.fromarray(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8))
        small = coarse.resize((32, 32), Image.Resampling.BICUBIC)
        noisy = np.clip(np.asarray(small) + rng.normal(0, 6, (32, 32, 3)), 0, 255).astype(np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(noisy).save(buffer, "JPEG", quality=85)
        made.append(buffer.getvalue())
    return made


def rows(n: int) -> Iterator[tuple[int, int]]:
    """Picture and label of every row."""
    return ((row % DISTINCT, row * CLASSES // n) for row in range(n))


def parquet(folder: Path, n: int, pictures: list[bytes]) -> None:
    """Write shards with the metadata of `datasets`."""
    import pyarrow as pa
    import pyarrow.parquet

    names = [f"n{k:08d}" for k in range(CLASSES)]
    features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": names}}
    schema = pa.schema(
        [("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])), ("label", pa.int64())],
        metadata={"huggingface": json.dumps({"info": {"features": features}})},
    )
    folder.mkdir()
    everything, count = list(rows(n)), -(-n // SHARD)
    for shard in range(count):
        part = everything[shard * SHARD : (shard + 1) * SHARD]
        cells = [{"bytes": pictures[picture], "path": None} for picture, _ in part]
        table = pa.table({"image": cells, "label": [label for _, label in part]}, schema=schema)
        path = folder / f"train-{shard:05d}-of-{count:05d}.parquet"
        pa.parquet.write_table(table, path, row_group_size=GROUP)


def tars(folder: Path, n: int, pictures: list[bytes]) -> None:
    """Write WebDataset shards."""
    folder.mkdir()
    everything = list(rows(n))
    for shard in range(-(-n // SHARD)):
        with tarfile.open(folder / f"train-{shard:06d}.tar", "w") as tar:
            for row, (picture, label) in enumerate(everything[shard * SHARD : (shard + 1) * SHARD]):
                for suffix, data in (("jpg", pictures[picture]), ("cls", str(label).encode())):
                    info = tarfile.TarInfo(f"{row:08d}.{suffix}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))


def folders(root: Path, n: int, pictures: list[bytes]) -> None:
    """Write class folders."""
    for row, (picture, label) in enumerate(rows(n)):
        folder = root / f"n{label:08d}"
        if not folder.exists():
            folder.mkdir(parents=True)
        (folder / f"{row:08d}.jpg").write_bytes(pictures[picture])


def written(source: Path, out: Path) -> dict[str, float]:
    """Write a beton in a process of its own: seconds, processor seconds, peak in GiB."""
    command = [sys.executable, __file__, "--one", str(source), str(out)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    out.unlink()
    out.with_suffix(".manifest.npz").unlink()
    found: dict[str, float] = json.loads(done.stdout)
    return found


def write_one(source: str, out: str) -> None:
    """Print what one writing took, without the second that imports take whatever the number of images."""
    import pyarrow.parquet  # noqa: F401

    import prune.data.beton_writing  # noqa: F401
    from prune import write

    before, begin = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    write.run(write.Config(images=source, out=Path(out)))
    used, wall = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter() - begin
    seconds = {"wall": wall, "processor": used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime}
    print(json.dumps({**seconds, "gib": used.ru_maxrss / (1 << 20)}))


def main() -> int:
    """Make the inputs, write them, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_280_000)
    parser.add_argument("--compare", type=int, default=40_000)
    parser.add_argument("--place", type=Path, help="folder for the inputs; a temporary one when absent")
    parser.add_argument("--results", type=Path)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        write_one(*given.one)
        return 0
    place = Path(tempfile.mkdtemp(dir=given.place))
    kinds = {"parquet": parquet, "tars": tars, "folders": folders}
    try:
        pictures = images()
        for kind, make in kinds.items():
            make(place / kind, given.compare, pictures)
        taken: dict[str, list[dict[str, float]]] = {kind: [] for kind in kinds}
        for _ in range(3):
            for kind in kinds:
                taken[kind].append(written(place / kind, place / "x.beton"))
        for kind in kinds:
            shutil.rmtree(place / kind)
        parquet(place / "all", given.rows, pictures)
        size = sum(path.stat().st_size for path in (place / "all").iterdir())
        whole = written(place / "all", place / "x.beton")
    finally:
        shutil.rmtree(place)
    keys = ("wall", "processor", "gib")
    median = {kind: {key: statistics.median(one[key] for one in runs) for key in keys} for kind, runs in taken.items()}
    ratio = {kind: median["folders"]["processor"] / median[kind]["processor"] for kind in kinds}
    lines = [f"| parquet, row groups of {GROUP:,} | {given.rows:,} | {_cells(whole)} | |"]
    lines += [f"| {kind} | {given.compare:,} | {_cells(median[kind])} | {ratio[kind]:.2f} |" for kind in kinds]
    broken = (whole["gib"] > GIB) + (ratio["parquet"] < RATIO)
    text = f"""# Parquet as a source

`python tests/benchmarks/parquet_source.py --rows {given.rows} --compare {given.compare} --results \
tests/benchmarks/results/parquet.md`, {time.strftime("%Y-%m-%d")}, {platform.machine()}, {os.cpu_count()} cores, \
Python {platform.python_version()}, with other work on the same cores.

`prune write` of JPEGs of 32 px, about 1 kB each, the smallest that people keep: reading counts for more here than with
larger ones. {given.rows:,} rows are {size / 1e9:.2f} GB of parquet (snappy). The other lines are medians of three
writings of the same images, in turns. Speed is that of the processor seconds of listing and writing, beside folders.

| input | images | seconds | processor seconds | images a processor second | peak GiB | speed beside folders |
|---|---:|---:|---:|---:|---:|---:|
{chr(10).join(_with_rate(line) for line in lines)}

Limits: {GIB:g} GiB at {given.rows:,} rows; parquet at {RATIO} of the speed from folders. Broken: {broken}.
"""
    print(text)
    if given.results:
        given.results.write_text(text)
    return int(broken > 0)


def _cells(run: dict[str, float]) -> str:
    return f"{run['wall']:.1f} | {run['processor']:.1f} | @ | {run['gib']:.2f}"


def _with_rate(line: str) -> str:
    cells = [cell.strip() for cell in line.split("|")]
    return line.replace("@", f"{int(cells[2].replace(',', '')) / float(cells[4]):,.0f}")


if __name__ == "__main__":
    sys.exit(main())
