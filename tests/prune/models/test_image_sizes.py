"""A network that cannot take a size says so in one line, and is left as it was."""

import pytest
import torch

from prune.models import networks
from prune.models.image_sizes import refuse_size
from prune.runs.files import InputError

VIT = {
    "arch": "vit_tiny_patch16_224",
    "kwargs": {"img_size": 16, "patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2},
    "classes": ["a", "b"],
}
RESNET = {"arch": "resnet18", "kwargs": {"channels": [8, 8, 8, 8], "layers": [1, 1, 1, 1]}, "classes": ["a", "b"]}


def test_a_transformer_made_for_one_size_takes_no_other():
    network = networks.build(VIT)
    refuse_size(network, 16)
    with pytest.raises(InputError, match=r"images of 24 px do not fit the network \(.*\): give the size") as refused:
        refuse_size(network, 24)
    assert "\n" not in str(refused.value)


def test_statistics_mode_and_random_state_stay():
    network = networks.build(RESNET).train()
    state = {name: value.clone() for name, value in network.state_dict().items()}
    drawn = torch.random.get_rng_state()
    refuse_size(network, 40)
    assert network.training
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in state.items())
    assert torch.equal(drawn, torch.random.get_rng_state())
