"""What the journal says about removed channels: ranks, importance, the classes they served, their original numbers."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import nn

from prune.runs.files import InputError
from transfer.compression import importance, journal, removed_parts
from transfer.compression.channel_pruning import Channels

GROUP = Channels("conv", 4, (), (), True)


def test_removed_channels_come_with_rank_importance_and_the_classes_they_served():
    values = np.array([0.3, 0.1, 0.2, 0.123456])
    rises = np.array([[9.0, 0.5, -0.1, 0.0], [9.0, 0.25, 0.5, -1.0]])
    (one,) = removed_parts.removed_channels([GROUP], [np.array([0])], [values], [rises], ["cat", "newt"])
    assert one == {
        "layer": "conv", "of": 4, "channels": [1, 3, 2], "importance": [0.1, 0.1235, 0.2], "rank": [4, 3, 2],
        "serves": ["cat", None, "newt"], "rise": [0.5, None, 0.5],
        "classes": {"cat": 0.4},  # 0.5 + 0 - 0.1; newt 0.25 - 1 + 0.5 is a gain
    }  # fmt: skip
    assert removed_parts.is_sound([one])
    assert removed_parts.layer_texts(one) == ["conv", "3 of 4", "0.1 to 0.2", "4 to 2", "cat +0.4"]


def test_layers_that_lost_nothing_are_left_out_and_without_images_no_class_is_named():
    values, whole = np.array([2.0, 1.0, np.nan, 3.0]), np.arange(4)
    found = removed_parts.removed_channels([GROUP, GROUP], [whole, whole[:2]], [values] * 2, None, ["cat"])
    # On ties and without a number the higher channel goes first, as it is removed.
    assert found == [{"layer": "conv", "of": 4, "channels": [2, 3], "importance": [None, 3.0], "rank": [4, 1]}]
    assert removed_parts.is_sound(found)


def test_single_weights_are_counted_by_layer():
    weights = {"a.weight": torch.tensor([1.0, 0.0, 2.0, 3.0]), "b.weight": torch.ones(2)}
    scores = {"a.weight": torch.tensor([0.5, 9.0, 0.25, 7.0]), "b.weight": torch.ones(2)}
    masks = {"a.weight": torch.tensor([False, False, False, True]), "b.weight": torch.tensor([True, True])}
    wanted = [{"layer": "a", "of": 3, "weights": 2, "importance": 0.5}]
    assert removed_parts.removed_weights(weights, scores, masks) == wanted


class Colours(nn.Module):
    """Channel k is the image's colour k, and only class k reads it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 3, 1, bias=False), nn.Linear(3, 3, bias=False)
        with torch.no_grad():
            self.conv.weight.copy_(torch.eye(3).view(3, 3, 1, 1))
            self.fc.weight.copy_(torch.eye(3))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.fc(self.conv(images).mean((2, 3)))


def test_a_channel_serves_the_class_that_reads_it_alone():
    group = Channels("conv", 3, (), (("conv", 0),), True)
    images, labels = torch.eye(3).view(3, 3, 1, 1).repeat(2, 1, 2, 2), torch.tensor([0, 1, 2, 0, 1, 2])
    parts = [(images[:4], labels[:4]), (images[4:], labels[4:])]
    (values,), (rises,) = importance.taylor_by_class(Colours(), [group], parts, 4)
    # Logits are 1 for the own class and 0 else: p = e / (e + 2), the loss falls by 1 - p for each unit of the channel.
    lost = 2 / (np.e + 2)
    assert rises[:3] == pytest.approx(lost * np.eye(3), abs=1e-6)
    assert rises[3].tolist() == [0, 0, 0]  # a class without images
    assert values == pytest.approx([lost / 3] * 3)
    assert importance.taylor(Colours(), [group], parts)[0].tolist() == values.tolist()
    found = removed_parts.removed_channels([group], [np.array([1])], [values], [rises[:3]], ["red", "green", "blue"])
    assert found[0]["serves"] == ["blue", "red"]


def entry(step, base, removed, **more):
    values = {
        "step": step, "base": base, "kind": "channels", "what": {"ratio": 0.2, "removed": removed}, "params": 10,
        "bytes": 40, "accuracy": 0.5, "reason": "", "verdict": "accepted", "files": {},
    }  # fmt: skip
    return {**values, **more}


def lost(of, *channels):
    count = len(channels)
    numbers = list(range(of, of - count, -1))
    return [{"layer": "conv", "of": of, "channels": list(channels), "importance": [0.1] * count, "rank": numbers}]


ENTRIES = [
    entry(0, 0, [], kind="original", what={}),
    entry(1, 0, lost(6, 2, 0)),  # 1 3 4 5 are left
    entry(2, 1, lost(4, 3), verdict="rolled-back"),
    entry(3, 1, lost(4, 1, 2)),  # 3 and 4
    entry(4, 3, [], kind="rollback", what={"to": 1}),
    entry(5, 1, lost(4, 3)),
]


def test_channels_keep_their_numbers_in_the_original_along_the_steps_that_were_kept():
    found = [removed_parts.in_original(ENTRIES, step, "conv") for step in (1, 2, 3, 5)]
    assert found == [[2, 0], [5], [3, 4], [5]]
    old = [ENTRIES[0], entry(1, 0, [], what={"ratio": 0.2}), *ENTRIES[2:]]
    assert removed_parts.in_original(old, 3, "conv") is None


@pytest.mark.parametrize(
    "damage",
    [
        {"channels": [6]}, {"channels": [0, 1]}, {"rank": [0]}, {"importance": ["high"]}, {"layer": 3}, {"of": "6"},
        {"channels": None}, {"serves": ["cat"], "classes": {}}, {"serves": [1], "rise": [0.1], "classes": {}},
    ],
)  # fmt: skip
def test_a_journal_with_damaged_reasons_is_refused(tmp_path, damage):
    journal.write_journal(tmp_path, ENTRIES)
    assert journal.read_journal(tmp_path) == ENTRIES
    broken = [{**lost(6, 2)[0], **damage}]
    journal.write_journal(tmp_path, [ENTRIES[0], entry(1, 0, broken)])
    with pytest.raises(InputError, match="line 2 is damaged"):
        journal.read_journal(tmp_path)


def explained(capsys, *flags):
    from transfer.__main__ import main

    code = main(["explain", *map(str, flags)])
    shown = capsys.readouterr()
    return code, shown.out if code == 0 else shown.err.strip()


def test_explain_prints_layers_channels_and_json(tmp_path, capsys):
    named = [{**one, "serves": ["newt", None], "rise": [0.5, None], "classes": {"newt": 0.4}} for one in lost(4, 1, 2)]
    journal.write_journal(tmp_path, [*ENTRIES[:3], entry(3, 1, named)])
    run = ("--run", tmp_path)
    code, shown = explained(capsys, *run, "--step", 3)
    assert code == 0
    assert [word in shown for word in ("conv", "2 of 4", "4 to 3", "newt +0.4")] == [True] * 4
    code, shown = explained(capsys, *run, "--step", 3, "--layer", "conv")
    rows = [line.split() for line in shown.splitlines() if line.strip()[:1].isdigit()]
    assert rows == [["1", "3", "0.1", "4", "newt", "0.5"], ["2", "4", "0.1", "3"]]
    code, shown = explained(capsys, *run, "--step", 3, "--json")
    found = json.loads(shown)
    assert (found["step"], found["verdict"], found["layers"]) == (3, "accepted", [{**named[0], "original": [3, 4]}])


def test_explain_says_in_one_line_what_it_cannot_explain(tmp_path, capsys):
    nothing = {**entry(3, 1, []), "reason": "nothing is left to remove at this ratio"}
    journal.write_journal(tmp_path, [*ENTRIES[:2], entry(2, 1, [], what={"ratio": 0.2}), nothing])
    (tmp_path / "no").mkdir()
    cases = [
        (("--run", tmp_path / "no", "--step", 1), "not a run of `transfer compress`"),
        (("--run", tmp_path, "--step", 7), "has the steps 0 to 3"),
        (("--run", tmp_path, "--step", 0), "step 0 (original)"),
        (("--run", tmp_path, "--step", 2), "was made by an older version, which recorded no reasons"),
        (("--run", tmp_path, "--step", 3), "removed nothing: nothing is left to remove at this ratio"),
        (("--run", tmp_path, "--step", 1, "--layer", "cnv"), "removed nothing from it; it removed from conv"),
    ]
    for flags, said in cases:
        code, shown = explained(capsys, *flags)
        assert (code, said in shown, len(shown.splitlines())) == (2, True, 1), shown
