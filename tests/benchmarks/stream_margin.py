"""What a stream's margin saves where importance errs, and what following the draws gives, on real images.

    python tests/benchmarks/stream_margin.py --data cifar100 --work runs/margin --out tests/benchmarks/results/stream.md

`--data` holds train/CLASS/* and test/CLASS/*. Ranks of 0, 20 and 40 % of the samples are exchanged at random, with and
without --margin; then replay by loss, with and without --follow-use. The same command resumes: every run is a run of
`transfer stream`. Replaces the part of --out below its last heading but for its remarks, and leaves the rest.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from published import made_here, remarks
from subset import thinned

from prune import write
from prune.index.manifest import manifest_path
from prune.runs.files import counted, read_json
from transfer import stream
from transfer.continual.incremental_results import paired

HEADING = "## Where importance errs"
HEADS = ("nearest-mean", "linear")


def betons(given: argparse.Namespace) -> tuple[Path, Path]:
    """Write the betons of both splits, once."""
    found = []
    for split, count in (("train", given.per_class), ("test", given.test_per_class)):
        chosen = thinned(given.data / split, given.work / split, slice(None), slice(count))
        place = given.work / f"{split}.beton"
        write.run(write.Config(str(chosen), place, classes=manifest_path(found[0]) if found else None))
        found.append(place)
    return found[0], found[1]


def values(out: Path, head: str) -> dict[str, dict[int, float]]:
    """Mean accuracy over the stream in percent, by policy and seed."""
    found: dict[str, dict[int, float]] = {}
    for cell in read_json(out / "result.json")["cells"]:
        found.setdefault(cell["policy"], {})[cell["seed"]] = 100 * cell["heads"][head]["value"]
    return found


def text(runs: dict[int, float]) -> str:
    """Mean and standard deviation over seeds."""
    each = list(runs.values())
    return f"{np.mean(each):.1f}" + (f" ± {np.std(each, ddof=1):.1f}" if len(each) > 1 else "")


def gap(runs: dict[int, float], reference: dict[int, float]) -> str:
    """Difference paired by seed, with its 95 % interval."""
    seeds = sorted(set(runs) & set(reference))
    found: Any = paired([runs[s] for s in seeds], [reference[s] for s in seeds])
    return f"{found['value']:+.1f}" + (
        "" if found["low"] is None else f" ({found['low']:+.1f} to {found['high']:+.1f})"
    )


def table(plain: dict[tuple[float, float], Path], used: dict[str, Path], margin: float) -> list[str]:
    """Markdown: ranks exchanged against margins, then replay."""
    lines = [
        "| policy | head | ranks exchanged | no margin % | margin % | margin against none |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    wrongs = sorted({wrong for wrong, _ in plain})
    for policy in values(next(iter(plain.values())), HEADS[0]):
        for head in HEADS:
            for wrong in wrongs:
                without, kept = (values(plain[wrong, m], head)[policy] for m in (0.0, margin))
                cells = (policy, head, f"{100 * wrong:.0f} %", text(without), text(kept), gap(kept, without))
                lines.append("| " + " | ".join(cells) + " |")
    lines += ["", "| replay, `adaptive` | head | accuracy % | against even replay |", "| --- | --- | ---: | ---: |"]
    for head in HEADS:
        even = values(plain[0.0, 0.0], head)["adaptive"]
        lines.append(f"| even | {head} | {text(even)} | |")
        for name, out in used.items():
            mine = values(out, head)["adaptive"]
            lines.append(f"| {name} | {head} | {text(mine)} | {gap(mine, even)} |")
    return lines


def main() -> None:
    """Run what is missing and write the part of the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--per-class", type=int, default=20)
    parser.add_argument("--test-per-class", type=int, default=10)
    parser.add_argument("--memory", default="100raw")
    parser.add_argument("--every", type=int, default=400)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--recipe", default="tiny")
    parser.add_argument("--margin", type=float, default=0.2)
    parser.add_argument("--wrong", type=float, nargs="+", default=[0.0, 0.2, 0.4])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    train, test = betons(given)

    def streamed(name: str, seeds: list[int], policies: tuple[Any, ...], **settings: Any) -> Path:
        out = given.work / name
        sizes = {"every": given.every, "steps": given.steps, "recipe": given.recipe, "threads": 1}
        stream.run(
            stream.Config(train, test, out, given.memory, policies=policies, seeds=tuple(seeds), **sizes, **settings)
        )
        return out

    for count in range(1, len(given.seeds) + 1):
        seeds = given.seeds[:count]
        plain = {
            (wrong, margin): streamed(
                f"wrong-{wrong:g}-margin-{margin:g}", seeds, ("raw", "adaptive"), wrong_ranks=wrong, margin=margin
            )
            for wrong in given.wrong
            for margin in (0.0, given.margin)
        }
        used = {
            "by loss": streamed("loss", seeds, ("adaptive",), replay="loss"),
            "by loss, bytes follow the draws": streamed(
                "loss-use", seeds, ("adaptive",), replay="loss", follow_use=True
            ),
        }
        before = given.out.read_text(encoding="utf-8")
        head, _, _ = before.partition(f"\n{HEADING}\n")
        part = [
            HEADING,
            "",
            f"{given.data.name}, {given.per_class} images a class in the order of the classes, memory {given.memory}, "
            f"learning {given.steps} steps after every {given.every} images, recipe `{given.recipe}`, rank herding, "
            f"{counted(count, 'seed')}, margin {given.margin:g}. Mean accuracy over the stream on the "
            f"{given.test_per_class} test images of each class so far, standard deviation over seeds; "
            f"differences are paired by seed, with 95 % intervals (Student's t). Made: {made_here()}.",
            "",
            *table(plain, used, given.margin),
            "",
            remarks(before),
        ]
        given.out.write_text(f"{head}\n" + "\n".join(part), encoding="utf-8")


if __name__ == "__main__":
    main()
