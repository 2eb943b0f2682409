"""Whole attention heads: what goes with one, its importance by hand, which go first, and the network without them."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch.nn import functional

from prune.models import networks
from prune.runs.files import InputError
from transfer.compression import channel_pruning, importance, onnx_model, removed_parts, shrinking
from transfer.compression.channels import Channels

SPEC = {
    "arch": "vit_tiny_patch16_224",
    "kwargs": {"img_size": 16, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 4},
    "classes": ["a", "b", "c"],
    "resolution": 16,
    "mean": networks.MEAN,
    "std": networks.STD,
}
WIDTH = 6  # channels of a head


def built():
    torch.manual_seed(0)
    model = networks.build(SPEC).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.uniform_(-0.2, 0.2)
    return model


def heads_of(model):
    return [group for group in channel_pruning.groups(model, 16, (), "whole") if group.unit == "heads"]


def batches():
    torch.manual_seed(1)
    return [(torch.randn(6, 3, 16, 16), torch.tensor([0, 1, 2, 0, 1, 2]))]


def test_a_head_goes_with_its_query_key_value_and_what_the_projection_reads_of_it():
    first, second = heads_of(built())
    assert (first.name, first.size, first.width, first.inner) == ("blocks.0.attn", 4, WIDTH, True)
    assert set(first.tensors) == {
        *((f"blocks.0.attn.qkv.{own}", 0, at) for own in ("weight", "bias") for at in (0, 24, 48)),
        ("blocks.0.attn.proj.weight", 1, 0),
    }
    assert first.positions(np.array([1, 3])).tolist() == [*range(6, 12), *range(18, 24)]
    assert first.ranked_with == second.ranked_with


def test_a_head_s_importance_is_the_sum_of_its_query_key_value_and_projection_parts():
    """Against activations and gradients of the attention's parts, worked out one by one."""
    model = built()
    attention = model.blocks[0].attn
    seen = {}

    def keep(name):
        def hook(_, inputs, output=None):
            seen[name] = inputs[0] if output is None else output
            seen[name].retain_grad()

        return hook

    with torch.enable_grad():
        hooks = [attention.qkv.register_forward_hook(keep("qkv")), attention.proj.register_forward_pre_hook(keep("in"))]
        ((images, labels),) = batches()
        functional.cross_entropy(model(images), labels, reduction="sum").backward()
    for hook in hooks:
        hook.remove()
    # Of each image and channel, summed over its tokens: (6, channels).
    by_image = {name: (value * value.grad).sum(1).abs().detach().numpy() for name, value in seen.items()}
    parts = by_image["qkv"].mean(0).reshape(3, 4, WIDTH).sum(2)  # query, key, value of each head
    projection = by_image["in"].mean(0).reshape(4, WIDTH).sum(1)
    assert projection == pytest.approx(parts[2], rel=1e-3)  # the projection reads what is linear in the values
    model.zero_grad()
    found, _ = importance.taylor(model, heads_of(model), batches())
    assert found == pytest.approx(parts.sum(0) + projection, rel=1e-3)
    # The classes' rises add up the same places, with their signs.
    _, (rises, _) = importance.taylor_by_class(model, heads_of(model), batches(), 3)
    assert rises.shape == (3, 4)
    assert (np.abs(rises).sum(0) <= 3 * found + 1e-6).all()


def test_the_norm_of_a_head_counts_all_of_its_weights():
    model = built()
    with torch.no_grad():
        for block in model.blocks:
            block.attn.qkv.weight.zero_()
            block.attn.proj.weight.zero_()
        model.blocks[1].attn.qkv.weight[24 + 2 * WIDTH, :4] = 1.0  # a key channel of head 2: 4 ones
        model.blocks[1].attn.proj.weight[:5, 3 * WIDTH + 1] = 1.0  # what is read of head 3: 5 ones
    first, second = importance.magnitude(model, heads_of(model))
    assert first.tolist() == [0, 0, 0, 0]
    assert second == pytest.approx([0, 0, 2.0, 5**0.5])


def test_the_heads_of_all_blocks_are_ranked_together_and_one_stays_in_each():
    near = [Channels(name, 3, (), (), True, width=2, unit="heads", ranked_with="h") for name in "ab"]
    values = [np.array([0.1, 0.3, 0.2]), np.array([9.0, 7.0, 8.0])]
    # 6 heads: a third of them is 2, both of the first block
    first, second = channel_pruning.most_important(near, values, 1 / 3)
    assert (first.tolist(), second.tolist()) == ([1], [0, 1, 2])
    # 4 of 6: the first block cannot lose its last one, so two go from the second
    first, second = channel_pruning.most_important(near, values, 2 / 3)
    assert (first.tolist(), second.tolist()) == ([1], [0])
    # more than may go
    assert [len(s) for s in channel_pruning.most_important(near, values, 0.95)] == [1, 1]
    # on ties the earlier block's stay
    first, second = channel_pruning.most_important(near, [np.ones(3), np.ones(3)], 1 / 3)
    assert (first.tolist(), second.tolist()) == ([0, 1, 2], [0])
    with_nan = [np.array([0.1, np.nan, 0.2]), np.array([9.0, 7.0, 8.0])]
    assert channel_pruning.most_important(near, with_nan, 1 / 6)[0].tolist() == [0, 2]
    # Other shapes are ranked for themselves.
    other = [near[0], Channels("c", 3, (), (), True, unit="heads", ranked_with="wider")]
    assert [len(s) for s in channel_pruning.most_important(other, values, 1 / 3)] == [2, 2]


def test_a_network_without_some_heads_computes_what_it_did_with_those_heads_silent(tmp_path):
    model = built()
    found = heads_of(model)
    stays = [np.array([0, 2, 3]), np.array([1])]
    silent = copy.deepcopy(model)
    with torch.no_grad():
        for block, stay in zip(silent.blocks, stays):
            for head in set(range(4)) - set(stay.tolist()):
                block.attn.proj.weight[:, head * WIDTH : (head + 1) * WIDTH] = 0
    narrow, spec = channel_pruning.prune_channels(model, SPEC, found, stays)
    images = torch.randn(3, 3, 16, 16)
    assert torch.allclose(narrow(images), silent(images), atol=1e-5)
    assert [(b.attn.num_heads, b.attn.head_dim, b.attn.scale) for b in narrow.blocks] == [
        (3, WIDTH, WIDTH**-0.5), (1, WIDTH, WIDTH**-0.5)
    ]  # fmt: skip
    assert (spec["widths"]["blocks.0.attn"], spec["widths"]["blocks.1.attn"]) == ([3, WIDTH], [1, WIDTH])
    networks.save_model(tmp_path, narrow, spec)
    again, read = networks.load_model(tmp_path)
    assert torch.equal(again(images), narrow(images))
    # Once more from there, heads and then channels within those that are left.
    twice, spec = channel_pruning.prune_channels(again, read, heads_of(again), [np.array([0, 2]), np.array([0])])
    assert spec["widths"]["blocks.0.attn"] == [2, WIDTH]
    thin = [g for g in channel_pruning.groups(twice, 16) if ".attn." in g.name]
    thinner, spec = channel_pruning.prune_channels(twice, spec, thin, [np.arange(4) for _ in thin])
    assert spec["widths"]["blocks.0.attn"] == [2, 4]
    assert thinner(images).shape == (3, 3)
    file = onnx_model.export_onnx(narrow, spec, tmp_path / "model.onnx")
    shown = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    with torch.no_grad():
        wanted = narrow(networks.normalise(torch.from_numpy(shown).permute(0, 3, 1, 2), networks.MEAN, networks.STD))
    assert onnx_model.predict(onnx_model.session(file), shown) == pytest.approx(wanted.numpy(), abs=1e-4)


def planted():
    """A network whose class token sees the image through head 2 of the second block alone, with its own answers."""
    model = built()
    torch.manual_seed(2)
    images = torch.randn(48, 3, 16, 16)
    with torch.no_grad():
        for number, block in enumerate(model.blocks):
            for head in range(4):
                factor = 3.0 if (number, head) == (1, 2) else 1e-3
                block.attn.proj.weight[:, head * WIDTH : (head + 1) * WIDTH] *= factor
            block.mlp.fc2.weight.zero_()
        model.head.weight *= 20
        model.head.bias -= model(images).mean(0)
        return model, images, model(images).argmax(1)


def test_idle_heads_go_first_and_losing_the_one_that_works_instead_hurts():
    model, images, labels = planted()
    assert len(set(labels.tolist())) == 3
    found = heads_of(model)
    values = importance.taylor(model, found, [(images, labels)])
    assert (values[1].argmax(), values[1].max() > 100 * values[0].max()) == (2, True)

    def agreement(ranked, ratio):
        chosen = channel_pruning.most_important(found, ranked, ratio)
        narrow, _ = channel_pruning.prune_channels(model, SPEC, found, chosen)
        with torch.no_grad():
            return float((narrow(images).argmax(1) == labels).float().mean())

    assert agreement(values, 0.75) > 0.95  # one head is left in each block
    assert agreement([-v for v in values], 1 / 8) < 0.7  # one head alone was removed


def test_the_ratio_for_a_size_counts_whole_heads():
    model = built()
    found = heads_of(model)
    each = 3 * WIDTH * 24 + 3 * WIDTH + 24 * WIDTH  # weights and biases that go with a head
    full = sum(p.numel() for p in model.parameters())
    ratio = channel_pruning.ratio_for(model, found, full - 3 * each, 0.9, inner=True)
    # 3 of 8: 8 * (1 - r) rounds to 5 from r = 5/16 + 1/256 on
    assert ratio == pytest.approx(81 / 256)
    assert sum(channel_pruning.kept_counts(found, ratio)) == 5


def test_protected_attention_keeps_its_heads_and_a_network_without_attention_says_so():
    model = built()
    left = channel_pruning.groups(model, 16, ("blocks.0.attn.proj.bias",), "whole")
    assert [g.name for g in left if g.unit == "heads"] == ["blocks.1.attn"]
    assert not any(".query-key." in g.name or ".value." in g.name for g in left)
    resnet = {**SPEC, "arch": "resnet18", "kwargs": {"channels": [4, 4, 4, 4], "layers": [1, 1, 1, 1]}}
    with pytest.raises(InputError, match="--kinds heads, both: ResNet has no attention whose heads can be removed"):
        channel_pruning.groups(networks.build(resnet), 32, (), "whole")


def test_removed_heads_are_recorded_by_number_and_damaged_records_are_found():
    group = Channels("blocks.0.attn", 4, (), (), True, width=6, unit="heads")
    (one,) = removed_parts.removed_channels(
        [group], [np.array([0, 3])], [np.array([4.0, 1.0, 2.0, 3.0])], None, ["a", "b"]
    )
    assert one == {
        "layer": "blocks.0.attn", "of": 4, "channels": [1, 2], "unit": "heads", "importance": [1.0, 2.0], "rank": [4, 3]
    }  # fmt: skip
    assert removed_parts.is_sound([one])
    assert removed_parts.layer_texts(one) == ["blocks.0.attn", "2 of 4 heads", "1.0 to 2.0", "4 to 3", ""]
    assert (removed_parts.unit_of(one), removed_parts.unit_of({"layer": "conv"})) == ("head", "channel")
    for unit in ("legs", 3, None):
        assert not removed_parts.is_sound([{**one, "unit": unit}])


def test_what_attention_loses_follows_from_the_kinds_of_a_run():
    assert shrinking.heads_of(("channels", "inner", "int8")) == "thin"
    assert shrinking.heads_of(("heads", "inner")) == shrinking.heads_of(("both",)) == "whole"
