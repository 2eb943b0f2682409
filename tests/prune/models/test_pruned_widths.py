"""Widths of a narrow network: recorded from its weights, and enough to build it again."""

from __future__ import annotations

import json

import pytest
import torch

from prune.models import networks
from prune.models.pruned_widths import narrow, widths_of
from prune.runs.files import InputError

RESNET = {"arch": "resnet18", "kwargs": {"channels": [8, 8, 8, 8], "layers": [1, 1, 1, 1]}, "stem": "half"}
VIT = {
    "arch": "vit_tiny_patch16_224",
    "kwargs": {"img_size": 16, "patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2},
}
CLASSES = {"classes": ["a", "b", "c"], "resolution": 16, "mean": networks.MEAN, "std": networks.STD}


def test_widths_of_a_resnet_are_its_layers_channels():
    model = networks.build({**RESNET, **CLASSES, "widths": {"layer1.0.conv1": [5, 64], "layer1.0.bn1": [5]}})
    block = model.layer1[0]
    assert block.conv1.weight.shape == (5, 64, 3, 3)
    assert block.conv1.out_channels == 5
    assert block.bn1.running_var.shape == (5,)
    # The next layer was not listed and does not fit: what is built is what is said.
    assert block.conv2.weight.shape == (8, 8, 3, 3)


def test_widths_of_a_vision_transformer_count_heads_and_bare_parameters():
    widths = {"blocks.0.attn": [2, 6], "blocks.0.attn.qkv": [36, 16], "blocks.0.attn.proj": [16, 12]}
    model = networks.build({**VIT, **CLASSES, "widths": widths})
    attention = model.blocks[0].attn
    assert (attention.num_heads, attention.head_dim, attention.attn_dim) == (2, 6, 12)
    assert attention.scale == 6**-0.5
    assert model(torch.zeros(1, 3, 16, 16)).shape == (1, 3)
    shorter = networks.build({**VIT, **CLASSES, "widths": {"pos_embed": [1, 5, 12]}})
    assert shorter.pos_embed.shape == (1, 5, 12)


def test_recorded_widths_rebuild_the_network_and_its_weights_load(tmp_path):
    spec = {**RESNET, **CLASSES, "widths": {"layer1.0.conv1": [5, 64], "layer1.0.bn1": [5], "layer1.0.conv2": [8, 5]}}
    torch.manual_seed(0)
    model = networks.build(spec)
    assert widths_of(networks.build({**RESNET, **CLASSES}), model.state_dict()) == spec["widths"]
    networks.save_model(tmp_path, model, spec)
    again, read = networks.load_model(tmp_path)
    assert read["widths"] == spec["widths"]
    images = torch.randn(2, 3, 16, 16)
    assert torch.equal(again(images), model.eval()(images))


def test_a_dense_network_has_no_widths():
    model = networks.build({**RESNET, **CLASSES})
    assert widths_of(model, model.state_dict()) == {}


@pytest.mark.parametrize(
    ("widths", "said"),
    [
        ({"layer9": [3]}, "no 'layer9'"),
        ({"layer1.0.conv1": [9, 64]}, r"\[9, 64\] does not fit the dense network's \[8, 64\]"),
        ({"layer1.0.conv1": [5]}, "does not fit"),
        ({"layer1.0.bn1": [0]}, "positive whole numbers"),
        ({"layer1.0.bn1": "5"}, "positive whole numbers"),
        ({"layer1": [3]}, "cannot be narrowed"),
        ([3], "instead of a mapping"),
    ],
)
def test_impossible_widths_are_refused_in_one_line(widths, said):
    with pytest.raises(InputError, match=said):
        narrow(networks.build({**RESNET, **CLASSES}), widths)


def test_a_model_directory_whose_widths_do_not_belong_to_its_weights_is_refused(tmp_path):
    spec = {**RESNET, **CLASSES}
    networks.save_model(tmp_path, networks.build(spec), spec)
    place = tmp_path / "model.json"
    place.write_text(json.dumps({**json.loads(place.read_text()), "widths": {"layer1.0.bn1": [5]}}))
    with pytest.raises(InputError, match="damaged or of another network"):
        networks.load_model(tmp_path)


def test_a_narrow_network_takes_a_head_for_other_classes():
    widths = {"fc": [3, 5], "layer4.0.bn2": [5], "layer4.0.conv2": [5, 8]}
    model = networks.build({**RESNET, **CLASSES, "classes": list("abcdefg"), "widths": widths})
    assert model.fc.weight.shape == (7, 5)
