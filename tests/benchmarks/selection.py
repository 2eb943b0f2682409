"""Seconds and peak memory of scoring and selecting, on synthetic features of ImageNet's shape.

    python tests/benchmarks/selection.py --folder scratch --only together d2        some parts
    python tests/benchmarks/selection.py --folder scratch --samples 20000           a quick look at all parts
    python tests/benchmarks/selection.py --folder scratch --large 14000000          features streamed; 12 GB of disk
    python tests/benchmarks/selection.py --folder scratch --table tests/benchmarks/results/selection

1,281,167 samples of 512 float16 features and 1,000 logits in 1,000 classes of unequal size, in random order, and 3,680
target images; --quarter samples has a quarter of each class, --quarter classes a quarter of the classes (rules that
compare the samples of a class with each other cost the square of its size); --large has 128 features, 21,841 classes,
and 64 logits of other classes. Each part runs in a process of its own and writes its figures into the folder: a part
that has some is not run again; with --again it is, and the faster run is kept. Seconds are of the step itself, with
reading its inputs and writing its output, without Python's imports; files are in the page cache as far as they fit.
CPU seconds are of all threads together, and comparable on a busy machine, too. --table writes NAME.md and NAME.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

WIDTH, CLASSES, TARGET = 512, 1000, 3680
LARGE_WIDTH, LARGE_CLASSES, LARGE_LOGITS = 128, 21_841, 64
"""ImageNet-21k's classes, fewer features, and a surrogate that knows other classes: FM alone."""
GOALS = {
    "together": (20.0, 4.0),
    "k-means": (180.0, 4.0),
    **dict.fromkeys(("duplicates", "d2", "k-center", "herding", "facility-location"), (60.0, 4.0)),
    **dict.fromkeys(("domain", "influence", "zcore", "balance", "evidence"), (60.0, 4.0)),
}
"""Seconds on two cores, and GiB."""
PARTS = {
    "together": "LM, FM, all scores of one pass, prototypes, Moderate; dp4tl-lm, el2n and winnow selected",
    "domain": "one pass and the odds of looking like the target, cross-fitted",
    "influence": "one pass and the last layer's gradients against the target's",
    "zcore": "one pass and coverage less redundancy",
    "balance": "one pass and hierarchical k-means with resampling",
    "evidence": "classes by votes beyond chance, gate open, selected",
    "selections": "random, class-random, dp4tl-fm, entropy, margin, moderate and ccs selected",
    "dynamics": "forgetting, AUM, EL2N, TDDS, DUAL, Dyn-Unc and variance of 12 epochs",
    "suspects": "one pass and confident learning",
    "k-means": "1,000 clusters, trained on 64 samples for each, all assigned",
    "self-prototype": "one pass and the distance to 1,000 spherical k-means centres",
    "affinity": "one pass and the cosine to the nearest of 3,680 target images",
    "leaks": "one pass and the near-duplicates of 3,680 test images",
    "duplicates": "one pass and near-duplicates inside the source",
    "d2": "message passing in every class, selected",
    "k-center": "selected",
    "herding": "selected",
    "facility-location": "selected",
}
QUARTER = f"-of-{CLASSES // 4}"
"""Name of the quarter that has a quarter of the classes."""
BY_CLASS = ("together", "d2", "k-center", "herding", "facility-location")
LARGE_PARTS = ("together", "selections", "duplicates", "d2")


def generate(folder: Path, n: int, width: int, classes: int, logits: int) -> None:
    """Write the source's and the target's features, once."""
    from prune.index.manifest import Manifest
    from prune.index.npz import save_arrays

    if (folder / "DONE").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    share = rng.lognormal(sigma=0.5, size=classes)
    label = rng.choice(classes, n, p=share / share.sum()).astype(np.int32)
    label[:classes] = np.arange(classes)
    centres = rng.standard_normal((classes, width), np.float32)
    names = [f"class{k:05d}" for k in range(classes)]

    # The sum of two of 16,384 rows: 134 million different noises for the price of two copies.
    pools = [rng.standard_normal((1 << 14, columns), np.float32) / 2**0.5 for columns in (width, logits)]

    def noise(pool: np.ndarray, n: int) -> np.ndarray:
        first, second = rng.integers(0, len(pool), (2, n))
        return pool[first] + pool[second]

    def block(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        features = noise(pools[0], len(rows))
        features += 0.7 * centres[rows]
        z = noise(pools[1], len(rows))
        z[np.arange(len(rows)), rows % logits] += 4
        return np.maximum(features, 0, out=features).astype(np.float16), z.astype(np.float16)

    pets = [(f"pets.{part}", rng.choice(40, TARGET).astype(np.int32) * (classes // 40)) for part in ("train", "test")]
    for name, labels in (("source", label), *pets):
        m = len(labels)
        tables = [
            np.memmap(folder / f"{name}.{part}.partial", np.float16, "w+", shape=(m, columns))
            for part, columns in (("features", width), ("logits", logits))
        ]
        for begin in range(0, m, 8192):
            rows = slice(begin, min(m, begin + 8192))
            tables[0][rows], tables[1][rows] = block(labels[rows])
            if name == "source" and begin:  # one in fifty nearly copies a sample of the block before
                copies = np.arange(rows.start, rows.stop, 50)
                tables[0][copies] = tables[0][copies - 8192 + 7] * np.float16(1.002)
        manifest = Manifest(
            ids=np.char.add(b"i", np.arange(m).astype("S8")),
            labels=labels,
            nbytes=np.full(m, 100_000, np.int32),
            width=np.full(m, 400, np.int32),
            height=np.full(m, 400, np.int32),
            digests=np.arange(m, dtype=np.uint64),
            crc32=np.zeros(m, np.uint32),
            classes=names,
        )
        manifest.save(folder / f"{name}.manifest.npz")
        save_arrays(
            folder / f"{name}.features.npz",
            {
                "features": tables[0],
                "logits": tables[1],
                "label": labels,
                "position": np.arange(m, dtype=np.int64),
            },
            {
                "format": "winnow-features/1",
                "name": name,
                "classes": names,
                "fingerprint": Manifest.load(folder / f"{name}.manifest.npz").fingerprint,
                "manifest": f"{name}.manifest.npz",
                "model": {"arch": "synthetic", "classes": names[:logits], "fingerprint": "synthetic"},
            },
        )
        for part in ("features", "logits"):
            (folder / f"{name}.{part}.partial").unlink()
    epochs = 12
    save_arrays(
        folder / "dynamics.npz",
        {
            "probability": rng.random((epochs, n), np.float32).astype(np.float16),
            "margin": rng.standard_normal((epochs, n), np.float32).astype(np.float16),
            "correct": rng.integers(0, 2, (epochs, n), np.uint8),
            "position": np.arange(n, dtype=np.int64),
            "label": label,
        },
        {"format": "winnow-dynamics/1", "fingerprint": Manifest.load(folder / "source.manifest.npz").fingerprint},
    )
    (folder / "DONE").touch()


def part(name: str, folder: Path) -> None:
    """Run one part in this process and print its seconds and peak memory."""
    import prune.methods.coverage  # noqa: F401  (imports are not what is measured)
    from prune import score, selection
    from prune.scores.clusters import kmeans, nearest, stream
    from prune.scores.feature_files import open_features
    from prune.scores.score_source import dynamics_scores

    source, target, test = (folder / f"{stem}.features.npz" for stem in ("source", "pets.train", "pets.test"))
    scores, out = folder / "scores.npz", folder / f"{os.getpid()}.npz"

    def scored(*also: Any, place: Path = out, **config: Any) -> None:
        score.run(score.Config((source,), place, (target,), also=also, **config))

    def selected(**config: Any) -> None:
        index = folder / f"{os.getpid()}.index.npz"
        selection.run(selection.Config(out=index, scores=scores, keep=0.3, **config))
        index.unlink()

    def clustered() -> None:
        features = open_features(source).features
        centres = kmeans(features, 1000)
        for _, x in stream(features, "assign"):
            nearest(x, centres)

    def together() -> None:
        scores.unlink(missing_ok=True)
        scored("prototype", place=scores)
        knows = "class/lm/pets.train" in np.load(scores).files
        for method in ("dp4tl-lm" if knows else "dp4tl-fm", "el2n" if knows else "entropy", "winnow"):
            selected(method=method)

    def selections() -> None:
        for method in ("random", "class-random", "dp4tl-fm", "entropy", "margin", "moderate"):
            selected(method=method)
        selected(quota="size", rank=f"{hardness}:ccs")

    if name != "together":
        hardness = "el2n" if "sample/el2n" in np.load(scores).files else "entropy"
    ways = {
        "together": together,
        "selections": selections,
        "dynamics": lambda: dynamics_scores(folder / "dynamics.npz", open_features(source)),
        "k-means": clustered,
        "leaks": lambda: scored(leaks=(test,)),
        "d2": lambda: selected(quota="size", rank=f"{hardness}:d2"),
        **{
            method: (lambda: selected(method=name))
            for method in ("evidence", "k-center", "herding", "facility-location")
        },
    }
    begin, used = time.perf_counter(), time.process_time()
    ways[name]() if name in ways else scored(name)
    seconds, used = time.perf_counter() - begin, time.process_time() - used
    out.unlink(missing_ok=True)
    # Not getrusage: its maximum also knows the process that this one was forked from.
    status = Path("/proc/self/status").read_text(encoding="ascii")
    peak = int(status.split("VmHWM:")[1].split()[0]) / 2**20
    figures = {"seconds": seconds, "cpu": used, "gib": peak, "load": os.getloadavg()[0]}
    threads = int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1))
    print(json.dumps({"part": name, "threads": threads, **{key: round(v, 3) for key, v in figures.items()}}))


def measure(folder: Path, names: tuple[str, ...], again: bool) -> None:
    """Run the parts without figures, each in a process of its own; `again`: all of them, and the faster run is kept."""
    if not (folder / "scores.npz").exists():  # the other parts select by what this one scores
        names = ("together", *(name for name in names if name != "together"))
    for name in names:
        place = folder / f"{name}.json"
        if place.exists() and not again:
            continue
        command = [sys.executable, __file__, "--folder", str(folder), "--part", name]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        row = json.loads(done.stdout.splitlines()[-1]) | {"date": time.strftime("%Y-%m-%d", time.gmtime())}
        if not place.exists() or row["cpu"] < json.loads(place.read_text())["cpu"]:
            place.write_text(json.dumps(row))
        said = f"{row['seconds']:.1f} s, {row['cpu']:.1f} s of CPU, {row['gib']:.2f} GiB"
        print(f"{folder.name}: {name}: {said}", file=sys.stderr)


def figures(folder: Path) -> dict[str, dict[str, float]]:
    """Figures of the parts in a folder."""
    places = {name: folder / f"{name}.json" for name in PARTS}
    return {name: json.loads(place.read_text()) for name, place in places.items() if place.exists()}


def table(n: int, found: dict[str, dict[str, dict[str, float]]]) -> str:
    """Markdown table of a size and, where measured, of its quarters."""
    whole, quarters = found.get(f"n{n}", {}), [found.get(f"n{n // 4}{suffix}", {}) for suffix in ("", QUARTER)]
    lines = [
        f"| {n:,} samples | seconds | goal | CPU seconds | peak GiB | growth by samples | growth by classes |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, row in whole.items():
        goal = f"{GOALS[name][0]:.0f} s, {GOALS[name][1]:.0f} GiB" if name in GOALS and any(quarters) else ""
        growth = [f"{row['cpu'] / small[name]['cpu'] / 4:.2f}" if name in small else "" for small in quarters]
        own = [f"{row['seconds']:.1f}", goal, f"{row['cpu']:.1f}", f"{row['gib']:.2f}"]
        lines.append("| " + " | ".join([f"{name}: {PARTS[name]}", *own, *growth]) + " |")
    return "\n".join(lines) + "\n"


def machine() -> str:
    """Processor, cores and memory in words."""
    text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    model = text.split("model name")[1].split(":")[1].split("\n")[0].strip() if "model name" in text else ""
    flags = "AVX-512" if "avx512f" in text else "AVX2" if "avx2" in text else "no AVX2"
    gib = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    versions = f"Python {platform.python_version()}, NumPy {np.__version__}"
    return f"{model or platform.machine()} ({flags}), {os.cpu_count()} cores, {gib:.0f} GiB; {versions}"


def write_table(folder: Path, stem: Path, samples: int) -> None:
    """Write stem.md and stem.json from the figures in the folders."""
    found = {place.name: figures(place) for place in sorted(folder.glob("n*")) if place.is_dir()}
    for name, rows in found.items():
        if name.endswith(QUARTER):
            rows.pop("together", None)  # a quarter of the classes has a quarter of the logits
    dates = sorted({str(row["date"]) for rows in found.values() for row in rows.values()})
    loads = [row["load"] for rows in found.values() for row in rows.values()]
    cores = os.cpu_count() or 1
    threads = sorted({int(row.get("threads", cores)) for rows in found.values() for row in rows.values()})
    busy = (
        f"The {cores} cores had other work (load averages of {min(loads):.0f} to {max(loads):.0f}), so seconds are "
        f"upper bounds; linear algebra had {' or '.join(map(str, threads))} threads.\n"
    )
    text = [
        "# Scoring and selecting: seconds and memory\n",
        f"{machine()}; {dates[0]} to {dates[-1]}. `tests/benchmarks/selection.py` says what is measured. Growth is CPU "
        "seconds over four times those of a quarter: 1 is linear.\n",
        *([busy] if max(loads) > 2 * cores else []),
        table(samples, found),
    ]
    sizes = sorted(int(name[1:]) for name, rows in found.items() if name[1:].isdigit() and rows)
    text += [table(n, found) for n in sizes if n > samples]
    stem.with_suffix(".md").write_text("\n".join(text), encoding="utf-8")
    held = {"machine": machine(), "goals": GOALS, "figures": found}
    stem.with_suffix(".json").write_text(json.dumps(held, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--samples", type=int, default=1_281_167)
    parser.add_argument("--quarter", choices=("samples", "classes"))
    parser.add_argument("--large", type=int, default=0)
    parser.add_argument("--table", type=Path)
    parser.add_argument("--part")
    parser.add_argument("--only", nargs="*")
    parser.add_argument("--again", action="store_true")
    given = parser.parse_args()
    if given.part:
        part(given.part, given.folder)
    elif given.table:
        write_table(given.folder, given.table, given.samples)
    else:
        n = given.large or given.samples // (4 if given.quarter else 1)
        shape = (LARGE_WIDTH, LARGE_CLASSES, LARGE_LOGITS) if given.large else (WIDTH, CLASSES, CLASSES)
        if given.quarter == "classes":
            shape = (WIDTH, CLASSES // 4, CLASSES // 4)
        folder = given.folder / (f"n{n}" + (QUARTER if given.quarter == "classes" else ""))
        generate(folder, n, *shape)
        default = LARGE_PARTS if given.large else BY_CLASS if given.quarter == "classes" else tuple(PARTS)
        measure(folder, default if given.only is None else tuple(given.only), given.again)


if __name__ == "__main__":
    main()
