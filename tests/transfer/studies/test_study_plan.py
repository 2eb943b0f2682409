"""The plan of a study: which tasks there are, their commands and what they wait for."""

from __future__ import annotations

from dataclasses import replace

import pytest

from prune.runs.files import InputError
from transfer.studies.places import Splits
from transfer.studies.settings import Study, check_study, grown, run_name, runs_of
from transfer.studies.study_plan import plan_of
from transfer.studies.task import STEPS_LATER, read_plan, write_plan
from transfer.verdicts.controls import EQUAL_TIME, FULL_EQUAL, RANDOM_EQUAL

STUDY = Study(
    source=Splits("../photos/train", "../photos/test"),
    targets={"pets": Splits("../pets/train", "../pets/test"), "birds": Splits("../birds/train", "../birds/val")},
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
    return {task.name: task for task in plan_of(study)}


def command(task):
    return " ".join(task.command)


def test_every_stage_has_its_tasks():
    stages = [task.stage for task in plan_of(STUDY)]
    # Betons: source, its test split, 2 x 2 of the targets. Runs: full 2 seeds; random, winnow 2 keeps x 2 seeds.
    expected = {"write": 6, "surrogate": 2, "features": 2, "score": 2, "select": 8, "pretrain": 10, "evaluate": 20}
    expected["leaks"] = 4  # features of each target's test images, and what the source shares with them
    assert {stage: stages.count(stage) for stage in expected} == expected
    assert stages[-2:] == ["collect", "collect"]


def test_a_surrogate_passes_over_a_sample_of_the_source_where_votes_of_classes_decide():
    study = replace(STUDY, methods=("full", "random", "gate", "dp4tl-lm", "evidence"), feature_sample=0.1)
    check_study(study)
    task = by_name(study)["features/s1"]
    assert "--sample 0.1 --seed 1" in command(task)
    assert task.samples == 100 + 50 + 30  # a tenth of the source, and all training images of the guides
    assert "--sample" not in command(by_name()["features/s1"])


def test_the_commands_are_what_a_user_would_type():
    tasks = by_name()
    assert command(tasks["write/source"]) == (
        "python -m prune write --images ../photos/train --out data/source.beton --side 32"
    )
    assert command(tasks["write/birds.test"]).endswith("--side 32 --classes data/birds.train.manifest.npz")
    assert command(tasks["surrogate/s1"]) == (
        "python -m pretrain --beton data/source.beton --recipe rn18-surrogate --sample 0.25 --seed 1 "
        "--out surrogates/s1"
    )
    assert command(tasks["features/s0"]) == (
        "python -m prune features --model surrogates/s0 "
        "--betons data/source.beton data/pets.train.beton data/birds.train.beton --out features/s0"
    )
    assert command(tasks["score/s0"]) == (
        "python -m prune score --source features/s0/source.features.npz --targets features/s0/pets.train.features.npz "
        "features/s0/birds.train.features.npz --out scores/s0.scores.npz"
    )
    assert command(tasks["select/winnow-k0.2-s0"]) == (
        "python -m prune select --scores scores/s0.scores.npz --method winnow --keep 0.2 --floor 5 --seed 0 "
        "--out indices/winnow-k0.2-s0.index.npz"
    )
    assert command(tasks["pretrain/winnow-k0.5-s1"]) == (
        "python -m pretrain --beton data/source.beton --index indices/winnow-k0.5-s1.index.npz --recipe small-rn18 "
        "--val data/source-val.beton --seed 1 --out backbones/winnow-k0.5-s1"
    )
    assert command(tasks["probe/full-s0/pets"]) == (
        "python -m transfer probe --model backbones/full-s0 --train data/pets.train.beton "
        "--test data/pets.test.beton --seed 0 --out probes/full-s0/pets"
    )


def test_full_data_is_trained_without_an_index():
    assert "--index" not in by_name()["pretrain/full-s0"].command


def test_levels_rise_along_every_need_and_tasks_are_in_their_order():
    tasks = plan_of(replace(STUDY, methods=("full", "random", "winnow", EQUAL_TIME)))
    level = {task.name: task.level for task in tasks}
    assert len(level) == len(tasks)
    assert [task.level for task in tasks] == sorted(task.level for task in tasks)
    for task in tasks:
        assert task.level == max((level[need] + 1 for need in task.needs), default=0)
    # write 0, surrogate 1, features 2, score 3, select 4, pretrain 5, probe 6, collect 7, report 8.
    assert level["pretrain/winnow-k0.2-s0"] == 5
    assert level["report"] == 8
    # Full data and random parts need no surrogate.
    assert level["pretrain/full-s0"] == 2
    assert level["select/random-k0.2-s0"] == 1


def test_target_tests_guide_nothing():
    tasks = by_name()
    guided: set[str] = set()
    waiting = ["select/winnow-k0.2-s0"]
    while waiting:
        task = tasks[waiting.pop()]
        guided.add(task.name)
        waiting += task.needs
    assert not any("test" in word for name in guided for word in tasks[name].command)
    assert not any(".test.beton" in word for n in guided for word in tasks[n].command)


def test_the_source_is_compared_with_every_targets_test_images_and_nothing_but_the_report_follows():
    tasks = by_name(replace(STUDY, guides=("pets",), loader="torch"))
    assert command(tasks["test-features/birds"]) == (
        "python -m prune features --model surrogates/s0 --betons data/birds.test.beton --loader torch --out leaks/birds"
    )
    assert command(tasks["leaks/birds"]) == (
        "python -m prune leaks --source features/s0/source.features.npz --tests leaks/birds/birds.test.features.npz "
        "--out leaks/birds/leaks.json"
    )
    assert tasks["test-features/birds"].needs == ("surrogate/s0", "write/birds.test")
    assert tasks["test-features/birds"].samples == 20
    assert tasks["leaks/birds"].needs == ("features/s0", "test-features/birds")
    checks = {task.name for task in tasks.values() if task.stage == "leaks"}
    followers = {name for name, task in tasks.items() if checks & set(task.needs)} - checks
    assert followers == {"collect"}
    # Without a surrogate there is nothing to compare by.
    assert not any(task.stage == "leaks" for task in by_name(replace(STUDY, methods=("full", "random"))).values())


def test_a_target_that_does_not_guide_is_only_evaluated():
    tasks = by_name(replace(STUDY, guides=("pets",)))
    assert "data/birds.train.beton" not in tasks["features/s0"].command
    assert "features/s0/birds.train.features.npz" not in tasks["score/s0"].command
    assert "probe/full-s0/birds" in tasks


EVALUATIONS = ("probe", "knn", "few-shot-5", "finetune", "probe-finetune", "probe-finetune-3")


def test_every_evaluation_has_its_command():
    tasks = by_name(replace(STUDY, evaluations=EVALUATIONS))
    splits = "--train data/pets.train.beton --test data/pets.test.beton"
    shared = "--features probes/full-s1/pets/features"
    assert {one: command(tasks[f"{one}/full-s1/pets"]) for one in EVALUATIONS} == {
        "probe": f"python -m transfer probe --model backbones/full-s1 {splits} --seed 1 --out probes/full-s1/pets",
        "knn": f"python -m transfer knn --model backbones/full-s1 {splits} {shared} --out knn/full-s1/pets",
        "few-shot-5": f"python -m transfer probe --model backbones/full-s1 {splits} --shots 5 {shared} --seed 1 "
        "--out few-shot-5/full-s1/pets",
        "finetune": f"python -m transfer finetune --model backbones/full-s1 {splits} --seed 1 "
        "--out finetune/full-s1/pets",
        "probe-finetune": f"python -m transfer finetune --model backbones/full-s1 {splits} --head probe {shared} "
        "--seed 1 --out probe-finetune/full-s1/pets",
        "probe-finetune-3": f"python -m transfer finetune --model backbones/full-s1 {splits} --head probe --epochs 3 "
        f"{shared} --seed 1 --out probe-finetune-3/full-s1/pets",
    }


def test_features_are_computed_by_one_evaluation_and_the_others_wait_for_it():
    tasks = by_name(replace(STUDY, evaluations=EVALUATIONS))
    waiting = [one for one in EVALUATIONS if "probe/full-s1/pets" in tasks[f"{one}/full-s1/pets"].needs]
    assert waiting == ["knn", "few-shot-5", "probe-finetune", "probe-finetune-3"]
    # 90 images of pets pass the network once; the 50 of its train split then 20 or 3 times, and 40 at the end.
    samples = [tasks[f"{one}/full-s1/pets"].samples for one in EVALUATIONS]
    assert samples == [90, 0, 0, 50 * 20 + 40, 50 * 20 + 40, 50 * 3 + 40]


def test_an_evaluation_that_is_added_leaves_every_old_task_but_the_last_as_it_was():
    old, new = by_name(), by_name(replace(STUDY, evaluations=EVALUATIONS))
    assert [n for n in old if (old[n].command, old[n].needs) != (new[n].command, new[n].needs)] == ["collect"]
    assert {task.name.split("/")[0] for name, task in new.items() if name not in old} == set(EVALUATIONS[1:])
    # Also where the probe comes second: the first keeps the features.
    knn, both = (by_name(replace(STUDY, evaluations=e)) for e in (("knn",), ("knn", "probe")))
    assert [n for n in knn if (knn[n].command, knn[n].needs) != (both[n].command, both[n].needs)] == ["collect"]
    assert "knn/full-s1/pets" in both["probe/full-s1/pets"].needs


def test_a_target_whose_betons_exist_is_used_in_place():
    tasks = by_name(
        replace(STUDY, targets={"pets": Splits("../x/p.train.beton", "../x/p.test.beton")}, guides=("pets",))
    )
    assert not any(name.startswith("write/pets") for name in tasks)
    assert "../x/p.train.beton" in tasks["features/s0"].command
    assert "features/s0/p.train.features.npz" in tasks["score/s0"].command
    assert tasks["probe/full-s0/pets"].command[6:10] == ("--train", "../x/p.train.beton", "--test", "../x/p.test.beton")
    assert tasks["probe/full-s0/pets"].needs == ("pretrain/full-s0",)
    assert tasks["test-features/pets"].command[7] == "../x/p.test.beton"
    assert tasks["leaks/pets"].command[7] == "leaks/pets/p.test.features.npz"


def test_the_cheap_ladder_trains_the_surrogates_recipe_at_every_keep():
    tasks = by_name(replace(STUDY, keeps=(), ladder=(0.5, 0.1)))
    small = {n: task for n, task in tasks.items() if task.stage == "search" and task.command[2] == "pretrain"}
    assert list(small) == ["ladder/full-s0", "ladder/winnow-k0.1-s0", "ladder/winnow-k0.5-s0"]
    assert command(small["ladder/winnow-k0.1-s0"]) == (
        "python -m pretrain --beton data/source.beton --index indices/winnow-k0.1-s0.index.npz "
        "--recipe rn18-surrogate --seed 0 --out ladder/winnow-k0.1-s0"
    )
    assert "ladder/probes/winnow-k0.5-s0/birds" in tasks
    # A keep that is confirmed shares the selection; no task of the ladder changes.
    grown_tasks = by_name(replace(STUDY, keeps=(0.1,), ladder=(0.5, 0.1)))
    assert all(tasks[name] == grown_tasks[name] for name in tasks if name not in ("collect", "report"))
    assert "pretrain/winnow-k0.1-s1" in grown_tasks


def test_without_a_method_that_looks_at_the_surrogate_there_is_none():
    tasks = by_name(replace(STUDY, methods=("full", "random")))
    assert not any(task.stage in ("surrogate", "features", "score") for task in tasks.values())


GATED = replace(STUDY, gate="auto", guides=("pets",))


def test_with_a_gate_the_surrogate_and_its_features_see_what_passes_alone():
    tasks = by_name(GATED)
    assert command(tasks["gate/thumbnails"]) == (
        "python -m prune features --thumbnail --betons data/source.beton data/pets.train.beton "
        "--out features/thumbnails"
    )
    assert command(tasks["gate/score"]) == (
        "python -m prune score --source features/thumbnails/source.features.npz "
        "--targets features/thumbnails/pets.train.features.npz --also domain --out scores/gate.scores.npz"
    )
    assert command(tasks["gate/index"]) == (
        "python -m prune select --scores scores/gate.scores.npz --method gate --gate auto --out indices/gate.index.npz"
    )
    assert command(tasks["surrogate/s1"]) == (
        "python -m pretrain --beton data/source.beton --index indices/gate.index.npz --recipe rn18-surrogate "
        "--sample 0.25 --seed 1 --out surrogates/s1"
    )
    assert command(tasks["features/s0"]) == (
        "python -m prune features --model surrogates/s0 --betons data/source.beton data/pets.train.beton "
        "--index indices/gate.index.npz --out features/s0"
    )
    assert command(tasks["score/s0"]) == (
        "python -m prune score --source features/s0/source.features.npz --targets features/s0/pets.train.features.npz "
        "--gate scores/gate.scores.npz --out scores/s0.scores.npz"
    )
    assert command(tasks["select/winnow-k0.2-s0"]) == (
        "python -m prune select --scores scores/s0.scores.npz --method winnow --keep 0.2 --gate auto --floor 5 "
        "--seed 0 --out indices/winnow-k0.2-s0.index.npz"
    )


def test_a_gate_comes_once_for_all_seeds_and_before_every_network():
    tasks = by_name(GATED)
    assert [name for name, task in tasks.items() if task.stage == "gate"] == [
        "gate/thumbnails", "gate/score", "gate/index"
    ]  # fmt: skip
    assert tasks["gate/thumbnails"].needs == ("write/source", "write/pets.train")
    assert tasks["gate/score"].needs == ("gate/thumbnails",)
    assert tasks["gate/index"].needs == ("gate/score",)
    assert tasks["surrogate/s0"].needs == tasks["surrogate/s1"].needs == ("gate/index",)
    assert not any("seed" in task.facts for task in tasks.values() if task.stage == "gate")
    # 1,000 images of the source and 50 of pets, decoded; the width is not known yet, so the surrogate counts all.
    assert (tasks["gate/thumbnails"].samples, tasks["surrogate/s0"].samples) == (1050, 250 * 8)


def test_a_share_is_a_gate_of_that_width_and_counts_in_the_estimate():
    tasks = by_name(replace(GATED, gate="0.4"))
    assert tasks["gate/index"].command[6:10] == ("--method", "gate", "--gate", "domain:0.4")
    assert "domain:0.4" in tasks["select/winnow-k0.5-s1"].command
    # 400 of 1,000 images pass: a quarter of them for 8 epochs, and features of them and of 50 images of pets.
    assert (tasks["surrogate/s0"].samples, tasks["features/s0"].samples) == (100 * 8, 450)


def test_the_controls_know_no_gate():
    open_, gated = (
        by_name(replace(STUDY, gate=gate, methods=("full", "random", EQUAL_TIME, "winnow", "el2n")))
        for gate in ("open", "auto")
    )
    changed = {name for name in open_ if open_[name].command != gated[name].command}
    kinds = {name.split("-k")[0].removesuffix("-s0").removesuffix("-s1") for name in changed}
    assert kinds == {"surrogate/s0", "surrogate/s1", "features/s0", "features/s1", "score/s0", "score/s1",
                     "select/winnow", "select/el2n"}  # fmt: skip
    assert set(gated) - set(open_) == {"gate/thumbnails", "gate/score", "gate/index"}


def test_a_study_without_a_pruning_method_has_nothing_behind_its_gate():
    without = replace(STUDY, methods=("full", "random"))
    assert plan_of(replace(without, gate="auto")) == plan_of(without)


def test_at_a_given_compute_every_pruned_and_random_run_waits_for_the_full_one_that_it_is_a_share_of():
    tasks = by_name(replace(STUDY, methods=("full", "random", "gate", "winnow"), compute=0.25))
    winnow, random, gate = (tasks[f"pretrain/{method}-k0.2-s1"] for method in ("winnow", "random", "gate"))
    before = ("select/winnow-k0.2-s1", "pretrain/full-s1", "surrogate/s1", "features/s1", "write/source-val")
    assert winnow.needs == before
    assert random.needs == ("select/random-k0.2-s1", "pretrain/full-s1", "write/source-val")
    assert gate.needs == ("select/gate-k0.2-s1", "pretrain/full-s1", "write/source-val")
    for task in (winnow, random, gate):
        assert task.command[task.command.index("--steps") + 1] == STEPS_LATER
        assert task.facts["compute"] == 0.25
        assert task.samples == 2500  # a quarter of 1,000 images for 10 epochs, whatever the keep
    # All data for the same compute are there without being asked for.
    assert "--epochs 2.5" in command(tasks["pretrain/full-length0.25-s0"])
    assert "--steps" not in tasks["pretrain/full-s0"].command


def test_the_search_at_a_given_compute_trains_small_networks_for_the_same_share():
    tasks = by_name(replace(STUDY, keeps=(), ladder=(0.1, 0.2), compute=0.25, uses=3))
    small = tasks["ladder/winnow-k0.1-s0"]
    before = ("select/winnow-k0.1-s0", "ladder/full-s0", "pretrain/full-s0", "surrogate/s0", "features/s0")
    assert small.needs == before
    assert small.facts["uses"] == 3
    assert small.samples == 1000 * 8 / 4
    assert "--steps" not in tasks["ladder/full-s0"].command


CHOOSING = replace(STUDY, keeps=(0.2,), surrogates=("none", "0.1", "tiny:0.5", "timm:resnet18:../w.pth"))


def test_a_choice_of_surrogates_trains_small_networks_on_what_each_selects_and_the_backbone_on_all_data_alone():
    tasks = by_name(CHOOSING)
    assert not any(name.startswith(("surrogate/", "features/s", "score/", "select/")) for name in tasks)
    backbones = {name for name, task in tasks.items() if task.stage == "pretrain"}
    assert backbones == {"pretrain/full-s0", "pretrain/full-s1"}
    small = tasks["candidates/0.1/ladder/winnow-k0.2-s0"]
    assert command(small) == (
        "python -m pretrain --beton data/source.beton --index candidates/0.1/indices/winnow-k0.2-s0.index.npz "
        "--recipe rn18-surrogate --seed 0 --out candidates/0.1/ladder/winnow-k0.2-s0"
    )
    assert small.needs == ("candidates/0.1/select/winnow-k0.2-s0",)
    assert "--sample 0.1" in command(tasks["candidates/0.1/surrogate/s0"])
    assert "--recipe tiny --sample 0.5" in command(tasks["candidates/tiny-0.5/surrogate/s0"])
    timm = "candidates/timm-resnet18-..-w.pth"
    assert command(tasks[f"{timm}/surrogate/s0"]) == (
        f"python -m prune surrogate --arch resnet18 --weights ../w.pth --out {timm}/surrogates/s0"
    )
    # The small networks are the same for all, and so is what all data reach at three lengths.
    assert "--recipe rn18-surrogate" in command(tasks["candidates/tiny-0.5/ladder/winnow-k0.2-s0"])
    assert "--epochs 2" in command(tasks["ladder/full-length0.25-s0"])
    assert {task.stage for name, task in tasks.items() if name.startswith(("candidates", "ladder"))} == {"search"}
    # Without a network thumbnails choose.
    assert tasks["candidates/none/select/gate-k0.2-s0"].needs == ("gate/score",)
    assert not any(name.startswith("candidates/none/s") and "select" not in name for name in tasks)


def test_after_the_choice_the_study_is_the_one_with_that_surrogate_and_keeps_what_the_search_made():
    before = by_name(CHOOSING)
    for text, there, flags in (("0.1", True, "--sample 0.1"), ("none", False, ""), ("tiny:0.5", True, "--recipe tiny")):
        tasks = by_name(replace(CHOOSING, surrogate=text))
        search = {name: task.command for name, task in tasks.items() if task.stage == "search"}
        assert search == {name: task.command for name, task in before.items() if task.stage == "search"}
        assert ("surrogate/s1" in tasks) is there
        assert ("pretrain/winnow-k0.2-s0" in tasks, "pretrain/gate-k0.2-s0" in tasks) == (there, not there)
        assert not there or flags in command(tasks["surrogate/s1"])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"surrogates": ("best",)}, "--surrogates best: give none, a share such as 0.1"),
        ({"surrogates": ("best:0.1",)}, "--surrogates best:0.1: give none"),
        ({"surrogates": ("0.1", "0.1")}, "--surrogates 0.1 0.1: one is named twice"),
        ({"surrogates": ("0.1",), "methods": ("full", "random")}, "--surrogates: needs full and a pruning method"),
    ],
)
def test_surrogates_that_cannot_be_chosen_among_are_refused_by_name(change, said):
    with pytest.raises(InputError, match=said):
        plan_of(replace(CHOOSING, **change))


def test_a_warm_start_is_that_of_every_backbone_and_of_no_other_network():
    warm = by_name(replace(STUDY, methods=("full", "random", FULL_EQUAL, "winnow"), init="../resnet", ladder=(0.3,)))
    cold = by_name(replace(STUDY, methods=("full", "random", FULL_EQUAL, "winnow"), ladder=(0.3,)))
    for name, task in warm.items():
        words = list(task.command)
        if task.stage == "pretrain":
            at = words.index("--init")
            assert words[at + 1] == "../resnet"
            del words[at : at + 2]
        assert tuple(words) == cold[name].command


def test_a_method_by_thumbnails_alone_waits_for_no_network_and_trains_none():
    alone = by_name(replace(STUDY, methods=("full", "random", FULL_EQUAL, "gate"), guides=("pets",)))
    assert [name for name in alone if name.startswith(("surrogate", "features", "score/", "leaks", "test-"))] == []
    assert [name for name, task in alone.items() if task.stage == "gate"] == ["gate/thumbnails", "gate/score"]
    assert alone["select/gate-k0.2-s1"].needs == ("gate/score",)
    assert command(alone["select/gate-k0.2-s1"]) == (
        "python -m prune select --scores scores/gate.scores.npz --method gate --keep 0.2 --seed 1 "
        "--out indices/gate-k0.2-s1.index.npz"
    )
    assert alone["pretrain/full-equal-compute-k0.2-s0"].needs == (
        "write/source", "pretrain/full-s0", "pretrain/random-k0.2-s0", "write/source-val"
    )  # fmt: skip
    # Beside a method that needs a surrogate, that one still has it, and the gate alone still waits for none.
    both = by_name(replace(STUDY, methods=("full", "gate", "winnow")))
    assert both["select/gate-k0.2-s0"].needs == ("gate/score",)
    assert both["select/winnow-k0.2-s0"].needs == ("score/s0",)


def test_the_small_networks_of_a_search_train_on_what_the_gated_methods_keep():
    tasks = by_name(replace(GATED, keeps=(), ladder=(0.5, 0.1)))
    assert tasks["ladder/winnow-k0.1-s0"].needs == ("select/winnow-k0.1-s0",)
    assert "--gate" in tasks["select/winnow-k0.1-s0"].command


def test_targets_that_do_not_guide_leave_the_gate_as_it_was():
    old = by_name(GATED)
    new = by_name(replace(GATED, targets={**STUDY.targets, "cars": Splits("../cars/train", "../cars/test")}))
    assert [n for n in old if (old[n].command, old[n].needs) != (new[n].command, new[n].needs)] == ["collect"]


def test_a_source_beton_is_used_where_it_lies():
    tasks = by_name(replace(STUDY, source=Splits("../big.beton", None)))
    assert "write/source" not in tasks
    assert "../big.beton" in tasks["pretrain/full-s0"].command
    assert "--val" not in tasks["pretrain/full-s0"].command
    assert tasks["score/s0"].command[5] == "features/s0/big.features.npz"
    assert tasks["leaks/pets"].command[5] == "features/s0/big.features.npz"


def test_only_our_own_method_gets_the_floor():
    tasks = by_name(replace(STUDY, methods=("random", "dp4tl-lm", "winnow")))
    assert "--floor" in tasks["select/winnow-k0.2-s0"].command
    assert "--floor" not in tasks["select/dp4tl-lm-k0.2-s0"].command
    assert "--floor" not in tasks["select/random-k0.2-s0"].command


def test_all_data_at_other_lengths_are_trained_with_a_schedule_of_their_own_and_evaluated_like_the_rest():
    tasks = by_name(replace(STUDY, full_lengths=(0.25, 1.0)))
    task = tasks["pretrain/full-length0.25-s1"]
    assert command(task) == (  # a quarter of the recipe's ten epochs
        "python -m pretrain --beton data/source.beton --recipe small-rn18 --epochs 2.5 --val data/source-val.beton "
        "--seed 1 --out backbones/full-length0.25-s1"
    )
    assert task.facts == {"method": "full-length", "keep": 0.25, "seed": 1}
    assert task.samples == 2500
    assert "probe/full-length0.25-s1/birds" in tasks
    assert not any("full-length1-" in name for name in tasks)  # that is `full`
    assert not any(name.startswith("select/full") for name in tasks)
    rest = {name: task for name, task in tasks.items() if "full-length" not in name and task.stage != "collect"}
    assert rest == {name: task for name, task in by_name().items() if task.stage != "collect"}


def test_all_data_at_equal_compute_wait_for_the_costs_of_a_pruned_run():
    methods = ("full", "winnow", FULL_EQUAL)
    task = by_name(replace(STUDY, methods=methods, uses=3))[f"pretrain/{FULL_EQUAL}-k0.2-s0"]
    assert "--index" not in task.command
    assert task.command[task.command.index("--steps") + 1] == STEPS_LATER
    costs = ["pretrain/full-s0", "pretrain/winnow-k0.2-s0", "surrogate/s0", "features/s0"]
    assert [need for need in task.needs if not need.startswith("write/")] == costs
    assert task.facts["uses"] == 3


def test_the_older_name_of_random_at_equal_compute_plans_the_same_steps():
    old, new = (
        by_name(replace(STUDY, methods=("random", "winnow", name)))[f"pretrain/{name}-k0.2-s0"]
        for name in (EQUAL_TIME, RANDOM_EQUAL)
    )
    assert old.needs == new.needs
    assert command(old).replace(EQUAL_TIME, RANDOM_EQUAL) == command(new)


def test_the_control_of_equal_time_takes_randoms_index_and_waits_for_the_costs():
    task = by_name(replace(STUDY, methods=("full", "random", "winnow", EQUAL_TIME)))[f"pretrain/{EQUAL_TIME}-k0.2-s0"]
    assert "indices/random-k0.2-s0.index.npz" in task.command
    assert STEPS_LATER in task.command
    assert {"pretrain/random-k0.2-s0", "surrogate/s0", "features/s0"} <= set(task.needs)


def test_cost_counts_images_seen():
    tasks = by_name()
    # 25 % of 1,000 images for 8 epochs; 20 % for 10; all for 10; features of the source and of both train splits.
    assert tasks["surrogate/s0"].samples == 250 * 8
    assert tasks["pretrain/winnow-k0.2-s0"].samples == 200 * 10
    assert tasks["pretrain/full-s0"].samples == 1000 * 10
    assert tasks["features/s0"].samples == 1000 + 50 + 30
    assert tasks["probe/full-s0/pets"].samples == 90
    assert by_name(replace(STUDY, epochs=3))["pretrain/full-s0"].samples == 3000


def test_more_seeds_keeps_and_targets_leave_every_old_task_but_the_last_as_it_was():
    cars = Splits("../cars/train", "../cars/test")
    larger = replace(STUDY, seeds=(0, 1, 2), keeps=(0.2, 0.5, 0.1), targets={**STUDY.targets, "cars": cars})
    old, new = by_name(), by_name(larger)
    changed = [n for n in old if (old[n].command, old[n].needs) != (new[n].command, new[n].needs)]
    assert changed == ["collect"]


LONG = f"timm:resnet18:../{'folder/' * 40}w.pth"


@pytest.mark.parametrize(
    "study",
    [
        STUDY,
        CHOOSING,
        replace(CHOOSING, surrogates=("none", LONG)),
        replace(CHOOSING, surrogate="timm:resnet18:../w.pth", gate="auto"),
        replace(STUDY, gate="0.3", compute=0.25, ladder=(0.1, 0.2), full_lengths=(0.5,), init="../weights"),
        replace(STUDY, evaluations=("probe", "knn", "few-shot-5", "probe-finetune-3")),
    ],
)
def test_a_plan_reads_back_as_it_was_written(study, tmp_path):
    tasks = plan_of(study)
    write_plan(tasks, tmp_path)
    assert [task.record() for task in read_plan(tmp_path)] == [task.record() for task in tasks]


def test_runs_include_full_data_once_per_seed():
    assert [run_name(*run) for run in runs_of(replace(STUDY, keeps=(0.25,), methods=("full", "random")))] == [
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
        ({"methods": ("full", "random", EQUAL_TIME)}, "needs a pruning method"),
        ({"compute": 1.5}, "--compute 1.5: a share of one full pretraining"),
        ({"compute": 0.25, "methods": ("full", "random")}, "--compute: needs full and a pruning method"),
        (
            {"compute": 0.25, "methods": ("full", FULL_EQUAL, "winnow")},
            "with --compute all runs but full have the same",
        ),
        ({"methods": ("winnow", FULL_EQUAL)}, "needs full"),
        ({"methods": ("full", "winnow", "full-length")}, "there are full, random, full-equal-compute"),
        ({"methods": ("random", "winnow"), "full_lengths": (0.5,)}, "--full-lengths: needs full"),
        ({"full_lengths": (0.5, 0.0)}, "--full-lengths 0.0"),
        ({"full_lengths": (0.5, 0.5000000001)}, "two are the same"),
        ({"uses": 0}, "--uses 0"),
        ({"guides": ("cars",)}, "--guides cars"),
        ({"guides": ()}, "must guide"),
        ({"targets": {}}, "--targets"),
        ({"surrogate_sample": 0.0}, "--surrogate-sample 0.0"),
        ({"feature_sample": 0.0}, "--feature-sample 0.0"),
        ({"feature_sample": 1.5}, "--feature-sample 1.5"),
        ({"feature_sample": 0.1}, "winnow needs the features of every image; only dp4tl-lm, dp4tl-fm, evidence"),
        ({"evaluations": ("probe", "best")}, "--evaluations best"),
        ({"evaluations": ("few-shot-0",)}, "--evaluations few-shot-0"),
        ({"evaluations": ("finetune-0",)}, "--evaluations finetune-0"),
        ({"ladder": (0.5, 1.0)}, "--ladder 1.0"),
        ({"ladder": (0.5,), "seeds": (0,)}, "needs two seeds"),
        ({"ladder": (0.5,), "methods": ("full", "random")}, "needs full and a pruning method"),
        (
            {
                "targets": {"a": Splits("x/p.train.beton", "x/t.beton"), "b": Splits("y/p.train.beton", "y/t.beton")},
                "guides": ("a",),
            },
            "same file name",
        ),
    ],
)
def test_what_cannot_run_is_refused_by_name(change, said):
    with pytest.raises(InputError, match=said):
        check_study(replace(STUDY, **change))


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


def test_a_gate_never_changes_and_a_study_that_records_none_has_an_open_one():
    assert grown("S", OLD, {"gate": "open"}) == OLD
    assert grown("S", {**OLD, "gate": "auto"}, {"gate": "auto"})["gate"] == "auto"
    with pytest.raises(InputError, match="gate: 'open' -> 'auto'"):
        grown("S", OLD, {"gate": "auto"})
    with pytest.raises(InputError, match=r"gate: '0\.35' -> 'open'"):
        grown("S", {**OLD, "gate": "0.35"}, {"gate": "open"})


@pytest.mark.parametrize("change", [{"recipe": "other"}, {"guides": ["cars"]}])
def test_a_study_does_not_change_what_is_not_a_list(change):
    with pytest.raises(InputError, match=next(iter(change))):
        grown("S", OLD, change)
