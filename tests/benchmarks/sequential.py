"""False alarms and power of a watched deployment, and false alarms of the test for unlike images: simulations.

    python tests/benchmarks/sequential.py --results tests/benchmarks/results/sequential.md

No images: errors are drawn with known probabilities, features from known distributions. Every number is over the
streams of three seeds, with the largest distance of a seed from the mean. A minute on one core.
"""

from __future__ import annotations

import argparse
from bisect import bisect_left
from pathlib import Path

import numpy as np
from published import END, REMARKS, made_here, publish

from prune.methods.coverage import k_center
from prune.methods.intervals import wilson
from transfer.compression.preservation_growth import anomalies
from transfer.watching.sequential_test import log_evidence, log_threshold

SEEDS, STREAMS, ERROR = (0, 1, 2), 400, 0.05
LOOKS, BATCH = 50, 40  # images of each class in a look


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


def evidence(wrong: np.ndarray, images: int, allowed: float) -> np.ndarray:
    """Logarithm of the e-value after each look, for streams (..., looks) of errors, as `log_evidence_of_looks` has it.

    Every look has as many images, so that the capital of each start is read from a table of lengths and errors.
    """
    looks = wrong.shape[-1]
    before = np.concatenate([np.zeros((*wrong.shape[:-1], 1), np.int64), wrong.cumsum(-1)], axis=-1)
    capital = np.broadcast_to(1 / np.arange(2.0, looks + 2), wrong.shape).copy()  # what waits
    starts = np.arange(1.0, looks + 1)
    for length in range(1, looks + 1):
        errors = before[..., length:] - before[..., :-length]
        n = length * images
        table = np.exp(np.minimum(log_evidence(np.arange(n + 1), np.array(n), np.array(allowed)), 600))
        capital[..., length - 1 :] += table[errors] / (starts * (starts + 1))[: looks - length + 1]
    return np.log(capital)


def false_alarms() -> list[str]:
    """Any alarm in many looks, where every class errs exactly as often as allowed."""
    rows = []
    for classes in (1, 10, 100):
        for allowed in (0.02, 0.05, 0.2):
            limit, confidence = log_threshold(ERROR, classes + 1), 1 - ERROR / classes
            least = [
                bisect_left(
                    range(n + 1), True, key=lambda w, n=n, m=allowed, c=confidence: bool(wilson(w, n, c)[0] > m)
                )
                for n in (BATCH * np.arange(1, LOOKS + 1)).tolist()
            ]
            sequential, repeated = [], []
            for seed in SEEDS:
                draw = np.random.default_rng((seed, classes))
                wrong = draw.binomial(BATCH, allowed, (STREAMS, classes, LOOKS))
                alarmed = (evidence(wrong, BATCH, allowed) >= limit).any((1, 2))
                alarmed |= (evidence(wrong.sum(1), classes * BATCH, allowed) >= limit).any(1)
                sequential.append(float(alarmed.mean()))
                repeated.append(float((wrong.cumsum(2) >= np.array(least)).any((1, 2)).mean()))
            rows.append(f"| {classes} | {100 * allowed:g} | {shown(sequential)} | {shown(repeated)} |")
    return [
        f"Streams of {len(SEEDS)} x {STREAMS} in which any class is ever alarmed, in percent; at most {ERROR:.0%} "
        f"are promised. Every class errs exactly as often as allowed; {LOOKS} looks of {BATCH} images of each class, "
        "stopped at the first alarm. Beside it Wilson's interval at each look, corrected for the classes alone.",
        "",
        "| classes | allowed % | e-process | one-look test at every look |",
        "| --- | --- | --- | --- |",
        *rows,
    ]


def power() -> list[str]:
    """Images of a broken class until it alarms, from the first look on and after many sound ones."""
    rows, looks = [], 150
    for classes in (10, 100):
        limit = log_threshold(ERROR, classes + 1)
        for share in (0.1, 0.15, 0.2, 0.3, 0.5, 1.0):
            cells = []
            for sound in (0, 50):
                found = []
                for seed in SEEDS:
                    shares = np.where(np.arange(sound + looks) < sound, 0.01, share)
                    wrong = np.random.default_rng((seed, classes)).binomial(10, shares, (STREAMS, sound + looks))
                    alarmed = evidence(wrong, 10, 0.05)[:, sound:] >= limit
                    found.append(np.where(alarmed.any(1), 10.0 * (alarmed.argmax(1) + 1), np.inf))
                cells += [f"{np.quantile(np.concatenate(found), q, method='lower'):,.0f}" for q in (0.5, 0.95)]
            rows.append(f"| {classes} | {100 * share:g} | {' | '.join(cells)} |".replace("inf", f"over {10 * looks:,}"))
    return [
        "Images of one class until it alarms, counted from the loss on, where 5 % errors are allowed and it has this "
        "share; looks of 10 images. Lost from the first look on, and after 500 images with 1 % errors: median, and "
        "what 95 % of the streams need.",
        "",
        "| classes | errors % | median | 95 % | late: median | late: 95 % |",
        "| --- | --- | --- | --- | --- | --- |",
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
