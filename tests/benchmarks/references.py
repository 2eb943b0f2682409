"""Scores, votes and selections beside references that are written plainly from the papers' equations in float64.

    python tests/benchmarks/references.py --results tests/benchmarks/results/references.md

The arrays: 3,000 samples in 12 classes of unequal size, with ties (copied rows, logits in steps of 1/8), and dynamics
of 30 epochs of a softmax regression that really trains on them. The references loop over samples and epochs, one
equation after the other, and share no code with the package. Scores: largest relative difference, and Spearman's
correlation. Selections: how many of the kept samples are the same at keeps 0.05 to 0.9, where the reference breaks
ties as the package does.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
from published import END, REMARKS, made_here, publish
from scipy.stats import spearmanr

from prune.methods.coverage import d2, facility_location, herding, k_center
from prune.methods.sampling import ccs_places
from prune.scores import class_votes, difficulty, geometry, influence, training_dynamics

KEEPS = (0.05, 0.1, 0.3, 0.5, 0.9)
CLASSES, WIDTH, EPOCHS = 12, 16, 30


class World:
    """Features, logits, labels, and dynamics of a training; two targets."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        share = np.sort(rng.dirichlet(np.full(CLASSES, 2.0)))
        self.labels = np.repeat(np.arange(CLASSES), np.maximum(20, np.round(3000 * share)).astype(int))
        self.labels = np.resize(self.labels, 3000) % CLASSES
        centres = rng.normal(size=(CLASSES, WIDTH))
        x = np.maximum(0, centres[self.labels] + 1.3 * rng.normal(size=(3000, WIDTH)))
        x[rng.choice(3000, 300, replace=False)] = x[rng.choice(3000, 300)]  # copies: ties
        self.features = x.astype(np.float16).astype(np.float64)
        weights = np.zeros((WIDTH, CLASSES))
        logits = []
        hot = np.eye(CLASSES)[self.labels]
        for _ in range(EPOCHS):
            for rows in np.array_split(rng.permutation(3000), 24):
                z = self.features[rows] @ weights
                p = np.exp(z - z.max(1, keepdims=True))
                p /= p.sum(1, keepdims=True)
                weights -= 0.02 * self.features[rows].T @ (p - hot[rows]) / len(rows)
            logits.append(self.features @ weights)
        self.dynamics = np.array(logits)
        self.logits = np.round(8 * logits[-1]) / 8
        self.target = np.maximum(0, centres[rng.integers(0, 4, 200)] + rng.normal(size=(200, WIDTH)))
        self.target_labels = rng.integers(0, 3, 200)
        self.target_logits = self.target @ weights


def softmax(z: np.ndarray) -> list[float]:
    """Probabilities of one sample, by their definition."""
    top = max(z)
    terms = [math.exp(v - top) for v in z]
    return [v / math.fsum(terms) for v in terms]


def error_norm(p: list[float], label: int) -> float:
    """|| p - y ||."""
    return math.sqrt(math.fsum((v - (k == label)) ** 2 for k, v in enumerate(p)))


def last_window(values: list[float], length: int) -> list[list[float]]:
    """All windows of consecutive values."""
    return [values[k : k + length] for k in range(len(values) - length + 1)]


def deviation(values: list[float]) -> float:
    """Sample standard deviation."""
    mean = math.fsum(values) / len(values)
    return math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1))


def of_logits(world: World) -> dict[str, list[float]]:
    """Scores of the trained surrogate's logits."""
    found: dict[str, list[float]] = {key: [] for key in ("entropy", "margin", "least-confidence", "el2n", "grand")}
    for z, label, f in zip(world.logits, world.labels, world.features):
        p = softmax(z)
        best, second = sorted(p)[-1], sorted(p)[-2]
        found["entropy"].append(-math.fsum(v * math.log(v) for v in p))
        found["margin"].append(best - second)
        found["least-confidence"].append(1 - best)
        found["el2n"].append(error_norm(p, label))
        # || (p - y) (f, 1)' || is the product of both norms
        found["grand"].append(error_norm(p, label) * math.sqrt(math.fsum(v * v for v in f) + 1))
    return found


def of_dynamics(world: World) -> dict[str, list[float]]:
    """Scores of the training dynamics."""
    names = ("forgetting", "aum", "aum-probability", "el2n-early", "confidence", "variance", "dyn-unc", "dual", "tdds")
    found: dict[str, list[float]] = {name: [] for name in names}
    for row, label in enumerate(world.labels):
        p = [softmax(z[row]) for z in world.dynamics]
        own = [q[label] for q in p]
        rivals = [max(v for k, v in enumerate(q) if k != label) for q in p]
        right = [int(np.argmax(z[row])) == label for z in world.dynamics]
        drops = sum(a and not b for a, b in zip(right, right[1:]))
        found["forgetting"].append(drops if any(right) else EPOCHS)
        margins = [z[row][label] - max(v for k, v in enumerate(z[row]) if k != label) for z in world.dynamics]
        found["aum"].append(math.fsum(margins) / EPOCHS)
        found["aum-probability"].append(math.fsum(a - b for a, b in zip(own, rivals)) / EPOCHS)
        found["el2n-early"].append(math.fsum(error_norm(q, label) for q in p[:10]) / 10)
        mean = math.fsum(own) / EPOCHS
        found["confidence"].append(mean)
        found["variance"].append(math.fsum((v - mean) ** 2 for v in own) / EPOCHS)
        windows = last_window(own, 10)
        found["dyn-unc"].append(math.fsum(map(deviation, windows)) / len(windows))
        found["dual"].append(math.fsum((1 - math.fsum(w) / 10) * deviation(w) for w in windows) / len(windows))
        steps = [
            b * math.log(b / a) + (1 - b) * math.log((1 - b) / (1 - a)) for a, b in zip(own, own[1:])
        ]  # the label against all other classes together
        total = 0.0
        for window in last_window(steps, 9):
            mean = math.fsum(window) / len(window)
            total = 0.1 * total + 0.9 * math.sqrt(math.fsum((v - mean) ** 2 for v in window))
        found["tdds"].append(total)
    return found


def of_features(world: World) -> dict[str, list[float]]:
    """Distances to class means, to the targets, and influence on a target."""
    x, y = world.features, world.labels
    means = [[math.fsum(x[y == k, j]) / np.sum(y == k) for j in range(WIDTH)] for k in range(CLASSES)]
    far = [math.dist(f, means[label]) for f, label in zip(x, y)]
    medians = [float(np.median([far[i] for i in range(len(y)) if y[i] == k])) for k in range(CLASSES)]
    centre = x.mean(axis=0)
    near = [max(_cosine(f - centre, t - centre) for t in world.target) for f in x]
    effects = []
    kinds = range(int(world.target_labels.max()) + 1)
    middle = np.mean([world.target_logits[world.target_labels == k].mean(axis=0) for k in kinds], axis=0)
    for f, z, label in zip(x, world.logits, y):
        taught = [(k == label) - v for k, v in enumerate(softmax(z))]
        rows = [world.target_labels == k for k in kinds]
        effects.append(
            max(
                _cosine(taught, world.target_logits[r].mean(axis=0) - middle) * _cosine(f, world.target[r].mean(axis=0))
                for r in rows
            )
        )
    return {
        "prototype": far,
        "moderate": [abs(v - medians[label]) for v, label in zip(far, y)],
        "affinity": near,
        "influence": effects,
    }


def _cosine(a: list[float] | np.ndarray, b: list[float] | np.ndarray) -> float:
    return float(np.dot(a, b) / math.sqrt(float(np.dot(a, a)) * float(np.dot(b, b))))


def computed(world: World) -> dict[str, np.ndarray]:
    """The same scores by the package, from what its files store."""
    x, y = world.features.astype(np.float32), world.labels
    found = difficulty.difficulty(world.logits.astype(np.float32), y, np.square(x).sum(axis=1))
    rows = np.arange(len(y))
    p = np.exp(world.dynamics - world.dynamics.max(axis=2, keepdims=True))
    p /= p.sum(axis=2, keepdims=True)
    others = world.dynamics.copy()
    others[:, rows, y] = -np.inf
    margin = (world.dynamics[:, rows, y] - others.max(axis=2)).astype(np.float32)
    right = (world.dynamics.argmax(axis=2) == y).astype(np.uint8)
    found |= training_dynamics.all_scores(p[:, rows, y].astype(np.float32), margin, right, CLASSES)
    means = class_votes.class_means(x, y, CLASSES)
    found["prototype"] = geometry.prototype(x, y, means)
    found["moderate"] = geometry.moderate(found["prototype"], y, CLASSES)
    found["affinity"] = geometry.affinity(x, [world.target.astype(np.float32)], x.mean(axis=0))
    gradient = influence.target_gradient(world.target, world.target_logits, world.target_labels)
    found["influence"] = influence.influence(x, world.logits.astype(np.float32), y, {"t": gradient})["influence"]
    return found


def votes_of(world: World) -> dict[str, tuple[list[float], np.ndarray]]:
    """Hard votes of label mapping and feature mapping: reference and package."""
    by_label, by_feature = [0.0] * CLASSES, [0.0] * CLASSES
    means = [world.features[world.labels == k].mean(axis=0) for k in range(CLASSES)]
    for f, z in zip(world.target, world.target_logits):
        first = [k for k in range(CLASSES) if z[k] == max(z)]
        for k in first:
            by_label[k] += 1 / len(first)
        by_feature[min(range(CLASSES), key=lambda k: math.dist(f, means[k]))] += 1
    distances = class_votes.squared_distances(
        world.target, class_votes.class_means(world.features, world.labels, CLASSES)
    )
    return {
        "LM votes": (by_label, class_votes.votes(world.target_logits)),
        "FM votes": (by_feature, class_votes.votes(-distances)),
    }


def ccs_reference(hard: np.ndarray, budget: int, draw: np.ndarray) -> set[int]:
    """Algorithm 1 of CCS on one group: cut a tenth, 50 strata, an equal part of the rest to the smallest first."""
    rows = sorted(range(len(hard)), key=lambda i: (-hard[i], i))
    rows = rows[min(math.floor(0.1 * len(hard)), len(hard) - budget) :]
    low, high = min(hard[i] for i in rows), max(hard[i] for i in rows)
    strata: list[list[int]] = [[] for _ in range(50)]
    for i in rows:
        strata[min(49, int((hard[i] - low) / ((high - low) or 1.0) * 50))].append(i)
    kept: set[int] = set()
    left = [stratum for stratum in strata if stratum]
    while left:
        smallest = min(left, key=len)
        take = min(len(smallest), (budget - len(kept)) // len(left))
        kept |= set(sorted(smallest, key=lambda i: draw[i])[:take])
        left.remove(smallest)
    return kept


def k_center_reference(x: np.ndarray, k: int) -> list[int]:
    """Greedy: from the sample nearest the mean, always the one farthest from those chosen."""
    centre = x.mean(axis=0)
    picks = [min(range(len(x)), key=lambda i: (math.dist(x[i], centre), i))]
    distance = [math.dist(row, x[picks[0]]) for row in x]
    while len(picks) < k:
        picks.append(max(range(len(x)), key=lambda i: (distance[i], -i)))
        distance = [min(d, math.dist(row, x[picks[-1]])) for d, row in zip(distance, x)]
    return picks


def herding_reference(x: np.ndarray, k: int) -> list[int]:
    """Algorithm 4 of iCaRL: the sample that brings the mean of those chosen nearest to the mean of all."""
    goal, picks, total = x.mean(axis=0), [], np.zeros(x.shape[1])
    for step in range(1, k + 1):
        rest = [i for i in range(len(x)) if i not in picks]
        distance = np.linalg.norm(goal - (total + x[rest]) / step, axis=1)
        picks.append(rest[int(np.argmin(distance))])
        total = total + x[picks[-1]]
    return picks


def facility_reference(x: np.ndarray, k: int) -> list[int]:
    """The sample that raises the sum of best cosines most, step by step."""
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    likeness = np.maximum(unit @ unit.T, 0)
    best, picks = np.zeros(len(x)), []
    for _ in range(k):
        gains = np.maximum(likeness - best, 0).sum(axis=1)
        gains[picks] = -1
        picks.append(int(np.argmax(np.round(gains, 4))))
        best = np.maximum(best, likeness[picks[-1]])
    return picks


def d2_reference(x: np.ndarray, score: np.ndarray, k: int) -> list[int]:
    """Message passing on the 10-NN graph: values forward, then each pick takes from its neighbours."""
    n = len(x)
    distance = np.linalg.norm(x[:, None] - x[None], axis=2)
    np.fill_diagonal(distance, np.inf)
    near = np.argsort(distance, axis=1, kind="stable")[:, :10]
    unit = np.mean(np.take_along_axis(distance, near, axis=1))
    edges = {(i, int(j)) for i in range(n) for j in near[i]} | {(int(j), i) for i in range(n) for j in near[i]}
    around: list[list[int]] = [[] for _ in range(n)]
    for i, j in sorted(edges):
        around[i].append(j)
    value = [score[i] + math.fsum(math.exp(-distance[i, j] / unit) * score[j] for j in around[i]) for i in range(n)]
    picks: list[int] = []
    while len(picks) < k:
        pick = max((i for i in range(n) if i not in picks), key=lambda i: (value[i], -i))
        picks.append(pick)
        if value[pick] > 0:
            for j in around[pick]:
                value[j] -= math.exp(-distance[pick, j] / unit) * value[pick]
    return picks


def selections(world: World, found: dict[str, np.ndarray]) -> dict[str, list[float]]:
    """Share of the reference's samples that the package keeps too, by keep; inside one class each."""
    inside = np.flatnonzero(world.labels == np.bincount(world.labels).argmax())
    x, n = world.features[inside], len(inside)
    x = x + 1e-6 * np.random.default_rng(1).normal(size=x.shape)  # copies at no distance: either may be picked
    hard = found["el2n"][inside].astype(np.float64)
    draw = np.random.default_rng(2).random(n)
    single = x.astype(np.float32)
    pairs: dict[str, tuple[Callable[[int], object], Callable[[int], object]]] = {
        "ccs": (
            lambda k: ccs_reference(hard, k, draw),
            lambda k: np.flatnonzero(ccs_places(hard, np.zeros(n, int), np.array([k]), draw) < k),
        ),
        "k-center": (lambda k: k_center_reference(x, k), lambda k: k_center(single, k)),
        "herding": (lambda k: herding_reference(x, k), lambda k: herding(single, k)),
        "facility-location": (lambda k: facility_reference(x, k), lambda k: facility_location(single, k)),
        "d2": (lambda k: d2_reference(x, hard, k), lambda k: d2(single, hard, k)),
    }
    same: dict[str, list[float]] = {}
    for name, (reference, package) in pairs.items():
        same[name] = []
        for keep in KEEPS:
            k = round(keep * n)
            first, second = ({int(i) for i in way(k)} for way in (reference, package))  # type: ignore[attr-defined]
            same[name].append(len(first & second) / k)
    return same


def main() -> None:
    """Compare, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path)
    options = parser.parse_args()
    world = World()
    found = computed(world)
    lines = [
        "# The package beside the papers' equations in float64",
        "",
        f"{made_here()}.",
        "`python tests/benchmarks/references.py --results tests/benchmarks/results/references.md`",
        "",
        "3,000 samples in 12 classes of unequal size, with ties; dynamics of a training of 30 epochs. The references",
        "are plain loops over the equations. `tests/benchmarks/references.py` says more.",
        "",
        REMARKS,
        END,
        "",
        "| score | largest relative difference | Spearman |",
        "|---|---:|---:|",
    ]
    for name, reference in {**of_logits(world), **of_dynamics(world), **of_features(world)}.items():
        truth = np.array(reference)
        apart = float(np.max(np.abs(found[name] - truth) / np.maximum(np.abs(truth), 1e-3 * np.abs(truth).max())))
        lines.append(f"| `{name}` | {apart:.1e} | {spearmanr(found[name], truth).statistic:.6f} |")
    lines += ["", "| votes | classes that differ |", "|---|---:|"]
    for name, (first, second) in votes_of(world).items():
        lines.append(f"| {name} | {int(np.sum(np.array(first) != second))} of {CLASSES} |")
    lines += [
        "",
        f"| kept inside a class, share that is the same | {' | '.join(f'keep {keep:g}' for keep in KEEPS)} |",
        f"|---|{'---:|' * len(KEEPS)}",
    ]
    for name, shares in selections(world, found).items():
        lines.append(f"| `{name}` | {' | '.join(f'{share:.3f}' for share in shares)} |")
    text = "\n".join(lines) + "\n"
    if options.results:
        publish(options.results, text)
    print(text)


if __name__ == "__main__":
    main()
