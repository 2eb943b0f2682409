"""Speed of the loader from a cold source in three orders: random, `--order block`, and the order of the file.

    python tests/benchmarks/block_order.py --work runs/block --out tests/benchmarks/results/block-order.md

A beton of raw images, so that decoding hides nothing, in pages of 2 MiB, several times the window in which
`--order block` mixes. Cold: its pages are dropped from the page cache, and the reader may use little more memory than
one window, by a memory cgroup. Slow: beside that the disk answers so many reads a second, as a spinning disk or a busy
share does, by a blkio cgroup. Warm: all of it is in the page cache. Each measurement is a process of its own, in turns.
Needs root and cgroups of version 1 or 2; without them only the cold pages remain, and the page says so.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from published import END, REMARKS, made_here, publish

from pretrain.sampling_order import WINDOW, epoch_order
from prune.data.beton import BetonWriter
from prune.data.dataset import open_dataset
from prune.data.loader import open_loader
from prune.index.manifest import Manifest, digest, manifest_path

SIDE, PAGE, BATCH = 192, 1 << 21, 128
ORDERS = ("sequential", "block", "random")
GROUPS = Path("/sys/fs/cgroup")
WARM_UP = 512


def make(path: Path, count: int) -> None:
    """Write a beton of `count` raw images of noise, and its manifest."""
    draw, size = np.random.default_rng(0), SIDE * SIDE * 3
    some = [draw.integers(0, 256, size, np.uint8).tobytes() for _ in range(32)]
    digests, checks = [digest(one) for one in some], [zlib.crc32(one) for one in some]
    with BetonWriter(path, count, PAGE) as writer:
        for row in range(count):
            writer.add(some[row % 32], jpeg=False, height=SIDE, width=SIDE, label=row % 10)
    which = np.arange(count) % 32
    Manifest(
        np.array([b"c%d/%07d.png" % (row % 10, row) for row in range(count)]), (np.arange(count) % 10).astype(np.int32),
        np.full(count, size, np.int32), np.full(count, SIDE, np.int32), np.full(count, SIDE, np.int32),
        np.array(digests, np.uint64)[which], np.array(checks, np.uint32)[which],
        [f"c{k}" for k in range(10)], {"source": "drawn", "skipped": []},
    ).save(manifest_path(path))  # fmt: skip


def read(path: Path, order: str, images: int, warm: bool) -> dict[str, float]:
    """Images a second and the share of its time that the reader waited; run in a process of its own."""
    source = open_dataset(path)
    begin = source.beton.samples["image"]["pointer"].astype(np.int64)
    everything = np.arange(len(source))
    rows = everything[np.argsort(begin)]
    if order != "sequential":
        rows = epoch_order(everything, 0, 0, BATCH, begin // PAGE if order == "block" else None)
    with contextlib.closing(open_loader(source, resolution=SIDE, batch_size=BATCH)) as loader:
        for _ in loader.epoch(rows[-WARM_UP:]):  # what is compiled and allocated once; other images than those measured
            pass
        with open(path, "rb") as file:
            if warm:
                while file.read(1 << 24):
                    pass
            else:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        clock, processor = time.perf_counter(), time.process_time()
        count = sum(len(found) for _, _, found in loader.epoch(rows[:images]))
        seconds = time.perf_counter() - clock
    return {"speed": count / seconds, "processor": (time.process_time() - processor) / count}


# Little memory and a slow disk ---------------------------------------------------------------------------------------


def limits(memory: int, reads: int | None, device: str) -> dict[Path, str]:
    """What to write into which files of control groups, which are made for it."""
    if (GROUPS / "cgroup.controllers").exists():
        place = GROUPS / "winnow-block"
        return {place / "memory.max": str(memory)} | (
            {place / "io.max": f"{device} riops={reads}"} if reads is not None else {}
        )
    groups = [line.split(":") for line in Path("/proc/self/cgroup").read_text().splitlines()]
    own = next(place.strip("/") for _, kinds, place in groups if kinds == "memory")
    found = {GROUPS / "memory" / own / "winnow-block/memory.limit_in_bytes": str(memory)}
    if reads is not None:
        found[GROUPS / "blkio/winnow-block/blkio.throttle.read_iops_device"] = f"{device} {reads}"
    return found


@contextlib.contextmanager
def grouped(wanted: Mapping[Path, str]) -> Iterator[list[Path]]:
    """Control groups with these limits, until the block ends; yields the files that take a process."""
    groups = list(dict.fromkeys(file.parent for file in wanted))
    try:
        for group in groups:
            group.mkdir(exist_ok=True)
        for file, value in wanted.items():
            file.write_text(value)
        yield [group / "cgroup.procs" for group in groups]
    finally:
        for group in groups:
            for _ in range(50):  # until the kernel has seen that the last process ended
                with contextlib.suppress(OSError):
                    group.rmdir()
                    break
                time.sleep(0.1)


def measured(path: Path, order: str, images: int, wanted: Mapping[Path, str], warm: bool) -> dict[str, float]:
    """`read` in a process of its own, within control groups."""
    command = [sys.executable, __file__, "--work", str(path.parent), "--read", order, "--take", str(images)]
    with grouped(wanted) as places:

        def join() -> None:
            for place in places:
                place.write_text(str(os.getpid()))

        done = subprocess.run(
            [*command, *(["--warm"] if warm else [])], preexec_fn=join, stdout=subprocess.PIPE, check=True, text=True
        )
    return json.loads(done.stdout.splitlines()[-1])


def page(rows: list[tuple[str, str, list[dict[str, float]]]], given: argparse.Namespace, size: int, how: str) -> str:
    """The table: images a second in each order, and as a share of the order of the file."""
    speed = {(state, order): statistics.median(one["speed"] for one in found) for state, order, found in rows}
    lines = [
        "# The loader from a cold source, in three orders",
        "",
        f"{made_here()}.",
        f"`python tests/benchmarks/block_order.py {' '.join(sys.argv[1:])}`",
        "",
        f"A beton of {size / 2**30:.1f} GiB: raw images of {SIDE} px in pages of {PAGE >> 20} MiB. `--order block`",
        f"mixes within {WINDOW} pages, {WINDOW * PAGE >> 20} MiB. {given.take:,} images a measurement, in batches",
        f"of {BATCH}, medians of {given.rounds} turns. {how}",
        "",
        REMARKS,
        END,
        "",
        "| source | order | images a second | MB/s | of the order of the file | processor ms an image |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for state, order, found in rows:
        rate = speed[state, order]
        cost = 1000 * statistics.median(one["processor"] for one in found)
        figures = f"{rate:,.0f} | {rate * 3 * SIDE**2 / 1e6:,.0f} | {rate / speed[state, ORDERS[0]]:.2f} | {cost:.2f}"
        lines.append(f"| {state} | {order} | {figures} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Write the beton where it is missing, measure in turns, write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--take", type=int, default=8_000, help="images of a measurement")
    parser.add_argument("--memory", type=int, default=1600, help="MiB that the reader may use when the source is cold")
    parser.add_argument("--reads", type=int, default=200, help="reads a second of the slow disk")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--read", choices=ORDERS, help=argparse.SUPPRESS)
    parser.add_argument("--warm", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    path = given.work / "block.beton"
    if given.read:
        print(json.dumps(read(path, given.read, given.take, given.warm)))
        return
    given.work.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        make(path, given.images)
    os.sync()  # dirty pages cannot be dropped
    disk = path.stat().st_dev
    memory, device = given.memory << 20, f"{os.major(disk)}:{os.minor(disk)}"
    slow = f"cold, {given.reads} reads a second"
    states: dict[str, dict[Path, str]] = {"cold": {}, "warm": {}}
    how = "No control groups could be made: the page cache was not limited."
    with contextlib.suppress(OSError), grouped(limits(memory, given.reads, device)):
        states = {slow: limits(memory, given.reads, device), "cold": limits(memory, None, device), "warm": {}}
        how = f"Cold: pages dropped, {given.memory} MiB of memory for the process and its page cache."
    found: dict[tuple[str, str], list[dict[str, float]]] = {}
    for turn in range(given.rounds):
        for state, wanted in states.items():
            for order in ORDERS:
                one = measured(path, order, given.take, wanted, state == "warm")
                found.setdefault((state, order), []).append(one)
                print(f"{turn + 1}: {state}, {order}: {one['speed']:,.0f} images/s", file=sys.stderr, flush=True)
    text = page([(state, order, each) for (state, order), each in found.items()], given, path.stat().st_size, how)
    if given.out:
        publish(given.out, text)
    print(text)


if __name__ == "__main__":
    main()
