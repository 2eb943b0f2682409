"""Compression with protected layers, and with steps that wait for a person, on a tiny network."""

from __future__ import annotations

import json
import shutil

import onnx
import pytest
import torch
from safetensors.torch import load_file

from prune.data.dataset import open_dataset
from prune.models import networks
from prune.runs.files import InputError, read_json, write_json
from transfer import approve, compress, rollback
from transfer.__main__ import main
from transfer.compression import approval, channel_pruning, journal, onnx_model

pytestmark = pytest.mark.slow

SPEC = {
    "arch": "resnet18",
    "kwargs": {"channels": [8, 8, 16, 16], "layers": [1, 1, 1, 1]},
    "stem": "half",
    "recipe": "demo",
}


@pytest.fixture(scope="module")
def case(tmp_path_factory, make_colour_case):
    return make_colour_case(tmp_path_factory.mktemp("protect"), SPEC, kinds=("channels",), least=0.1)


def equal(weights, original, prefixes):
    names = [name for name in original if name.startswith(prefixes)]
    assert names
    return [name for name in names if not torch.equal(weights[name], original[name])] == []


def test_steps_change_neither_channels_nor_weights_nor_statistics_of_protected_layers(case, tmp_path):
    compress.run(case.config(tmp_path / "run", protect=("layer2", "fc")))
    found, original = (load_file(p / "model.safetensors") for p in (tmp_path / "run", case.model))
    assert equal(found, original, ("layer2.", "fc."))
    first, *tried = journal.read_journal(tmp_path / "run")
    assert [line["verdict"] for line in tried] == ["accepted"] * 2
    assert tried[-1]["params"] < first["params"]
    for line in tried:
        # Not the streams of layer1, which layer2 reads, and of layer4, which the classifier reads.
        free = {"conv1", "layer1.0.conv1", "layer3.0.conv1", "layer3.0.downsample.0", "layer4.0.conv1"}
        assert set(line["what"]["layers"]) <= free
    assert not equal(found, original, ("bn1.running_mean",))  # the others are trained
    assert not equal(found, original, ("conv1.weight",))
    # Part of the identity; a run of an older version recorded nothing and protected nothing.
    with pytest.raises(InputError, match=r"protect: \['layer2', 'fc'\] -> \[\]"):
        compress.run(case.config(tmp_path / "run"))


def test_single_weights_of_protected_layers_are_never_removed(case, tmp_path):
    asked = case.config(tmp_path / "run", kinds=("rewind",), protect=("layer4.0.conv1",), ratio=0.5, steps=1)
    compress.run(asked)
    found = load_file(tmp_path / "run" / "model.safetensors")
    assert equal(found, load_file(case.model / "model.safetensors"), ("layer4.0.conv1.",))
    lost = {one["layer"]: one["weights"] for one in journal.read_journal(tmp_path / "run")[1]["what"]["removed"]}
    assert sum(lost.values()) > 5000
    assert "layer4.0.conv1" not in lost
    assert int((found["layer3.0.conv1.weight"] == 0).sum()) == lost["layer3.0.conv1"]


def test_int8_leaves_protected_layers_in_fp32_and_says_so(case, tmp_path):
    compress.run(case.config(tmp_path / "run", kinds=("int8",), protect=("layer1", "conv1")))
    wanted = ["conv1", "layer1.0.conv1", "layer1.0.conv2", "layer1.0.downsample.0"]
    line = journal.read_journal(tmp_path / "run")[1]
    assert (line["verdict"], line["what"]["mode"], line["what"]["keep_float"]) == ("accepted", "mixed", wanted)
    file = tmp_path / "run" / "model.int8.onnx"
    assert onnx_model.facts(onnx_model.session(file), file)["keep_float"] == wanted
    proto = onnx.load(str(file))
    rounded = {out for node in proto.graph.node if node.op_type == "DequantizeLinear" for out in node.output}
    convolutions = [node for node in proto.graph.node if node.op_type == "Conv"]
    assert sorted(n.name for n in convolutions if n.input[1] not in rounded) == wanted
    assert len(convolutions) > len(wanted)


def test_heads_of_an_attention_stay_together_where_a_part_of_it_is_protected(case):
    vit = {
        **{name: value for name, value in case.spec.items() if name != "stem"},
        "arch": "vit_tiny_patch16_224",
        "kwargs": {"img_size": 16, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2},
    }
    torch.manual_seed(0)
    model = networks.build(vit).eval()
    whole = {group.name for group in channel_pruning.groups(model, 16)}
    left = {group.name for group in channel_pruning.groups(model, 16, ["blocks.0.attn.proj"])}
    heads = {f"blocks.0.attn.{kind}.{head}" for kind in ("query-key", "value") for head in (0, 1)}
    assert heads <= whole
    assert not heads & left
    assert {"blocks.1.attn.value.0", "blocks.0.mlp.fc1"} <= left
    assert all(group.inner for group in channel_pruning.groups(model, 16, ["norm"]))  # it reads the residual stream


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["layer1.0.conv9"], r"--protect layer1.0.conv9: ResNet has no such layer; the nearest are layer1.0.conv"),
        (["conv1", "qqq"], r"--protect qqq: ResNet has no such layer; there are conv1, bn1"),
        (["conv1", "layer1", "layer2", "layer3", "layer4"], "no channel is left that a step may remove"),
        (["conv1", "layer1", "layer2", "layer3", "layer4", "fc", "--kinds", "int8"], "no layer is left that a step"),
    ],
)
def test_wrong_names_and_nothing_left_end_in_one_line(case, tmp_path, capsys, flags, said):
    given = f"--model {case.model} --train {case.train} --preserve {case.preserve} --out {tmp_path}/run"
    assert main(["compress", *given.split(), "--protect", *flags]) == 2
    shown = capsys.readouterr().err.strip()
    assert said in shown
    assert len(shown.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def waits(asked):
    with pytest.raises(SystemExit) as end:
        compress.run(asked)
    return end.value.code


@pytest.fixture(scope="module")
def undisturbed(case):
    compress.run(case.config(case.root / "undisturbed"))
    return case.root / "undisturbed"


def test_approved_steps_give_the_same_bytes_as_a_run_without_questions(case, undisturbed, tmp_path, capsys):
    out = tmp_path / "run"
    asked = case.config(out, approve=True)
    for step in (1, 2):
        assert waits(asked) == 75
        said = capsys.readouterr().err
        assert f"step {step} channels" in said
        assert f"`transfer approve --run {out}` accepts it" in said
        assert f"`transfer explain --run {out} --step {step}` says what it removed" in said
        assert main(["explain", "--run", str(out), "--step", str(step)]) == 0
        shown = capsys.readouterr().out
        assert "passed its test, waits for a person" in shown
        assert all(layer in shown for layer in read_json(out / "waiting/step.json")["what"]["layers"])
        assert len(journal.read_journal(out)) == step
        assert waits(asked) == 75  # without an answer nothing changes, with or without the flag
        assert waits(case.config(out)) == 75
        assert case.files(out / "waiting") == case.files(undisturbed / f"steps/0{step}")
        assert case.files(out) != case.files(out / "waiting")
        assert main(["approve", "--run", str(out)]) == 0
        assert f"step {step} is approved" in capsys.readouterr().err
    compress.run(asked)
    assert case.files(out) == case.files(undisturbed)
    lines, wanted = journal.read_journal(out), journal.read_journal(undisturbed)
    assert [line["files"] for line in lines] == [line["files"] for line in wanted]
    assert [line.get("approved") for line in lines] == [None, True, True]
    assert journal.describe(lines[1]).endswith("approved by a person")
    assert not (out / "waiting").exists()
    with pytest.raises(InputError, match="no step waits for an answer"):
        approve.run(approve.Config(out))


def test_a_rejected_step_is_rolled_back_and_tried_at_half_its_ratio(case, tmp_path):
    out = tmp_path / "run"
    asked = case.config(out, approve=True, recovery_epochs=0.0)
    assert waits(asked) == 75
    approve.run(approve.Config(out))
    approve.run(approve.Config(out, reject=True))  # the last answer counts
    assert waits(asked) == 75
    _, line = journal.read_journal(out)
    assert (line["verdict"], line["reason"]) == ("rolled-back", "rejected by a person")
    assert read_json(out / "waiting/step.json")["what"]["ratio"] == pytest.approx(0.125)
    assert case.files(out) == case.files(case.model)
    # A rollback by hand goes before: the step that waited is dropped.
    approve.run(approve.Config(out))
    place = out / "waiting"
    kept = shutil.copytree(place, tmp_path / "kept")
    compress.run(asked)
    shutil.copytree(kept, place)  # killed before it was removed
    (out / "DONE").unlink()
    rollback.run(rollback.Config(out, 0))
    with pytest.raises(InputError, match="no step waits"):
        approve.run(approve.Config(out))
    compress.run(asked)
    assert not place.exists()


class Killed(BaseException):
    pass


@pytest.mark.parametrize(
    ("point", "reject"), [("replace", False), ("write_journal", False), ("write_journal", True), ("rmtree", True)]
)
def test_killed_while_an_answer_is_carried_out_it_is_carried_out_the_next_time(
    case, tmp_path, monkeypatch, reject, point
):
    out = tmp_path / "run"
    asked = case.config(out, approve=True, recovery_epochs=0.0, steps=1)
    assert waits(asked) == 75
    wanted = case.files(case.model) if reject else case.files(out / "waiting")
    approve.run(approve.Config(out, reject=reject))

    def die(*_, **__):
        raise Killed

    owner = {"write_journal": approval.journal, "rmtree": approval.shutil, "replace": approval.os}[point]
    with monkeypatch.context() as patch:
        patch.setattr(owner, point, die)
        with pytest.raises(Killed):
            approval.settle(out, journal.read_journal(out))
    compress.run(asked)
    assert case.files(out) == wanted
    assert [line["verdict"] for line in journal.read_journal(out)] == [
        "accepted",
        "rolled-back" if reject else "accepted",
    ]
    assert not (out / "waiting").exists()
    assert (out / "DONE").exists()


def test_what_waits_is_what_was_tested_or_it_is_refused(case, tmp_path, capsys):
    out = tmp_path / "run"
    assert waits(case.config(out, approve=True, recovery_epochs=0.0)) == 75
    shutil.copyfile(case.model / "model.safetensors", out / "waiting/model.safetensors")
    capsys.readouterr()
    assert main(["approve", "--run", str(out)]) == 2
    assert "waiting/model.safetensors: damaged or replaced" in capsys.readouterr().err
    write_json(out / "waiting/step.json", {"step": 1})
    with pytest.raises(InputError, match=r"step\.json: damaged: remove .*waiting, and the step is tried again"):
        approve.run(approve.Config(out))
    shutil.rmtree(out / "waiting")
    assert waits(case.config(out, approve=True, recovery_epochs=0.0)) == 75
    assert main(["approve", "--run", str(tmp_path)]) == 2
    assert "not a run of `transfer compress`" in capsys.readouterr().err


def test_a_run_of_an_older_version_resumes(case, undisturbed, tmp_path):
    run = shutil.copytree(undisturbed, tmp_path / "run")
    (run / "DONE").unlink()
    settings = read_json(run / "config.json")
    write_json(run / "config.json", {name: value for name, value in settings.items() if name != "protect"})
    lines = journal.read_journal(run)
    for line in lines:
        line["what"].pop("removed", None)
    journal.write_journal(run, lines[:2])
    shutil.rmtree(run / "steps/02")
    (run / "steps/01/step.json").write_text(json.dumps(lines[1]))
    compress.run(case.config(run))
    assert case.files(run) == case.files(undisturbed)


def test_steps_are_tested_by_groups_calibration_and_a_metric_named_on_the_command_line(case, tmp_path, monkeypatch):
    ids = open_dataset(case.train).manifest.ids
    table = "".join(f"{name.decode()},{'day' if i % 8 else 'night'}\n" for i, name in enumerate(ids.tolist()))
    (tmp_path / "groups.csv").write_text("id,light\n" + table)
    (tmp_path / "metrics_of_this_test.py").write_text(
        "def never(labels, logits):\n    never.n -= 1\n    return never.n\n\nnever.n = 0\n"
    )
    monkeypatch.chdir(tmp_path)
    given = {
        "groups": tmp_path / "groups.csv", "group_margin": 100.0, "group_margins": ("light=night=99",),
        "ece_margin": 100.0, "metric": "metrics_of_this_test:never", "recovery_epochs": 0.0, "steps": 2,
    }  # fmt: skip
    out = tmp_path / "run"
    compress.run(case.config(out, **given, metric_margin=1.0))
    first, one, two = journal.read_journal(out)
    # The metric falls by one a call: the first step loses 1, the next 2 against the original.
    assert [test["test"] for test in one["tests"]] == [
        "light=day", "light=night", "calibration error", "metrics_of_this_test:never"
    ]  # fmt: skip
    assert [test["margin"] for test in one["tests"]] == [100, 99, 100, 1]
    assert [test["lost"] for test in (first["tests"][-1], one["tests"][-1], two["tests"][-1])] == [0, 1, 2]
    assert [line["verdict"] for line in (one, two)] == ["accepted", "rolled-back"]
    assert two["reason"] == "metrics_of_this_test:never: -1.0 became -3.0, by 1 it may get worse"
    # A stored configuration only says what was asked for: it imports nothing, and the flag is needed again.
    settings = read_json(out / "config.json")
    write_json(out / "config.json", {**settings, "metric": "module_that_must_not_be_imported:f"})
    (tmp_path / "module_that_must_not_be_imported.py").write_text("raise SystemExit(99)\n")
    with pytest.raises(InputError, match=r"metric: 'module_that_must_not_be_imported:f' -> None"):
        compress.run(case.config(out, **{**given, "metric": None}, metric_margin=1.0))
    with pytest.raises(InputError, match="--group-margins: needs --groups"):
        compress.run(case.config(tmp_path / "other", group_margins=("light=night=99",)))
