"""What the runs of the benchmark of mixed pools show: speed-ups with intervals, and each target against all data.

Everything is computed by the functions that a study's verdict uses (`transfer/verdicts`), from the results and
predictions of the probes. Compute is in shares of the full pretraining, surrogate and features included.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from pool_arms import LADDER, TARGETS, Arm

from prune.runs.files import read_json
from prune.scores.feature_files import open_features
from transfer.pages.compute_figure import Point
from transfer.verdicts import estimates
from transfer.verdicts.estimates import Estimate, RunTable
from transfer.verdicts.speed_up import SpeedUp, compute_per_use, divided, speed_up, speed_up_within

USES = (1, 3, 10)
MARGIN = 0.02
"""Accuracy that may be lost: within this much of all data, and for `holds`."""
NEAR = 0.9
"""Share of the accuracy of all data above which a large factor is asked for."""


class Measured(NamedTuple):
    """What was run: arms by name, their costs, and their accuracies on each target.

    Attributes
    ----------
    arms : mapping of str to Arm
        Those with a result; their order is that of the tables' rows.
    costs : mapping of str to (preparation, pretraining)
        In shares of the full pretraining.
    targets : mapping of str to RunTable
        A row for each arm, then one for each of `equal`.
    equal : mapping of str to int
        Arm to the row of all data for the compute of that arm with one use.
    beyond : frozenset of str
        Arms that cost less than the shortest training on all data; that one stands for equal compute.
    """

    arms: Mapping[str, Arm]
    costs: Mapping[str, tuple[float, float]]
    targets: Mapping[str, RunTable]
    equal: Mapping[str, int]
    beyond: frozenset[str]

    def mean(self) -> RunTable:
        """The mean over targets."""
        return estimates.mean_of_targets(list(self.targets.values()))

    def ladder(self) -> dict[float, int]:
        """Compute of all data to their row."""
        return {arm.passes: row for row, arm in enumerate(self.arms.values()) if not arm.select}


def mixture(compute: float, ladder: Sequence[float]) -> list[tuple[float, float]]:
    """All data for some compute as a mixture of two lengths, linear in the logarithm of compute: (length, weight).

    Accuracy over the logarithm of compute is close to a line, or bends downwards, so that this rather favours all data.
    Outside the ladder its nearest length stands alone.

    >>> [(length, round(weight, 6)) for length, weight in mixture(0.5, [0.25, 1.0])]
    [(0.25, 0.5), (1.0, 0.5)]
    """
    if compute <= ladder[0]:
        return [(ladder[0], 1.0)]
    if compute >= ladder[-1]:
        return [(ladder[-1], 1.0)]
    above = int(np.searchsorted(ladder, compute))
    low, high = ladder[above - 1], ladder[above]
    weight = float(np.log(compute / low) / np.log(high / low))
    return [(low, 1 - weight), (high, weight)]


def measured(outs: Sequence[Path], arms: Mapping[str, Arm], seeds: Sequence[int]) -> Measured:
    """Read what was run under folders, each with seeds of its own; costs are those of the first seed of an arm."""
    home = {seed: next((out for out in outs if any(out.glob(f"probes/*-s{seed}"))), outs[0]) for seed in seeds}

    def place(name: str, seed: int, target: str) -> Path:
        return home[seed] / f"probes/{name}-s{seed}/{target}"

    def whole(name: str, seed: int) -> bool:
        return all((place(name, seed, target) / "result.json").is_file() for target in TARGETS)

    ran = {name: [seed for seed in seeds if whole(name, seed)] for name in arms}
    arms = {name: arm for name, arm in arms.items() if ran[name]}
    costs = {
        name: (overhead(arm, home[ran[name][0]], ran[name][0]), arm.keep * arm.passes) for name, arm in arms.items()
    }
    ladder = {arm.passes: name for name, arm in arms.items() if not arm.select}
    mixed = {
        name: mixture(sum(costs[name]), sorted(ladder)) for name, arm in arms.items() if arm.select and len(ladder) > 1
    }
    targets = {}
    for target in TARGETS:
        right = {
            name: {seed: _correct(place(name, seed, target) / "predictions.npz") for seed in ran[name]} for name in arms
        }
        rows = list(right.values())
        for parts in mixed.values():
            of = [(right[ladder[length]], weight) for length, weight in parts]
            shared = [seed for seed in seeds if all(seed in runs for runs, _ in of)]
            rows.append({seed: np.sum([weight * runs[seed] for runs, weight in of], axis=0) for seed in shared})
        values = [[float(runs[seed].mean()) if seed in runs else np.nan for seed in seeds] for runs in rows]
        images = [list(runs.values()) for runs in rows]
        targets[target] = estimates.run_table(np.array(values), images, len(images[0][0]))
    equal = {name: len(arms) + row for row, name in enumerate(mixed)}
    short = frozenset(name for name in mixed if sum(costs[name]) < min(ladder))
    return Measured(arms, costs, targets, equal, short)


def _correct(place: Path) -> np.ndarray:
    """Which test images were right: (n,) float32, 0 or 1."""
    with np.load(place, allow_pickle=False) as file:
        return (file["label"] == file["predicted"]).astype(np.float32)


def overhead(arm: Arm, out: Path, seed: int) -> float:
    """Compute of surrogate and features, as a share of 100 % of the pretraining; a gate on thumbnails needs none."""
    if arm.scores in ("", "gate"):
        return 0.0
    rungs = {share: spent(out / f"models/full-{share:g}-s{seed}") for share in LADDER}
    whole = next((cost / share for share, cost in rungs.items() if cost == cost), float("nan"))
    model = out / f"models/surrogate-{arm.scores.removesuffix('-votes')}-s{seed}"
    features = out / f"features/{arm.scores}-s{seed}"
    images = len(open_features(features / "pool.features.npz"))
    per_image = read_json(model / "provenance.json")["flops_per_sample"] / 3  # a forward pass is a third
    return (spent(model) + images * per_image) / whole


def spent(model: Path) -> float:
    """FLOPs of one pretraining; NaN where it has not been run."""
    if not (model / "DONE").is_file():
        return float("nan")
    facts = read_json(model / "provenance.json")
    return float(facts["flops_per_sample"]) * float(facts["samples"])


def points(found: Measured) -> list[Point]:
    """Points of the figure: total compute with one use, accuracy, and its interval."""
    runs, drawn = found.mean(), []
    for row, (name, arm) in enumerate(found.arms.items()):
        one = estimates.accuracy(runs, row)
        if one is None or "no gate" in arm.says:
            continue
        ends = (100 * one.low, 100 * one.high) if one.seeds > 1 else (None, None)
        label = f"keep {arm.keep:g}, {arm.passes:g} x"
        drawn.append(Point(arm.says.replace("`", ""), sum(found.costs[name]), 100 * one.value, *ends, label))
    counts = Counter(point.curve for point in drawn)
    return [point for point in drawn if counts[point.curve] > 1 or point.curve == "random"]


def tables(found: Measured) -> list[str]:
    """Lines of Markdown: the arms with their speed-ups, the two headlines, and each target at equal compute."""
    return [*_arms(found), "", *_headlines(found), "", *_targets(found)]


def _arms(found: Measured) -> list[str]:
    runs, ladder = found.mean(), found.ladder()
    full = ladder.get(1.0)
    rows = list(enumerate(found.arms.items()))
    against = {
        name: None if full is None or row == full else estimates.paired_difference(runs, row, full, -MARGIN)
        for row, (name, _) in rows
    }
    tested = {  # shorter trainings on all data are the ladder, and no claim
        name: one for name, one in against.items() if one is not None and one.p is not None and found.arms[name].select
    }
    corrected = dict(zip(tested, estimates.holm([one.p or 0.0 for one in tested.values()])))
    heads = ["arm", "keep", "pretraining", "seeds", "accuracy", "to all data", "within 2 points", *_uses()]
    lines = [f"| {' | '.join(heads)} |", "|---|" + "---:|" * (len(heads) - 1)]
    for row, (name, arm) in rows:
        values = 100 * runs.values[row][np.isfinite(runs.values[row])]
        spread = f" ± {values.std(ddof=1):.1f}" if len(values) > 1 else ""
        cells = [arm.says, f"{arm.keep:g}", f"{arm.keep * arm.passes:.0%}", str(len(values))]
        cells += [f"{values.mean():.1f}{spread}", _difference(against[name])]
        verdict = estimates.verdict_against_full(against[name], MARGIN) or ""
        if verdict != "undecided" and name in corrected and corrected[name] >= 0.05:
            verdict = "undecided"
        cells.append(verdict if arm.select else "")
        preparation, pretraining = found.costs[name]
        gain = speed_up(runs, row, 1.0, ladder) if arm.select else None
        for uses in USES:
            cost = compute_per_use(preparation, pretraining, uses)
            cells.append("" if gain is None else _factor(divided(gain, cost), len(values)))
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _uses() -> list[str]:
    return [f"speed-up, {uses} use{'s' if uses > 1 else ''}" for uses in USES]


def _headlines(found: Measured) -> list[str]:
    """The speed-up to within 2 points of all data, and the largest above nine tenths of all data's accuracy."""
    runs, ladder = found.mean(), found.ladder()
    names = list(found.arms)
    lines = []
    for uses in USES:
        costs = {row: compute_per_use(*found.costs[name], uses) for row, name in enumerate(names)}
        several = {
            row: cost
            for row, cost in costs.items()
            if found.arms[names[row]].select and _seeds(runs, row) >= max(2, _seeds(runs, min(ladder.values())))
        }
        reached = speed_up_within(runs, several, ladder, MARGIN) if len(ladder) > 1 else None
        said = "no arm gets there"
        if reached is not None:
            said = f"{_factor(reached.speed_up, 2)}, {_arm(found, names[reached.condition])}"
        line = f"With {uses} use{'s' if uses > 1 else ''}: to within 2 points of all data {said}"
        if 1.0 in ladder:
            enough = NEAR * float(np.nanmean(runs.values[ladder[1.0]]))
            near = [
                (gain, names[row])
                for row, cost in several.items()
                if np.nanmean(runs.values[row]) >= enough and (gain := speed_up(runs, row, cost, ladder)) is not None
            ]
            best = max(near, key=lambda one: one[0].value, default=None)
            line += f"; above nine tenths of their accuracy ({100 * enough:.1f}) "
            line += "no arm" if best is None else f"at most {_factor(best[0], 2)}, {_arm(found, best[1])}"
        lines += [line + ".", ""]
    return lines[:-1]


def _arm(found: Measured, name: str) -> str:
    arm = found.arms[name]
    return f"by {arm.says} {arm.keep:g}" + (f", {arm.passes:g} times the passes" if arm.passes != 1 else "")


def _targets(found: Measured) -> list[str]:
    """Points above all data that cost the same with one use, for each target and their mean."""
    tables = {**found.targets, "mean": found.mean()}
    lines = [
        "Points above all data at the same compute with one use, surrogate and features included (between two",
        "lengths on a line over the logarithm of compute; `<`: their shortest run, which costs more). Brackets: 95 %.",
        "",
        f"| arm | keep | compute | seeds | {' | '.join(tables)} |",
        "|---|---:|---:|---:|" + "---:|" * len(tables),
    ]
    for row, (name, arm) in enumerate(found.arms.items()):
        if name not in found.equal:
            continue
        each = [estimates.paired_difference(one, row, found.equal[name]) for one in tables.values()]
        cost = f"{'< ' if name in found.beyond else ''}{sum(found.costs[name]):.0%}"
        cells = [arm.says + (f", {arm.passes:g} times over" if arm.passes != 1 else ""), f"{arm.keep:g}", cost]
        cells += [str(each[-1].seeds if each[-1] else 0), *map(_difference, each)]
        lines.append(f"| {' | '.join(cells)} |")
    return lines if found.equal else []


def _seeds(runs: RunTable, row: int) -> int:
    return int(np.isfinite(runs.values[row]).sum())


def _difference(one: Estimate | None) -> str:
    """`+1.2 [0.3, 2.1]` in points; without an interval where only one seed is shared."""
    if one is None:
        return ""
    ends = f" [{100 * one.low:.1f}, {100 * one.high:.1f}]" if one.seeds > 1 else ""
    return f"{100 * one.value:+.1f}{ends}"


def _factor(gain: SpeedUp, seeds: int) -> str:
    """`2.7 [2.1, 3.3]`; a bound where the measured lengths end, and no interval for one seed."""
    bound = {"above": "at least ", "below": "at most ", "": ""}[gain.open]
    if seeds < 2:
        return f"{bound}{gain.value:.1f}"
    low, high = ("≤ " if gain.low_open else ""), ("≥ " if gain.high_open else "")
    return f"{bound}{gain.value:.1f} [{low}{gain.low:.1f}, {high}{gain.high:.1f}]"
