"""One run of class-incremental learning (a memory size, a form of the exemplars, a seed), which resumes when killed.

After each task OUT/task-NN has everything that the next one needs: network, memory, and the records so far, which are
written last. Within a task the run resumes from the training loop's own checkpoints.
"""

from __future__ import annotations

import copy
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from pretrain import preemption
from pretrain.distributed import Ranks
from pretrain.hooks import Hooks
from pretrain.progress_bar import bar
from prune.data.dataset import Dataset
from prune.models import networks
from prune.runs.files import note, read_json, write_json
from transfer.continual import class_learner, exemplar_quality, exemplars
from transfer.continual.exemplar_form import RAW, Form
from transfer.continual.exemplars import Exemplars
from transfer.continual.incremental_results import run_result
from transfer.continual.incremental_setting import HEADS, IncrementalRun, IncrementalSetting
from transfer.continual.memory_loader import LabelledImages, read_squares

_Choice = list[dict[str, Any]]  # of `best_quality`: one entry for each quality


@dataclass
class _State:
    network: nn.Module
    memory: Exemplars | None
    records: list[dict[str, Any]]


def learn_tasks(
    setting: IncrementalSetting, run: IncrementalRun, train: Dataset, test: Dataset, out: Path, ranks: Ranks
) -> dict[str, Any]:
    """Learn all tasks and write OUT/result.json; returns its content."""
    if (out / "result.json").exists():
        found: dict[str, Any] = read_json(out / "result.json")
        return found
    names = train.manifest.classes
    present = np.unique(train.manifest.labels)
    arrival = np.random.default_rng((run.seed, 0xC1A55)).permutation(present)
    groups = np.array_split(arrival, setting.tasks)
    column = np.empty(len(names), np.int64)
    column[arrival] = np.arange(len(arrival))
    state = _resume(out, setting, [names[c] for c in groups[0]], run, ranks)
    tests = _TestImages(test, setting, groups, column)
    for task in range(len(state.records), setting.tasks):
        rows = _rows(train, groups[task], setting.per_class, run.seed)
        images = read_squares(train, rows, setting.side, setting.workers)
        labels = column[np.asarray(train.manifest.labels)[rows]]
        new = LabelledImages(images, labels)
        _learn_task(setting, run, state, task, new, rows, int(labels.max()) + 1, out, ranks)
        _evaluate(state, run, tests, task, ranks)
        _save(out, task, state, setting, [names[c] for c in arrival[: int(labels.max()) + 1]])
        _note(run, state.records[-1])
        if preemption.stop_requested() and task + 1 < setting.tasks:
            note(f"{run.name}: stopping on a signal after task {task + 1}; the same command resumes")
            raise preemption.Requeue
    result = run_result(setting, run, state.records, [[names[c] for c in group] for group in groups])
    write_json(out / "result.json", result)
    return result


def _rows(train: Dataset, classes: np.ndarray, per_class: int | None, seed: int) -> np.ndarray:
    """Ascending rows of these classes, at most `per_class` of each, drawn from the seed."""
    labels, found = np.asarray(train.manifest.labels), []
    for label in classes:
        rows = np.flatnonzero(labels == label)
        found.append(np.random.default_rng((seed, int(label), 0xD0)).permutation(rows)[:per_class])
    return np.sort(np.concatenate(found)).astype(np.int64)


def _learn_task(
    setting: IncrementalSetting,
    run: IncrementalRun,
    state: _State,
    task: int,
    new: LabelledImages,
    rows: np.ndarray,
    classes: int,
    out: Path,
    ranks: Ranks,
) -> None:
    """Train on the task's images and the exemplars; then add the task's exemplars to the memory."""
    form, choice = _form(setting, run, state, new.images, ranks)
    packed = None
    if form is not None:
        packed = exemplars.pack(form, new.images, new.labels, np.zeros(len(new)), rows)
        if run.form == "same-codec":
            new = LabelledImages(packed.images(), new.labels)
    pool = new
    if state.memory is not None:
        pool = new.joined(LabelledImages(state.memory.images(), state.memory.label))
    teacher = copy.deepcopy(state.network) if task and setting.distillation else None
    class_learner.grow_head(state.network, classes, class_learner.seed_of(run.seed, task, 1))
    checkpoints = out / f"checkpoint-{task:02d}"
    with bar(f"{run.name}, task {task + 1}") as on_step:
        done = class_learner.learn(
            state.network,
            pool,
            setting.recipe,
            ranks,
            setting.budget,
            class_learner.seed_of(run.seed, task, 2),
            teacher=teacher,
            distillation=setting.distillation,
            checkpoints=checkpoints,
            checkpoint_seconds=setting.checkpoint_seconds,
            hooks=Hooks(on_step=on_step),
        )
    features, logits = class_learner.outputs(state.network, new.images, ranks)
    place = exemplars.exemplar_order(setting.rank, features, logits, new.labels, run.seed)
    record: dict[str, Any] = {
        "task": task + 1,
        "classes": classes,
        "new_images": len(new),
        "replayed": len(pool) - len(new),
        "samples": done.samples,
        "steps": done.step,
        "seconds": round(done.seconds, 3),
        "loss": done.lines[-1]["loss"],
    }
    if packed is None:
        form, choice = _chosen(setting, run, state.network, new.images, ranks)
        packed = exemplars.pack(form, new.images, new.labels, place, rows)
    if choice:
        record["choice"] = choice
    candidates = Exemplars(packed.form, packed.data, packed.kind, packed.label, place, packed.row)
    state.memory = exemplars.fit_budget(state.memory.joined(candidates) if state.memory else candidates, run.memory)
    counts = np.bincount(state.memory.label, minlength=classes)
    state.records.append(
        {
            **record,
            "quality": state.memory.form.quality,
            "exemplars": len(state.memory),
            "fewest": int(counts.min()),
            "most": int(counts.max()),
            "bytes": state.memory.nbytes,
            "pixel_bytes": state.memory.pixel_bytes,
            "file_bytes": state.memory.file_bytes,
            "equivalent": exemplars.equivalent_count(state.memory.form, candidates.sizes, run.memory),
        }
    )


def _form(
    setting: IncrementalSetting, run: IncrementalRun, state: _State, images: np.ndarray, ranks: Ranks
) -> tuple[Form | None, _Choice]:
    """How exemplars are stored, and the table of a choice made here; None while the network must learn first.

    With same-codec the new images pass through the codec before they are learned, so the quality is chosen with the
    network that the run starts from.
    """
    if state.memory is not None:
        return state.memory.form, []
    if run.form == RAW or setting.quality:
        return setting.form(run.form), []
    if run.form == "same-codec":
        return _chosen(setting, run, state.network, images, ranks)
    return None, []


def _chosen(
    setting: IncrementalSetting, run: IncrementalRun, network: nn.Module, images: np.ndarray, ranks: Ranks
) -> tuple[Form, _Choice]:
    return exemplar_quality.best_quality(
        setting.codec, setting.side, setting.shared, network, images, run.memory, setting.tasks, ranks
    )


class _TestImages:
    """Test images by task, passed through the codec where the run does so, each read once."""

    def __init__(
        self, test: Dataset, setting: IncrementalSetting, groups: list[np.ndarray], column: np.ndarray
    ) -> None:
        self.source, self.setting, self.groups, self.column = test, setting, groups, column
        self._read: dict[int, LabelledImages] = {}

    def __call__(self, task: int, form: Form | None) -> LabelledImages:
        if task not in self._read:
            labels = np.asarray(self.source.manifest.labels)
            rows = np.flatnonzero(np.isin(labels, self.groups[task]))
            images = read_squares(self.source, rows, self.setting.side, self.setting.workers)
            images = form.round_trip(images) if form else images
            self._read[task] = LabelledImages(images, self.column[labels[rows]])
        return self._read[task]


def _evaluate(state: _State, run: IncrementalRun, tests: _TestImages, task: int, ranks: Ranks) -> None:
    """Record the accuracy on the test images of every task so far, by both classifiers."""
    assert state.memory is not None
    classes = state.records[-1]["classes"]
    kept, _ = class_learner.outputs(state.network, state.memory.images(), ranks)
    means = class_learner.class_means(kept, state.memory.label, classes)
    form = state.memory.form if run.form == "same-codec" else None
    found: dict[str, list[float]] = {head: [] for head in HEADS}
    sizes = []
    for earlier in range(task + 1):
        shown = tests(earlier, form)
        for head, predicted in class_learner.predictions(state.network, shown.images, means, ranks).items():
            found[head].append(float((predicted == shown.labels).mean()))
        sizes.append(len(shown))
    state.records[-1] |= {"accuracy": found, "test_images": sizes}


def _resume(out: Path, setting: IncrementalSetting, first: list[str], run: IncrementalRun, ranks: Ranks) -> _State:
    """State after the last finished task, or a new network."""
    done = sorted(place.parent for place in out.glob("task-*/records.json"))
    if done:
        memory, records = Exemplars.load(done[-1] / "memory.npz", setting.codec), read_json(done[-1] / "records.json")
        note(f"{out}: resuming after task {len(records)}")
        return _State(class_learner.saved_network(done[-1], ranks), memory, records)
    spec = class_learner.specification(setting.recipe_name, setting.recipe, first, setting.side)
    return _State(class_learner.new_network(spec, setting.init, class_learner.seed_of(run.seed, 0), ranks), None, [])


def _save(out: Path, task: int, state: _State, setting: IncrementalSetting, classes: list[str]) -> None:
    assert state.memory is not None
    place = out / f"task-{task + 1:02d}"
    place.mkdir(parents=True, exist_ok=True)
    spec = class_learner.specification(setting.recipe_name, setting.recipe, classes, setting.side)
    networks.save_model(place, state.network, spec)
    state.memory.save(place / "memory.npz")
    write_json(place / "records.json", state.records)
    for old in [*out.glob("task-*"), *out.glob("checkpoint-*")]:
        if old != place:
            shutil.rmtree(old)


def _note(run: IncrementalRun, record: dict[str, Any]) -> None:
    seen = {h: float(np.average(record["accuracy"][h], weights=record["test_images"])) for h in HEADS}
    note(
        f"{run.name}: task {record['task']}, {record['classes']} classes: "
        + ", ".join(f"{head} {100 * value:.2f} %" for head, value in seen.items())
        + f"; {record['exemplars']} exemplars in {record['bytes']:,} bytes"
    )
