"""The study's own command: what it refuses, what it plans, and the whole chain on a tiny set."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from transfer.__main__ import main

pytestmark = pytest.mark.slow


def tree(root, classes, images, seed=0):
    rng = np.random.default_rng(seed)
    for name in classes:
        (root / name).mkdir(parents=True)
        colour = np.random.default_rng([ord(c) for c in name]).integers(0, 256, 3)
        for i in range(images):
            pixels = np.clip(colour + rng.normal(0, 40, (16, 16, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / name / f"{i}.png")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    root = tmp_path_factory.mktemp("images")
    tree(root / "source" / "train", "abcd", 16)
    tree(root / "source" / "test", "abcd", 4)
    for name, classes in (("near", "ab"), ("far", "xyz")):
        tree(root / name / "train", classes, 10)
        tree(root / name / "test", classes, 6, seed=1)
    for place, name in enumerate("abc"):  # three images of the source stand among the 18 test images of far
        shutil.copy(root / "source" / "train" / name / "3.png", root / "far" / "test" / "x" / f"{place}.png")
    tree(root / "single" / "train", "a", 3)
    tree(root / "single" / "test", "a", 3)
    (root / "hollow" / "train" / "a").mkdir(parents=True)
    (root / "hollow" / "test" / "a").mkdir(parents=True)
    return root


def study(images, out, *more, targets=("near",), methods=("full", "random", "winnow"), recipe="tiny"):
    return main(
        ["study", "--source", str(images / "source"), "--targets", *(f"{t}={images / t}" for t in targets),
         "--methods", *methods, "--recipe", recipe, "--surrogate-recipe", "tiny", "--out", str(out), *more]
    )  # fmt: skip


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"targets": ("single",)}, "one class, 'a'"),
        ({"targets": ("hollow",)}, "no images"),
        ({"targets": ("absent",)}, "no such directory"),
        ({"recipe": "best"}, "--recipe best"),
        ({"methods": ("best",)}, "--methods best"),
        ({"more": ("--keeps", "1.5")}, "--keeps 1.5"),
        ({"more": ("--keeps", "0.5", "--seeds", "-1")}, "--seeds -1"),
        # 64 images in 4 classes: a keep of 0.25 leaves 16, and 5 of each class are 20.
        ({"more": ("--keeps", "0.25", "--floor", "5")}, "--floor 5 needs 20 samples, and --keeps 0.25 leaves 16"),
        ({"more": ("--jobs", "0")}, "--jobs 0"),
        ({"more": ("--surrogates", "timm:nonet")}, "--surrogates timm:nonet: not one of timm's models"),
        ({"more": ("--epochs", "-1")}, "--epochs -1.0: a positive number"),
        ({"more": ("--epochs", "nan")}, "--epochs nan: a positive number"),
        ({"more": ("--surrogate-epochs", "-3")}, "--surrogate-epochs -3.0: a positive number"),
        ({"more": ("--side", "-5")}, "--side -5"),
        ({"more": ("--uses", "0")}, "--uses 0: 1 or more"),
        ({"more": ("--full-lengths", "nan")}, "--full-lengths nan"),
        ({"more": ("--margin", "nan")}, "--margin nan"),
        ({"more": ("--json",)}, "--json: is for --dry-run"),
        ({"more": ("--line", "1")}, "plan.jsonl"),
        ({"more": ("--todo",)}, "the study has no plan yet; `transfer study --out"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(images, tmp_path, capsys, how, said):
    more = how.pop("more", ())
    assert study(images, tmp_path / "out", *more, **how) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1
    assert said in error[0]
    assert not (tmp_path / "out").exists()


def test_a_directory_with_other_things_is_not_taken(images, tmp_path, capsys):
    (tmp_path / "letter.txt").touch()
    assert study(images, tmp_path) == 2
    assert "is not a study" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["letter.txt"]


def test_dry_run_prints_the_plan_and_writes_nothing(images, tmp_path, capsys):
    assert (
        study(images, tmp_path / "out", "--keeps", "0.25", "--seeds", "0", "--price", "6", "--dry-run", "--json") == 0
    )
    shown = json.loads(capsys.readouterr().out)
    assert not (tmp_path / "out").exists()
    stages = {row["stage"]: row for row in shown["stages"]}
    assert stages["pretrain"]["lines"] == 3
    cost = shown["cost"]
    assert cost["flops"] > (64 + 16 + 16) * 4 * 50e6  # the network's training takes 66 MFLOPs an image
    assert 0 < cost["start_up_seconds"] < cost["seconds"]
    assert cost["money"] == pytest.approx(cost["seconds"] / 3600 * 6)
    # full: 64 images, random and winnow 16 each, for the 4 epochs of the recipe.
    assert stages["pretrain"]["samples"] == (64 + 16 + 16) * 4
    assert sum(row["share"] for row in shown["stages"]) == pytest.approx(1, abs=1e-3)
    assert study(images, tmp_path / "out", "--dry-run") == 0
    said = capsys.readouterr().out
    assert "level 0" in said
    assert "Still to run: about" in said


def test_a_plan_can_be_written_and_grown_without_running(images, tmp_path, capsys):
    out = tmp_path / "out"
    assert study(images, out, "--seeds", "0", "--keeps", "0.5", "--plan-only") == 0
    before = (out / "plan.jsonl").read_text().splitlines()
    assert main(["study", "--out", str(out), "--seeds", "1", "--targets", f"far={images / 'far'}", "--plan-only"]) == 0
    said = capsys.readouterr().err
    assert "far: evaluated, and does not guide the selection (guides: near)" in said
    assert said.count("Still to run: about") == 2
    settings = json.loads((out / "study.json").read_text())
    assert settings["seeds"] == [0, 1]
    assert settings["guides"] == ["near"]
    assert settings["source"]["train"] == "../../" + str((images / "source" / "train").relative_to(images.parent))
    after = [json.loads(line)["command"] for line in (out / "plan.jsonl").read_text().splitlines()]
    assert all(json.loads(line)["command"] in after for line in before)
    assert main(["study", "--out", str(out), "--recipe", "small-rn18", "--plan-only"]) == 2
    assert "recipe: 'tiny' -> 'small-rn18'" in capsys.readouterr().err


def test_writing_the_plan_adds_the_keep_that_the_search_tries_next(images, tmp_path, capsys, monkeypatch):
    out = tmp_path / "out"
    more = ("--seeds", "0", "1", "--keep", "auto", "--ladder", "0.25", "0.5", "--plan-only")
    assert study(images, out, *more, methods=("full", "winnow")) == 0
    assert json.loads((out / "study.json").read_text())["keeps"] == []
    (out / "results.json").write_text("{}")
    monkeypatch.setattr("transfer.studies.ladder.next_keep", lambda study, out, margin: 0.5)
    for _ in range(2):
        assert main(["study", "--out", str(out), "--plan-only"]) == 0
        assert json.loads((out / "study.json").read_text())["keeps"] == [0.5]
    assert capsys.readouterr().err.count("the backbone is to confirm keep 0.5") == 1
    names = [json.loads(line)["name"] for line in (out / "plan.jsonl").read_text().splitlines()]
    assert "pretrain/winnow-k0.5-s1" in names


def test_a_task_runs_by_itself_and_waits_for_what_it_needs(images, tmp_path, capsys):
    out = tmp_path / "out"
    study(images, out, "--seeds", "0", "--keeps", "0.5", "--plan-only")
    tasks = [json.loads(line) for line in (out / "plan.jsonl").read_text().splitlines()]
    number = {task["name"]: i for i, task in enumerate(tasks, 1)}

    def run(name):
        return main(["study", "--out", str(out), "--task", str(number[name])])

    assert run("write/near.test") == 2
    assert f"needs task {number['write/near.train']} (write/near.train)" in capsys.readouterr().err
    assert run("write/near.train") == 0
    assert run("write/near.test") == 0
    assert (out / "data" / "near.test.beton").exists()
    assert run("write/near.test") == 0
    assert "up to date" in capsys.readouterr().err
    settings = (out / "study.json").read_bytes()
    assert main(["study", "--out", str(out), "--targets", f"near={images / 'far'}", "--plan-only"]) == 2
    assert "does not hold what" in (said := capsys.readouterr().err)
    assert "give another --out or another name" in said
    assert (out / "study.json").read_bytes() == settings
    shutil.copytree(images / "near", tmp_path / "moved")
    assert main(["study", "--out", str(out), "--targets", f"near={tmp_path / 'moved'}", "--plan-only"]) == 0
    assert main(["study", "--out", str(out), "--line", "999"]) == 2  # the older name of --task
    assert "has tasks 1 to" in capsys.readouterr().err
    assert main(["study", "--out", str(out), "--collect"]) == 2
    assert "no evaluation is done" in capsys.readouterr().err


def test_an_older_study_keeps_the_older_name_of_a_control_and_grows_by_lengths_of_all_data(images, tmp_path, capsys):
    out = tmp_path / "out"
    methods = ("full", "random", "random-equal-time", "winnow")
    assert study(images, out, "--keeps", "0.5", "--seeds", "0", "--plan-only", methods=methods) == 0
    settings = json.loads((out / "study.json").read_text())
    assert settings["methods"] == ["full", "random", "random-equal-compute", "winnow"]
    older = {name: value for name, value in settings.items() if name not in ("full_lengths", "uses")}
    (out / "study.json").write_text(json.dumps({**older, "methods": list(methods)}))
    plan = (out / "plan.jsonl").read_text().replace("random-equal-compute", "random-equal-time")
    assert main(["study", "--out", str(out), "--plan-only"]) == 0
    assert (out / "plan.jsonl").read_text() == plan
    assert main(["study", "--out", str(out), "--methods", "random-equal-compute", "--full-lengths", "0.5",
                 "--plan-only"]) == 0  # fmt: skip
    grown = json.loads((out / "study.json").read_text())
    assert (grown["methods"], grown["full_lengths"]) == (list(methods), [0.5])
    assert '"pretrain/full-length0.5-s0"' in (out / "plan.jsonl").read_text()
    capsys.readouterr()
    assert main(["study", "--out", str(out), "--uses", "3", "--plan-only"]) == 2
    assert "made with other settings (uses: 1 -> 3)" in capsys.readouterr().err


def results_of(out):
    """results.json without what time decides."""
    found = json.loads((out / "results.json").read_text())
    for entry in found["ledger"]:
        assert entry.pop("seconds") >= 0
    return found


def test_the_whole_chain_runs_once_grows_and_repeats_nothing(images, tmp_path, capsys):
    out = tmp_path / "out"
    # random-equal-compute by its older name
    methods = ("full", "random", "random-equal-time", "full-equal-compute", "winnow")
    assert study(images, out, "--keeps", "0.5", "--seeds", "0", "--loader", "torch", "--epochs", "1",
                 "--surrogate-epochs", "1", "--full-lengths", "0.5", methods=methods) == 0  # fmt: skip
    found = results_of(out)
    assert [(c["method"], c["keep"], c["seed"], c["target"]) for c in found["cells"]] == [
        ("full", 1.0, 0, "near"), ("random", 0.5, 0, "near"), ("full-length", 0.5, 0, "near"),
        ("random-equal-compute", 0.5, 0, "near"), ("full-equal-compute", 0.5, 0, "near"),
        ("winnow", 0.5, 0, "near")]  # fmt: skip
    assert all(0 <= cell["value"] <= 1 and cell["n"] == 12 for cell in found["cells"])
    assert all((out / cell["predictions"]).exists() for cell in found["cells"])
    assert {(s["method"], s["index"]) for s in found["selections"]} == {
        ("random", "indices/random-k0.5-s0.index.npz"), ("winnow", "indices/winnow-k0.5-s0.index.npz")}  # fmt: skip
    flops = {row["name"]: row["flops"] for row in found["ledger"]}
    extra = flops["surrogate/s0"] + flops["features/s0"]
    assert flops["pretrain/random-equal-compute-k0.5-s0"] >= flops["pretrain/random-k0.5-s0"] + extra
    assert flops["pretrain/full-equal-compute-k0.5-s0"] >= flops["pretrain/random-k0.5-s0"] + extra
    assert any("--epochs 0.5 " in one and "full-length0.5-s0" in one for one in found["commands"])
    assert "{equal-time}" not in " ".join(found["commands"])

    stamps = {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.is_file() and p.name not in (".lock", "plan.jsonl")}
    assert main(["study", "--out", str(out)]) == 0
    assert {p: p.stat().st_mtime_ns for p in stamps} == stamps

    assert main(["study", "--out", str(out), "--targets", f"far={images / 'far'}"]) == 0
    again = {p for p, stamp in stamps.items() if p.exists() and p.stat().st_mtime_ns != stamp}
    assert {p.relative_to(out).parts[0] for p in again} <= {
        "results.json", "results.csv", "report.html", "study.json", "logs", "done"}  # fmt: skip
    assert not any({"backbones", "pretrain", "probe"} & set(p.relative_to(out).parts) for p in again)
    grown = results_of(out)
    assert [c for c in grown["cells"] if c["target"] == "near"] == found["cells"]
    assert len(grown["cells"]) == 12

    none = {"images": 12, "leaked": 0, "source_images": 0, "identical": 0, "pairs": []}
    none |= {"similar": 0, "compared": True, "closest": []}
    assert found["leaks"] == {"near": none}
    pairs = [["a/3.png", "x/0.png"], ["b/3.png", "x/1.png"], ["c/3.png", "x/2.png"]]
    three = {"images": 18, "leaked": 3, "source_images": 3, "identical": 3, "pairs": pairs}
    closest = grown["leaks"]["far"].pop("closest")
    assert [pair["ids"] for pair in closest] == pairs
    assert [pair["likeness"] for pair in closest] == [1.0, 1.0, 1.0]
    assert grown["leaks"] == {"near": none, "far": three | {"similar": 0, "compared": True}}
    ran = {p.relative_to(out / "done").as_posix() for p in again if "done" in p.relative_to(out).parts}
    assert ran == {"collect.json", "report.json"}
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "3 of 18 test images of far (3 identical) have a copy" in page
    names = [row["name"] for row in grown["ledger"] if row["stage"] == "leaks"]
    assert names == [f"{kind}/{target}" for kind in ("test-features", "leaks") for target in ("near", "far")]
    seen = {row["name"]: row["samples"] for row in grown["ledger"]}
    assert [seen[name] for name in names] == [12, 18, 0, 0]


def test_a_study_that_is_killed_after_every_task_gives_the_same_results(images, tmp_path, monkeypatch):
    """Each start runs one task and dies before it is recorded: the worst moment, because the task must run again."""
    from transfer.studies import worker_pool

    more = ("--keeps", "0.5", "--seeds", "0", "--loader", "torch", "--epochs", "1", "--surrogate-epochs", "1",
            "--evaluations", "probe", "knn")  # fmt: skip
    assert study(images, tmp_path / "whole", *more) == 0
    real, begun = worker_pool.execute, []

    def killed(command, log):
        done = real(command, log)
        if command not in begun:
            begun.append(command)
            raise KeyboardInterrupt
        return done

    monkeypatch.setattr(worker_pool, "execute", killed)
    starts = 0
    while study(images, tmp_path / "cut", *more) == 130:
        starts += 1
    assert starts == len((tmp_path / "cut" / "plan.jsonl").read_text().splitlines())
    assert results_of(tmp_path / "cut") == results_of(tmp_path / "whole")


def test_an_evaluation_is_added_to_a_finished_study_and_runs_alone(images, tmp_path):
    out = tmp_path / "out"
    assert study(images, out, "--keeps", "0.5", "--seeds", "0", "--loader", "torch", "--epochs", "1",
                 methods=("full", "random")) == 0  # fmt: skip
    settings = json.loads((out / "study.json").read_text())
    for name in ("evaluations", "ladder"):  # as a study's settings were before there was a choice
        settings.pop(name)
    (out / "study.json").write_text(json.dumps(settings))
    found = results_of(out)
    stamps = {p: p.stat().st_mtime_ns for folder in ("backbones", "probes", "data") for p in (out / folder).rglob("*")}
    assert main(["study", "--out", str(out), "--evaluations", "probe", "knn", "few-shot-1", "finetune"]) == 0
    assert {p: p.stat().st_mtime_ns for p in stamps if p.is_file()} == {p: t for p, t in stamps.items() if p.is_file()}
    grown = results_of(out)
    assert [c for c in grown["cells"] if c["evaluation"] == "probe"] == found["cells"]
    assert grown["config"]["evaluations"] == ["probe", "knn", "few-shot-1", "finetune"]
    assert len(grown["cells"]) == 8
    assert all(0 <= c["ece"] <= 1 and 0 <= c["mean_per_class"] <= 1 for c in grown["cells"])
    page = (out / "report.html").read_text(encoding="utf-8")
    assert all(f">{name}</option>" in page for name in ("knn", "few-shot-1", "finetune"))
    assert "Calibration" in page
