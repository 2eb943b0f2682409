"""What the tasks of a study cost, and the steps of the control of equal time, from made-up records."""

from __future__ import annotations

import numpy as np
import pytest

from prune.index.npz import save_arrays
from prune.runs.files import InputError, write_json
from transfer.studies.runner import forget, remember
from transfer.studies.task import STEPS_LATER, Task
from transfer.studies.task_costs import cost_records, prolonged_steps, resolved


def test_the_prolonged_steps_cost_at_least_as_much_more_as_required():
    # 100 steps cost 40, so one costs 0.4: 3 more are 7.5 steps.
    assert prolonged_steps(100, 3.0, 40.0) == 108
    assert prolonged_steps(100, 4.0, 40.0) == 110
    assert prolonged_steps(7, 0.0, 40.0) == 7


def records(out):
    """One surrogate (50 FLOPs), features of 10 + 5 images, one random backbone (200 FLOPs in 20 steps)."""
    write_json(out / "surrogates/s0/provenance.json", {"samples": 10, "flops_per_sample": 5.0, "seconds": 3.0})
    for name, n in (("source", 10), ("pets.train", 5)):
        label = np.zeros(n, np.int32)
        save_arrays(out / f"features/s0/{name}.features.npz", {"label": label}, {"format": "winnow-features/1"})
    facts = {"samples": 40, "flops_per_sample": 5.0, "steps": 20, "seconds": 6.0}
    write_json(out / "backbones/random-k0.5-s0/provenance.json", facts)
    return [
        Task(0, "surrogate/s0", "surrogate", ("a",), "surrogates/s0", (), {"seed": 0}),
        Task(0, "features/s0", "features", ("b",), "features/s0", (), {"seed": 0}),
        Task(0, "pretrain/random-k0.5-s0", "pretrain", ("c",), "backbones/random-k0.5-s0", (),
             {"method": "random", "keep": 0.5, "seed": 0}),
    ]  # fmt: skip


def control(tasks):
    facts = {"method": "random-equal-time", "keep": 0.5, "seed": 0}
    needs = (*(task.name for task in tasks), "write/source-val")
    return Task(1, "pretrain/x", "pretrain", ("python", "--steps", STEPS_LATER), "backbones/x", needs, facts)


def test_the_control_of_equal_time_trains_for_what_the_surrogate_and_its_features_cost(tmp_path):
    tasks = records(tmp_path)
    task = control(tasks)
    assert resolved(task, tmp_path) is task
    for one in tasks:
        remember(one, tmp_path, 1.0)
    # Extra: 10 x 5 FLOPs of training, 15 images at a third of 5 FLOPs: 50 + 25 = 75. Base: 200 in 20 steps.
    # 20 * (1 + 75 / 200) = 27.5, so 28 steps.
    assert resolved(task, tmp_path).command == ("python", "--steps", "28")
    forget(tasks[0], tmp_path)
    assert resolved(task, tmp_path) is task


def test_all_data_at_equal_compute_train_for_what_the_pruned_run_takes_in_all(tmp_path):
    tasks = records(tmp_path)
    facts = {"samples": 80, "flops_per_sample": 5.0, "steps": 44, "seconds": 6.0}
    write_json(tmp_path / "backbones/full-s0/provenance.json", facts)
    full = Task(0, "pretrain/full-s0", "pretrain", ("d",), "backbones/full-s0", (), {"method": "full", "seed": 0})
    for one in (*tasks, full):
        remember(one, tmp_path, 1.0)
    needs = ("write/source", full.name, *(task.name for task in reversed(tasks)))
    # The pruned run: 200 FLOPs, and 75 of preparation, which three uses share: 225. All data: 400 in 44 steps.
    # 44 * 275 / 400 = 30.25 and 44 * 225 / 400 = 24.75.
    for uses, steps in (({}, "31"), ({"uses": 3}, "25")):
        facts = {"method": "full-equal-compute", "keep": 0.5, "seed": 0, **uses}
        task = Task(1, "pretrain/x", "pretrain", ("python", "--steps", STEPS_LATER), "backbones/x", needs, facts)
        assert resolved(task, tmp_path).command == ("python", "--steps", steps)


def test_features_that_another_evaluation_computed_are_counted_once(tmp_path):
    tasks = []
    for name, needs in (("probe", ()), ("knn", ("probe/c/t",)), ("probe-finetune", ("probe/c/t",))):
        write_json(tmp_path / name / "result.json", {"samples": 9, "flops": 90.0, "seconds": 1.0})
        tasks.append(Task(0, f"{name}/c/t", "evaluate", (name,), name, ("pretrain/c", *needs), {}))
        remember(tasks[-1], tmp_path, 1.0)
    assert [row["samples"] for row in cost_records(tasks, tmp_path)] == [9, 0, 9]


def test_counting_leaks_is_listed_with_the_images_that_it_saw(tmp_path):
    surrogate, *_ = records(tmp_path)
    arrays = {"label": np.zeros(4, np.int32)}
    save_arrays(tmp_path / "leaks/pets/pets.test.features.npz", arrays, {"format": "winnow-features/1"})
    write_json(tmp_path / "leaks/pets/leaks.json", {})
    facts = {"seed": 0, "target": "pets"}
    tasks = [
        Task(0, "test-features/pets", "leaks", ("a",), "leaks/pets", (), facts),
        Task(0, "leaks/pets", "leaks", ("b",), "leaks/pets/leaks.json", (), facts),
    ]
    for one in tasks:
        remember(one, tmp_path, 1.0)
    # 4 images at a third of the 5 FLOPs of training.
    found = [(row["name"], row["samples"], row["flops"]) for row in cost_records([surrogate, *tasks], tmp_path)]
    assert found == [("test-features/pets", 4, 20 / 3), ("leaks/pets", 0, 0.0)]


def test_a_gate_costs_seconds_and_no_flops(tmp_path):
    for name, n in (("source", 10), ("pets.train", 5)):
        arrays = {"label": np.zeros(n, np.int32)}
        save_arrays(tmp_path / f"features/thumbnails/{name}.features.npz", arrays, {"format": "winnow-features/1"})
    tasks = [
        Task(0, "gate/thumbnails", "gate", ("a",), "features/thumbnails"),
        Task(0, "gate/score", "gate", ("b",), "scores/gate.scores.npz"),
        Task(0, "gate/index", "gate", ("c",), "indices/gate.index.npz"),
    ]
    for one, seconds in zip(tasks, (4.0, 2.0, 1.0)):
        remember(one, tmp_path, seconds)
    rows = cost_records(tasks, tmp_path)
    assert [(row["seconds"], row["samples"], row["flops"], row["seed"]) for row in rows] == [
        (4.0, 15, 0.0, None), (2.0, 0, 0.0, None), (1.0, 0, 0.0, None)
    ]  # fmt: skip


def test_seconds_of_features_are_their_own(tmp_path):
    tasks = records(tmp_path)
    remember(tasks[1], tmp_path, 9.0)
    for name, seconds in (("source", 2.5), ("pets.train", 0.5)):
        write_json(tmp_path / f"features/s0/{name}.features.json", {"seconds": seconds, "samples": 1})
    assert cost_records([tasks[1]], tmp_path)[0]["seconds"] == 3.0


def test_other_tasks_stay_as_they_are(tmp_path):
    task = records(tmp_path)[0]
    assert resolved(task, tmp_path) is task


def test_costs_list_what_is_done_with_the_seconds_that_the_steps_recorded(tmp_path):
    tasks = records(tmp_path)
    for one in tasks:
        remember(one, tmp_path, 9.0)
    undone = Task(0, "score/s0", "score", ("d",), "scores/s0.scores.npz", (), {"seed": 0})
    rows = {row["name"]: row for row in cost_records([*tasks, undone], tmp_path)}
    assert set(rows) == {task.name for task in tasks}
    assert rows["surrogate/s0"]["seconds"] == 3.0
    assert rows["surrogate/s0"]["flops"] == 50.0
    assert rows["features/s0"]["samples"] == 15
    assert rows["features/s0"]["flops"] == 25.0
    assert rows["features/s0"]["seconds"] == 9.0  # it records none of its own
    assert rows["pretrain/random-k0.5-s0"]["method"] == "random"
    assert rows["surrogate/s0"]["method"] is None


def test_at_a_given_compute_a_run_trains_for_what_the_surrogate_leaves(tmp_path):
    tasks = records(tmp_path)
    for place, samples, steps in (("backbones/full-s0", 240, 120), ("ladder/full-s0", 100, 50)):
        write_json(tmp_path / place / "provenance.json", {"samples": samples, "flops_per_sample": 5.0, "steps": steps})
    full = Task(0, "pretrain/full-s0", "pretrain", ("d",), "backbones/full-s0", (), {"method": "full", "seed": 0})
    small = Task(0, "ladder/full-s0", "search", ("e",), "ladder/full-s0", (), {"method": "full", "seed": 0})
    for one in (*tasks, full, small):
        remember(one, tmp_path, 1.0)

    def steps(stage="pretrain", surrogate=True, **facts):
        facts = {"method": "winnow", "keep": 0.1, "seed": 0, **facts}
        needs = ("pretrain/full-s0", *(("surrogate/s0", "features/s0") if surrogate else ()))
        task = Task(1, "x", stage, ("python", "--steps", STEPS_LATER), "x", needs, facts)
        return resolved(task, tmp_path).command[-1]

    # The full run costs 1200 FLOPs in 120 steps; surrogate and features cost 75, a sixteenth of it.
    assert steps(compute=0.25) == "23"  # (0.25 - 0.0625) * 120 = 22.5
    assert steps(compute=0.25, uses=5) == "29"  # (0.25 - 0.0125) * 120 = 28.5
    assert steps(compute=0.25, surrogate=False) == "30"
    assert steps("search", compute=0.25) == "10"  # the same share of the small full run's 50 steps: 9.4
    with pytest.raises(InputError, match=r"--compute 0.05: surrogate and features alone cost 0.06 of one full"):
        steps(compute=0.05)


def test_without_a_surrogate_equal_compute_is_that_of_the_pruned_pretraining(tmp_path):
    tasks = records(tmp_path)
    facts = {"samples": 80, "flops_per_sample": 5.0, "steps": 44, "seconds": 6.0}
    write_json(tmp_path / "backbones/full-s0/provenance.json", facts)
    full = Task(0, "pretrain/full-s0", "pretrain", ("d",), "backbones/full-s0", (), {"method": "full", "seed": 0})
    for one in (*tasks, full):
        remember(one, tmp_path, 1.0)
    facts = {"method": "full-equal-compute", "keep": 0.5, "seed": 0}
    needs = ("pretrain/full-s0", "pretrain/random-k0.5-s0")
    task = Task(1, "pretrain/x", "pretrain", ("python", "--steps", STEPS_LATER), "backbones/x", needs, facts)
    # The random run costs 200 of the full run's 400: half of 44 steps.
    assert resolved(task, tmp_path).command == ("python", "--steps", "22")
