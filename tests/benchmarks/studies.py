"""The tables that are studies: does pruning transfer, what does it cost, and under adversarial pretraining?

    python tests/benchmarks/studies.py transfer --data data --out runs/transfer --scale gpu
    python tests/benchmarks/studies.py price --data data --out runs/price --scale cores --results price.md -- --jobs 2
    python tests/benchmarks/studies.py transfer --data data --out runs/transfer -- --seeds 0      a piece of it

DATA holds cifar100/ (the source) and the targets cifar10/, flowers5/ and gtsrb/, each with train/ and test/. What comes
after `--` goes to `transfer study`: --jobs, --seeds, --plan-only, --todo. A study resumes where it was stopped, and
more seeds or methods can be added. --results writes the tables and keeps the remarks of an existing page.

`transfer`: all methods, probe and fine-tuning. gpu: a ResNet-50 with ResNet-18 surrogates on all 50,000 images, about 2
hours on an H100-class GPU. cores: the quarter-width ResNet-18 as both, on the first 200 images of each class, 10 hours
of a core. `price`: a backbone that costs much more than its surrogate. gpu: as above, keeps 0.1 and 0.2 and 90 epochs,
about 2 hours. cores: the half-width ResNet-18, 90 minutes of a core. `adversarial`: the backbone is trained on attacked
images. gpu: about 3 hours; cores: half an hour of a core. Hours of a GPU are estimated from FLOPs, not measured.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from published import END, REMARKS, publish
from subset import thinned

from prune.runs.command_line import run_step

TARGETS = ("cifar10", "flowers5", "gtsrb")
ALL = ("full", "random", "random-equal-time", "dp4tl-lm", "dp4tl-fm", "moderate", "el2n", "ccs", "d2", "winnow")
SEEDS = ("--seeds", "0", "1", "2")
GPU_SURROGATE = ("--surrogate-recipe", "small-rn18-surrogate", "--surrogate-sample", "0.25")
CORES = ("--epochs", "6", "--surrogate-recipe", "tiny", "--surrogate-epochs", "8", "--surrogate-sample", "0.25")
IMAGES_PER_CLASS = {"gpu": None, "cores": 200}

ASKED = {
    "transfer": ("--methods", *ALL, "--keeps", "0.1", "0.2", "0.3", "0.5", *SEEDS),
    "price": ("--methods", "full", "random", "random-equal-time", "winnow", "--keeps", "0.1", "0.2", *SEEDS),
    "adversarial": ("--methods", "full", "random", "winnow", "--keeps", "0.2", *SEEDS),
}
"""What each table compares."""
HOW = {
    ("transfer", "gpu"): ("--recipe", "small-rn50", *GPU_SURROGATE, "--evaluations", "probe", "finetune"),
    ("transfer", "cores"): ("--recipe", "tiny", *CORES, "--evaluations", "probe", "finetune-2"),
    ("price", "gpu"): ("--recipe", "small-rn50", "--epochs", "90", *GPU_SURROGATE),
    ("price", "cores"): ("--recipe", "half-rn18", *CORES),
    ("adversarial", "gpu"): ("--recipe", "small-rn50-robust", *GPU_SURROGATE),
    ("adversarial", "cores"): ("--recipe", "tiny-robust", *CORES),
}
"""With what networks and for how long, by table and scale."""


def main() -> None:
    """Run what the study lacks; then write its report and, with --results, its tables as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=ASKED)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--scale", choices=IMAGES_PER_CLASS, default="gpu")
    parser.add_argument("--results", type=Path, help="Markdown file to write")
    words = sys.argv[1:]
    cut = words.index("--") if "--" in words else len(words)
    given, more = parser.parse_args(words[:cut]), words[cut + 1 :]
    code = run_step("transfer study", "transfer.study", [*question(given), *more])
    if code == 0 and given.results:
        plain = given.out / "results.md"
        code = run_step("transfer report", "transfer.report", ["--study", str(given.out), "--markdown", str(plain)])
        if code == 0:
            before, facts, after = plain.read_text(encoding="utf-8").partition("- Machine:")
            publish(given.results, f"{before}{REMARKS}\n{END}\n\n{facts}{after}")
    sys.exit(code)


def question(given: argparse.Namespace) -> list[str]:
    """Arguments of `transfer study` for a table."""
    source, limit = given.data / "cifar100" / "train", IMAGES_PER_CLASS[given.scale]
    if limit is not None:
        source = thinned(source, given.data / f"cifar100-{limit}", slice(None), slice(limit))
    words = ["--out", str(given.out), "--source", str(source)]
    words += ["--targets", *(f"{name}={given.data / name}" for name in TARGETS)]
    return [*words, *HOW[given.table, given.scale], *ASKED[given.table]]


if __name__ == "__main__":
    main()
