"""One run over a stream (a policy for the memory, a seed): samples arrive one by one, the network learns in rounds.

After each round (samples offered, network trained on the memory, values of the memory updated) OUT/round-NNNN has
everything that the next one needs, the records written last; a killed run resumes from there.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from pretrain import preemption
from pretrain.distributed import Ranks
from pretrain.recipe import Recipe
from pretrain.schedule import Budget
from prune.byte_budget.codec_files import ImageCodec
from prune.data.dataset import Dataset
from prune.models import networks
from prune.runs.files import note, read_json, write_json
from prune.runs.progress import track
from prune.scores.difficulty import soften
from transfer.continual import class_learner, exemplars, stream_memory
from transfer.continual.changing_budget import ChangingBudget
from transfer.continual.exemplar_form import Form, policy_forms
from transfer.continual.exemplar_quality import distortions, loss_of_dropping
from transfer.continual.incremental_setting import HEADS
from transfer.continual.memory_loader import LabelledImages, read_squares
from transfer.continual.stream_memory import StreamMemory

MEASURED = 128
"""Samples of a round on which the loss of each level is measured."""


@dataclass(frozen=True)
class StreamSetting:
    """Settings of all runs of one call; the fields are the step's flags, checked."""

    recipe_name: str
    recipe: Recipe
    side: int
    memory: int
    every: int
    steps: int
    order: str
    per_class: int | None
    ladder: tuple[int, ...]
    quality: int
    codec: ImageCodec
    rank: str
    init: Path | None
    workers: int | None
    budget: ChangingBudget
    write_limit: int | None
    margin: float
    wrong_ranks: float
    replay: str
    follow_use: bool


def ladder(setting: StreamSetting, policy: str) -> list[Form]:
    """Forms of a policy, the finest first."""
    return policy_forms(policy, setting.codec, setting.quality, setting.ladder, setting.side)


def arrivals(labels: np.ndarray, order: str, per_class: int | None, seed: int) -> np.ndarray:
    """Rows in the order in which they arrive, (n,) int64.

    Parameters
    ----------
    labels : (n,) int
    order : {"classes", "shuffled", "rows"}
        One class after the other (in an order drawn from the seed), all mixed, or in the order of the file.
    per_class : int, optional
        At most so many of each class.
    seed : int
    """
    rng = np.random.default_rng((seed, 0x57))
    rows = rng.permutation(len(labels))
    if per_class is not None:
        rank = np.empty(len(labels), np.int64)
        for label in np.unique(labels):
            mine = labels[rows] == label
            rank[rows[mine]] = np.arange(mine.sum())
        rows = rows[rank[rows] < per_class]
    if order == "rows":
        return np.sort(rows)
    if order == "classes":
        turn = rng.permutation(int(labels.max()) + 1)
        rows = rows[np.argsort(turn[labels[rows]], kind="stable")]
    return rows


def draws(count: int, samples: int, loss: np.ndarray | None, seed: int) -> np.ndarray:
    """Positions of the samples that a round learns from, in order, (count,) int64.

    Parameters
    ----------
    count, samples : int
    loss : (samples,) float, optional
        Draw in proportion to it (Schaul, Quan, Antonoglou and Silver, "Prioritized experience replay", 2016, equation
        1 with exponent 1); without it one permutation after the other, so that counts differ by one at most.
    seed : int
    """
    rng = np.random.default_rng(seed)
    if loss is None:
        rounds = -(-count // samples)
        return np.concatenate([rng.permutation(samples) for _ in range(rounds)])[:count]
    share = np.asarray(loss, float) + 1e-3  # none is never drawn
    return rng.choice(samples, count, p=share / share.sum())


@dataclass
class _State:
    network: nn.Module
    memory: StreamMemory
    records: list[dict[str, Any]]
    seen: list[int]  # classes in order of first arrival: the network's columns


def run_stream(
    setting: StreamSetting, policy: str, seed: int, train: Dataset, test: Dataset, out: Path, ranks: Ranks
) -> dict[str, Any]:
    """Run the whole stream and write OUT/result.json; returns its content."""
    if (out / "result.json").exists():
        found: dict[str, Any] = read_json(out / "result.json")
        return found
    labels = np.asarray(train.manifest.labels)
    rows = arrivals(labels, setting.order, setting.per_class, seed)
    rounds = [rows[first : first + setting.every] for first in range(0, len(rows), setting.every)]
    state = _resume(setting, policy, seed, int(labels[rows[0]]), train, out, ranks)
    shown = _test_images(setting, test)
    begin = len(state.records)
    for number in track(range(begin, len(rounds)), len(rounds) - begin, f"{policy}, seed {seed}"):
        try:
            _round(setting, seed, number, rounds[number], labels, train, state, ranks)
        except preemption.Requeue:
            note(f"{policy}-s{seed}: stopping on a signal; the same command resumes after round {number}")
            raise
        _evaluate(state, shown, ranks)
        _save(setting, out, number, state, train)
        last = state.records[-1]
        note(
            f"{policy}-s{seed}: {last['arrived']} arrived, {last['held']} held in {last['bytes']:,} bytes; "
            + ", ".join(f"{head} {100 * last[head]:.2f} %" for head in HEADS)
        )
    result = {
        "task": "stream",
        "metric": "mean accuracy over the stream",
        "policy": policy,
        "seed": seed,
        "memory": setting.memory,
        "peak": state.memory.peak,
        "heads": {head: {"value": float(np.mean([r[head] for r in state.records]))} for head in HEADS},
        "records": state.records,
        "n": len(shown),
    }
    write_json(out / "result.json", result)
    return result


def _round(
    setting: StreamSetting,
    seed: int,
    number: int,
    rows: np.ndarray,
    labels: np.ndarray,
    train: Dataset,
    state: _State,
    ranks: Ranks,
) -> None:
    """Offer the samples to the memory, learn from it, and update its values."""
    memory = state.memory
    arrived, before = number * setting.every, (number - 1) * setting.every
    memory.begin_round(setting.budget.at(arrived, memory.budget, memory.fixed, before), setting.write_limit)
    images = read_squares(train, rows, setting.side, setting.workers)
    for label in dict.fromkeys(labels[rows].tolist()):
        if label not in state.seen:
            state.seen.append(label)
    column = {label: k for k, label in enumerate(state.seen)}
    for pixels, row in zip(images, rows.tolist()):
        memory.offer(pixels, column[int(labels[row])], row)
    class_learner.grow_head(state.network, max(2, len(state.seen)), class_learner.seed_of(seed, number, 1))
    if len(memory):
        held = LabelledImages(memory.images(), memory.labels)
        if setting.follow_use or setting.replay != "even":
            held = replace(
                held, drawn=_draws(setting, state.network, held, class_learner.seed_of(seed, number, 3), ranks)
            )
        if setting.follow_use:
            assert held.drawn is not None
            memory.count_draws(np.bincount(held.drawn, minlength=len(memory)))
        budget = Budget(steps=setting.steps)
        class_learner.learn(state.network, held, setting.recipe, ranks, budget, class_learner.seed_of(seed, number, 2))
        features, logits = class_learner.outputs(state.network, held.images, ranks)
        place = exemplars.exemplar_order(setting.rank, features, logits, held.labels, seed)
        place = exemplars.misplaced(place, held.labels, setting.wrong_ranks, class_learner.seed_of(seed, number, 4))
        sample = images[np.linspace(0, len(images) - 1, min(MEASURED, len(images))).astype(int)]
        kept = _kept(memory.ladder, sample, state.network, ranks)
        memory.set_values(stream_memory.importance_of(place, held.labels), kept)
    counts = np.bincount(memory.labels, minlength=len(state.seen))
    state.records.append(
        {
            "arrived": number * setting.every + len(rows),
            "classes": len(state.seen),
            "held": len(memory),
            "fewest": int(counts.min()),
            "bytes": memory.used,
            "budget": memory.budget,
            "peak": memory.peak,
            "rungs": np.bincount(memory.levels, minlength=len(memory.ladder)).tolist(),
            "kept": [round(float(k), 6) for k in memory.kept],
        }
    )


def _draws(setting: StreamSetting, network: nn.Module, held: LabelledImages, seed: int, ranks: Ranks) -> np.ndarray:
    """The samples of all steps of a round, (steps * batch,) int64: all equally often, or by their loss."""
    count = setting.steps * setting.recipe.batch
    loss = None
    if setting.replay == "loss":
        _, log_p = soften(class_learner.outputs(network, held.images, ranks)[1])
        loss = -log_p[np.arange(len(held.labels)), held.labels]
    return draws(count, len(held.labels), loss, seed)


def _kept(forms: tuple[Form, ...], images: np.ndarray, network: nn.Module, ranks: Ranks) -> np.ndarray:
    """Share of a sample that each form keeps, (levels,) float64, by this network's features."""
    exact, dropped = loss_of_dropping(network, images, ranks)
    found = [distortions(network, form.round_trip(images), exact, ranks) for form in forms]
    return np.array([exemplars.kept_share(distortion, dropped) for distortion in found])


def _test_images(setting: StreamSetting, test: Dataset) -> LabelledImages:
    labels = np.asarray(test.manifest.labels).astype(np.int64)
    return LabelledImages(read_squares(test, np.arange(len(test)), setting.side, setting.workers), labels)


def _evaluate(state: _State, shown: LabelledImages, ranks: Ranks) -> None:
    """Record the accuracy on the test images of all classes that have arrived so far, by both classifiers."""
    memory = state.memory
    classes = max(2, len(state.seen))
    kept, _ = class_learner.outputs(state.network, memory.images(), ranks)
    means = class_learner.class_means(kept, memory.labels, classes)
    table = np.full(int(shown.labels.max()) + 1, -1)
    table[state.seen] = np.arange(len(state.seen))
    mine = table[shown.labels] >= 0
    for head, predicted in class_learner.predictions(state.network, shown.images[mine], means, ranks).items():
        state.records[-1][head] = float((predicted == table[shown.labels[mine]]).mean())


def _resume(
    setting: StreamSetting, policy: str, seed: int, first: int, train: Dataset, out: Path, ranks: Ranks
) -> _State:
    memory = StreamMemory(ladder(setting, policy), setting.memory, seed, setting.margin)
    done = sorted(place.parent for place in out.glob("round-*/records.json"))
    if done:
        memory.restore(done[-1] / "memory.npz")
        kept = read_json(done[-1] / "records.json")
        note(f"{out}: resuming after {kept['records'][-1]['arrived']} samples")
        return _State(class_learner.saved_network(done[-1], ranks), memory, kept["records"], kept["seen"])
    names = train.manifest.classes
    spec = class_learner.specification(setting.recipe_name, setting.recipe, [names[first], ""], setting.side)
    return _State(class_learner.new_network(spec, setting.init, class_learner.seed_of(seed, 0), ranks), memory, [], [])


def _save(setting: StreamSetting, out: Path, number: int, state: _State, train: Dataset) -> None:
    place = out / f"round-{number + 1:04d}"
    place.mkdir(parents=True, exist_ok=True)
    names = [train.manifest.classes[c] for c in state.seen]
    names += [""] * (2 - len(names))
    networks.save_model(
        place, state.network, class_learner.specification(setting.recipe_name, setting.recipe, names, setting.side)
    )
    state.memory.save(place / "memory.npz")
    write_json(place / "records.json", {"records": state.records, "seen": state.seen})
    for old in out.glob("round-*"):
        if old != place:
            shutil.rmtree(old)
