"""Time and memory of index files: save, load, and finding the samples in a shuffled listing.

    python tests/benchmarks/index_files.py --samples 1280000 14000000 \
        --results tests/benchmarks/results/index-files.md

Every sample of the source is kept, which takes longest; ids look like ImageNet's (30 bytes). Each line is a process of
its own with one thread; the time is that of the operation, the memory the process's peak (listing included). Exit
code 1 when a limit is broken: 4 s each at 1.28 million samples, 60 s and 6 GiB each at 14 million. The limits apply to
processor seconds, which other work on the same cores hardly changes; wall seconds are listed, too.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LIMITS = {1_280_000: (4.0, 6.0), 14_000_000: (60.0, 6.0)}
"""Samples to seconds and GiB."""
OPERATIONS = ("save", "load", "rows, bytes", "rows, list of str", "rows_by_digest", "rows_in", "sample", "union")


def ids_of(n: int):
    """ImageNet-like ids of 30 bytes, sorted: (n,) bytes."""
    import numpy as np

    ids = np.empty(n, "S30")
    for begin in range(0, n, 1 << 18):
        rows = range(begin, min(n, begin + (1 << 18)))
        ids[rows.start : rows.stop] = [b"n%08d/n%08d_%07d.JPEG" % (i // 1300, i // 1300, i) for i in rows]
    return ids


def make(n: int):
    """An index that keeps all of a source of n images, and its manifest."""
    import numpy as np

    from prune.index.manifest import Manifest
    from prune.index.provenance import record
    from prune.index.pruned_index import PrunedIndex

    rng = np.random.default_rng(0)
    small = np.full(n, 224, np.int32)
    manifest = Manifest(
        ids=ids_of(n),
        labels=(np.arange(n) // 1300).astype(np.int32),
        nbytes=rng.integers(1000, 1 << 18, n).astype(np.int32),
        width=small,
        height=small,
        digests=rng.integers(0, 1 << 63, n).astype(np.uint64),
        crc32=small.astype(np.uint32),
        classes=[f"n{i:08d}" for i in range(n // 1300 + 1)],
    )
    manifest.meta["fingerprint"] = manifest.fingerprint
    scores = rng.random(n, np.float32)
    index = PrunedIndex.from_rows(manifest, np.arange(n), score=scores, provenance=[record("benchmark", {"n": n}, {})])
    return index, manifest


def measure(operation: str, n: int, place: Path) -> None:
    """Run one operation and print its wall and processor seconds and this process's peak in GiB."""
    import numpy as np

    from prune.index.pruned_index import PrunedIndex

    if operation == "save":
        index, manifest = make(n)
        manifest.save(place.with_suffix(".manifest.npz"))
        work = lambda: index.save(place)  # noqa: E731
    elif operation == "load":
        work = lambda: PrunedIndex.load(place)  # noqa: E731
    else:
        index = PrunedIndex.load(place)
        order = np.random.default_rng(1).permutation(n)
        if operation == "rows, bytes":
            listing = index.ids[order]
            work = lambda: index.rows(listing)  # noqa: E731
        elif operation == "rows, list of str":
            names = [name.decode() for name in index.ids[order].tolist()]
            work = lambda: index.rows(names)  # noqa: E731
        elif operation == "rows_by_digest":
            digests = index.digests[order]
            work = lambda: index.rows_by_digest(digests)  # noqa: E731
        elif operation == "rows_in":
            from prune.index.manifest import Manifest

            manifest = Manifest.load(place.with_suffix(".manifest.npz"))
            work = lambda: index.rows_in(manifest)  # noqa: E731
        elif operation == "sample":
            work = lambda: index.sample(0.2)  # noqa: E731
        else:
            left, right = index.sample(0.5), index.sample(0.5, seed=1)
            work = lambda: left | right  # noqa: E731
    begin, spent = time.perf_counter(), time.process_time()
    result = work()
    seconds, busy = time.perf_counter() - begin, time.process_time() - spent
    if operation.startswith("rows, "):
        assert (order[result] == np.arange(n)).all()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(json.dumps([round(seconds, 2), round(busy, 2), round(peak, 2)]))


def import_seconds() -> float:
    """Seconds of importing the index when NumPy is imported already, the least of seven."""
    code = "import numpy, time; t = time.perf_counter(); import prune.index; print(time.perf_counter() - t)"
    runs = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True) for _ in range(7)]
    return min(float(run.stdout) for run in runs)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, nargs="+", default=[1_280_000])
    parser.add_argument("--results", type=Path)
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        measure(options.one[0], int(options.one[1]), Path(options.one[2]))
        return 0
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    os.environ |= environment
    lines = ["| samples | operation | seconds | processor seconds | peak GiB |", "|---:|---|---:|---:|---:|"]
    broken = []
    with tempfile.TemporaryDirectory() as folder:
        for n in options.samples:
            place = Path(folder) / f"{n}.npz"
            for operation in OPERATIONS:
                command = [sys.executable, __file__, "--one", operation, str(n), str(place)]
                output = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
                seconds, busy, peak = json.loads(output)
                lines.append(f"| {n:,} | {operation} | {seconds:.2f} | {busy:.2f} | {peak:.2f} |")
                print(lines[-1], flush=True)
                most_seconds, most_peak = LIMITS.get(n, (float("inf"), float("inf")))
                if busy > most_seconds or peak > most_peak:
                    broken.append(lines[-1])
            print(f"{place.stat().st_size / 1e6:,.0f} MB", flush=True)
            lines.append(f"| {n:,} | (file: {place.stat().st_size / 1e6:,.0f} MB) | | | |")
    from published import made_here, publish  # torch, before the fork, would count as a child's peak

    text = "\n".join(
        [
            "# Index files: time and memory",
            "",
            f"`{' '.join(['python', *sys.argv])}`, {made_here()}; load {os.getloadavg()[1]:.1f}.",
            "",
            "All samples of the source are kept; ids of 30 bytes; one process and one thread for each line; the peak "
            "is the whole process's, with the listing that it searches.",
            "",
            f"Importing the index takes {1000 * import_seconds():.0f} ms beyond NumPy.",
            "",
            *lines,
            "",
            "Limits, in processor seconds: 4 s at 1,280,000 samples; 60 s and 6 GiB at 14,000,000. "
            f"Broken: {len(broken)}.",
        ]
    )
    if options.results:
        publish(options.results, text + "\n")
    else:
        print(text)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
