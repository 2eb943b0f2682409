"""False alarms and power of a watched deployment, and false alarms of the test for unlike images: simulations.

    python tests/benchmarks/sequential.py --results tests/benchmarks/results/sequential.md

No images: errors are drawn with known probabilities, features from known distributions. Every number is over the
streams of three seeds, with the largest distance of a seed from the mean. A minute on one core.
"""

from __future__ import annotations

import argparse
from bisect import bisect_left
from collections.abc import Callable
from pathlib import Path

import numpy as np
from published import END, REMARKS, made_here, publish

from prune.methods.coverage import k_center
from prune.methods.intervals import wilson
from transfer.compression.preservation_growth import anomalies
from transfer.watching.sequential_test import log_evidence, log_threshold

SEEDS, STREAMS, ERROR = (0, 1, 2), 400, 0.05
LOOKS, BATCH = 200, 10  # images of each class in a look


def main() -> None:
    """Simulate, and publish the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, required=True, help="file of the tables")
    results: Path = parser.parse_args().results
    lines = [
        "# A deployment's test, and the test for unlike images",
        "",
        made_here() + ".",
        "`python tests/benchmarks/sequential.py --results tests/benchmarks/results/sequential.md`",
        "",
        REMARKS,
        END,
        "",
        *false_alarms(),
        "",
        *power(),
        "",
        *unlike(),
    ]
    publish(results, "\n".join(lines) + "\n")


def shown(found: list[float]) -> str:
    """Mean over the seeds in percent, and the largest distance of a seed from it."""
    mean = 100 * sum(found) / len(found)
    return f"{mean:.1f} ± {max(abs(100 * one - mean) for one in found):.1f}"


def least_errors(images: np.ndarray, alarms: Callable[[int, int], bool]) -> np.ndarray:
    """The smallest number of errors that alarms, for each number of images: more errors never alarm less."""
    return np.array([bisect_left(range(n + 1), True, key=lambda wrong, n=n: alarms(wrong, n)) for n in images.tolist()])


def false_alarms() -> list[str]:
    """Any alarm in 200 looks, where every class errs exactly as often as allowed."""
    images, rows = BATCH * np.arange(1, LOOKS + 1), []
    for classes in (1, 10, 100):
        for allowed in (0.02, 0.05, 0.2):
            limit, confidence = log_threshold(ERROR, classes + 1), 1 - ERROR / classes

            def certain(wrong: int, n: int, m: float = allowed, limit: float = limit) -> bool:
                return bool(log_evidence(np.array(wrong), np.array(n), np.array(m)) >= limit)

            def once(wrong: int, n: int, m: float = allowed, confidence: float = confidence) -> bool:
                return bool(wilson(wrong, n, confidence)[0] > m)

            each, every = least_errors(images, certain), least_errors(classes * images, certain)
            looked = least_errors(images, once)
            sequential, repeated = [], []
            for seed in SEEDS:
                draw = np.random.default_rng((seed, classes)).binomial(BATCH, allowed, (STREAMS, classes, LOOKS))
                wrong = draw.cumsum(2)
                alarmed = (wrong >= each).any((1, 2)) | (wrong.sum(1) >= every).any(1)
                sequential.append(float(alarmed.mean()))
                repeated.append(float((wrong >= looked).any((1, 2)).mean()))
            rows.append(f"| {classes} | {100 * allowed:g} | {shown(sequential)} | {shown(repeated)} |")
    return [
        f"Streams of {len(SEEDS)} x {STREAMS} in which any class is ever alarmed, in percent; at most {ERROR:.0%} "
        f"are promised. Every class errs exactly as often as allowed; {LOOKS} looks of {BATCH} images of each class, "
        "stopped at the first alarm. Beside it Wilson's interval at each look, corrected for the classes "
        "alone.",
        "",
        "| classes | allowed % | e-process | one-look test at every look |",
        "| --- | --- | --- | --- |",
        *rows,
    ]


def power() -> list[str]:
    """Images of a broken class until it alarms."""
    rows, images = [], np.arange(1, 2001)
    for classes in (10, 100):
        limit = log_threshold(ERROR, classes + 1)

        def certain(wrong: int, n: int, limit: float = limit) -> bool:
            return bool(log_evidence(np.array(wrong), np.array(n), np.array(0.05)) >= limit)

        least = least_errors(images, certain)
        for share in (0.1, 0.15, 0.2, 0.3, 0.5, 1.0):
            found = []
            for seed in SEEDS:
                draw = np.random.default_rng((seed, classes)).random((STREAMS, len(images))) < share
                alarmed = draw.cumsum(1) >= least
                found.append(np.where(alarmed.any(1), alarmed.argmax(1) + 1, len(images) + 1))
            median, most = (np.quantile(np.concatenate(found), q) for q in (0.5, 0.95))
            last = f"{most:.0f}" if most <= len(images) else f"over {len(images):,}"
            rows.append(f"| {classes} | {100 * share:g} | {median:.0f} | {last} |")
    return [
        "Images of one class until it alarms, where 5 % errors are allowed and it has this share; looked at after "
        "every image.",
        "",
        "| classes | errors % | median | 95 % of the streams |",
        "| --- | --- | --- | --- |",
        *rows,
    ]


def unlike() -> list[str]:
    """False alarms of the test for images unlike the set, by how the set was chosen."""

    def rate(seed: int, members: int, covering: bool) -> float:
        rng, found = np.random.default_rng((seed, members)), []
        for _ in range(40):
            pool = (rng.normal(size=(4 * members, 16)) + 1).astype(np.float32)
            chosen = pool[k_center(pool, members)] if covering else pool[:members]
            distances, threshold = anomalies(chosen, rng.normal(size=(300, 16)) + 1, ERROR)
            found.append(float((distances > (np.inf if threshold is None else threshold)).mean()))
        return float(np.mean(found))

    rows = []
    for members in (50, 100, 500):
        cells = [shown([rate(seed, members, covering) for seed in SEEDS]) for covering in (False, True)]
        rows.append(f"| {members} | {cells[0]} | {cells[1]} |")
    return [
        f"Ordinary images that are taken for unlike the set, in percent, at --false-alarms {ERROR:g}: features normal "
        "in 16 dimensions, 40 sets for each seed. A set that covers its class (k-center of four times as many) alarms "
        "less.",
        "",
        "| images of the set | drawn at random | chosen to cover |",
        "| --- | --- | --- |",
        *rows,
    ]


if __name__ == "__main__":
    main()
