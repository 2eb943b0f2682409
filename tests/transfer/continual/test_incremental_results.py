"""Average incremental accuracy, forgetting and the growing classifier, by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from prune.models import networks
from transfer.continual.class_learner import class_means, grow_head, nearest_mean, with_distillation
from transfer.continual.incremental_results import (
    average_incremental_accuracy,
    forgetting,
    paired,
    seen_accuracies,
    summary,
)

# Three tasks of 100, 100 and 200 test images; row k: after task k.
MATRIX = np.array([[0.8, np.nan, np.nan], [0.5, 0.6, np.nan], [0.6, 0.3, 0.5]])


def test_accuracy_over_the_classes_seen_weighs_tasks_by_their_images():
    # 0.8; (0.5 + 0.6) / 2 = 0.55; (60 + 30 + 100) / 400 = 0.475
    seen = seen_accuracies(MATRIX, np.array([100, 100, 200]))
    assert seen == pytest.approx([0.8, 0.55, 0.475])
    assert average_incremental_accuracy(seen) == pytest.approx((0.8 + 0.55 + 0.475) / 3)


def test_forgetting_is_the_best_ever_minus_what_is_left():
    # After task 2: 0.8 - 0.5 = 0.3. After task 3: task 1 max(0.8, 0.5) - 0.6 = 0.2, task 2 0.6 - 0.3 = 0.3: mean 0.25.
    assert forgetting(MATRIX) == pytest.approx([0.0, 0.3, 0.25])


def test_means_have_length_one():
    # (1, 0) and (0, 5) become (1, 0) and (0, 1): mean (0.5, 0.5), of length 1: (0.707, 0.707).
    means = class_means(np.array([[1, 0], [0, 5], [-2, 0]]), np.array([0, 0, 1]), 3)
    assert means[:2] == pytest.approx(np.array([[0.5**0.5, 0.5**0.5], [-1, 0]]))
    assert np.isnan(means[2]).all()
    assert nearest_mean(np.array([[3, 2], [-1, 0.5], [0, -1]]), means).tolist() == [0, 1, 1]


def test_a_class_without_exemplars_is_never_predicted():
    means = class_means(np.array([[1.0, 0.0]]), np.array([1]), 2)
    assert nearest_mean(np.array([[-1.0, 0.0]]), means).tolist() == [1]


def tiny(classes: int) -> torch.nn.Module:
    spec = {"arch": "resnet18", "kwargs": {"channels": (8, 8, 8, 8)}, "stem": "half", "classes": ["x"] * classes}
    return networks.build(spec).eval()


def test_a_grown_head_gives_the_same_logits_for_the_classes_it_had():
    network = tiny(3)
    images = torch.rand(2, 3, 16, 16)
    before = network(images)
    grow_head(network, 5, seed=1)
    after = network(images)
    assert after.shape == (2, 5)
    assert torch.equal(after[:, :3], before)
    weights = network.get_classifier().weight.clone()  # type: ignore[operator]
    grow_head(network, 5, seed=2)  # nothing to add: nothing changes
    assert torch.equal(network.get_classifier().weight, weights)  # type: ignore[operator]


def test_distillation_adds_the_cross_entropy_of_softened_predictions():
    class Fixed(torch.nn.Module):
        def __init__(self, logits: list[float]) -> None:
            super().__init__()
            self.logits = torch.tensor([logits])

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.logits

    def base(model, images, labels, step):
        return torch.zeros(1), model(images)

    # Teacher logits (2 ln 3, 0) at temperature 2: (3/4, 1/4). Student equal on both old classes: (1/2, 1/2).
    # Cross entropy ln 2, times T^2 = 4 and the weight 0.5: 2 ln 2. The third class plays no part.
    loss = with_distillation(base, Fixed([2 * np.log(3), 0.0]), 0.5)
    losses, _ = loss(Fixed([1.0, 1.0, 9.0]), torch.zeros(1, 3, 8, 8), torch.zeros(1, dtype=torch.long), 0)
    assert float(losses) == pytest.approx(2 * np.log(2))


def run_of(form: str, seed: int, value: float) -> dict:
    head = {"value": value, "accuracies": [value, value], "forgetting": [0.0, 0.1]}
    last = {"exemplars": 4, "bytes": 40, "pixel_bytes": 30, "file_bytes": 50, "equivalent": 4, "classes": 2}
    heads = {"linear": head, "nearest-mean": head}
    return {"memory": 40, "form": form, "seed": seed, "quality": 20, "heads": heads, "records": [last, last]}


def test_forms_are_compared_by_seed():
    cells = [run_of("raw", s, v) for s, v in enumerate((0.2, 0.3, 0.4))]
    cells += [run_of("same-codec", s, v) for s, v in enumerate((0.25, 0.36, 0.47))]
    raw, same = summary(cells)
    assert raw["heads"]["linear"]["difference"] is None
    # Differences 0.05, 0.06, 0.07: mean 0.06, standard deviation 0.01, half-width 4.303 x 0.01 / sqrt 3 = 0.02484.
    found = same["heads"]["linear"]["difference"]
    assert found["value"] == pytest.approx(0.06)
    assert (found["low"], found["high"]) == pytest.approx((0.06 - 0.02484, 0.06 + 0.02484), abs=1e-5)
    assert paired([1.0], [0.5]) == {"value": 0.5, "low": None, "high": None, "n": 1}
