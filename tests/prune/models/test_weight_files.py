"""Weights as people keep them: wrapped, nested, without a classifier, or no weights at all."""

from __future__ import annotations

import argparse
import subprocess
import sys

import numpy as np
import pytest
import timm
import torch
from torch import nn

from prune import surrogate
from prune.models import networks
from prune.models.weight_files import find_weights, read_checkpoint
from prune.runs.files import InputError

ARCH = "mobilenetv3_small_050"


@pytest.fixture(scope="module")
def state():
    torch.manual_seed(0)
    return timm.create_model(ARCH, num_classes=5).state_dict()


def prefixed(state, prefix):
    return {f"{prefix}{name}": value for name, value in state.items()}


def changed(state):
    return {name: value + 1 for name, value in state.items()}


def without_head(state):
    return {name: value for name, value in state.items() if not name.startswith("classifier.")}


def saved(checkpoint, tmp_path):
    torch.save(checkpoint, tmp_path / "w.pth")
    return tmp_path / "w.pth"


def found(checkpoint, tmp_path, arch=ARCH):
    path = saved(checkpoint, tmp_path)
    return find_weights(read_checkpoint(path), arch, path)


PREFIXES = ["module.", "backbone.", "model.", "encoder.", "_orig_mod.", "module._orig_mod.backbone.", "model.encoder."]


@pytest.mark.parametrize("prefix", PREFIXES)
def test_prefixes_of_wrappers_are_taken_off(state, tmp_path, prefix):
    got = found({"state_dict": prefixed(state, prefix), "epoch": 3}, tmp_path)
    assert got.classes == 5
    assert got.state.keys() == state.keys()
    assert all(torch.equal(got.state[name], value) for name, value in state.items())
    assert got.where == f"entry 'state_dict', prefix {prefix!r}"


@pytest.mark.parametrize("entry", ["ema", "state_dict_ema", "teacher", "student", "state_dict", "model"])
def test_entries_are_found_by_what_they_hold(state, tmp_path, entry):
    got = found({entry: state, "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}}, "epoch": 3}, tmp_path)
    assert got.where == f"entry {entry!r}"
    assert all(torch.equal(got.state[name], value) for name, value in state.items())


@pytest.mark.parametrize(("average", "trained"), [("state_dict_ema", "state_dict"), ("teacher", "student")])
def test_an_average_is_taken_before_what_was_trained(state, tmp_path, average, trained):
    got = found({trained: state, average: changed(state)}, tmp_path)
    assert torch.equal(got.state["classifier.bias"], state["classifier.bias"] + 1)
    assert found({"model": {trained: state, average: changed(state)}}, tmp_path).where == f"entry 'model.{average}'"


def test_a_backbone_beside_projectors_gives_features_alone(state, tmp_path):
    """solo-learn through Lightning: backbone, momentum backbone, projector and an online classifier in one mapping."""
    checkpoint = {
        "state_dict": {
            **prefixed(changed(without_head(state)), "momentum_backbone."),
            **prefixed(without_head(state), "backbone."),
            "projector.0.weight": torch.zeros(4, 4),
            "classifier.weight": torch.zeros(5, 1024),
        },
        "hyper_parameters": {"lr": 0.1},
    }
    got = found(checkpoint, tmp_path)
    assert got.classes == 0
    assert got.ignored == len(without_head(state)) + 2
    assert all(torch.equal(got.state[name], value) for name, value in without_head(state).items())


def test_a_head_of_another_kind_is_ignored(tmp_path):
    """DINO keeps `args` and a projection head beside the backbone."""
    vit = timm.create_model("vit_tiny_patch16_224", num_classes=0).state_dict()
    head = {"module.head.mlp.0.weight": torch.zeros(3, 192), "module.head.last_layer.weight_v": torch.zeros(9, 3)}
    teacher = {**prefixed(vit, "module.backbone."), **head}
    checkpoint = {
        "student": teacher,
        "teacher": teacher,
        "args": argparse.Namespace(arch="vit_tiny"),
        "best": np.float64(1),
    }
    got = found(checkpoint, tmp_path, "vit_tiny_patch16_224")
    assert (got.classes, got.ignored) == (0, 2)
    assert got.where == "entry 'teacher', prefix 'module.backbone.'"
    assert got.state.keys() == vit.keys()


def test_another_size_of_a_network_is_refused_though_all_names_are_there(tmp_path):
    larger = timm.create_model("resnet34", num_classes=5).state_dict()
    with pytest.raises(InputError, match=r"not weights of resnet18 \(it has 96 more, first layer1\.2\."):
        found(larger, tmp_path, "resnet18")
    with pytest.raises(InputError, match=r"not weights of resnet34 \(80 of its 180 weights do not fit, first: has no "):
        found(timm.create_model("resnet18", num_classes=5).state_dict(), tmp_path, "resnet34")
    wide = timm.create_model("wide_resnet50_2", num_classes=5).state_dict()
    with pytest.raises(InputError, match=r"first: layer1\.0\.bn1\.bias is \(128,\) there and \(64,\) in the network"):
        found(wide, tmp_path, "resnet50")
    with pytest.raises(InputError, match="none of its weights has a name of that network"):
        found({"a": torch.zeros(3)}, tmp_path, "resnet18")


def test_registers_are_never_dropped_in_silence(tmp_path):
    plain = timm.create_model("vit_tiny_patch16_224", num_classes=0)
    with pytest.raises(InputError, match=r"it has 1 more, first reg_token"):
        found({**plain.state_dict(), "reg_token": torch.zeros(1, 4, 192)}, tmp_path, "vit_tiny_patch16_224")


def test_what_is_no_file_of_weights_is_named_with_the_way_out(state, tmp_path):
    page, pointer, empty = tmp_path / "page.pth", tmp_path / "pointer.safetensors", tmp_path / "empty.pth"
    page.write_text("\n<!DOCTYPE html>\n<html><body>Sign in</body></html>")
    pointer.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n")
    empty.write_bytes(b"")
    scripted = tmp_path / "scripted.pt"
    torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2)), scripted)
    whole = tmp_path / "whole.pth"
    torch.save(timm.create_model(ARCH, num_classes=5), whole)
    for path, words in (
        (page, "is a web page, not weights"),
        (pointer, "is a Git LFS pointer.*git lfs pull --include 'pointer.safetensors'"),
        (empty, "is empty"),
        (scripted, r"is a TorchScript model.*torch\.jit\.load\('.*scripted\.pt'\)"),
        (whole, r"holds a whole pickled model.*; torch\.save\(m\.state_dict\(\), 'weights\.pth'\)"),
    ):
        with pytest.raises(InputError, match=words) as error:
            read_checkpoint(path)
        assert "\n" not in str(error.value)


def test_a_distilled_networks_logits_are_the_average_of_its_heads(tmp_path):
    torch.manual_seed(0)
    arch = "levit_128s"
    model = timm.create_model(arch, num_classes=4).eval()
    surrogate.run(surrogate.Config(arch, tmp_path / "model", saved({"model": model.state_dict()}, tmp_path)))
    network, spec = networks.load_model(tmp_path / "model")
    assert len(spec["classes"]) == 4
    images = torch.rand(2, 3, 224, 224)
    with torch.inference_mode():
        features, logits = networks.features_and_logits(network, images)
        expected = (model.head(features) + model.head_dist(features)) / 2
    assert torch.allclose(logits, expected, atol=1e-5)
    assert torch.allclose(logits, model(images), atol=1e-5)
    assert {name.split(".")[0] for name in networks.head_names(network)} == {"head", "head_dist"}


def test_the_printed_way_out_of_a_pickled_model_works_when_typed(tmp_path):
    whole = tmp_path / "whole.pth"
    torch.save(timm.create_model(ARCH, num_classes=5), whole)
    with pytest.raises(InputError) as error:
        read_checkpoint(whole)
    command = str(error.value).split("save its weights: ")[1].replace("python -c", f"{sys.executable} -c")
    subprocess.run(command, shell=True, check=True, cwd=tmp_path)
    assert find_weights(read_checkpoint(tmp_path / "weights.pth"), ARCH, tmp_path / "weights.pth").classes == 5
