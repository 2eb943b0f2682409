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
