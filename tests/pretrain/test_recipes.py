"""Every recipe names a network that can be built, and its schedule makes sense."""

import pytest
import torch

from pretrain import training_flops
from pretrain.recipes import RECIPES
from pretrain.schedule import resolution
from prune.models import networks


@pytest.mark.parametrize(
    "name", ["rn18-16ep", "rn50-16ep", "rn101-16ep", "vit-b16-100ep", "convnext-t", "cifar-rn18-200ep"]
)
def test_the_network_of_a_recipe_can_be_built_and_costs_what_its_paper_says(name):
    # Multiply-adds forwards at 224 px: ResNet-18 1.8 G, -50 4.1 G, -101 7.8 G, ViT-B/16 17.6 G, ConvNeXt-T 4.5 G;
    # blurred strides keep a layer at full size and add up to a third. The CIFAR ResNet-18 takes 0.56 G at 32 px.
    expected = {"rn18": 1.8, "rn50": 4.1, "rn101": 7.8, "vit": 17.6, "convnext": 4.5, "cifar": 0.56}[name.split("-")[0]]
    recipe = RECIPES[name]
    with torch.device("meta"):
        network = networks.build(
            {"arch": recipe.arch, "kwargs": recipe.kwargs, "stem": recipe.stem, "classes": list(range(1000))}
        )
    side = 32 if name.startswith("cifar") else 224
    # Training takes three times the multiply-adds, each two FLOPs.
    assert 0.95 * 6e9 * expected < training_flops.per_image(network, recipe, side) < 1.45 * 6e9 * expected


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_states_cost_and_result_and_ends_at_its_full_resolution(name):
    recipe = RECIPES[name]
    assert recipe.cost
    assert recipe.expect
    start = recipe.start_resolution or recipe.resolution
    assert resolution(0.0, start, recipe.resolution, *recipe.grow) == start
    assert resolution(0.999, start, recipe.resolution, *recipe.grow) == recipe.resolution
    assert recipe.warmup < recipe.epochs
    assert recipe.attack is None or (recipe.mixup, recipe.cutmix) == (0, 0)


# What the sources of quoted figures train with, for all of their processes together.
# libffcv/ffcv-imagenet, rn50_configs and rn18_configs: lr 1.7 for 8 processes of 512 images, 0.5 for one of 1,024, and
# the epochs between which images grow; train_imagenet.py: crops of 0.08 to 1 (the decoder's own), tests on a central
# 224/256 at 256 px with the mirror image, a straight fall to 0, warm-up of 2 epochs.
_FFCV = {
    "resolution": (160, 192),
    "grow": (11 / 16, 13 / 16),
    "scale": (0.08, 1.0),
    "warmup": 2.0,
    "smoothing": 0.1,
    "test": (256, 0.875, True),
    "fall": "linear",
}
_FFCV50 = {**_FFCV, "lr": 1.7 / 4096, "weight_decay": 1e-4}
_GROW = {16: (11, 13), 24: (17, 20), 32: (23, 27), 40: (29, 34), 56: (41, 48), 88: (65, 76)}
# facebookresearch/deit, main.py: lr 5e-4 for 512 images, warm-up of 5 epochs, a path dropped with 0.1, an average of
# 0.99996 that is not evaluated; datasets.py: 224 of 256 pixels. facebookresearch/ConvNeXt, TRAINING.md: 4e-3 for 4,096
# images, a path dropped with 0.1, the average (0.9999, main.py) evaluated; datasets.py: 224 of 256 pixels.
_ADAMW = {"weight_decay": 0.05, "scale": (0.08, 1.0), "smoothing": 0.1, "test": (224, 0.875, False), "fall": "cosine"}
_ADAMW |= {"mixup": 0.8, "cutmix": 1.0, "optimiser": "adamw", "kwargs": {"drop_path_rate": 0.1}}
# Deep Learning on a Data Diet (arXiv 2107.07075, appendix B): batches of 128 at 0.1, whose rate falls in steps.
_CIFAR = {"lr": 0.1 / 128, "weight_decay": 5e-4, "resolution": (32, 32), "smoothing": 0.0, "test": (32, 1.0, False)}
SOURCES = {
    "rn18-16ep": {**_FFCV, "lr": 0.5 / 1024, "weight_decay": 5e-5, "epochs": 16},
    **{
        f"rn50-{epochs}ep": {**_FFCV50, "epochs": epochs, "grow": (begin / epochs, end / epochs)}
        for epochs, (begin, end) in _GROW.items()
    },
    "rn50-robust": {**_FFCV50, "epochs": 16, "smoothing": 0.0},
    "rn101-16ep": {**_FFCV50, "epochs": 16},
    "vit-b16-100ep": {**_ADAMW, "lr": 5e-4 / 512, "resolution": (224, 224), "warmup": 5.0, "epochs": 100},
    "convnext-t": {**_ADAMW, "lr": 4e-3 / 4096, "epochs": 100, "ema": 0.9999, "clip": 0.0},
    "cifar-rn18-200ep": {**_CIFAR, "epochs": 200},
}


@pytest.mark.parametrize("name", SOURCES)
def test_a_quoted_recipe_has_the_settings_of_its_source_at_the_rate_of_its_source_for_each_image(name):
    recipe, source = RECIPES[name], dict(SOURCES[name])
    found = {
        **vars(recipe),
        "resolution": (recipe.start_resolution or recipe.resolution, recipe.resolution),
        "test": (recipe.evaluation or recipe.resolution, recipe.crop_ratio, recipe.mirror),
    }
    assert recipe.lr / recipe.batch == pytest.approx(source.pop("lr"))
    assert {key: found[key] for key in source} == source


def test_every_recipe_that_quotes_a_figure_without_its_source_s_settings_says_that_it_was_not_measured():
    for name in ("rn101-16ep", "vit-b16-100ep", "convnext-t"):
        assert "not measured here" in RECIPES[name].expect
    assert "RandAugment" in RECIPES["vit-b16-100ep"].expect


def test_another_batch_keeps_the_rate_for_each_image():
    from pretrain.plan import adapted

    assert adapted("rn50-16ep", batch_size=4096).lr == pytest.approx(1.7)
    assert adapted("rn50-16ep", batch_size=512).lr == pytest.approx(0.2125)


def test_position_embeddings_and_class_tokens_do_not_decay_whatever_wraps_the_network():
    from torch import nn

    from pretrain import optimisation

    class Wrapped(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

    recipe = RECIPES["tiny-vit"]
    network = networks.build({"arch": recipe.arch, "kwargs": recipe.kwargs, "classes": ["a", "b"]})
    for trained in (network, Wrapped(network)):
        decayed, others = optimisation.build(trained, recipe).param_groups
        assert (decayed["weight_decay"], others["weight_decay"]) == (0.05, 0.0)
        free = {id(p) for p in others["params"]}
        assert {id(network.pos_embed), id(network.cls_token), id(network.norm.weight)} <= free
        assert id(network.blocks[0].mlp.fc1.weight) in {id(p) for p in decayed["params"]}
        assert len(decayed["params"]) + len(others["params"]) == len(list(network.parameters()))
