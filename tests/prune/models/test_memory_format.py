"""Networks whose channels were pruned are trained with the channels first on the CPU: oneDNN's gradients need it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from prune.models.networks import safe_memory_format


@pytest.mark.parametrize(("channels", "last"), [(16, True), (12, False)])
def test_channels_come_last_only_where_all_are_multiples_of_eight(channels, last):
    network = nn.Sequential(nn.Conv2d(3, channels, 3, padding=1), nn.Conv2d(channels, channels, 1, 2))
    seen = []
    network[1].register_forward_pre_hook(lambda _, given: seen.append(given[0].is_contiguous()))
    images = torch.rand(2, 3, 8, 8).contiguous(memory_format=torch.channels_last)
    with safe_memory_format(network):
        network(images)
    assert seen == [not last]
    assert network[0].weight.is_contiguous(memory_format=torch.channels_last) == last


def test_gradients_of_a_narrow_network_are_those_of_double_precision():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.Conv2d(4, 4, 1, 2, bias=False))
    images = torch.rand(8, 3, 16, 16).contiguous(memory_format=torch.channels_last)
    with safe_memory_format(network):
        network(images).square().sum().backward()
    found = [p.grad.clone() for p in network.parameters()]
    network.double().zero_grad()
    network(images.contiguous().double()).square().sum().backward()
    for ours, true in zip(found, network.parameters()):
        assert torch.allclose(ours.double(), true.grad, rtol=1e-4, atol=1e-4)
