"""Channels that belong together, which of them go, and that the narrow network computes what it should."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from prune.models import networks
from prune.runs.files import InputError
from transfer.compression import channel_pruning, importance

CLASSES = {"classes": ["a", "b", "c"], "resolution": 16, "mean": networks.MEAN, "std": networks.STD}
RESNET = {"arch": "resnet18", "kwargs": {"channels": [8, 8, 16, 16], "layers": [1, 1, 1, 1]}, "stem": "half", **CLASSES}
BOTTLENECK = {"arch": "resnet50", "kwargs": {"channels": [4, 4, 4, 4], "layers": [1, 1, 1, 1]}, **CLASSES}
VIT = {
    "arch": "vit_tiny_patch16_224",
    "kwargs": {"img_size": 16, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2},
    **CLASSES,
}


def built(spec):
    torch.manual_seed(0)
    model = networks.build(spec).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):  # fresh statistics would hide a channel that is mixed up
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            nn.init.uniform_(module.bias, -0.2, 0.2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
    return model


@pytest.mark.parametrize("spec", [RESNET, BOTTLENECK, VIT], ids=["basic", "bottleneck", "vit"])
def test_removing_channels_that_are_zero_changes_nothing(spec):
    model = built(spec)
    found = [g for g in channel_pruning.groups(model, 16) if g.inner or spec is not VIT]
    stays = [np.arange(1, g.size) if g.size > 2 else np.arange(g.size) for g in found]
    with torch.no_grad():  # channel 0 of every group becomes zero wherever it is made, in weights and biases
        state = model.state_dict()
        for group, stay in zip(found, stays):
            if len(stay) < group.size:
                for name, dim, at in group.tensors:
                    if dim == 0 and "running" not in name:
                        state[name][at] = 0
    images = torch.randn(2, 3, 16, 16)
    narrow, widths = channel_pruning.prune_channels(model, spec, found, stays)
    assert widths["widths"]
    assert sum(p.numel() for p in narrow.parameters()) < sum(p.numel() for p in model.parameters())
    assert torch.allclose(narrow(images), model(images), atol=1e-5)


def test_the_residual_stream_is_one_group_and_the_block_s_own_channels_another():
    found = {g.name: g for g in channel_pruning.groups(built(RESNET), 16)}
    inside = found["layer4.0.conv1"]
    assert (inside.size, inside.inner, inside.taps) == (16, True, (("layer4.0.bn1", 0),))
    assert {t[0] for t in inside.tensors} == {
        "layer4.0.conv1.weight", "layer4.0.conv2.weight",
        *(f"layer4.0.bn1.{k}" for k in ("weight", "bias", "running_mean", "running_var")),
    }  # fmt: skip
    stream = next(g for g in found.values() if ("fc.weight", 1, 0) in g.tensors)
    assert not stream.inner
    assert {"layer4.0.bn2", "layer4.0.downsample.1"} == {name for name, _ in stream.taps}
    assert "fc" not in found  # the classes stay


def test_attention_loses_the_same_number_of_channels_in_every_head_and_keeps_its_scale():
    model = built(VIT)
    found = channel_pruning.groups(model, 16)
    heads = [g for g in found if ".query-key." in g.name or ".value." in g.name]
    assert len(heads) == 2 * 2 * 2  # blocks, heads, kinds
    draw = np.random.default_rng(0)
    narrow, spec = channel_pruning.prune_channels(
        model, VIT, found, channel_pruning.most_important(found, [draw.random(g.size) for g in found], 0.25, inner=True)
    )
    assert spec["widths"]["blocks.1.attn"] == [2, 6]  # 8 channels a head, a quarter fewer
    assert narrow(torch.zeros(1, 3, 16, 16)).shape == (1, 3)


def test_choosing_takes_the_least_important_and_the_lower_channel_of_equals_stays():
    groups = [
        channel_pruning.Channels("stream", 4, (), (), inner=False),
        channel_pruning.Channels("inside", 5, (), (), inner=True),
    ]
    values = [np.array([1.0, 3.0, 1.0, 2.0]), np.array([5.0, 0.0, 4.0, 1.0, 2.0])]
    # round(4 * 0.6) = 2 and round(5 * 0.6) = 3 channels stay
    first, second = channel_pruning.most_important(groups, values, 0.4)
    assert first.tolist() == [1, 3]
    assert second.tolist() == [0, 2, 4]
    first, second = channel_pruning.most_important(groups, values, 0.4, inner=True)
    assert first.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("size", "ratio", "left"),
    [(64, 0.3, 48), (512, 0.2, 408), (32, 0.3, 24), (10, 0.3, 7), (2, 0.9, 1), (64, 0.05, 64)],
)
def test_wide_layers_keep_multiples_that_kernels_like(size, ratio, left):
    # 64 * 0.7 = 44.8, 5.6 eights: 6; 512 * 0.8 = 409.6, 51.2 eights: 51; 32 * 0.7 = 22.4, 5.6 fours: 6
    assert channel_pruning.kept_count(size, ratio) == left


def test_the_ratio_for_a_size_reaches_it_and_is_the_smallest_that_does():
    model = built(RESNET)
    found = channel_pruning.groups(model, 16)
    goal = sum(p.numel() for p in model.parameters()) // 2

    def size(ratio):
        stays = channel_pruning.most_important(found, [np.zeros(g.size) for g in found], ratio)
        return sum(p.numel() for p in channel_pruning.prune_channels(model, RESNET, found, stays)[0].parameters())

    ratio = channel_pruning.ratio_for(model, found, goal, 0.9, inner=False)
    assert size(ratio) <= goal < size(ratio - 1 / 256)
    assert channel_pruning.ratio_for(model, found, goal, 0.1, inner=False) == 0.1  # as far as one may go


def test_a_network_that_cannot_be_traced_is_refused_in_one_line():
    class Odd(nn.Module):
        def get_classifier(self):
            return self

        def forward(self, images):
            raise RuntimeError("no idea")

    with pytest.raises(InputError, match=r"channels of Odd cannot be traced \(no idea\)"):
        channel_pruning.groups(Odd(), 16)


def test_taylor_is_the_loss_s_change_to_first_order():
    """One convolution of 1x1 with two channels, a mean and a linear layer: small enough to work out by hand."""

    class Tiny(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.fc = nn.Conv2d(1, 2, 1, bias=False), nn.Linear(2, 2, bias=False)
            with torch.no_grad():
                self.conv.weight.copy_(torch.tensor([1.0, 2.0]).view(2, 1, 1, 1))
                self.fc.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, -1.0]]))

        def forward(self, images):
            return self.fc(self.conv(images).mean((2, 3)))

    group = channel_pruning.Channels("conv", 2, (("conv.weight", 0, 0), ("fc.weight", 1, 0)), (("conv", 0),), True)
    images, labels = torch.tensor([1.0, 0.0]).view(2, 1, 1, 1).expand(2, 1, 2, 2), torch.tensor([0, 0])
    # Image 1: features (1, 2), logits (1, -2), p1 = 1 / (1 + e^3); dL/dlogits = (-p1, p1), dL/dfeatures = (-p1, -p1).
    # Activation x gradient, summed over the 4 positions (each a quarter): (-p1, -2 p1). Image 2 is black: 0.
    other = 1 / (1 + np.exp(3.0))
    (values,) = importance.taylor(Tiny(), [group], [(images, labels)])
    assert values == pytest.approx(np.array([other, 2 * other]) / 2)
    # Norms: channel 0 falls with weights 1 and (1, 0), channel 1 with 2 and (0, -1).
    (norms,) = importance.magnitude(Tiny(), [group])
    assert norms == pytest.approx([2**0.5, 5**0.5])


def test_importance_leaves_the_network_as_it_was_and_counts_every_image_alike():
    model = built(RESNET)
    found = channel_pruning.groups(model, 16)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    images, labels = torch.randn(6, 3, 16, 16), torch.tensor([0, 1, 2, 0, 1, 2])
    whole = importance.taylor(model, found, [(images, labels)])
    parts = importance.taylor(model, found, [(images[:4], labels[:4]), (images[4:], labels[4:])])
    for one, other, group in zip(whole, parts, found):
        assert one.shape == (group.size,)
        assert one == pytest.approx(other, rel=1e-4)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_chance_depends_on_the_seed_alone():
    groups = [channel_pruning.Channels("a", 4, (), (), True)]
    assert np.array_equal(importance.chance(groups, 1)[0], importance.chance(groups, 1)[0])
    assert not np.array_equal(importance.chance(groups, 1)[0], importance.chance(groups, 2)[0])
