"""Does pruning pay, in a pool of which most is of no use to the targets and on one source? Accuracy against compute.

    python tests/benchmarks/mixed_pool.py --data data --out runs/pool --results tests/benchmarks/results/mixed-pool.md
    python tests/benchmarks/mixed_pool.py --data data --out runs/pool --seeds 0 --only full
    python tests/benchmarks/mixed_pool.py --data data --out runs/whole --pool whole --seeds 0 --only full gate winnow
    python tests/benchmarks/mixed_pool.py --data data --out runs/half --recipe half-rn18 --only full gate winnow

DATA holds cifar100/, digits/, hwdb100/ and glyphs/ (the pool, from their train parts) and the targets cifar10/,
flowers5/ and gtsrb/, each with train/ and test/. The drawn pool takes 200, 1,500, 150 and 300 images a class: 60,200
images of 244 classes, 20,000 of them natural; `--pool whole` takes all 189,431, a quarter natural; `--pool cifar100`
is one source, the 50,000 training images of CIFAR-100. The surrogate is the quarter-width ResNet-18 (`tiny`), and so is
the backbone unless `--recipe` names another; 100 % of the pretraining is its four epochs over the whole pool. Every
command resumes, and so does this one: it runs what is missing and writes the table of what there is, for which no
--data is needed. Some 60 minutes on 2 cores for two seeds of the first line.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from published import END, REMARKS, made_here, publish

from prune.index.pruned_index import PrunedIndex
from prune.runs.files import read_json
from prune.scores.feature_files import open_features
from transfer.pages.compute_figure import Point, write_compute_figure

POOL = {"cifar100": 200, "digits": 1500, "hwdb100": 150, "glyphs": 300}
"""Images a class that the drawn pool takes of each set."""
POOLS = {"drawn": POOL, "whole": dict.fromkeys(POOL, 10**6), "cifar100": {"cifar100": 10**6}}
"""Images a class of each set by the name of the pool; all where there are fewer."""
TARGETS = ("cifar10", "flowers5", "gtsrb")
EPOCHS = 4.0
"""Epochs of 100 % of the pretraining."""
LADDER = (0.22, 0.38, 0.75, 1.0, 1.12)
"""Lengths of the training on all data, as shares of 100 %, each with a whole schedule."""


@dataclass(frozen=True)
class Arm:
    """One way to spend compute: what is kept, by which scores, and for how many passes.

    Attributes
    ----------
    says : str
        The arm in words.
    keep : float
        Share of the pool.
    passes : float
        Epochs over what is kept, as a multiple of `EPOCHS`.
    select : tuple of str
        Flags of `prune select`; none: all data.
    scores : str
        Which scores file: "" (none), "pool" (a surrogate of a tenth of the pool), "gate" (thumbnails alone), or
        "cascade" and "cheap" (a surrogate of what passed the gate, at 10 % and 2.5 % of the pretraining).
    """

    says: str
    keep: float
    passes: float
    select: tuple[str, ...] = ()
    scores: str = ""


_OLD = ("--quota", "votes-whole", "--rank", "el2n/entropy:bottom", "--trim", "0.25")
_INSIDE = ("--gate", "auto", "--method", "random")
_LM = ("--gate", "auto", "--method", "dp4tl-lm")
_OLD_GATED = ("--gate", "auto", *_OLD)
_EVIDENCE = ("--method", "evidence")
_WINNOW = ("--method", "winnow")
ARMS = {
    **{f"full-{share:g}": Arm("all data", 1.0, share) for share in LADDER},
    "random-0.25": Arm("random", 0.25, 1, ("--method", "random")),
    "dp4tl-lm-0.25": Arm("`dp4tl-lm`, no gate", 0.25, 1, ("--method", "dp4tl-lm"), "pool"),
    "whole-classes-0.25": Arm("whole classes by votes, easiest three quarters, no gate", 0.25, 1, _OLD, "pool"),
    "gate-0.25": Arm("gate, random inside", 0.25, 1, _INSIDE, "gate"),
    "gate-0.15": Arm("gate, random inside", 0.15, 1, _INSIDE, "gate"),
    "gate-0.15x3": Arm("gate, random inside", 0.15, 3, _INSIDE, "gate"),
    "whole-gated-0.25": Arm("gate, whole classes by votes, easiest three quarters", 0.25, 1, _OLD_GATED, "cascade"),
    "whole-gated-0.15": Arm("gate, whole classes by votes, easiest three quarters", 0.15, 1, _OLD_GATED, "cascade"),
    "whole-gated-0.15x3": Arm("gate, whole classes by votes, easiest three quarters", 0.15, 3, _OLD_GATED, "cascade"),
    "lm-0.15": Arm("gate, `dp4tl-lm` inside", 0.15, 1, _LM, "cascade"),
    "lm-0.15x3": Arm("gate, `dp4tl-lm` inside", 0.15, 3, _LM, "cascade"),
    "lm-0.1": Arm("gate, `dp4tl-lm` inside", 0.1, 1, _LM, "cascade"),
    "lm-0.1x3": Arm("gate, `dp4tl-lm` inside", 0.1, 3, _LM, "cascade"),
    "lm-cheap-0.15": Arm("gate, `dp4tl-lm` inside, surrogate of 2.5 %", 0.15, 1, _LM, "cheap"),
    "fm-0.15": Arm("gate, `dp4tl-fm` inside", 0.15, 1, ("--gate", "auto", "--method", "dp4tl-fm"), "cascade"),
    "evidence-0.05": Arm("`evidence`", 0.05, 1, _EVIDENCE, "cascade"),
    "evidence-0.1": Arm("`evidence`", 0.1, 1, _EVIDENCE, "cascade"),
    "evidence-0.1x3": Arm("`evidence`", 0.1, 3, _EVIDENCE, "cascade"),
    "evidence-0.15": Arm("`evidence`", 0.15, 1, _EVIDENCE, "cascade"),
    "evidence-0.15x3": Arm("`evidence`", 0.15, 3, _EVIDENCE, "cascade"),
    "evidence-0.25": Arm("`evidence`", 0.25, 1, _EVIDENCE, "cascade"),
    "evidence-0.15x2": Arm("`evidence`", 0.15, 2, _EVIDENCE, "cascade"),
    "evidence-cheap-0.15x2": Arm("`evidence`, surrogate of 2.5 %", 0.15, 2, _EVIDENCE, "cheap"),
    "evidence-cheap-0.1x2": Arm("`evidence`, surrogate of 2.5 %", 0.1, 2, _EVIDENCE, "cheap"),
    "evidence-cheap-0.1": Arm("`evidence`, surrogate of 2.5 %", 0.1, 1, _EVIDENCE, "cheap"),
    "evidence-cheap-0.15": Arm("`evidence`, surrogate of 2.5 %", 0.15, 1, _EVIDENCE, "cheap"),
    "winnow-0.05": Arm("`winnow`", 0.05, 1, _WINNOW, "cascade"),
    "winnow-0.1": Arm("`winnow`", 0.1, 1, _WINNOW, "cascade"),
    "winnow-0.1x3": Arm("`winnow`", 0.1, 3, _WINNOW, "cascade"),
    "winnow-0.15": Arm("`winnow`", 0.15, 1, _WINNOW, "cascade"),
    "winnow-0.15x3": Arm("`winnow`", 0.15, 3, _WINNOW, "cascade"),
    "winnow-cheap-0.05": Arm("`winnow`, surrogate of 2.5 %", 0.05, 1, _WINNOW, "cheap"),
    "winnow-cheap-0.1": Arm("`winnow`, surrogate of 2.5 %", 0.1, 1, _WINNOW, "cheap"),
    "winnow-cheap-0.1x2": Arm("`winnow`, surrogate of 2.5 %", 0.1, 2, _WINNOW, "cheap"),
    "winnow-cheap-0.1x3": Arm("`winnow`, surrogate of 2.5 %", 0.1, 3, _WINNOW, "cheap"),
    "gate-0.1": Arm("gate, random inside", 0.1, 1, _INSIDE, "gate"),
    "gate-0.1x2": Arm("gate, random inside", 0.1, 2, _INSIDE, "gate"),
    "gate-0.15x2": Arm("gate, random inside", 0.15, 2, _INSIDE, "gate"),
    "gate-0.2": Arm("gate, random inside", 0.2, 1, _INSIDE, "gate"),
    "gate-0.07x3": Arm("gate, random inside", 0.07, 3, _INSIDE, "gate"),
    "gate-0.25x2": Arm("gate, random inside", 0.25, 2, _INSIDE, "gate"),
    "gate-0.1x3": Arm("gate, random inside", 0.1, 3, _INSIDE, "gate"),
    "influence-0.15": Arm("gate, `influence` inside", 0.15, 1, ("--gate", "auto", "--method", "influence"), "cascade"),
    "domain-0.15": Arm("highest domain odds", 0.15, 1, ("--method", "gate"), "gate"),
}
SURROGATES = {"pool": 0.1, "cascade": 0.1, "cheap": 0.025}
"""Training of each kind of surrogate, as a share of 100 % of the pretraining."""


def main() -> None:
    """Run what is missing, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="none: write the table of what there is")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--only", nargs="+", default=[""], help="arms whose names begin so")
    parser.add_argument("--pool", choices=tuple(POOLS), default="drawn")
    parser.add_argument("--recipe", default="tiny", help="of the backbone; the surrogate is always `tiny`")
    parser.add_argument("--results", type=Path, help="Markdown file to write")
    options = parser.parse_args()
    if options.data is not None:
        prepare(options.data, options.out, POOLS[options.pool])
        for seed in options.seeds:
            for name, arm in ARMS.items():
                if name.startswith(tuple(options.only)):
                    run(name, arm, seed, options.out, options.recipe)
    text = table(options.out, options.seeds, options.pool, options.recipe)
    if options.results:
        publish(options.results, text)
        title = f"{SAYS[options.pool][0].split(', ')[0]}; {SAYS[options.recipe][0].split(' (')[0]}"
        drawn = points(options.out, options.seeds)
        write_compute_figure(options.results.with_suffix(".svg"), drawn, title=title, accuracy="mean probe accuracy %")
    print(text)


def command(*arguments: object) -> None:
    """Run one of the project's commands; end with its exit code where it fails."""
    done = subprocess.run([sys.executable, "-m", *map(str, arguments)], check=False)
    if done.returncode:
        sys.exit(done.returncode)


def prepare(data: Path, out: Path, each: dict[str, int]) -> None:
    """Draw the pool as links, so many images a class of each set, and write all betons."""
    pool = out / "pool"
    if not pool.is_dir():
        draw_pool(data, pool, each)
    command("prune", "write", "--images", pool, "--out", out / "data/pool.beton", "--side", 32, "--page-mib", 2)
    for target in TARGETS:
        train, test = out / f"data/{target}.train.beton", out / f"data/{target}.test.beton"
        command("prune", "write", "--images", data / target / "train", "--out", train, "--side", 32)
        classes = ("--classes", train.with_name(f"{target}.train.manifest.npz"))
        command("prune", "write", "--images", data / target / "test", "--out", test, "--side", 32, *classes)


def draw_pool(data: Path, pool: Path, counts: dict[str, int]) -> None:
    """Draw the pool's images as links in class folders, so many a class of each set."""
    part = pool.with_name(f".{pool.name}")
    for name, each in counts.items():
        for folder in sorted(path for path in (data / name / "train").iterdir() if path.is_dir()):
            files = sorted(folder.iterdir())
            (part / folder.name).mkdir(parents=True, exist_ok=True)
            for file in random.Random(f"pool/{folder.name}").sample(files, min(each, len(files))):
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
    surrogate = trained(out, f"surrogate-{kind}", seed, *length(kind, index if part else None), *part)
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


def accuracy(out: Path, name: str, seeds: Sequence[int]) -> tuple[float, float, int]:
    """Mean over targets and seeds, standard deviation over seeds (NaN for one), and how many seeds there are."""
    each = []
    for seed in seeds:
        places = [out / f"probes/{name}-s{seed}/{target}/result.json" for target in TARGETS]
        if all(place.is_file() for place in places):
            each.append(100 * np.mean([read_json(place)["value"] for place in places]))
    if not each:
        return float("nan"), float("nan"), 0
    return float(np.mean(each)), float(np.std(each, ddof=1)) if len(each) > 1 else float("nan"), len(each)


def overhead(arm: Arm, out: Path, seeds: Sequence[int]) -> float:
    """Compute of surrogate and features, as a share of 100 % of the pretraining; a gate on thumbnails needs none."""
    if arm.scores in ("", "gate"):
        return 0.0
    rungs = {share: spent(out / f"models/full-{share:g}-s{seeds[0]}") for share in LADDER}
    whole = next((cost / share for share, cost in rungs.items() if cost == cost), float("nan"))
    model = out / f"models/surrogate-{arm.scores}-s{seeds[0]}"
    features = out / f"features/{arm.scores}-s{seeds[0]}"
    images = len(open_features(features / "pool.features.npz"))
    per_image = read_json(model / "provenance.json")["flops_per_sample"] / 3  # a forward pass is a third
    return (spent(model) + images * per_image) / whole


def spent(model: Path) -> float:
    """FLOPs of one pretraining; NaN where it has not been run."""
    if not (model / "DONE").is_file():
        return float("nan")
    facts = read_json(model / "provenance.json")
    return float(facts["flops_per_sample"]) * float(facts["samples"])


def points(out: Path, seeds: Sequence[int]) -> list[Point]:
    """Points of the figure: total compute with one use, accuracy, and an interval of two standard errors."""
    found = []
    for name, arm in ARMS.items():
        value, deviation, count = accuracy(out, name, seeds)
        if not count or "no gate" in arm.says:
            continue
        spread = 2 * deviation / count**0.5 if count > 1 else float("nan")
        ends = (value - spread, value + spread) if spread == spread else (None, None)
        compute = arm.keep * arm.passes + overhead(arm, out, seeds)
        found.append(Point(arm.says.replace("`", ""), compute, value, *ends, f"keep {arm.keep:g}, {arm.passes:g} x"))
    counts = Counter(point.curve for point in found)
    return [point for point in found if counts[point.curve] > 1 or point.curve == "random"]


def needs(value: float, ladder: Sequence[tuple[float, float]]) -> tuple[float, str]:
    """The share at which all data reach an accuracy, by linear interpolation; outside the ladder a bound.

    Parameters
    ----------
    value : float
    ladder : sequence of (share, accuracy)
        Ascending shares; accuracies are made monotone.

    Returns
    -------
    float, str
        The share, and "" or how it is bounded ("at least ", "at most ").
    """
    shares, reached = np.array([s for s, _ in ladder]), np.maximum.accumulate([a for _, a in ladder])
    if value > reached[-1]:
        return float(shares[-1]), "at least "
    if value < reached[0]:
        return float(shares[0]), "at most "
    return float(np.interp(value, reached, shares)), ""


SAYS = {
    "drawn": ("A mixed pool of 60,200 images, a third of them natural", ""),
    "whole": ("A mixed pool of 189,431 images, a quarter of them natural", " --pool whole"),
    "cifar100": ("One source of 50,000 natural images, CIFAR-100", " --pool cifar100"),
    "tiny": ("quarter-width ResNet-18", ""),
    "half-rn18": ("half-width ResNet-18 (the surrogate is of quarter width)", " --recipe half-rn18"),
}
"""Pools and recipes in words, and their flags."""


def table(out: Path, seeds: Sequence[int], pool: str, recipe: str) -> str:
    """The table as Markdown, of what has been run."""
    ladder = [(share, accuracy(out, f"full-{share:g}", seeds)[0]) for share in LADDER]
    ladder = [(share, value) for share, value in ladder if value == value]
    lines = [
        f"# {SAYS[pool][0]}",
        "",
        f"{made_here()}.",
        f"`python tests/benchmarks/mixed_pool.py --data data --out runs/pool{SAYS[pool][1]}{SAYS[recipe][1]} --results "
        "RESULTS.md`",
        "",
        f"Linear probes, mean of cifar10, flowers5 and gtsrb; {SAYS[recipe][0]}; shares are of four epochs of",
        "all data. *needs*: the share at which all data reach the arm's accuracy. *speed-up*: that share over its",
        "own, with the cost of surrogate and features at 1, 3 and 10 uses of the index.",
        "",
        REMARKS,
        END,
        "",
        "| arm | keep | pretraining | seeds | accuracy | needs | speed-up, 1 use | 3 uses | 10 uses |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name, arm in ARMS.items():
        value, deviation, count = accuracy(out, name, seeds)
        if not count:
            continue
        share = arm.keep * arm.passes
        reached = f"{value:.1f}" if count == 1 else f"{value:.1f} ± {deviation:.1f}"
        row = [arm.says, f"{arm.keep:g}", f"{share:.0%}", str(count), reached]
        if arm.select and ladder:
            needed, bound = needs(value, ladder)
            extra = overhead(arm, out, seeds)
            row += [f"{bound}{needed:.0%}", *(f"{bound}{needed / (share + extra / uses):.1f}" for uses in (1, 3, 10))]
        else:
            row += [""] * 4
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
