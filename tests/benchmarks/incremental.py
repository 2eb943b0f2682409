"""Class-incremental learning with raw and with compressed exemplars of equal bytes, on real images.

    python tests/benchmarks/incremental.py --data cifar100 --work runs/cil --out results.md

`--data` holds train/CLASS/* and test/CLASS/*. The published table was made on two slow cores, with a fifth of the
images and of the memory: 100 training images a class, memories of 400 and 100 raw exemplars instead of 2,000 and 500.
At full size, on a GPU:

    python tests/benchmarks/incremental.py --data cifar100 --work runs/cil --out results.md --per-class 500 \
        --test-per-class 100 --memory 2000raw 500raw --recipe cifar-rn18-200ep --steps 5000 --batch-size 128

The same command resumes; the table of all finished runs is written after every seed.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from published import made_here, publish
from subset import thinned

from prune import write
from prune.index.manifest import manifest_path
from prune.runs.files import read_json
from transfer import incremental
from transfer.pages.incremental_page import HEADER, entry_texts

HEADS = ("linear", "nearest-mean")


def betons(arguments: argparse.Namespace) -> tuple[Path, Path]:
    """Write the betons of both splits, once."""
    train, test = arguments.work / "train.beton", arguments.work / "test.beton"
    chosen = thinned(arguments.data / "test", arguments.work / "test", slice(None), slice(arguments.test_per_class))
    write.run(write.Config(str(arguments.data / "train"), train))
    write.run(write.Config(str(chosen), test, classes=manifest_path(train)))
    return train, test


def table(result: dict[str, Any]) -> list[str]:
    """Markdown: a row for each memory size and form."""
    lines: list[Sequence[str]] = [HEADER, ["---", *["---:"] * (len(HEADER) - 1)]]
    lines += [entry_texts(entry) for entry in result["summary"]]
    return ["| " + " | ".join(cells) + " |" for cells in lines]


def verdict(result: dict[str, Any]) -> list[str]:
    """Whether the goal of 3 points is met at each memory size, against the better head of raw exemplars."""
    found = []
    by = {(entry["memory"], entry["form"]): entry for entry in result["summary"]}
    for memory in dict.fromkeys(memory for memory, _ in by):
        raw, same = by.get((memory, "raw")), by.get((memory, "same-codec"))
        if raw and same:
            best = [max((entry["heads"][head]["mean"], head) for head in HEADS) for entry in (raw, same)]
            won = 100 * (best[1][0] - best[0][0])
            found.append(
                f"- {memory:,} bytes: same-codec ({best[1][1]}) {100 * best[1][0]:.1f} % against raw ({best[0][1]}) "
                f"{100 * best[0][0]:.1f} %: {won:+.1f} points, goal of +3 {'met' if won >= 3 else 'missed'}."
            )
    return found


def page(arguments: argparse.Namespace) -> str:
    """The results as Markdown."""
    result = read_json(arguments.work / "runs" / "result.json")
    config = result["config"]
    each = 3 * arguments.side**2
    return "\n".join(
        [
            "# Class-incremental learning: raw against compressed exemplars of equal bytes",
            "",
            f"{arguments.data.name}, {config['tasks']} tasks, {arguments.per_class} training and "
            f"{arguments.test_per_class} test images a class, memory of {' and '.join(arguments.memory)} exemplars "
            f"({each:,} bytes each), recipe `{config['recipe']}`, {config['steps']} steps a task for every form, "
            f"herding, distillation {config['distillation']:g}. Made: {made_here()}.",
            "",
            "Average incremental accuracy, mean and standard deviation over seeds; differences are paired by seed, "
            "with 95 % intervals (Student's t). Headers that all JPEGs share are kept and counted once; `bytes of "
            "pixels` leaves out all headers, `bytes as whole files` gives each exemplar its own.",
            "",
            *table(result),
            "",
            *verdict(result),
            "",
        ]
    )


def main() -> None:
    """Run what is missing and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="betons and runs; finished ones are reused")
    parser.add_argument("--out", type=Path, help="Markdown file; printed when absent")
    parser.add_argument("--per-class", type=int, default=100)
    parser.add_argument("--test-per-class", type=int, default=25)
    parser.add_argument("--memory", nargs="+", default=["400raw", "100raw"])
    parser.add_argument("--recipe", default="tiny")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--quality", type=int, default=20)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--side", type=int, default=32)
    arguments = parser.parse_args()
    train, test = betons(arguments)
    for count in range(1, len(arguments.seeds) + 1):
        incremental.run(
            incremental.Config(
                train,
                test,
                arguments.work / "runs",
                tuple(arguments.memory),
                seeds=tuple(arguments.seeds[:count]),
                per_class=arguments.per_class,
                recipe=arguments.recipe,
                steps=arguments.steps,
                batch_size=arguments.batch_size,
                resolution=arguments.side,
                quality=arguments.quality,
                threads=1 if arguments.recipe == "tiny" else None,
            )
        )
        text = page(arguments)
        if arguments.out:
            publish(arguments.out, text)
        else:
            print(text)


if __name__ == "__main__":
    main()
