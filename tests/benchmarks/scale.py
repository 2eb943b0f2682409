"""Time and memory of every step from features to an index, at 100 thousand to 100 million images.

    nice python tests/benchmarks/scale.py --samples 100000 1000000 10000000 --work /scratch/scale \
        --results tests/benchmarks/results/scale.md

Features, labels and ids are generated: clustered by class, a quarter of the classes in the target's domain, the largest
class a hundred times the smallest, ids of 52 bytes, copies among the images. Each measurement is a process of its own:
wall seconds, the peak of its memory with mapped files (ru_maxrss) and without them (RssAnon, which is what a machine
must have). Measurements are kept in WORK/measured.jsonl, and the same command makes only what is missing; --forget
STEP removes those of a step. An input is made when a step needs it, and those of a size are deleted once the next size
begins, unless --keep-inputs is given. 100 million images need 21 GB of disk for the steps on an index, and 45 GB for
those on 64 half-float features.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

from generated_source import DIMENSIONS, FEATURES, MANIFEST, TARGET, make_features, make_manifest, make_target

SCORES = "score.scores.npz"
WHOLE, LEFT, RIGHT = "whole.index.npz", "left.index.npz", "right.index.npz"
STEPS = {
    "manifest: open and check": "manifest",
    "score: one pass, domain": "score",
    "near-duplicates": "duplicates",
    "k-means: 2,048 clusters, all images assigned": "clusters",
    "select: winnow, keep 0.2": "select",
    "index: make of all, and save": "save",
    "index: load": "load",
    "index: open": "open",
    "index: rows of a sorted listing": "rows",
    "index: rows of a shuffled listing": "shuffled",
    "index: a & b": "and",
    "index: a \\| b": "or",
    "index: a without b": "without",
}
"""Row of the table to the name of the measurement."""
NEEDS = {
    "score": (FEATURES, TARGET),
    "duplicates": (FEATURES,),
    "clusters": (FEATURES,),
    "select": (MANIFEST, SCORES),
    "load": (WHOLE,),
    "open": (WHOLE,),
    "rows": (MANIFEST, WHOLE),
    "shuffled": (MANIFEST, WHOLE),
    "and": (LEFT, RIGHT),
    "or": (LEFT, RIGHT),
    "without": (LEFT, RIGHT),
    FEATURES: (MANIFEST,),
    TARGET: (MANIFEST,),
    SCORES: (FEATURES, TARGET),
    LEFT: (MANIFEST,),
    RIGHT: (MANIFEST,),
    WHOLE: (MANIFEST,),
}
"""Files that a step or another file is made from; of the steps that are not named, the manifest."""


def make_scores(n: int, place: Path) -> None:
    """Score the source, as the step "score" does."""
    work_of("score", place)()


def make_part(name: str, place: Path) -> None:
    """Save an index of all images, of a random half, or of the three quarters that hold most of another half."""
    import numpy as np

    from prune.index.manifest import Manifest
    from prune.index.provenance import record
    from prune.index.pruned_index import PrunedIndex

    manifest = Manifest.load(place / MANIFEST)
    made = [record("benchmark", {"n": len(manifest)}, {})]
    score = np.random.default_rng(0).random(len(manifest), np.float32)
    rows = np.flatnonzero({WHOLE: score >= 0, LEFT: score < 0.5, RIGHT: score > 0.25}[name])
    given = score if name == WHOLE else None
    PrunedIndex.from_rows(manifest, rows, score=given, provenance=made).save(place / name, packed=True)


MAKERS = {
    MANIFEST: make_manifest,
    FEATURES: make_features,
    TARGET: make_target,
    SCORES: make_scores,
    LEFT: lambda n, place: make_part(LEFT, place),
    RIGHT: lambda n, place: make_part(RIGHT, place),
    WHOLE: lambda n, place: make_part(WHOLE, place),
}


def work_of(step: str, place: Path):
    """The work of a step as a function; what it needs besides is done here, before the clock starts."""
    import numpy as np

    from prune import score, selection
    from prune.index.manifest import Manifest
    from prune.index.pruned_index import PrunedIndex

    files = place / FEATURES, place / TARGET
    whole, left, right = (place / name for name in (WHOLE, LEFT, RIGHT))
    if step == "manifest":
        return lambda: Manifest.load(place / MANIFEST)
    if step == "score":
        out = place / SCORES
        out.unlink(missing_ok=True)
        return lambda: score.run(score.Config((files[0],), out, (files[1],), also=("domain",), workers=2))
    if step in ("duplicates", "clusters"):
        return searched(step, files[0])
    if step == "select":
        out = place / "winnow.index.npz"
        out.unlink(missing_ok=True)
        return lambda: selection.run(selection.Config(out, place / SCORES, keep=(0.2,)))
    if step == "save":
        return lambda: make_part(WHOLE, place)
    if step == "load":
        return lambda: PrunedIndex.load(whole)
    if step == "open":
        return lambda: PrunedIndex.open(whole)
    if step in ("rows", "shuffled"):
        index, listing = PrunedIndex.open(whole), Manifest.load(place / MANIFEST).ids
        order = None if step == "rows" else np.random.default_rng(1).permutation(len(listing))
        listing = listing if order is None else listing[order]

        def rows() -> None:
            found = index.rows(listing)
            assert (found == np.arange(len(found)) if order is None else order[found] == np.arange(len(found))).all()

        return rows
    a, b = PrunedIndex.open(left), PrunedIndex.open(right)
    return {"and": lambda: a & b, "or": lambda: a | b, "without": lambda: a.without(b)}[step]


def searched(step: str, file: Path):
    """A search among all features; what it finds is compared with the exact neighbours of some images afterwards."""
    import numpy as np

    from prune.scores.clusters import kmeans, nearest, stream
    from prune.scores.feature_files import open_features
    from prune.scores.near_duplicates import near_duplicates

    source = open_features(file)
    features, keys = source.features, source.keys(0)
    centre = sum(x.sum(axis=0, dtype=np.float64) for _, x in stream(features, "mean")) / len(features)

    def duplicates():
        from exact_neighbours import duplicates_found

        found = near_duplicates(features, centre, keys=keys)
        return lambda: duplicates_found(features, centre, found)

    def clusters():
        from exact_neighbours import nearest_found

        centres, number = kmeans(features, min(2_048, len(features)), keys=keys), np.empty(len(features), np.int32)
        for rows, x in stream(features, "clusters"):
            number[rows] = nearest(x, centres)[0]
        return lambda: nearest_found(features, centres, number)

    return {"duplicates": duplicates, "clusters": clusters}[step]


class Watch:
    """The largest RssAnon of this process while it works, in KiB; sampled fifty times a second."""

    def __init__(self) -> None:
        self.most, self.over = 0, threading.Event()
        self.thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Watch:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.thread.join()

    def _look(self) -> None:
        while True:
            with open("/proc/self/status") as file:
                here = next(int(line.split()[1]) for line in file if line.startswith("RssAnon"))
            self.most = max(self.most, here)
            if self.over.wait(0.02):
                return


def measure(step: str, n: int, place: Path) -> None:
    """Do one step and print its wall and processor seconds, and the process's peaks in GiB."""
    if step in MAKERS:
        MAKERS[step](n, place)
        return
    with Watch() as watch:
        work = work_of(step, place)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        begin, spent = time.perf_counter(), time.process_time()
        check = work()
        seconds, busy = time.perf_counter() - begin, time.process_time() - spent
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = {"seconds": seconds, "processor": busy, "peak": peak / 2**20, "anonymous": watch.most / 2**20}
    if step in ("duplicates", "clusters"):
        found["recall"], found["checked"] = check()
    print(json.dumps({name: round(value, 4) for name, value in found.items()} | {"before": round(before / 2**20, 3)}))


def measured(place: Path) -> dict[tuple[str, int], dict[str, float]]:
    """What was measured before."""
    lines = place.read_text().splitlines() if place.exists() else []
    return {(one["step"], one["n"]): one for one in map(json.loads, lines)}


COMMAND = [sys.executable, __file__, "--one"]


def provide(what: str, n: int, place: Path, environment: dict[str, str]) -> None:
    """Make the files that a step or another file needs, each in a process of its own, unless they are there."""
    for name in NEEDS.get(what, () if what == MANIFEST else (MANIFEST,)):
        if not (place / name).exists():
            provide(name, n, place, environment)
            subprocess.run([*COMMAND, name, str(n), str(place)], env=environment, check=True)


def measure_all(options: argparse.Namespace) -> dict[tuple[str, int], dict[str, float]]:
    """Measure what has not been measured yet, in order of size."""
    options.work.mkdir(parents=True, exist_ok=True)
    notes = options.work / "measured.jsonl"
    found = measured(notes)
    if options.forget:
        found = {key: one for key, one in found.items() if key[0] not in options.forget}
        notes.write_text("".join(json.dumps(one) + "\n" for one in found.values()))
    # Rank 1 prints no notes. Threads that wait for one another on busy cores would be counted as work.
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "RANK": "1"}
    alone = environment | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    for n in sorted(options.samples):
        wanted = [name for name in STEPS.values() if name not in options.omit and (name, n) not in found]
        place = options.work / str(n)
        if not wanted:
            continue
        if not place.exists():
            for old in options.work.glob("[0-9]*"):
                if not options.keep_inputs:
                    shutil.rmtree(old)
            place.mkdir(parents=True)
        for name in wanted:
            provide(name, n, place, environment)
            own = alone if name in ("duplicates", "clusters") else environment
            done = subprocess.run(
                [*COMMAND, name, str(n), str(place)], env=own, check=True, stdout=subprocess.PIPE, text=True
            )
            one = {"step": name, "n": n, **json.loads(done.stdout.splitlines()[-1])}
            if name == "save":
                one["bytes"] = (place / WHOLE).stat().st_size
            found[name, n] = one
            with open(notes, "a") as file:
                file.write(json.dumps(one) + "\n")
            print(json.dumps(one), flush=True)
    return found


def table(found: dict[tuple[str, int], dict[str, float]]) -> list[str]:
    """The table: a row for each step, sizes beside each other, with the growth from one size to the next."""
    sizes = sorted({n for _, n in found})
    head = ["step", *(f"{n:,}: s" for n in sizes), "growth", *(f"{n:,}: GiB (mapped too)" for n in sizes)]
    lines = [f"| {' | '.join(head)} |", f"|---|{'---:|' * (len(head) - 1)}"]
    for title, name in STEPS.items():
        mine = [found.get((name, n)) for n in sizes]
        cells = [f"{one['processor']:.2f}" if one else "" for one in mine]
        factors = [
            f"{b['processor'] / a['processor'] / (b['n'] / a['n']):.2f}" if a and b and a["processor"] >= 0.2 else "-"
            for a, b in zip(mine, mine[1:])
        ]
        memory = [f"{one['anonymous']:.2f} ({one['peak']:.2f})" if one else "" for one in mine]
        lines.append(f"| {' | '.join([title, *cells, ', '.join(factors), *memory])} |")
    every = [one for _, one in sorted(found.items(), key=lambda item: item[0][1])]
    lines += ["", "Bytes an image of the index of all: " + ", ".join(
        f"{one['bytes'] / one['n']:.1f} ({one['n']:,})" for one in every if "bytes" in one) + "."]  # fmt: skip
    for name, what in (
        ("duplicates", "with a near-duplicate that are in its group"),
        ("clusters", "in the nearest of all clusters"),
    ):
        shares = (
            f"{one['recall']:.3f} of {one['checked']:,.0f} ({one['n']:,})"
            for one in every
            if one["step"] == name and "recall" in one
        )
        lines += ["", f"Share of random images {what}, by exact search: {', '.join(shares)}."]
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--work", type=Path, default=Path("runs/scale"))
    parser.add_argument("--results", type=Path)
    parser.add_argument("--omit", nargs="*", default=[], choices=list(STEPS.values()), help="steps to leave out")
    parser.add_argument("--forget", nargs="*", default=[], choices=list(STEPS.values()), help="steps to measure again")
    parser.add_argument("--keep-inputs", action="store_true", help="do not delete the inputs of other sizes")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        measure(options.one[0], int(options.one[1]), Path(options.one[2]))
        return 0
    found = measure_all(options)
    if not options.results:
        print("\n".join(table(found)))
        return 0
    from published import END, REMARKS, made_here, publish

    sizes = " ".join(str(n) for n in sorted({n for _, n in found}))
    command = f"python tests/benchmarks/scale.py --samples {sizes} --work WORK --results {options.results}"
    text = [
        "# Time and memory up to a hundred million images",
        "",
        f"`{command}`, {made_here()}.",
        "",
        f"Generated sources: {DIMENSIONS} half-float features, ids of 52 bytes, up to 10,000 classes of which the "
        "largest has a hundred times the images of the smallest, one target of 5,000 images. Seconds are processor "
        "seconds, which other work on the same cores hardly changes: with two free cores the scores take about half "
        "as many on the clock, all other steps as many; the searches run on one thread. Growth is the factor of the "
        "time over the factor of the size, "
        "from each size to the next: 1 is linear (a step of less than 0.2 s has none). GiB is the anonymous memory of "
        "the process at its peak, which a machine must have; in brackets the peak with the pages of mapped files, "
        "which the system takes back when it needs them. Indices are packed, as those of more than 16 million samples "
        "are; the two that are combined keep a half and three quarters.",
        "",
        *table(found),
        "",
        REMARKS,
        END,
        "",
    ]
    publish(options.results, "\n".join(text))
    return 0


if __name__ == "__main__":
    sys.exit(main())
