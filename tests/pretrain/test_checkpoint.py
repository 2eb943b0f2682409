"""Checkpoint files: any state of networks and optimisers comes back as it was."""

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import nn

from pretrain.checkpoint import read_state, write_state
from pretrain.optimisation import build, match_layout
from pretrain.recipes import RECIPES


def same(a, b) -> bool:
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


def test_a_state_comes_back_as_it_was(tmp_path):
    shared = torch.arange(12.0)
    state = {
        "weights": {
            "conv": torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last),
            "half": torch.ones(2).half(),
        },
        "views of one memory": [shared[2:5], shared, shared.view(3, 4).T],
        "empty": [torch.zeros(0), {}, [], ()],
        "scalars": {0: torch.tensor(3), 1: 0.1, 2: True, 3: None, "text": "a ☃", "betas": (0.9, 0.95)},
        "records": torch.from_numpy(np.array([[1, 2], [3, 4]], np.uint8)),
    }
    write_state(tmp_path / "x.safetensors", state)
    assert same(read_state(tmp_path / "x.safetensors"), state)
    with safe_open(tmp_path / "x.safetensors", "pt") as file:  # the format that others read
        assert len(file.keys()) == 8


@pytest.mark.parametrize("optimiser", ["sgd", "adamw"])
def test_a_restored_optimiser_keeps_its_own_memory_layout(tmp_path, optimiser):
    recipe = RECIPES["tiny"].__class__(**{**RECIPES["tiny"].__dict__, "optimiser": optimiser})
    nets = [nn.Conv2d(3, 8, 3).to(memory_format=torch.channels_last) for _ in range(2)]
    nets[1].load_state_dict(nets[0].state_dict())
    images = torch.randn(2, 2, 3, 8, 8).contiguous()
    first, second = (build(n, recipe) for n in nets)

    def step(net, optimiser, x):
        optimiser.zero_grad()
        net(x.to(memory_format=torch.channels_last)).square().mean().backward()
        optimiser.step()

    step(nets[0], first, images[0])
    write_state(tmp_path / "x.safetensors", {"network": nets[0].state_dict(), "optimiser": first.state_dict()})
    state = read_state(tmp_path / "x.safetensors")
    nets[1].load_state_dict(state["network"])
    second.load_state_dict(state["optimiser"])
    match_layout(second)
    for net, one in zip(nets, (first, second)):
        step(net, one, images[1])
        for parameter, values in one.state.items():
            assert all(v.stride() == parameter.stride() for v in values.values() if v.shape == parameter.shape)
    assert torch.equal(nets[0].weight, nets[1].weight)
