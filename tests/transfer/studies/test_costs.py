"""The bill of a study and the budget of the control of equal time, from made-up records."""

from __future__ import annotations

import numpy as np

from prune.index.npz import save_arrays
from prune.runs.files import write_json
from transfer.studies.costs import ledger, prolonged, resolve
from transfer.studies.plan import STEPS_LATER, Line
from transfer.studies.runner import forget, remember


def test_steps_pay_for_at_least_the_price():
    # 100 steps cost 40, so one costs 0.4: a price of 3 is 7.5 steps more.
    assert prolonged(100, 3.0, 40.0) == 108
    assert prolonged(100, 4.0, 40.0) == 110
    assert prolonged(7, 0.0, 40.0) == 7


def records(out):
    """One surrogate (50 FLOPs), features of 10 + 5 images, one random backbone (200 FLOPs in 20 steps)."""
    write_json(out / "surrogates/s0/provenance.json", {"samples": 10, "flops_per_sample": 5.0, "seconds": 3.0})
    for name, n in (("source", 10), ("pets.train", 5)):
        label = np.zeros(n, np.int32)
        save_arrays(out / f"features/s0/{name}.features.npz", {"label": label}, {"format": "winnow-features/1"})
    facts = {"samples": 40, "flops_per_sample": 5.0, "steps": 20, "seconds": 6.0}
    write_json(out / "backbones/random-k0.5-s0/provenance.json", facts)
    return [
        Line(0, "surrogate/s0", "surrogate", ("a",), "surrogates/s0", (), {"seed": 0}),
        Line(0, "features/s0", "features", ("b",), "features/s0", (), {"seed": 0}),
        Line(0, "pretrain/random-k0.5-s0", "pretrain", ("c",), "backbones/random-k0.5-s0", (),
             {"method": "random", "keep": 0.5, "seed": 0}),
    ]  # fmt: skip


def control(lines):
    facts = {"method": "random-equal-time", "keep": 0.5, "seed": 0}
    needs = (*(line.name for line in lines), "write/source-val")
    return Line(1, "pretrain/x", "pretrain", ("python", "--steps", STEPS_LATER), "backbones/x", needs, facts)


def test_the_control_of_equal_time_trains_for_what_the_surrogate_and_its_features_cost(tmp_path):
    lines = records(tmp_path)
    line = control(lines)
    assert resolve(line, tmp_path) is line
    for one in lines:
        remember(one, tmp_path, 1.0)
    # Price: 10 x 5 FLOPs of training, 15 images at a third of 5 FLOPs: 50 + 25 = 75. Base: 200 in 20 steps.
    # 20 * (1 + 75 / 200) = 27.5, so 28 steps.
    assert resolve(line, tmp_path).command == ("python", "--steps", "28")
    forget(lines[0], tmp_path)
    assert resolve(line, tmp_path) is line


def test_features_that_another_evaluation_computed_are_counted_once(tmp_path):
    lines = []
    for name, needs in (("probe", ()), ("knn", ("probe/c/t",)), ("probe-finetune", ("probe/c/t",))):
        write_json(tmp_path / name / "result.json", {"samples": 9, "flops": 90.0, "seconds": 1.0})
        lines.append(Line(0, f"{name}/c/t", "evaluate", (name,), name, ("pretrain/c", *needs), {}))
        remember(lines[-1], tmp_path, 1.0)
    assert [row["samples"] for row in ledger(lines, tmp_path)] == [9, 0, 9]


def test_the_look_for_leaks_is_listed_with_the_images_that_it_saw(tmp_path):
    surrogate, *_ = records(tmp_path)
    arrays = {"label": np.zeros(4, np.int32)}
    save_arrays(tmp_path / "leaks/pets/pets.test.features.npz", arrays, {"format": "winnow-features/1"})
    write_json(tmp_path / "leaks/pets/leaks.json", {})
    facts = {"seed": 0, "target": "pets"}
    lines = [
        Line(0, "test-features/pets", "leaks", ("a",), "leaks/pets", (), facts),
        Line(0, "leaks/pets", "leaks", ("b",), "leaks/pets/leaks.json", (), facts),
    ]
    for one in lines:
        remember(one, tmp_path, 1.0)
    # 4 images at a third of the 5 FLOPs of training.
    found = [(row["name"], row["samples"], row["flops"]) for row in ledger([surrogate, *lines], tmp_path)]
    assert found == [("test-features/pets", 4, 20 / 3), ("leaks/pets", 0, 0.0)]


def test_seconds_of_features_are_their_own(tmp_path):
    lines = records(tmp_path)
    remember(lines[1], tmp_path, 9.0)
    for name, seconds in (("source", 2.5), ("pets.train", 0.5)):
        write_json(tmp_path / f"features/s0/{name}.features.json", {"seconds": seconds, "samples": 1})
    assert ledger([lines[1]], tmp_path)[0]["seconds"] == 3.0


def test_other_lines_are_left_alone(tmp_path):
    line = records(tmp_path)[0]
    assert resolve(line, tmp_path) is line


def test_the_ledger_lists_what_is_done_with_the_steps_own_seconds(tmp_path):
    lines = records(tmp_path)
    for one in lines:
        remember(one, tmp_path, 9.0)
    undone = Line(0, "score/s0", "score", ("d",), "scores/s0.scores.npz", (), {"seed": 0})
    rows = {row["name"]: row for row in ledger([*lines, undone], tmp_path)}
    assert set(rows) == {line.name for line in lines}
    assert rows["surrogate/s0"]["seconds"] == 3.0
    assert rows["surrogate/s0"]["flops"] == 50.0
    assert rows["features/s0"]["samples"] == 15
    assert rows["features/s0"]["flops"] == 25.0
    assert rows["features/s0"]["seconds"] == 9.0  # it records none of its own
    assert rows["pretrain/random-k0.5-s0"]["method"] == "random"
    assert rows["surrogate/s0"]["method"] is None
