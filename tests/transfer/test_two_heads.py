"""Networks with two classifiers, as distillation leaves them: what would train one refuses it in one line."""

from __future__ import annotations

import pytest

from prune.models import networks
from prune.runs.files import InputError
from transfer.compression.channel_pruning import groups
from transfer.compression.rewinding import prunable
from transfer.continual.class_learner import grow_head
from transfer.evaluation.finetuning import with_new_head

SPEC = {"arch": "levit_128s", "classes": ["a", "b"]}


@pytest.mark.parametrize(
    "work",
    [
        lambda network: with_new_head(network, SPEC),
        lambda network: grow_head(network, 3, 0),
        lambda network: groups(network, 224),
        prunable,
    ],
    ids=["fine-tuning", "new classes", "channel pruning", "rewinding"],
)
def test_a_network_with_two_classifiers_is_not_trained(work):
    with pytest.raises(InputError, match=r"a LevitDistilled has two classifiers; .*choose a network with one") as error:
        work(networks.build(SPEC))
    assert "\n" not in str(error.value)
