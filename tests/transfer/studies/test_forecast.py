"""What a study says that it will cost, before it starts."""

from __future__ import annotations

from dataclasses import replace

import pytest

from prune.runs.files import InputError
from transfer.studies.forecast import (
    check_compute,
    forecast,
    images_by_recipe,
    start_up_seconds,
    step_seconds,
    summed,
    time_range,
    training_flops,
    training_seconds,
)
from transfer.studies.places import Splits
from transfer.studies.settings import Study
from transfer.studies.study_plan import plan_of

STUDY = Study(
    source=Splits("../photos", None),
    targets={"pets": Splits("../pets/train", "../pets/test")},
    guides=("pets",),
    methods=("full", "random", "winnow"),
    keeps=(0.2,),
    seeds=(0,),
    recipe="small-rn18",
    surrogate_recipe="tiny",
    surrogate_sample=0.25,
    side=32,
    sizes={"source": 1000, "pets.train": 60, "pets.test": 30},
    recipe_epochs={"small-rn18": 10, "tiny": 4},
)


def test_every_image_counts_for_the_network_that_sees_it_a_forward_pass_as_a_third():
    found = images_by_recipe(plan_of(STUDY), STUDY)
    # Surrogate: 250 images for 4 epochs; features of 1,060 images, and of 30 test images to look for copies.
    assert found["tiny"] == pytest.approx(1000 + (1060 + 30) / 3)
    # Backbones: 1,000 + 200 + 200 images for 10 epochs; three probes of 90 images.
    assert found["small-rn18"] == pytest.approx(14_000 + 3 * 90 / 3)


def test_a_study_with_one_recipe_for_both_networks_counts_both():
    one = replace(STUDY, surrogate_recipe="small-rn18")
    # As above, but the surrogate trains for 10 epochs.
    assert images_by_recipe(plan_of(one), one) == {"small-rn18": pytest.approx(2500 + 1090 / 3 + 14_000 + 90)}


def test_a_total_compute_that_a_surrogate_alone_would_exceed_is_refused_by_name():
    # tiny costs 66 MFLOPs an image and small-rn18 830: (1000 + 1060 / 3) * 66 / (10,000 * 830) is 0.011.
    check_compute(replace(STUDY, compute=0.02))
    with pytest.raises(InputError, match=r"--compute 0.01: surrogate and features alone would cost 0.011 of a full"):
        check_compute(replace(STUDY, compute=0.01))
    check_compute(replace(STUDY, compute=0.01, uses=3))
    check_compute(replace(STUDY, compute=0.01, surrogates=("none", "0.05", "timm:resnet18")))
    with pytest.raises(InputError, match=r"--compute 0.01: surrogate 0.25 and features alone"):
        check_compute(replace(STUDY, compute=0.01, surrogates=("0.05", "0.25")))


def test_the_recipes_networks_are_counted_and_timed():
    # The recipe's own note: 66 MFLOPs to train on an image.
    assert training_flops("tiny") == pytest.approx(66e6, rel=0.1)
    least, most = training_seconds("tiny")
    assert 0 < 1.09 * least < most


def test_a_time_is_never_a_single_figure_and_reaches_to_what_a_tenth_of_the_steps_exceed():
    assert time_range([0.5, 0.1, 0.2, 0.2, 0.2, 0.2, 0.2, 0.3, 0.3, 0.4, 0.2]) == (0.1, 0.4)  # 0.5 is the tenth
    assert time_range([10.0]) == (10.0, 11.0)


def test_processes_and_steps_that_start_up_are_measured_and_counted():
    start_up, (least, most) = start_up_seconds(), step_seconds()
    assert start_up > 0.2  # Python and torch
    assert 0 < least < most
    assert least < start_up
    tasks = plan_of(replace(STUDY, compute=None))
    found = [forecast(tasks, STUDY, None, jobs, alone=alone) for jobs, alone in ((1, False), (4, False), (1, True))]
    n, slow = len(tasks), 1.1 * start_up
    assert [one.overhead for one in found if one] == [
        pytest.approx((start_up + n * least, slow + n * most)),
        pytest.approx((2 * start_up + n * least / 4, 2 * slow + n * most / 4)),  # the study's own, and four at a time
        pytest.approx((n * (start_up + least), n * (slow + most))),
    ]


def test_hours_and_money_follow_from_the_timing():
    images, flops = {"a": 7200.0}, {"a": 1e9}
    cost = summed(images, flops, {"a": (2.0, 2.5)}, price=0.5, overhead=(3600.0, 5400.0))
    assert cost.sentence() == (
        "Still to run: about 7.2e+12 FLOPs, 5.0 to 6.5 hours on this machine, 2.50 to 3.25 in money. The time is that "
        "of the networks, from this machine undisturbed to as slow as it just was, and 60 to 90 minutes of start-up of "
        "processes and steps, without reading images and fitting classifiers."
    )
    assert cost.record() == {
        "flops": 7.2e12,
        "seconds": 18000.0,
        "seconds_range": [18000.0, 23400.0],
        "start_up_seconds": 3600.0,
        "start_up_seconds_range": [3600.0, 5400.0],
        "money": 2.5,
        "money_range": [2.5, 3.25],
    }
    assert "money" not in summed(images, flops, {"a": (2.0, 2.5)}).record()
