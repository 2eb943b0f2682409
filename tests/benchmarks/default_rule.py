"""Which rule should be the default? Methods inside the gate, two sources, judged on a validation part of the targets.

    python tests/benchmarks/default_rule.py --data data --out runs/rule --source pool --keeps 0.1 0.3 --epochs 4 2
    python tests/benchmarks/default_rule.py --out runs/rule --results tests/benchmarks/results/default-rule.md

Sources: `pool` is that of `mixed_pool.py` (60,200 images, a third of them natural), `cifar100` all 50,000 images of
CIFAR-100. Targets: cifar10, flowers5 and gtsrb, four fifths of the training images of each class to choose by and to
fit the probes, the fifth to judge; no test image is read. The gate is `auto`, each surrogate is trained on what passes
at 10 % of four epochs of all data, the backbone is the quarter-width ResNet-18 (`tiny`). Every command resumes. Without
--data nothing is run and the table of what there is is written.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import mixed_pool as pool
import numpy as np
from pool_arms import POOL, TARGETS
from published import END, REMARKS, made_here, publish

from prune.runs.files import read_json

SOURCES = ("pool", "cifar100")
METHODS: dict[str, tuple[str, ...]] = {
    "random": ("--method", "random"),
    "dp4tl-lm": ("--method", "dp4tl-lm"),
    "dp4tl-fm": ("--method", "dp4tl-fm"),
    "evidence": ("--method", "evidence"),
    "influence": ("--method", "influence"),
    "domain": ("--quota", "threshold", "--rank", "domain:top"),
    "affinity": ("--method", "affinity"),
    "soft": ("--quota", "soft", "--rank", "random"),
    "whole-easy": ("--quota", "votes-whole", "--rank", "el2n/entropy:bottom", "--trim", "0.25"),
    "easiest": ("--quota", "size", "--rank", "el2n/entropy:bottom"),
    "moderate": ("--method", "moderate"),
    "ccs": ("--method", "ccs"),
    "zcore": ("--method", "zcore"),
    "evidence-easy": ("--quota", "evidence", "--rank", "el2n/entropy:bottom"),
    "evidence-domain": ("--quota", "evidence", "--rank", "domain:top"),
    "evidence+random": ("--mix", "evidence:0.5,random:0.5"),
    "lm+random": ("--mix", "lm:0.5,random:0.5"),
    "lm+domain": ("--mix", "lm:0.5,domain:0.5"),
}
"""Flags of `prune select` beside the gate."""


def main() -> None:
    """Run what is missing, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--source", nargs="+", choices=SOURCES, default=list(SOURCES))
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--keeps", type=float, nargs="+", default=[0.1, 0.3])
    parser.add_argument("--epochs", type=float, nargs="+", default=[4.0, 2.0], help="one for each keep")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--results", type=Path, help="Markdown file to write")
    options = parser.parse_args()
    if options.data is not None:
        for source in options.source:
            prepare(options.data, options.out / source, source)
            for seed in options.seeds:
                for keep, epochs in zip(options.keeps, options.epochs, strict=True):
                    for method in options.methods:
                        run(method, keep, epochs, seed, options.out / source)
    text = table(options.out)
    if options.results:
        publish(options.results, text)
    print(text)


def prepare(data: Path, out: Path, source: str) -> None:
    """Links to both parts of the targets' training images, and all betons."""
    images = data / "cifar100/train"
    if source == "pool":
        images = out / "pool"
        if not images.is_dir():
            pool.draw_pool(data, images, POOL)
    pool.command("prune", "write", "--images", images, "--out", out / "data/pool.beton", "--side", 32, "--page-mib", 2)
    for target in TARGETS:
        parts = out / f"parts/{target}"
        if not parts.is_dir():
            split(data / target / "train", parts, target)
        train, test = out / f"data/{target}.train.beton", out / f"data/{target}.test.beton"
        pool.command("prune", "write", "--images", parts / "fit", "--out", train, "--side", 32)
        classes = ("--classes", train.with_name(f"{target}.train.manifest.npz"))
        pool.command("prune", "write", "--images", parts / "judge", "--out", test, "--side", 32, *classes)


def split(images: Path, parts: Path, name: str) -> None:
    """A fifth of each class of a directory of class folders to judge by, the rest to fit, as links."""
    part = parts.with_name(f".{parts.name}")
    for folder in sorted(path for path in images.iterdir() if path.is_dir()):
        files = sorted(folder.iterdir())
        judged = set(random.Random(f"judge/{name}/{folder.name}").sample(files, max(1, len(files) // 5)))
        for file in files:
            link = part / ("judge" if file in judged else "fit") / folder.name / file.name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.unlink(missing_ok=True)
            link.symlink_to(file.resolve())
    part.rename(parts)


@cache
def scores_of(seed: int, out: Path) -> Path:
    """Scores by a surrogate of what passes the gate, with all that the methods need."""
    pool.scores_of("cascade", seed, out)
    features, place = out / f"features/cascade-s{seed}", out / f"scores/all-s{seed}.npz"
    source = ("--source", features / "pool.features.npz")
    targets = ("--targets", *(features / f"{target}.train.features.npz" for target in TARGETS))
    gate = ("--gate", out / f"scores/gate-s{seed}.npz")
    also = ("--also", "prototype", "duplicates", "influence", "affinity", "zcore")
    pool.command("prune", "score", *source, *targets, *gate, *also, "--seed", seed, "--out", place)
    return place


def run(method: str, keep: float, epochs: float, seed: int, out: Path) -> None:
    """Select, pretrain and probe once."""
    name = f"{method}-{keep:g}e{epochs:g}"
    index = out / f"indices/{method}-{keep:g}-s{seed}.index.npz"
    flags = ("--gate", "auto", *METHODS[method], "--keep", keep, "--seed", seed, "--out", index)
    pool.command("prune", "select", "--scores", scores_of(seed, out), *flags)
    model = pool.trained(out, name, seed, epochs, "--index", index)
    pool.probe(out, name, seed, model)


def table(out: Path) -> str:
    """The table as Markdown: accuracy less that of `random` inside the gate, of what has been run."""
    places = [place.name for source in SOURCES for place in (out / source).glob("probes/*-s*")]
    ends = sorted({place.rpartition("-s")[0].rpartition("-")[2] for place in places}, key=_by_length)
    seeds = sorted({int(place.rpartition("-s")[2]) for place in places})
    columns = [(source, end) for source in SOURCES for end in ends]
    chance = {key: _accuracies(out / key[0], f"random-{key[1]}", seeds) for key in columns}
    columns = [key for key in columns if chance[key]]
    says = [f"{source} {end.replace('e', ', ')} epochs" for source, end in columns]
    lines = [
        "# Which rule should be the default?",
        "",
        f"{made_here()}.",
        "`python tests/benchmarks/default_rule.py --data data --out runs/rule --results "
        "tests/benchmarks/results/default-rule.md`",
        "",
        "Linear probes on a validation part of the training images of cifar10, flowers5 and gtsrb, mean of the three;",
        "points above `random` inside the gate with the same seeds (their number in brackets). Columns: source, keep,",
        "epochs over what is kept.",
        "",
        REMARKS,
        END,
        "",
        f"| inside the gate | {' | '.join(says)} | mean |",
        f"|---|{'---:|' * (len(says) + 1)}",
        "| `random`, accuracy | "
        + " | ".join(f"{np.mean(list(chance[key].values())):.1f} ({len(chance[key])})" for key in columns)
        + " | |",
    ]
    for method in [name for name in METHODS if name != "random"]:
        gains = []
        row = []
        for source, end in columns:
            mine = _accuracies(out / source, f"{method}-{end}", seeds)
            both = [mine[seed] - chance[source, end][seed] for seed in mine if seed in chance[source, end]]
            gains += [float(np.mean(both))] if both else []
            row.append(f"{np.mean(both):+.1f} ({len(both)})" if both else "")
        if gains:
            mean = f"{np.mean(gains):+.2f}" if len(gains) == len(columns) else ""
            lines.append(f"| `{method}` | {' | '.join(row)} | {mean} |")
    return "\n".join(lines) + "\n"


def _by_length(end: str) -> tuple[float, float]:
    keep, _, epochs = end.partition("e")
    return float(keep), float(epochs)


def _accuracies(out: Path, name: str, seeds: Sequence[int]) -> dict[int, float]:
    """Mean over the targets by seed, of what has been run."""
    found = {}
    for seed in seeds:
        places = [out / f"probes/{name}-s{seed}/{target}/result.json" for target in TARGETS]
        if all(place.is_file() for place in places):
            found[seed] = float(100 * np.mean([read_json(place)["value"] for place in places]))
    return found


if __name__ == "__main__":
    main()
