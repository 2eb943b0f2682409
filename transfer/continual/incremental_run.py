"""One run of class-incremental learning: a memory size, a form of the exemplars, a seed. Goes on where it was killed.

After each task everything that the next one needs stands in OUT/task-NN: network, memory, and the records so far, the
last file written being the records. Inside a task the training loop's own checkpoints serve.
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
from transfer.continual.incremental_setting import HEADS, Cell, Setting, assembled
from transfer.continual.memory_loader import Pool, read

_Choice = list[dict[str, Any]]


@dataclass
class _State:
    network: nn.Module
    memory: Exemplars | None
    records: list[dict[str, Any]]


def run_cell(setting: Setting, cell: Cell, train: Dataset, test: Dataset, out: Path, ranks: Ranks) -> dict[str, Any]:
    """Learn all tasks and write OUT/result.json; returns it."""
    if (out / "result.json").exists():
        found: dict[str, Any] = read_json(out / "result.json")
        return found
    names = train.manifest.classes
    present = np.unique(train.manifest.labels)
    arrival = np.random.default_rng((cell.seed, 0xC1A55)).permutation(present)
    groups = np.array_split(arrival, setting.tasks)
    column = np.empty(len(names), np.int64)
    column[arrival] = np.arange(len(arrival))
    state = _resumed(out, setting, [names[c] for c in groups[0]], cell, ranks)
    tests = _Tests(test, setting, groups, column)
    for task in range(len(state.records), setting.tasks):
        rows = _rows(train, groups[task], setting.per_class, cell.seed)
        images = read(train, rows, setting.side, setting.workers)
        labels = column[np.asarray(train.manifest.labels)[rows]]
        _learn_task(setting, cell, state, task, Pool(images, labels), rows, int(labels.max()) + 1, out, ranks)
        _judge(state, cell, tests, task, ranks)
        _save(out, task, state, setting, [names[c] for c in arrival[: int(labels.max()) + 1]])
        _say(cell, state.records[-1])
        if preemption.asked() and task + 1 < setting.tasks:
            note(f"{cell.name}: stopping on a signal after task {task + 1}; the same command goes on")
            raise preemption.Requeue
    result = assembled(setting, cell, state.records, [[names[c] for c in group] for group in groups])
    write_json(out / "result.json", result)
    return result


def _rows(train: Dataset, classes: np.ndarray, per_class: int | None, seed: int) -> np.ndarray:
    """Ascending rows of some classes, at most `per_class` of each, drawn from the seed."""
    labels, found = np.asarray(train.manifest.labels), []
    for label in classes:
        rows = np.flatnonzero(labels == label)
        found.append(np.random.default_rng((seed, int(label), 0xD0)).permutation(rows)[:per_class])
    return np.sort(np.concatenate(found)).astype(np.int64)


def _learn_task(
    setting: Setting,
    cell: Cell,
    state: _State,
    task: int,
    new: Pool,
    rows: np.ndarray,
    classes: int,
    out: Path,
    ranks: Ranks,
) -> None:
    """Train on the task and on what is remembered; then take its exemplars into the memory."""
    form, choice = _form(setting, cell, state, new.images, ranks)
    packed = None
    if form is not None:
        packed = exemplars.pack(form, new.images, new.labels, np.zeros(len(new)), rows)
        if cell.form == "same-codec":
            new = Pool(packed.images(), new.labels)
    pool = new
    if state.memory is not None:
        pool = new.joined(Pool(state.memory.images(), state.memory.label))
    teacher = copy.deepcopy(state.network) if task and setting.distillation else None
    class_learner.grow(state.network, classes, class_learner.seed_of(cell.seed, task, 1))
    checkpoints = out / f"checkpoint-{task:02d}"
    with bar(f"{cell.name}, task {task + 1}") as on_step:
        done = class_learner.learn(
            state.network,
            pool,
            setting.recipe,
            ranks,
            setting.budget,
            class_learner.seed_of(cell.seed, task, 2),
            teacher=teacher,
            distillation=setting.distillation,
            checkpoints=checkpoints,
            checkpoint_seconds=setting.checkpoint_seconds,
            hooks=Hooks(on_step=on_step),
        )
    features, logits = class_learner.outputs(state.network, new.images, ranks)
    place = exemplars.order(setting.rank, features, logits, new.labels, cell.seed)
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
        form, choice = _chosen(setting, cell, state.network, new.images, ranks)
        packed = exemplars.pack(form, new.images, new.labels, place, rows)
    if choice:
        record["choice"] = choice
    candidates = Exemplars(packed.form, packed.data, packed.kind, packed.label, place, packed.row)
    state.memory = exemplars.within(state.memory.joined(candidates) if state.memory else candidates, cell.memory)
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
            "equivalent": exemplars.equivalent_count(state.memory.form, candidates.sizes, cell.memory),
        }
    )


def _form(setting: Setting, cell: Cell, state: _State, images: np.ndarray, ranks: Ranks) -> tuple[Form | None, _Choice]:
    """How exemplars are stored, and the table of a choice made here; None while the network has to learn first.

    With same-codec the new images pass through the codec before they are learnt from, so the quality is chosen by the
    network as the run begins with it.
    """
    if state.memory is not None:
        return state.memory.form, []
    if cell.form == RAW or setting.quality:
        return setting.form(cell.form), []
    if cell.form == "same-codec":
        return _chosen(setting, cell, state.network, images, ranks)
    return None, []


def _chosen(setting: Setting, cell: Cell, network: nn.Module, images: np.ndarray, ranks: Ranks) -> tuple[Form, _Choice]:
    return exemplar_quality.choose(
        setting.codec, setting.side, setting.shared, network, images, cell.memory, setting.tasks, ranks
    )


class _Tests:
    """Test images by task, passed through the codec where the run asks for it, each once."""

    def __init__(self, test: Dataset, setting: Setting, groups: list[np.ndarray], column: np.ndarray) -> None:
        self.source, self.setting, self.groups, self.column = test, setting, groups, column
        self._seen: dict[int, Pool] = {}

    def __call__(self, task: int, form: Form | None) -> Pool:
        if task not in self._seen:
            labels = np.asarray(self.source.manifest.labels)
            rows = np.flatnonzero(np.isin(labels, self.groups[task]))
            images = read(self.source, rows, self.setting.side, self.setting.workers)
            self._seen[task] = Pool(form.through(images) if form else images, self.column[labels[rows]])
        return self._seen[task]


def _judge(state: _State, cell: Cell, tests: _Tests, task: int, ranks: Ranks) -> None:
    """Accuracy on the test images of every task so far, by both classifiers."""
    assert state.memory is not None
    classes = state.records[-1]["classes"]
    kept, _ = class_learner.outputs(state.network, state.memory.images(), ranks)
    means = class_learner.class_means(kept, state.memory.label, classes)
    form = state.memory.form if cell.form == "same-codec" else None
    found: dict[str, list[float]] = {head: [] for head in HEADS}
    sizes = []
    for earlier in range(task + 1):
        shown = tests(earlier, form)
        for head, predicted in class_learner.answers(state.network, shown.images, means, ranks).items():
            found[head].append(float((predicted == shown.labels).mean()))
        sizes.append(len(shown))
    state.records[-1] |= {"accuracy": found, "test_images": sizes}


def _resumed(out: Path, setting: Setting, first: list[str], cell: Cell, ranks: Ranks) -> _State:
    """State after the last task that was finished, or a fresh network."""
    done = sorted(place.parent for place in out.glob("task-*/records.json"))
    if done:
        memory, records = Exemplars.load(done[-1] / "memory.npz"), read_json(done[-1] / "records.json")
        note(f"{out}: goes on after task {len(records)}")
        return _State(class_learner.reopened(done[-1], ranks), memory, records)
    spec = class_learner.specification(setting.recipe_name, setting.recipe, first, setting.side)
    return _State(class_learner.fresh(spec, setting.init, class_learner.seed_of(cell.seed, 0), ranks), None, [])


def _save(out: Path, task: int, state: _State, setting: Setting, classes: list[str]) -> None:
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


def _say(cell: Cell, record: dict[str, Any]) -> None:
    seen = {h: float(np.average(record["accuracy"][h], weights=record["test_images"])) for h in HEADS}
    note(
        f"{cell.name}: task {record['task']}, {record['classes']} classes: "
        + ", ".join(f"{head} {100 * value:.2f} %" for head, value in seen.items())
        + f"; {record['exemplars']} exemplars in {record['bytes']:,} bytes"
    )
