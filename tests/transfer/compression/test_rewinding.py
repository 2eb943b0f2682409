"""Single weights that go, and those that return to where they were."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from transfer.compression import rewinding


def test_the_lowest_scores_over_all_layers_go_and_what_is_gone_stays_gone():
    weights = {"a": torch.tensor([1.0, 0.0, 2.0]), "b": torch.tensor([3.0, 4.0])}
    scores = {"a": torch.tensor([0.5, 9.0, 0.1]), "b": torch.tensor([0.2, 0.1])}
    # Four weights live; half of them go: the two of score 0.1. The dead one stays dead whatever its score.
    found = rewinding.masks(weights, scores, 0.5)
    assert found["a"].tolist() == [True, False, False]
    assert found["b"].tolist() == [True, False]
    assert rewinding.masks(weights, scores, 0.0)["a"].tolist() == [True, False, True]


def test_equal_scores_lose_the_earlier_weight():
    weights = {"a": torch.ones(2), "b": torch.ones(2)}
    found = rewinding.masks(weights, weights, 0.25)
    assert [found["a"].tolist(), found["b"].tolist()] == [[False, True], [True, True]]


def test_rewinding_takes_the_start_s_values_where_weights_are_left():
    start = {"a": torch.tensor([5.0, 6.0]), "norm": torch.tensor([7.0])}
    found = rewinding.rewound(start, {"a": torch.tensor([True, False])})
    assert found["a"].tolist() == [5.0, 0.0]
    assert found["norm"].tolist() == [7.0]


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)
        with torch.no_grad():
            self.body.weight.copy_(torch.tensor([[1.0, 2.0], [0.5, 0.0]]))
            self.head.weight.copy_(torch.eye(2))

    def get_classifier(self):
        return self.head

    def forward(self, x):
        return self.head(self.body(x))


def test_masks_hold_while_an_optimiser_moves_the_weights():
    model = Small()
    masked = {"body.weight": torch.tensor([[True, False], [True, True]])}
    handle = rewinding.mask_before_forward(model, masked)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.5)
    for _ in range(3):
        assert model(torch.ones(1, 2)) is not None
        assert model.body.weight[0, 1] == 0
        model(torch.ones(1, 2)).square().sum().backward()
        optimiser.step()
    handle.remove()
    rewinding.apply_masks(model, masked)
    assert model.body.weight[0, 1] == 0
    assert model.body.weight[0, 0] != 1


def test_masks_follow_the_network_to_its_device():
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():  # has CUDA's rules without a GPU
        model = nn.Linear(2, 2, bias=False, device="cuda")
        masked = {"weight": torch.ones(2, 2, dtype=torch.bool)}
        handle = rewinding.mask_before_forward(model, masked)
        assert model(torch.ones(1, 2, device="cuda")).device.type == "cuda"
        handle.remove()
        rewinding.apply_masks(model, masked)


def test_saliency_is_weight_times_gradient_and_the_classifier_is_spared():
    model = Small()
    assert rewinding.prunable(model) == ["body.weight"]
    # Input (1, 0): logits (1, 0.5); p1 = 1 / (1 + e^0.5); gradient of body.weight = (-p1, p1) x (1, 0).
    p1 = 1 / (1 + torch.e**0.5)
    found = rewinding.saliency(model, ["body.weight"], [(torch.tensor([[1.0, 0.0]]), torch.tensor([0]))])
    assert found["body.weight"].flatten().tolist() == pytest.approx([p1, 0.0, 0.5 * p1, 0.0])
