"""Networks with depthwise and grouped convolutions lose channels: ConvNeXt, MobileNet, EfficientNet, ResNeXt."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from timm.layers import LayerNorm2d
from torch import nn
from torch.nn import functional

from prune.models import networks
from prune.models.pruned_widths import narrow
from prune.runs.files import InputError
from transfer.compression import channel_pruning, importance, onnx_model

SHARED = {"classes": ["a", "b", "c"], "mean": networks.MEAN, "std": networks.STD}
FAMILIES = {
    "convnext": {"arch": "test_convnext", "resolution": 32},
    "mobilenet-v2": {"arch": "mobilenetv2_035", "resolution": 32},
    "mobilenet-v3": {"arch": "mobilenetv3_small_050", "resolution": 32},
    "efficientnet": {"arch": "test_efficientnet", "resolution": 32},
    "resnext": {
        "arch": "resnext50_32x4d",
        "kwargs": {"channels": [32, 32, 32, 32], "layers": [1, 1, 1, 1]},
        "resolution": 32,
    },
}


def built(spec):
    torch.manual_seed(0)
    model = networks.build(spec).eval()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):  # fresh ones would hide a channel that is mixed up
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            nn.init.uniform_(module.bias, -0.2, 0.2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
        if isinstance(getattr(module, "gamma", None), nn.Parameter):  # a millionth of each block at first
            nn.init.uniform_(module.gamma, 0.5, 1.5)
    return model


def silenced(model, found, stays):
    """A copy in which channels that go are zero wherever they are computed, and no norm counts them."""
    silent = copy.deepcopy(model)
    state, kept = silent.state_dict(), {}
    for group, stay in zip(found, stays):
        lost = torch.from_numpy(group.positions(np.setdiff1d(np.arange(group.size), stay)))
        for name, dim, at in group.tensors:
            owner = silent.get_submodule(name.rpartition(".")[0])
            if isinstance(owner, nn.LayerNorm):
                kept[owner] = torch.from_numpy(group.positions(stay) + at)
            elif dim == 0 and "running" not in name:
                state[name].index_fill_(0, lost + at, 0)

    def over_the_kept(norm, inputs, _):
        places, channels = kept[norm], 1 if isinstance(norm, LayerNorm2d) else -1
        flat = inputs[0].movedim(channels, -1)
        out = torch.zeros_like(flat)
        weight, bias = norm.weight[places], norm.bias[places]
        out[..., places] = functional.layer_norm(flat[..., places], (len(places),), weight, bias, norm.eps)
        return out.movedim(-1, channels)

    for norm in kept:
        norm.register_forward_hook(over_the_kept)
    return silent


@pytest.mark.parametrize("family", list(FAMILIES))
def test_a_network_loses_channels_loads_again_and_computes_what_it_did_with_them_silent(family, tmp_path):
    spec = {**SHARED, **FAMILIES[family]}
    model, side = built(spec), spec["resolution"]
    found = channel_pruning.groups(model, side)
    draw = np.random.default_rng(0)
    stays = channel_pruning.most_important(found, [draw.random(g.size) for g in found], 0.3)
    narrow_model, narrow_spec = channel_pruning.prune_channels(model, spec, found, stays)
    # Nearly every convolution of a block is among them, so that a third fewer channels are about half the weights.
    assert sum(p.numel() for p in narrow_model.parameters()) < 0.62 * sum(p.numel() for p in model.parameters())
    images = torch.randn(2, 3, side, side)
    with torch.no_grad():
        wanted = silenced(model, found, stays)(images)
        assert torch.allclose(narrow_model(images), wanted, rtol=1e-3, atol=1e-4 * float(wanted.abs().max()))
    networks.save_model(tmp_path, narrow_model, narrow_spec)
    again, read = networks.load_model(tmp_path)
    with torch.no_grad():
        assert torch.equal(again(images), narrow_model(images))
    for module in again.modules():
        if isinstance(module, nn.Conv2d) and module.groups > 1:
            assert module.weight.shape[0] == module.out_channels == module.in_channels
            assert module.weight.shape[1] * module.groups == module.in_channels
    # It keeps training, and can be narrowed again.
    again.train()
    functional.cross_entropy(again(torch.randn(4, 3, side, side)), torch.tensor([0, 1, 2, 0])).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in again.parameters())
    again.eval()
    more = channel_pruning.groups(again, side)
    assert [g.name for g in more] == [g.name for g in found]
    twice, _ = channel_pruning.prune_channels(
        again, read, more, channel_pruning.most_important(more, [draw.random(g.size) for g in more], 0.3)
    )
    assert torch.isfinite(twice(images)).all()


@pytest.mark.parametrize("family", ["convnext", "mobilenet-v3", "efficientnet"])
def test_a_narrow_network_s_onnx_file_computes_the_same(family, tmp_path):
    spec = {**SHARED, **FAMILIES[family]}
    model, side = built(spec), spec["resolution"]
    found = channel_pruning.groups(model, side)
    stays = channel_pruning.most_important(found, [np.arange(g.size) for g in found], 0.3)
    narrow_model, narrow_spec = channel_pruning.prune_channels(model, spec, found, stays)
    file = onnx_model.export_onnx(narrow_model, narrow_spec, tmp_path / "model.onnx")
    shown = np.random.default_rng(0).integers(0, 256, (3, side, side, 3), dtype=np.uint8)
    with torch.no_grad():
        pixels = torch.from_numpy(shown).permute(0, 3, 1, 2)
        wanted = narrow_model(networks.normalise(pixels, networks.MEAN, networks.STD)).numpy()
    assert onnx_model.predict(onnx_model.session(file), shown) == pytest.approx(wanted, abs=1e-3, rel=1e-3)


def test_a_depthwise_convolution_goes_with_the_layers_around_it_and_stays_inside_its_block():
    found = {g.name: g for g in channel_pruning.groups(built({**SHARED, **FAMILIES["mobilenet-v3"]}), 32)}
    inside = found["blocks.2.1.conv_pw"]
    assert (inside.inner, inside.unit, inside.width) == (True, "channels", 1)
    assert {(name, dim) for name, dim, _ in inside.tensors if name.endswith("weight") and ".bn" not in name} == {
        ("blocks.2.1.conv_pw.weight", 0), ("blocks.2.1.conv_dw.weight", 0), ("blocks.2.1.conv_pwl.weight", 1),
        ("blocks.2.1.se.conv_reduce.weight", 1), ("blocks.2.1.se.conv_expand.weight", 0),
    }  # fmt: skip
    assert {name for name, _ in inside.taps} == {"blocks.2.1.bn1", "blocks.2.1.bn2"}
    squeezed = found["blocks.2.1.se.conv_reduce"]
    assert {(name, dim) for name, dim, _ in squeezed.tensors if name.endswith("weight")} == {
        ("blocks.2.1.se.conv_reduce.weight", 0), ("blocks.2.1.se.conv_expand.weight", 1),
    }  # fmt: skip
    streams = [g for g in found.values() if ("blocks.2.1.conv_pwl.weight", 0, 0) in g.tensors]
    assert [g.inner for g in streams] == [False]


def test_convnext_s_stages_are_streams_with_their_depthwise_convolutions_norms_and_scales():
    found = {g.name: g for g in channel_pruning.groups(built({**SHARED, **FAMILIES["convnext"]}), 32)}
    stream = found["stages.1.downsample.1"]
    assert (stream.size, stream.inner) == (32, False)
    assert {
        ("stages.1.blocks.0.conv_dw.weight", 0, 0), ("stages.1.blocks.0.norm.weight", 0, 0),
        ("stages.1.blocks.1.gamma", 0, 0), ("stages.1.blocks.1.mlp.fc2.weight", 0, 0),
        ("stages.1.blocks.1.mlp.fc1.weight", 1, 0), ("stages.2.downsample.1.weight", 1, 0),
    } <= set(stream.tensors)  # fmt: skip
    assert found["stages.1.blocks.1.mlp.fc1"].inner


def test_the_importance_in_convnext_counts_channels_of_its_linear_layers_too():
    """Its MLPs see (b, h, w, c): the channels of convolutions lie elsewhere."""
    model = built({**SHARED, **FAMILIES["convnext"]})
    found = [g for g in channel_pruning.groups(model, 32) if g.name.startswith("stages.1.")]
    images, labels = torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 2, 0])
    values = importance.taylor(model, found, [(images, labels)])
    assert [v.shape for v in values] == [(g.size,) for g in found]
    seen = {}

    def keep(layer, _, output):
        seen[layer] = output
        output.retain_grad()

    taps = {name: model.get_submodule(name) for group in found for name, _ in group.taps}
    hooks = [layer.register_forward_hook(keep) for layer in taps.values()]
    functional.cross_entropy(model(images), labels, reduction="sum").backward()
    for hook in hooks:
        hook.remove()
    for group, value in zip(found, values):
        wanted = 0
        for name, _ in group.taps:
            over = (1, 2) if isinstance(taps[name], nn.Linear) else (2, 3)
            output = seen[taps[name]]
            wanted = wanted + (output * output.grad).sum(over).abs().mean(0).detach().numpy()
        assert value == pytest.approx(wanted, rel=1e-3, abs=1e-8)


class Grouped(nn.Module):
    """Two groups of two channels: the first group's are 1 and 2 times the red of the image, the second's 0 and 5."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 1, bias=False), nn.Conv2d(4, 4, 1, groups=2, bias=False)
        self.fc = nn.Linear(4, 2, bias=False)
        with torch.no_grad():
            self.first.weight.zero_()
            self.first.weight[:, 0, 0, 0] = torch.tensor([1.0, 2.0, 0.0, 5.0])
            self.second.weight.copy_(torch.tensor([[1.0, 0], [0, 1], [1, 0], [0, 1]]).view(4, 2, 1, 1))
            self.fc.weight.copy_(torch.tensor([[1.0, 1, 1, 1], [0.0, 0, 0, 0]]))

    def forward(self, images):
        return self.fc(self.second(self.first(images)).mean((2, 3)))

    def get_classifier(self):
        return self.fc


def test_a_grouped_convolution_loses_whole_groups_with_what_they_read():
    model = Grouped()
    (group,) = channel_pruning.groups(model, 2)
    assert (group.size, group.width, group.unit, group.name) == (2, 2, "groups", "first")
    assert set(group.tensors) == {("first.weight", 0, 0), ("second.weight", 0, 0), ("fc.weight", 1, 0)}
    images, labels = torch.ones(1, 3, 2, 2), torch.tensor([0])
    # Logits (8, 0), p0 = 1 / (1 + e^-8): each channel's product is its value times -(1 - p0), at both convolutions.
    (values,) = importance.taylor(model, [group], [(images, labels)])
    rest = 1 / (1 + np.exp(8.0))
    assert values == pytest.approx(np.array([2 * 3, 2 * 5]) * rest, rel=1e-4)
    # Norms: 1, 4; four ones in the second layer; four in the classifier.
    (norms,) = importance.magnitude(model, [group])
    assert norms == pytest.approx([(1 + 4 + 2 + 2) ** 0.5, (25 + 2 + 2) ** 0.5])
    weights = channel_pruning.without_channels(model.state_dict(), [group], [np.array([1])])
    assert weights["first.weight"][:, 0].flatten().tolist() == [0, 5]
    assert weights["second.weight"].shape == (2, 2, 1, 1)
    assert weights["fc.weight"].tolist() == [[1, 1], [0, 0]]


@pytest.mark.parametrize(
    ("sizes", "left"),
    [([6, 3], (6, 6, 2)), ([3, 3], (3, 3, 1)), ([2, 1], (2, 1, 1))],
    ids=["two of four groups", "one group", "channels of the last group"],
)
def test_recorded_widths_of_a_grouped_convolution_are_whole_groups(sizes, left):
    model = narrow(nn.Sequential(nn.Conv2d(12, 12, 3, groups=4)), {"0": sizes})
    assert (model[0].out_channels, model[0].in_channels, model[0].groups) == left
    assert model[0].weight.shape[:2] == tuple(sizes)
    assert model(torch.zeros(1, left[1], 4, 4)).shape == (1, left[0], 2, 2)


@pytest.mark.parametrize("sizes", [[7, 3], [6, 2], [15, 3], [6, 4]])
def test_other_widths_of_a_grouped_convolution_are_refused(sizes):
    with pytest.raises(InputError, match=r"widths: 0: \[\d+, \d\] (is no whole number|does not fit)"):
        narrow(nn.Sequential(nn.Conv2d(12, 12, 3, groups=4)), {"0": sizes})
