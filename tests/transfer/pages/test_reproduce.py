from __future__ import annotations

import shlex

from prune.runs import command_line
from transfer import study
from transfer.pages.reproduce import study_command

CONFIG = {
    "source": {"train": "../photos/train", "test": "../photos/val"},
    "targets": ["my pets", "birds"],
    "places": {
        "my pets": {"train": "../my pets/train", "test": "../my pets/test"},
        "birds": {"train": "torchvision:Birds:../tv:train", "test": "torchvision:Birds:../tv:test"},
    },
    "guides": ["birds"],
    "methods": ["full", "random", "winnow"],
    "keeps": [0.05, 0.2],
    "seeds": [0, 1],
    "recipe": "rn50-16ep",
    "surrogate_sample": 0.25,
    "margin": 0.5,
    "floor": None,
}


def test_the_command_is_understood_by_transfer_study():
    command = study_command(CONFIG)
    assert command is not None
    words = shlex.split(command)
    assert words[:2] == ["transfer", "study"]
    config = command_line.parse("transfer study", study, words[2:])
    assert config.source == "../photos"
    assert config.targets == ("my pets=../my pets", "birds=torchvision:Birds:../tv")
    assert (config.guides, config.methods) == (("birds",), ("full", "random", "winnow"))
    assert (config.keeps, config.seeds) == ((0.05, 0.2), (0, 1))
    assert (config.recipe, config.surrogate_sample, config.margin, config.floor) == ("rn50-16ep", 0.25, 0.5, None)


def test_betons_the_search_for_a_keep_and_the_gate_are_named_too():
    places = {"pets": {"train": "../data/pets.train.beton", "test": "../data/pets.test.beton"}}
    command = study_command({**CONFIG, "guides": None, "places": places, "ladder": [0.1, 0.5], "gate": "0.35"})
    assert command is not None
    config = command_line.parse("transfer study", study, shlex.split(command)[2:])
    assert config.targets == ("pets=../data/pets.train.beton",)
    assert (config.keep, config.ladder, config.gate) == ("auto", (0.1, 0.5), "0.35")


def test_a_source_without_a_test_part_is_its_own_root():
    command = study_command({**CONFIG, "source": {"train": "../photos", "test": None}})
    assert command is not None
    assert " --source ../photos " in command


def test_settings_that_do_not_name_the_images_give_no_command():
    assert study_command({"targets": ["birds"]}) is None
