"""The plan as a table: which lines there are, what they say and what they wait for."""

from __future__ import annotations

from dataclasses import replace

import pytest

from prune.runs.files import InputError
from transfer.studies import plan
from transfer.studies.places import Parts
from transfer.studies.settings import EQUAL_TIME, Study, cell_name, cells, check, grown

STUDY = Study(
    source=Parts("../photos/train", "../photos/test"),
    targets={"pets": Parts("../pets/train", "../pets/test"), "birds": Parts("../birds/train", "../birds/val")},
    guides=("pets", "birds"),
    methods=("full", "random", "winnow"),
    keeps=(0.2, 0.5),
    seeds=(0, 1),
    recipe="small-rn18",
    surrogate_recipe="rn18-surrogate",
    surrogate_sample=0.25,
    side=32,
    floor=5,
    sizes={"source": 1000, "source-val": 100, "pets.train": 50, "pets.test": 40, "birds.train": 30, "birds.test": 20},
    recipe_epochs={"small-rn18": 10, "rn18-surrogate": 8},
)


def by_name(study=STUDY):
    return {line.name: line for line in plan.plan(study)}


def command(line):
    return " ".join(line.command)


def test_every_stage_has_its_lines():
    stages = [line.stage for line in plan.plan(STUDY)]
    # Betons: source, its test part, 2 x 2 of the targets. Cells: full 2 seeds; random, winnow 2 keeps x 2 seeds.
    expected = {"write": 6, "surrogate": 2, "features": 2, "score": 2, "select": 8, "pretrain": 10, "evaluate": 20}
    expected["leaks"] = 4  # features of each target's test images, and what the source shares with them
    assert {stage: stages.count(stage) for stage in expected} == expected
    assert stages[-2:] == ["collect", "collect"]


def test_the_commands_are_what_a_user_would_type():
    lines = by_name()
    assert command(lines["write/source"]) == (
        "python -m prune write --images ../photos/train --out data/source.beton --side 32"
    )
    assert command(lines["write/birds.test"]).endswith("--side 32 --classes data/birds.train.manifest.npz")
    assert command(lines["surrogate/s1"]) == (
        "python -m pretrain --beton data/source.beton --recipe rn18-surrogate --sample 0.25 --seed 1 "
        "--out surrogates/s1"
    )
    assert command(lines["features/s0"]) == (
        "python -m prune features --model surrogates/s0 "
        "--betons data/source.beton data/pets.train.beton data/birds.train.beton --out features/s0"
    )
    assert command(lines["score/s0"]) == (
        "python -m prune score --source features/s0/source.features.npz --targets features/s0/pets.train.features.npz "
        "features/s0/birds.train.features.npz --out scores/s0.scores.npz"
    )
    assert command(lines["select/winnow-k0.2-s0"]) == (
        "python -m prune select --scores scores/s0.scores.npz --method winnow --keep 0.2 --floor 5 --seed 0 "
        "--out indices/winnow-k0.2-s0.index.npz"
    )
    assert command(lines["pretrain/winnow-k0.5-s1"]) == (
        "python -m pretrain --beton data/source.beton --index indices/winnow-k0.5-s1.index.npz --recipe small-rn18 "
        "--val data/source-val.beton --seed 1 --out backbones/winnow-k0.5-s1"
    )
    assert command(lines["probe/full-s0/pets"]) == (
        "python -m transfer probe --model backbones/full-s0 --train data/pets.train.beton "
        "--test data/pets.test.beton --seed 0 --out probes/full-s0/pets"
    )


def test_full_data_is_trained_without_an_index():
    assert "--index" not in by_name()["pretrain/full-s0"].command


def test_levels_rise_along_every_need_and_lines_stand_in_their_order():
    lines = plan.plan(replace(STUDY, methods=("full", "random", "winnow", EQUAL_TIME)))
    level = {line.name: line.level for line in lines}
    assert len(level) == len(lines)
    assert [line.level for line in lines] == sorted(line.level for line in lines)
    for line in lines:
        assert line.level == max((level[need] + 1 for need in line.needs), default=0)
    # write 0, surrogate 1, features 2, score 3, select 4, pretrain 5, probe 6, collect 7, report 8.
    assert level["pretrain/winnow-k0.2-s0"] == 5
    assert level["report"] == 8
    # Full data and random parts need no surrogate.
    assert level["pretrain/full-s0"] == 2
    assert level["select/random-k0.2-s0"] == 1


def test_target_tests_guide_nothing():
    lines = by_name()
    guided: set[str] = set()
    waiting = ["select/winnow-k0.2-s0"]
    while waiting:
        line = lines[waiting.pop()]
        guided.add(line.name)
        waiting += line.needs
    assert not any("test" in word for name in guided for word in lines[name].command)
    assert not any(".test.beton" in word for n in guided for word in lines[n].command)


def test_the_source_is_compared_with_every_targets_test_images_and_nothing_but_the_report_follows():
    lines = by_name(replace(STUDY, guides=("pets",), loader="torch"))
    assert command(lines["test-features/birds"]) == (
        "python -m prune features --model surrogates/s0 --betons data/birds.test.beton --loader torch --out leaks/birds"
    )
    assert command(lines["leaks/birds"]) == (
        "python -m prune leaks --source features/s0/source.features.npz --tests leaks/birds/birds.test.features.npz "
        "--out leaks/birds/leaks.json"
    )
    assert lines["test-features/birds"].needs == ("surrogate/s0", "write/birds.test")
    assert lines["test-features/birds"].samples == 20
    assert lines["leaks/birds"].needs == ("features/s0", "test-features/birds")
    checks = {line.name for line in lines.values() if line.stage == "leaks"}
    followers = {name for name, line in lines.items() if checks & set(line.needs)} - checks
    assert followers == {"collect"}
    # Without a surrogate there is nothing to compare by.
    assert not any(line.stage == "leaks" for line in by_name(replace(STUDY, methods=("full", "random"))).values())


def test_a_target_that_does_not_guide_is_evaluated_alone():
    lines = by_name(replace(STUDY, guides=("pets",)))
    assert "data/birds.train.beton" not in lines["features/s0"].command
    assert "features/s0/birds.train.features.npz" not in lines["score/s0"].command
    assert "probe/full-s0/birds" in lines


EVALUATIONS = ("probe", "knn", "few-shot-5", "finetune", "probe-finetune", "probe-finetune-3")


def test_every_evaluation_has_its_command():
    lines = by_name(replace(STUDY, evaluations=EVALUATIONS))
    halves = "--train data/pets.train.beton --test data/pets.test.beton"
    shared = "--features probes/full-s1/pets/features"
    assert {one: command(lines[f"{one}/full-s1/pets"]) for one in EVALUATIONS} == {
        "probe": f"python -m transfer probe --model backbones/full-s1 {halves} --seed 1 --out probes/full-s1/pets",
        "knn": f"python -m transfer knn --model backbones/full-s1 {halves} {shared} --out knn/full-s1/pets",
        "few-shot-5": f"python -m transfer probe --model backbones/full-s1 {halves} --shots 5 {shared} --seed 1 "
        "--out few-shot-5/full-s1/pets",
        "finetune": f"python -m transfer finetune --model backbones/full-s1 {halves} --seed 1 "
        "--out finetune/full-s1/pets",
        "probe-finetune": f"python -m transfer finetune --model backbones/full-s1 {halves} --head probe {shared} "
        "--seed 1 --out probe-finetune/full-s1/pets",
        "probe-finetune-3": f"python -m transfer finetune --model backbones/full-s1 {halves} --head probe --epochs 3 "
        f"{shared} --seed 1 --out probe-finetune-3/full-s1/pets",
    }


def test_features_are_computed_by_one_evaluation_and_the_others_wait_for_it():
    lines = by_name(replace(STUDY, evaluations=EVALUATIONS))
    waiting = [one for one in EVALUATIONS if "probe/full-s1/pets" in lines[f"{one}/full-s1/pets"].needs]
    assert waiting == ["knn", "few-shot-5", "probe-finetune", "probe-finetune-3"]
    # 90 images of pets pass the network once; the 50 of its train part then 20 or 3 times, and 40 at the end.
    samples = [lines[f"{one}/full-s1/pets"].samples for one in EVALUATIONS]
    assert samples == [90, 0, 0, 50 * 20 + 40, 50 * 20 + 40, 50 * 3 + 40]


def test_an_evaluation_that_is_added_leaves_every_old_line_but_the_last_as_it_was():
    old, new = by_name(), by_name(replace(STUDY, evaluations=EVALUATIONS))
    assert [n for n in old if (old[n].command, old[n].needs) != (new[n].command, new[n].needs)] == ["collect"]
    assert {line.name.split("/")[0] for name, line in new.items() if name not in old} == set(EVALUATIONS[1:])
    # Also where the probe comes second: the first keeps the features.
    knn, both = (by_name(replace(STUDY, evaluations=e)) for e in (("knn",), ("knn", "probe")))
    assert [n for n in knn if (knn[n].command, knn[n].needs) != (both[n].command, both[n].needs)] == ["collect"]
    assert "knn/full-s1/pets" in both["probe/full-s1/pets"].needs


def test_a_target_that_is_written_already_is_used_where_it_lies():
    lines = by_name(
        replace(STUDY, targets={"pets": Parts("../x/p.train.beton", "../x/p.test.beton")}, guides=("pets",))
    )
    assert not any(name.startswith("write/pets") for name in lines)
    assert "../x/p.train.beton" in lines["features/s0"].command
    assert "features/s0/p.train.features.npz" in lines["score/s0"].command
    assert lines["probe/full-s0/pets"].command[6:10] == ("--train", "../x/p.train.beton", "--test", "../x/p.test.beton")
    assert lines["probe/full-s0/pets"].needs == ("pretrain/full-s0",)
    assert lines["test-features/pets"].command[7] == "../x/p.test.beton"
    assert lines["leaks/pets"].command[7] == "leaks/pets/p.test.features.npz"


def test_the_cheap_ladder_trains_the_surrogates_recipe_on_every_rung():
    lines = by_name(replace(STUDY, keeps=(), ladder=(0.5, 0.1)))
    rungs = {n: line for n, line in lines.items() if line.stage == "search" and line.command[2] == "pretrain"}
    assert list(rungs) == ["ladder/full-s0", "ladder/winnow-k0.1-s0", "ladder/winnow-k0.5-s0"]
    assert command(rungs["ladder/winnow-k0.1-s0"]) == (
        "python -m pretrain --beton data/source.beton --index indices/winnow-k0.1-s0.index.npz "
        "--recipe rn18-surrogate --seed 0 --out ladder/winnow-k0.1-s0"
    )
    assert "ladder/probes/winnow-k0.5-s0/birds" in lines
    # A rung that is confirmed shares the selection; no line of the ladder changes.
    grown_lines = by_name(replace(STUDY, keeps=(0.1,), ladder=(0.5, 0.1)))
    assert all(lines[name] == grown_lines[name] for name in lines if name not in ("collect", "report"))
    assert "pretrain/winnow-k0.1-s1" in grown_lines


def test_without_a_method_that_looks_at_the_surrogate_there_is_none():
    lines = by_name(replace(STUDY, methods=("full", "random")))
    assert not any(line.stage in ("surrogate", "features", "score") for line in lines.values())


def test_a_source_beton_is_used_where_it_lies():
    lines = by_name(replace(STUDY, source=Parts("../big.beton", None)))
    assert "write/source" not in lines
    assert "../big.beton" in lines["pretrain/full-s0"].command
    assert "--val" not in lines["pretrain/full-s0"].command
    assert lines["score/s0"].command[5] == "features/s0/big.features.npz"
    assert lines["leaks/pets"].command[5] == "features/s0/big.features.npz"


def test_only_our_own_method_gets_the_floor():
    lines = by_name(replace(STUDY, methods=("random", "dp4tl-lm", "winnow")))
    assert "--floor" in lines["select/winnow-k0.2-s0"].command
    assert "--floor" not in lines["select/dp4tl-lm-k0.2-s0"].command
    assert "--floor" not in lines["select/random-k0.2-s0"].command


def test_the_control_of_equal_time_takes_randoms_index_and_waits_for_the_costs():
    line = by_name(replace(STUDY, methods=("full", "random", "winnow", EQUAL_TIME)))[f"pretrain/{EQUAL_TIME}-k0.2-s0"]
    assert "indices/random-k0.2-s0.index.npz" in line.command
    assert plan.STEPS_LATER in line.command
    assert {"pretrain/random-k0.2-s0", "surrogate/s0", "features/s0"} <= set(line.needs)


def test_cost_counts_images_seen():
    lines = by_name()
    # 25 % of 1,000 images for 8 epochs; 20 % for 10; all for 10; features of the source and of both train parts.
    assert lines["surrogate/s0"].samples == 250 * 8
    assert lines["pretrain/winnow-k0.2-s0"].samples == 200 * 10
    assert lines["pretrain/full-s0"].samples == 1000 * 10
    assert lines["features/s0"].samples == 1000 + 50 + 30
    assert lines["probe/full-s0/pets"].samples == 90
    assert by_name(replace(STUDY, epochs=3))["pretrain/full-s0"].samples == 3000


def test_more_seeds_keeps_and_targets_leave_every_old_line_but_the_last_as_it_was():
    cars = Parts("../cars/train", "../cars/test")
    larger = replace(STUDY, seeds=(0, 1, 2), keeps=(0.2, 0.5, 0.1), targets={**STUDY.targets, "cars": cars})
    old, new = by_name(), by_name(larger)
    changed = [n for n in old if (old[n].command, old[n].needs) != (new[n].command, new[n].needs)]
    assert changed == ["collect"]


def test_a_plan_reads_back_as_it_was_written(tmp_path):
    import json

    lines = plan.plan(STUDY)
    (tmp_path / "plan.jsonl").write_text("".join(json.dumps(line.record()) + "\n" for line in lines))
    read = plan.read_plan(tmp_path)
    assert [line.record() for line in read] == [line.record() for line in lines]


def test_cells_name_full_once_a_seed():
    assert [cell_name(*cell) for cell in cells(replace(STUDY, keeps=(0.25,), methods=("full", "random")))] == [
        "full-s0",
        "full-s1",
        "random-k0.25-s0",
        "random-k0.25-s1",
    ]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"keeps": (0.0,)}, "--keeps 0.0"),
        ({"keeps": (1.5,)}, "--keeps 1.5"),
        ({"keeps": (0.2, 0.2)}, "--keeps 0.2 0.2"),
        ({"methods": ("full", "full")}, "named twice"),
        ({"methods": ("best",)}, "--methods best"),
        ({"methods": ("winnow", EQUAL_TIME)}, "needs random"),
        ({"methods": ("full", "random", EQUAL_TIME)}, "needs a method"),
        ({"guides": ("cars",)}, "--guides cars"),
        ({"guides": ()}, "must guide"),
        ({"targets": {}}, "--targets"),
        ({"surrogate_sample": 0.0}, "--surrogate-sample 0.0"),
        ({"evaluations": ("probe", "best")}, "--evaluations best"),
        ({"evaluations": ("few-shot-0",)}, "--evaluations few-shot-0"),
        ({"evaluations": ("finetune-0",)}, "--evaluations finetune-0"),
        ({"ladder": (0.5, 1.0)}, "--ladder 1.0"),
        ({"ladder": (0.5,), "seeds": (0,)}, "needs two seeds"),
        ({"ladder": (0.5,), "methods": ("full", "random")}, "needs full and a pruning method"),
        (
            {
                "targets": {"a": Parts("x/p.train.beton", "x/t.beton"), "b": Parts("y/p.train.beton", "y/t.beton")},
                "guides": ("a",),
            },
            "same file name",
        ),
    ],
)
def test_what_cannot_run_is_refused_by_name(change, said):
    with pytest.raises(InputError, match=said):
        check(replace(STUDY, **change))


OLD = {"source": "a", "targets": {"pets": 1}, "methods": ["full"], "keeps": [0.2], "seeds": [0], "recipe": "r",
       "margin": 0.5, "guides": ["pets"]}  # fmt: skip


def test_a_study_grows_by_lists_alone():
    new = grown("S", OLD, {"seeds": [0, 2], "keeps": [0.1], "targets": {"cars": 2}, "recipe": None, "margin": 1.0})
    assert new["seeds"] == [0, 2]
    assert new["keeps"] == [0.2, 0.1]
    assert new["targets"] == {"pets": 1, "cars": 2}
    assert new["guides"] == ["pets"]
    assert new["margin"] == 1.0
    assert OLD["seeds"] == [0]


def test_evaluations_grow_also_where_there_was_the_probe_alone():
    assert grown("S", OLD, {"evaluations": ["probe", "knn"]})["evaluations"] == ["probe", "knn"]
    assert grown("S", {**OLD, "evaluations": ["knn"]}, {"evaluations": ["probe"]})["evaluations"] == ["knn", "probe"]
    assert grown("S", OLD, {"ladder": [0.1]})["ladder"] == [0.1]
    with pytest.raises(InputError, match="ladder"):
        grown("S", {**OLD, "ladder": [0.2]}, {"ladder": [0.1]})


@pytest.mark.parametrize("change", [{"recipe": "other"}, {"guides": ["cars"]}])
def test_a_study_does_not_change_what_is_not_a_list(change):
    with pytest.raises(InputError, match=next(iter(change))):
        grown("S", OLD, change)
