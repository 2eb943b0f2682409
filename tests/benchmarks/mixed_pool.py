"""Does pruning pay, in a pool of which most is of no use to the targets and on one source? Accuracy against compute.

    python tests/benchmarks/mixed_pool.py --data data --out runs/pool --results tests/benchmarks/results/mixed-pool.md
    python tests/benchmarks/mixed_pool.py --data data --out runs/pool --seeds 0 --only full
    python tests/benchmarks/mixed_pool.py --data data --out runs/other --draw 2 --seeds 3 4 --only full gate
    python tests/benchmarks/mixed_pool.py --data data --out runs/whole --pool whole --seeds 0 --only full gate winnow
    python tests/benchmarks/mixed_pool.py --data data --out runs/half --recipe half-rn18 --only full gate winnow

DATA holds cifar100/, digits/, hwdb100/ and glyphs/ (the pool, from their train parts) and the targets cifar10/,
flowers5/ and gtsrb/, each with train/ and test/. The drawn pool takes 200, 1,500, 150 and 300 images a class: 60,200
images of 244 classes, 20,000 of them natural, others with another `--draw`; `--pool whole` takes all 189,431, a quarter
natural; `--pool cifar100` is one source, the 50,000 training images of CIFAR-100. The surrogate is the quarter-width
ResNet-18 (`tiny`), and so is the backbone unless `--recipe` names another; 100 % of the pretraining is its four epochs
over the whole pool. Every command resumes, and so does this one: it runs what is missing and writes the table of what
there is, for which no --data is needed; `--also` reads other draws' runs with other seeds. Some 60 minutes on 2 cores
for two seeds of the first line.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from pool_arms import ARMS, EPOCHS, POOLS, SURROGATES, TARGETS, Arm
from pool_table import Measured, measured, points, tables
from published import END, REMARKS, made_here, publish

from prune.index.pruned_index import PrunedIndex
from transfer.pages.compute_figure import write_compute_figure

SAYS = {
    "drawn": ("A mixed pool of 60,200 images, a third of them natural", ""),
    "whole": ("A mixed pool of 189,431 images, a quarter of them natural", " --pool whole"),
    "cifar100": ("One source of 50,000 natural images, CIFAR-100", " --pool cifar100"),
    "tiny": ("quarter-width ResNet-18", ""),
    "half-rn18": ("half-width ResNet-18 (the surrogate is of quarter width)", " --recipe half-rn18"),
}
"""Pools and recipes in words, and their flags."""


def main() -> None:
    """Run what is missing, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="none: write the table of what there is")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", default=[""], help="arms whose names begin so")
    parser.add_argument("--pool", choices=tuple(POOLS), default="drawn")
    parser.add_argument("--draw", type=int, default=1, help="which images the drawn pool takes")
    parser.add_argument("--also", type=Path, nargs="+", default=[], help="for the tables: --out of other draws")
    parser.add_argument("--recipe", default="tiny", help="of the backbone; the surrogate is always `tiny`")
    parser.add_argument("--results", type=Path, help="Markdown file to write")
    options = parser.parse_args()
    if options.data is not None:
        prepare(options.data, options.out, POOLS[options.pool], options.draw)
        for seed in options.seeds:
            for name, arm in ARMS.items():
                if name.startswith(tuple(options.only)):
                    run(name, arm, seed, options.out, options.recipe)
    found = measured([options.out, *options.also], ARMS, options.seeds)
    more = f" --also runs/other --seeds {' '.join(map(str, options.seeds))}" if options.also else ""
    text = page(found, options.pool, options.recipe, more)
    if options.results:
        publish(options.results, text)
        title = f"{SAYS[options.pool][0].split(', ')[0]}; {SAYS[options.recipe][0].split(' (')[0]}"
        place = options.results.with_suffix(".svg")
        write_compute_figure(place, points(found), title=title, accuracy="mean probe accuracy %")
    print(text)


def page(found: Measured, pool: str, recipe: str, more: str = "") -> str:
    """The page as Markdown, of what has been run; `more` are further flags of its command."""
    lines = [
        f"# {SAYS[pool][0]}",
        "",
        f"{made_here()}.",
        f"`python tests/benchmarks/mixed_pool.py --data data --out runs/pool{SAYS[pool][1]}{SAYS[recipe][1]}{more} "
        "--results RESULTS.md`",
        "",
        f"Linear probes, mean of cifar10, flowers5 and gtsrb; {SAYS[recipe][0]}; shares are of four epochs of",
        "all data; ± is the standard deviation over seeds, brackets hold 95 % intervals over seeds and test images.",
        "*to all data*: points above all data at 100 %; *within 2 points*: whether that is shown, for all arms at once",
        "(Holm). *speed-up*: the compute that all data need for the same accuracy over the arm's, with the cost of",
        "surrogate and features at 1, 3 and 10 uses of the index.",
        "",
        REMARKS,
        END,
        "",
        *tables(found),
    ]
    return "\n".join(lines) + "\n"


def command(*arguments: object) -> None:
    """Run one of the project's commands; end with its exit code where it fails."""
    done = subprocess.run([sys.executable, "-m", *map(str, arguments)], check=False)
    if done.returncode:
        sys.exit(done.returncode)


def prepare(data: Path, out: Path, each: dict[str, int], draw: int) -> None:
    """Draw the pool as links, so many images a class of each set, and write all betons."""
    pool = out / "pool"
    if not pool.is_dir():
        draw_pool(data, pool, each, draw)
    command("prune", "write", "--images", pool, "--out", out / "data/pool.beton", "--side", 32, "--page-mib", 2)
    for target in TARGETS:
        train, test = out / f"data/{target}.train.beton", out / f"data/{target}.test.beton"
        command("prune", "write", "--images", data / target / "train", "--out", train, "--side", 32)
        classes = ("--classes", train.with_name(f"{target}.train.manifest.npz"))
        command("prune", "write", "--images", data / target / "test", "--out", test, "--side", 32, *classes)


def draw_pool(data: Path, pool: Path, counts: dict[str, int], draw: int = 1) -> None:
    """Draw the pool's images as links in class folders, so many a class of each set."""
    part = pool.with_name(f".{pool.name}")
    seed = "pool" if draw == 1 else f"pool{draw}"
    for name, each in counts.items():
        for folder in sorted(path for path in (data / name / "train").iterdir() if path.is_dir()):
            files = sorted(folder.iterdir())
            (part / folder.name).mkdir(parents=True, exist_ok=True)
            for file in random.Random(f"{seed}/{folder.name}").sample(files, min(each, len(files))):
                link = part / folder.name / file.name
                link.unlink(missing_ok=True)
                link.symlink_to(file.resolve())
    part.rename(pool)


def trained(out: Path, name: str, seed: int, epochs: float, *flags: object, recipe: str = "tiny") -> Path:
    """Pretrain on the pool; the model directory."""
    place = out / f"models/{name}-s{seed}"
    how = ("--beton", out / "data/pool.beton", "--recipe", recipe, "--loader", "torch", "--seed", seed)
    command("pretrain", *how, "--epochs", round(epochs, 6), "--out", place, *flags)
    return place


@cache  # each command takes seconds to say that it is up to date
def scores_of(kind: str, seed: int, out: Path) -> Path:
    """The scores file that an arm selects by."""
    place = out / f"scores/{kind}-s{seed}.npz"
    betons = [out / "data/pool.beton", *(out / f"data/{target}.train.beton" for target in TARGETS)]

    def score(features: Path, *flags: object) -> Path:
        targets = [features / f"{target}.train.features.npz" for target in TARGETS]
        source = ("--source", features / "pool.features.npz", "--targets", *targets)
        command("prune", "score", *source, *flags, "--out", place)
        return place

    if kind == "gate":
        thumbnails = out / "features/thumbnails"
        command("prune", "features", "--thumbnail", "--betons", *betons, "--out", thumbnails)
        return score(thumbnails, "--also", "domain", "--seed", seed)
    part: tuple[object, ...] = ()
    flags: tuple[object, ...] = ()
    if kind != "pool":
        gate, index = scores_of("gate", seed, out), out / f"indices/gate-s{seed}.index.npz"
        command("prune", "select", "--scores", gate, "--method", "gate", "--seed", seed, "--out", index)
        part = ("--index", index)
        flags = ("--gate", gate, "--also", "prototype", "duplicates", "influence")
    size = kind.removesuffix("-votes")
    surrogate = trained(out, f"surrogate-{size}", seed, *length(size, index if part else None), *part)
    if kind != size:
        part, flags = (*part, "--sample", 0.1, "--seed", seed), ("--gate", gate, "--also", "prototype")
    features = out / f"features/{kind}-s{seed}"
    extract = ("--betons", *betons, "--out", features, "--loader", "torch", *part)
    command("prune", "features", "--model", surrogate, *extract)
    return score(features, *flags, "--seed", seed)


def length(kind: str, index: Path | None) -> tuple[object, ...]:
    """Epochs of a surrogate, and the flag for the part that it is trained on: together its share of the pretraining.

    As many epochs as the backbone's over a part of the images, but one epoch at least of a tenth of the gated part.
    """
    images = 1.0 if index is None else len(PrunedIndex.load(index)) / PrunedIndex.load(index).source_samples
    passes = EPOCHS * SURROGATES[kind] / images  # over all that the surrogate may see
    epochs = EPOCHS if kind != "cheap" else 1.0
    return (epochs, "--sample", round(min(1.0, passes / epochs), 4))


def run(name: str, arm: Arm, seed: int, out: Path, recipe: str = "tiny") -> None:
    """Select, pretrain and probe one arm with one seed."""
    flags: Sequence[object] = ()
    if arm.select:
        index = out / f"indices/{name}-s{seed}.index.npz"
        by = ("--scores", scores_of(arm.scores, seed, out)) if arm.scores else ()
        by = by or ("--manifest", out / "data/pool.manifest.npz")
        command("prune", "select", *by, *arm.select, "--keep", arm.keep, "--seed", seed, "--out", index)
        flags = ("--index", index)
    probe(out, name, seed, trained(out, name, seed, EPOCHS * arm.passes, *flags, recipe=recipe))


def probe(out: Path, name: str, seed: int, model: Path) -> None:
    """Probe a model on all targets."""
    for target in TARGETS:
        pair = ("--train", out / f"data/{target}.train.beton", "--test", out / f"data/{target}.test.beton")
        place = out / f"probes/{name}-s{seed}/{target}"
        command("transfer", "probe", "--model", model, *pair, "--loader", "torch", "--out", place)


if __name__ == "__main__":
    main()
