"""A study with a gate, trained for real on generated images: what passes, what each method is given, what it costs."""

from __future__ import annotations

import contextlib
import json
import os
import shutil

import numpy as np
import pytest

from prune import generate
from prune.index.pruned_index import PrunedIndex
from prune.runs.files import read_json
from prune.scores.feature_files import open_features
from transfer.__main__ import main
from transfer.studies.reuse import plans_of, take_over
from transfer.studies.task import read_plan
from transfer.studies.worker import execute

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def lamps(tmp_path_factory):
    """384 source images, a quarter of them lamps as in the target `signs`; `alike` has all that the source has."""
    root = tmp_path_factory.mktemp("lamps")
    drawn = {"world": "lamps", "per_class": 24, "target_train": 10, "target_test": 10, "duplicates": 0.0}
    generate.run(generate.Config(out=root, mislabelled=0.0, **drawn))
    generate.run(generate.Config(out=root / "other", mislabelled=0.0, seed=1, **drawn))
    (root / "other/source").rename(root / "alike")
    return root


def study(lamps, out, *more, target="signs"):
    return main(
        ["study", "--source", str(lamps / "source/train"), "--targets", f"{target}={lamps / target}",
         "--recipe", "tiny", "--epochs", "1", "--surrogate-recipe", "tiny", "--surrogate-epochs", "1",
         "--surrogate-sample", "0.5", "--seeds", "0", "--loader", "torch", "--out", str(out), *more]
    )  # fmt: skip


@pytest.fixture(scope="module")
def gated(lamps, tmp_path_factory):
    """A finished study with --gate auto, and its gate's index. A keep of 0.5 is wider than the gate."""
    out = tmp_path_factory.mktemp("gated") / "study"
    methods = ("full", "random", "winnow", "d2")
    assert study(lamps, out, "--gate", "auto", "--keeps", "0.1", "0.5", "--methods", *methods) == 0
    return out, PrunedIndex.load(out / "indices/gate.index.npz")


def kept(out, run):
    return PrunedIndex.load(out / f"indices/{run}.index.npz")


def test_the_gate_lets_through_what_looks_like_the_target(gated):
    out, gate = gated
    lamp = sum(not bytes(name).startswith(b"pattern") for name in gate.ids)
    assert lamp / len(gate) > 0.9
    assert 0.1 < len(gate) / 384 < 0.45
    assert len(read_json(out / "results.json")["cells"]) == 7


def test_the_surrogate_its_features_and_the_scores_see_what_passed_alone(gated):
    out, gate = gated
    facts = read_json(out / "surrogates/s0/provenance.json")
    assert facts["index"] == gate.fingerprint
    assert facts["samples"] == pytest.approx(len(gate) / 2, abs=1)  # --surrogate-sample 0.5, one epoch
    features = open_features(out / "features/s0/source.features.npz")
    assert np.array_equal(features.rows, gate.positions)


def test_with_a_feature_sample_votes_come_from_a_part_and_choose_from_all_that_passed(lamps, tmp_path, capsys):
    out = tmp_path / "study"
    flags = ("--gate", "auto", "--feature-sample", "0.25", "--keeps", "0.1", "--methods", "full")
    assert study(lamps, out, *flags, "winnow") == 2
    assert "--feature-sample 0.25: winnow needs the features of every image" in capsys.readouterr().err
    assert study(lamps, out, *flags, "evidence") == 0
    gate = PrunedIndex.load(out / "indices/gate.index.npz")
    features = open_features(out / "features/s0/source.features.npz")
    assert len(features) == round(len(gate) / 4)
    assert set(features.rows) < set(gate.positions)
    chosen = set(kept(out, "evidence-k0.1-s0").positions)
    assert chosen <= set(gate.positions)
    assert chosen - set(features.rows)
    found = read_json(out / "results.json")
    (row,) = [row for row in found["ledger"] if row["stage"] == "features"]
    assert row["samples"] == round(len(gate) / 4) + 40
    assert "compared with 25 % of the source" in capsys.readouterr().err
    assert main(["study", "--out", str(out)]) == 0
    assert main(["study", "--out", str(out), "--feature-sample", "0.5"]) == 2
    assert main(["study", "--out", str(out), "--methods", "winnow"]) == 2


def test_methods_choose_from_what_passed_and_the_control_from_everything(gated):
    out, gate = gated
    for method in ("winnow", "d2"):
        few, many = kept(out, f"{method}-k0.1-s0"), kept(out, f"{method}-k0.5-s0")
        assert (len(few), len(many)) == (38, 192)
        assert set(few.positions) <= set(gate.positions)
        assert set(gate.positions) <= set(many.positions)  # wider than the gate: all that passed, and more
    assert not set(kept(out, "random-k0.1-s0").positions) <= set(gate.positions)


def test_the_gate_costs_seconds_and_no_flops_and_the_results_say_how_sure_it_is(gated, capsys):
    out, gate = gated
    found = read_json(out / "results.json")
    rows = {row["name"]: row for row in found["ledger"] if row["stage"] == "gate"}
    assert set(rows) == {"gate/thumbnails", "gate/score", "gate/index"}
    assert rows["gate/thumbnails"]["samples"] == 384 + 40
    assert all(row["seconds"] > 0 and row["flops"] == 0 for row in rows.values())
    assert found["gate"]["width"] == pytest.approx(len(gate) / 384, abs=1 / 384)
    said = f"Gate: {found['gate']['width']:.1%} of the source look like the targets"
    assert main(["show", "--study", str(out)]) == 0
    shown = capsys.readouterr().out
    assert said in shown
    assert "area under the curve" in shown
    page = (out / "report.html").read_text(encoding="utf-8")
    assert said in page
    assert "only images that passed the gate" in page


def test_a_study_with_a_gate_that_is_done_repeats_nothing_and_keeps_its_gate(gated, capsys):
    out, _ = gated
    stamps = {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.is_file() and p.name not in (".lock", "plan.jsonl")}
    assert main(["study", "--out", str(out), "--gate", "auto"]) == 0
    assert "Undecided" in capsys.readouterr().err  # the verdict, of one seed
    assert main(["study", "--out", str(out)]) == 0
    assert main(["study", "--out", str(out), "--gate", "0.3"]) == 2
    assert "gate: 'auto' -> '0.3'" in capsys.readouterr().err
    assert {p: p.stat().st_mtime_ns for p in stamps} == stamps


def test_where_the_source_is_of_the_targets_domain_the_gate_stays_open_and_everything_runs(lamps, tmp_path):
    out = tmp_path / "open"
    assert study(lamps, out, "--gate", "auto", "--methods", "full", "winnow", "--keeps", "0.2", target="alike") == 0
    assert len(kept(out, "gate")) == 384
    assert not open_features(out / "features/s0/source.features.npz").partial
    found = read_json(out / "results.json")
    assert found["gate"]["width"] == 1
    assert found["gate"]["text"].startswith("Gate: stays open, since")
    assert len(found["cells"]) == 2


@pytest.mark.parametrize("gate", ["wide", "0", "1.5", "nan", "domain:0.3"])
def test_what_is_no_gate_is_refused_and_leaves_nothing(lamps, tmp_path, capsys, gate):
    assert study(lamps, tmp_path / "out", "--gate", gate) == 2
    assert capsys.readouterr().err.strip().endswith(f"--gate {gate}: give auto, open, or a share in (0, 1]")
    assert not (tmp_path / "out").exists()


def test_a_dry_run_shows_the_gate_before_every_network(lamps, tmp_path, capsys):
    assert study(lamps, tmp_path / "out", "--gate", "0.250", "--dry-run", "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    stages = {row["stage"]: row for row in shown["stages"]}
    # 384 images and 40 of signs are decoded; a quarter of 384 pass, of which the surrogate sees a half.
    assert (stages["gate"]["lines"], stages["gate"]["samples"]) == (3, 424)
    assert stages["surrogate"]["samples"] == 48
    (index,) = (line["command"] for line in shown["lines"] if line["name"] == "gate/index")
    assert index[-4:] == ["--gate", "domain:0.25", "--out", "indices/gate.index.npz"]
    assert not (tmp_path / "out").exists()


def test_another_study_takes_over_what_the_same_commands_made(lamps, gated, tmp_path, capsys):
    first = gated[0]
    out = tmp_path / "second"
    flags = ("--gate", "auto", "--keeps", "0.1", "--methods", "full", "winnow", "dp4tl-lm", "--reuse", str(first))
    assert study(lamps, out, *flags) == 0
    said = capsys.readouterr().err
    over = {line.split(":")[0] for line in said.splitlines() if "taken over from" in line}
    assert {"surrogate/s0", "features/s0", "gate/thumbnails", "pretrain/full-s0", "pretrain/winnow-k0.1-s0"} <= over
    assert not {name for name in over if "dp4tl-lm" in name or name.startswith(("write/", "probe/"))}
    for name in ("surrogates/s0", "backbones/full-s0", "backbones/winnow-k0.1-s0"):
        assert (out / name / "model.safetensors").samefile(first / name / "model.safetensors")
    assert not (out / "backbones/dp4tl-lm-k0.1-s0/model.safetensors").stat().st_nlink > 1
    rows = {(row["method"], row["keep"]): row["value"] for row in read_json(out / "results.json")["cells"]}
    before = {(row["method"], row["keep"]): row["value"] for row in read_json(first / "results.json")["cells"]}
    assert rows["full", 1.0] == before["full", 1.0]
    assert rows["winnow", 0.1] == before["winnow", 0.1]
    seconds = [read_json(place / "done/surrogate/s0.json")["seconds"] for place in (first, out)]
    assert seconds[0] == seconds[1]  # what it took is the first study's cost


def test_a_dry_run_counts_no_cost_for_what_another_study_has_done(lamps, gated, tmp_path, capsys):
    flags = ("--gate", "auto", "--keeps", "0.1", "--methods", "full", "winnow", "--dry-run", "--json")
    assert study(lamps, tmp_path / "new", *flags) == 0
    alone = json.loads(capsys.readouterr().out)["cost"]["flops"]
    assert study(lamps, tmp_path / "new", *flags, "--reuse", str(gated[0])) == 0
    told = capsys.readouterr()
    shown = json.loads(told.out)
    left = [line for line in shown["lines"] if line["stage"] == "evaluate"]  # with the networks that are taken over
    assert 0 < shown["cost"]["flops"] < alone / 3
    assert left
    assert "tasks are taken over if the images are the same" in told.err
    assert not (tmp_path / "new").exists()


def test_the_plan_of_another_study_is_read_once_a_command(lamps, gated, tmp_path, capsys):
    other, out = tmp_path / "other", tmp_path / "new"
    shutil.copytree(gated[0], other)
    flags = ("--gate", "auto", "--keeps", "0.1", "--methods", "full", "winnow", "--reuse", str(other), "--plan-only")
    assert study(lamps, out, *flags) == 0
    (other / "plan.jsonl").write_text("cut\n")
    for command in (("--plan-only",), ("--dry-run",)):
        capsys.readouterr()
        assert main(["study", "--out", str(out), *command]) == 0
        assert capsys.readouterr().err.count("nothing is taken over from it") == 1


def test_nothing_is_taken_over_where_other_images_were_read(lamps, gated, tmp_path, capsys):
    first = gated[0]
    flags = ("--gate", "auto", "--keeps", "0.1", "--methods", "full", "winnow", "--reuse", str(first))
    assert study(lamps, tmp_path / "new", *flags, "--plan-only", target="alike") == 0
    settings = read_json(tmp_path / "new/study.json")
    assert settings["reuse"] == [os.path.relpath(first, tmp_path / "new")]
    tasks = {task.name: task for task in read_plan(tmp_path / "new")}
    for name in ("write/source", "write/alike.train", "write/alike.test"):
        with contextlib.chdir(tmp_path / "new"):
            assert execute(tasks[name].command)[0] == 0
    assert take_over(tasks["gate/thumbnails"], tasks, tmp_path / "new", plans_of([first])) is None  # other images
    assert study(lamps, first, "--reuse", str(first)) == 2
    assert "is the study itself" in capsys.readouterr().err
    assert study(lamps, tmp_path / "third", "--reuse", str(tmp_path)) == 2
    assert "the plan of another study" in capsys.readouterr().err


def test_a_damaged_or_lost_study_is_passed_over_and_said_so(lamps, gated, tmp_path, capsys):
    first, out = gated[0], tmp_path / "new"
    flags = ("--gate", "auto", "--keeps", "0.1", "--methods", "full", "winnow", "--reuse", str(first), "--plan-only")
    assert study(lamps, out, *flags) == 0
    shutil.copytree(first / "data", out / "data")
    tasks = {task.name: task for task in read_plan(out)}
    cut, flipped, lost = tmp_path / "cut", tmp_path / "flipped", tmp_path / "lost"
    for place in (cut, flipped):
        shutil.copytree(first, place)
    (cut / "plan.jsonl").write_text((cut / "plan.jsonl").read_text()[:-50])
    weights = flipped / "backbones/full-s0/model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-100] ^= 1
    weights.write_bytes(data)
    assert take_over(tasks["pretrain/full-s0"], tasks, out, plans_of([cut, flipped, lost])) is None
    said = capsys.readouterr().err
    assert said.count("is damaged") == 1
    assert "its weights are not those that the task wrote" in said
    assert not (out / "backbones").exists()
    thumbnails = next((flipped / "features/thumbnails").glob("source*.features.npz"))
    thumbnails.write_bytes(thumbnails.read_bytes()[:-200])
    assert take_over(tasks["gate/thumbnails"], tasks, out, plans_of([flipped])) is None
    assert take_over(tasks["gate/thumbnails"], tasks, out, plans_of([flipped, first])) == first
    assert take_over(tasks["pretrain/full-s0"], tasks, out, plans_of([first])) == first
