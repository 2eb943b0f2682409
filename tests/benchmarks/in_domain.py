"""In-domain table: prune a data set, train on what is kept, test on the set's own test images.

    python tests/benchmarks/in_domain.py --source cifar100 --out runs/in-domain --scale gpu     the field's protocol
    python tests/benchmarks/in_domain.py --source cifar100 --out runs/in-domain --scale cores   two cores, no GPU

Constant batch size, the last epoch's accuracy, the same number of epochs at every keep; one run on all images gives
each seed's scores and training dynamics. `gpu` is ResNet-18 for 200 epochs on all images: about 1 hour a full run on an
A100-class GPU, 60 hours for 10 methods, 5 keeps and 3 seeds. It can be made in pieces: --seeds, --methods and --keeps
may be any part of the whole, and results in --out are not made again. `cores` is a quarter-width ResNet-18 for 10
epochs on the first 200 training images of the first 20 classes: 25 minutes a seed on one core. Writes OUT/cells.jsonl,
a line for each condition; --results writes the table of all of them.

--validation uses training images alone, to choose a method by: tests are on the next 100 of each class, at the scale
`cores` of the next 20 classes. --methods also takes QUOTA*RANK, such as size*aum:top.
"""

from __future__ import annotations

import argparse
import json
import statistics
from dataclasses import dataclass
from pathlib import Path

from published import END, REMARKS, made_here, publish
from subset import thinned

METHODS = ("random", "el2n", "forgetting", "aum", "moderate", "ccs", "d2", "tdds", "dual", "winnow")
KEEPS = (0.7, 0.5, 0.3, 0.2, 0.1)


@dataclass(frozen=True)
class Scale:
    """Recipe, its epochs, and how much of the set is used."""

    recipe: str
    epochs: float
    batch: int
    classes: int | None = None
    images: int | None = None


SCALES = {"gpu": Scale("cifar-rn18-200ep", 200, 128), "cores": Scale("tiny", 10, 32, 20, 200)}
VALIDATION_IMAGES = 100


def main() -> None:
    """Run the conditions that are missing, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, required=True, help="directory with train/ and test/")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--scale", choices=SCALES, default="gpu")
    parser.add_argument("--methods", nargs="+", default=METHODS)
    parser.add_argument("--keeps", nargs="+", type=float, default=KEEPS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--validation", action="store_true", help="other classes, tested on training images")
    parser.add_argument("--loader", choices=("ffcv", "torch"), default="ffcv")
    parser.add_argument("--results", type=Path, help="Markdown file; X.jsonl with the conditions is written beside it")
    parser.add_argument("--merge", type=Path, nargs="*", default=[], help="other --out to include in the table")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    betons = [write(images(given, part), given.out, part) for part in ("train", "test")]
    for seed in given.seeds:
        record(given.out, "full", 1.0, seed, train(betons, given.out / f"full-s{seed}", given, seed, dynamics=True))
        scores = score(betons[0], given.out, seed)
        for keep in given.keeps:
            for method in given.methods:
                name = f"{method}-{keep:g}-s{seed}"
                index = select(scores, given.out / f"{name}.index.npz", method, keep, seed)
                record(given.out, method, keep, seed, train(betons, given.out / name, given, seed, index=index))
    if given.results:
        lines = [line for out in (given.out, *given.merge) for line in (out / "cells.jsonl").read_text().splitlines()]
        publish(given.results, table([json.loads(line) for line in lines], given.scale))
        given.results.with_suffix(".jsonl").write_text("".join(f"{line}\n" for line in lines))


def images(given: argparse.Namespace, part: str) -> Path:
    """Directory of a split's images, or of links to as many of them as the scale uses."""
    scale, links = SCALES[given.scale], given.out / "images" / part
    if given.validation:
        limit = scale.images or 400
        classes = slice(scale.classes, 2 * scale.classes) if scale.classes else slice(None)
        kept = slice(limit) if part == "train" else slice(limit, limit + VALIDATION_IMAGES)
        return thinned(given.source / "train", links, classes, kept)
    if scale.classes is None:
        return given.source / part
    kept = slice(scale.images if part == "train" else None)
    return thinned(given.source / part, links, slice(scale.classes), kept)


def write(images: Path, out: Path, part: str) -> Path:
    """Write a beton of these images."""
    from prune import write as step

    classes = out / "train.manifest.npz" if part == "test" else None
    step.run(step.Config(images=str(images), out=out / f"{part}.beton", classes=classes))
    return out / f"{part}.beton"


def train(
    betons: list[Path],
    out: Path,
    given: argparse.Namespace,
    seed: int,
    *,
    index: Path | None = None,
    dynamics: bool = False,
) -> float:
    """Accuracy on the test images after the last epoch."""
    from pretrain import train as step

    scale = SCALES[given.scale]
    config = step.Config(
        beton=betons[0],
        val=betons[1],
        out=out,
        index=index,
        recipe=scale.recipe,
        epochs=scale.epochs,
        batch_size=scale.batch,
        seed=seed,
        dynamics=dynamics,
        loader=given.loader,
    )
    step.run(config)
    return float(json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])["val_top1"])


def score(beton: Path, out: Path, seed: int) -> Path:
    """Scores from the run on all images: from its last weights, and from its training dynamics."""
    from prune import features
    from prune import score as step

    full, place = out / f"full-s{seed}", out / f"features-s{seed}"
    features.run(features.Config(model=full, betons=(beton,), out=place))
    config = step.Config(
        source=(place / f"{beton.stem}.features.npz",),
        dynamics=(full / "dynamics.npz",),
        out=out / f"s{seed}.scores.npz",
    )
    return step.run(config)


def select(scores: Path, out: Path, method: str, keep: float, seed: int) -> Path:
    """Select an index; the set is its own target, so there are no class votes."""
    from prune import selection

    quota, _, rank = method.partition("*")
    how = {"quota": quota, "rank": rank} if rank else {"method": method}
    return selection.run(selection.Config(out=out, scores=scores, keep=keep, seed=seed, **how))


def record(out: Path, method: str, keep: float, seed: int, top1: float) -> None:
    """Add the condition to OUT/cells.jsonl, once."""
    place = out / "cells.jsonl"
    line = json.dumps({"method": method, "keep": keep, "seed": seed, "top1": round(top1, 6)})
    if not place.exists() or line not in place.read_text().splitlines():
        with place.open("a") as file:
            file.write(line + "\n")
        print(line, flush=True)


def table(cells: list[dict], name: str) -> str:
    """Mean and standard deviation over seeds, a row for each method, the best of a column bold; `winnow` in pairs."""
    scale = SCALES[name]
    keeps = sorted({cell["keep"] for cell in cells} - {1.0}, reverse=True)
    made = {cell["method"] for cell in cells} - {"full"}
    methods = [m for m in METHODS if m in made] + sorted(made - set(METHODS))
    values = {(c["method"], c["keep"], c["seed"]): 100 * c["top1"] for c in cells}
    seeds = sorted({seed for _, _, seed in values})

    def column(method: str, keep: float) -> list[float]:
        return [values[method, keep, seed] for seed in seeds if (method, keep, seed) in values]

    def ahead(other: str, keep: float) -> list[float]:
        both = [s for s in seeds if {("winnow", keep, s), (other, keep, s)} <= set(values)]
        return [values["winnow", keep, s] - values[other, keep, s] for s in both]

    def leader(names: list[str], keep: float) -> str:
        return max((m for m in names if column(m, keep)), key=lambda m: statistics.fmean(column(m, keep)))

    best = {k: leader(methods, k) for k in keeps}
    rival = {k: leader([m for m in methods if m != "winnow"], k) for k in keeps}
    used = f"the first {scale.images} images of the first {scale.classes} classes" if scale.classes else "all images"
    body = [[m, *(spread(column(m, k), "{:.1f}", bold=best[k] == m) for k in keeps)] for m in methods]
    body += [["winnow above random", *(spread(ahead("random", k), "{:+.1f}") for k in keeps)]]
    body += [["winnow above the best other", *(f"{spread(ahead(rival[k], k), '{:+.1f}')} {rival[k]}" for k in keeps)]]
    lines = [
        "# In-domain pruning",
        "",
        f"Scale `{name}`: recipe `{scale.recipe}`, {scale.epochs:g} epochs, batches of {scale.batch}, {used}. Test",
        "top-1 in percent after the last epoch, mean ± standard deviation (seeds); the last rows are paired by seed.",
        f"Full data: {spread(column('full', 1.0), '{:.1f}')}.",
        "",
        *_rows(["method", *(f"keep {k:g}" for k in keeps)], body),
        "",
        REMARKS,
        END,
        "",
        f"Made: {made_here()}.",
    ]
    return "\n".join(lines) + "\n"


def spread(numbers: list[float], form: str, *, bold: bool = False) -> str:
    """`34.1 ± 0.4 (3)`; empty for no numbers."""
    if not numbers:
        return ""
    deviation = f" ± {statistics.stdev(numbers):.1f}" if len(numbers) > 1 else ""
    text = form.format(statistics.fmean(numbers)) + deviation
    return f"{f'**{text}**' if bold else text} ({len(numbers)})"


def _rows(head: list[str], body: list[list[str]]) -> list[str]:
    return ["| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *body)]


if __name__ == "__main__":
    main()
