"""The plain sentences about the smallest keep that holds, and what calibration is drawn from."""

from __future__ import annotations

import numpy as np
import pytest

from prune.runs.files import read_json, write_json
from transfer.pages.tables import results_csv
from transfer.verdicts.advice import advice_sentences
from transfer.verdicts.analysis import analyse
from transfer.verdicts.reliability import reliability_by_evaluation, reliability_diagram
from transfer.verdicts.results_file import load_results


def words(folder, **settings):
    return " ".join(advice_sentences(analyse(load_results(folder), folder, **settings)))


def test_a_keep_that_holds_is_named_with_what_it_saves(study):
    text = words(study({("full", 1.0): 0.6, ("random", 0.2): 0.4, ("winnow", 0.1): 0.5, ("winnow", 0.2): 0.62}))
    assert "The smallest keep that holds is 0.2 (winnow): trained on 20 % of the images" in text
    # The surrogate costs 5 % of full pretraining, the backbone 20 %: 75 % saved; ten uses: 5 / 10 + 20 = 20.5 %.
    assert "saves 75 % of the compute" in text
    assert "80 % with ten uses" in text or "79 % with ten uses" in text


def test_where_nothing_holds_full_data_is_the_answer_and_saves_nothing(study):
    text = words(study({("full", 1.0): 0.6, ("random", 0.2): 0.4, ("winnow", 0.2): 0.5}))
    assert "Every keep that was tried (0.2) loses" in text
    assert "the smallest keep that holds is 1, all data, and it saves nothing" in text
    assert "Nearest is winnow at keep 0.2, 10." in text or "Nearest is winnow at keep 0.2, 9." in text
    assert "it would save 75 %" in text


def test_of_an_index_that_costs_more_than_it_saves_the_advice_says_so(study):
    folder = study({("full", 1.0): 0.6, ("random", 0.5): 0.4, ("winnow", 0.5): 0.62}, surrogate=0.7)
    # Surrogate 70 % and backbone 50 % of full: 120 % for one use; 0.7 / 0.5 = 1.4, so it pays from the second on.
    assert "saves nothing and costs 20 % more compute; it pays from use 2 on" in words(folder)


def test_a_warm_start_and_the_choice_of_the_surrogate_are_told(study):
    folder = study({("full", 1.0): 0.6, ("winnow", 0.2): 0.62})
    results = read_json(folder / "results.json")
    results["config"] |= {"init": "../resnet", "uses": 3}
    names = ("surrogate", "preparation", "speed_up")
    results["surrogates"] = [dict(zip(names, one)) for one in (("0.1", 0.05, 2.31), ("none", 0.0, 1.9))]
    write_json(folder / "results.json", results)
    text = words(folder)
    assert "Every backbone started from the weights in ../resnet, all data's and random's too" in text
    assert "the study chose 0.1: predicted speed-up 2.3 with 3 uses" in text


def test_the_search_says_what_it_predicted_confirmed_and_cost(study):
    folder = study({("full", 1.0): 0.6, ("winnow", 0.1): 0.5, ("winnow", 0.2): 0.62})
    results = read_json(folder / "results.json")
    results["search"] = {"ladder": [0.1, 0.2, 0.5], "predicted": 0.1, "tried": [0.1, 0.2]}
    entry = {"stage": "search", "name": "x", "method": None, "keep": None, "seed": 0, "seconds": 1.0, "samples": 0}
    results["ledger"].append({**entry, "flops": 0.3e12})
    write_json(folder / "results.json", results)
    text = words(folder)
    assert "small networks predicted 0.1, the backbone confirmed: 0.1 does not, 0.2 holds; the answer is 0.2." in text
    assert "The ladder cost 30 % of one pretraining on full data." in text
    assert "saves 75 %" in text  # the search enters no factor


def test_without_full_data_there_is_nothing_to_say(study):
    assert words(study({("random", 0.2): 0.4, ("winnow", 0.2): 0.5})) == ""


def test_a_reliability_diagram_worked_by_hand():
    # Two bins: (0, .5] holds .4 (right) and .5 (wrong): 45 % sure, 50 % right. (.5, 1] holds .9 and 1.0, both right.
    found = reliability_diagram(np.array([0.4, 0.5, 0.9, 1.0]), np.array([True, False, True, True]), bins=2)
    assert found["confidence"] == pytest.approx([45.0, 95.0])
    assert found["accuracy"] == pytest.approx([50.0, 100.0])
    assert found["share"] == pytest.approx([50.0, 50.0])
    # Three bins: none falls into the first.
    assert len(reliability_diagram(np.array([0.5, 0.9]), np.array([True, True]), bins=3)["accuracy"]) == 2


def test_calibration_is_pooled_over_seeds_and_targets_and_is_in_the_csv(study):
    folder = study({("full", 1.0): 0.6, ("winnow", 0.2): 0.5}, images=500)
    results = read_json(folder / "results.json")
    for one in results["cells"]:
        one |= {"ece": 0.4, "mean_per_class": one["value"]}
    found = reliability_by_evaluation(results, folder, [("full", 1.0), ("winnow", 0.2), ("absent", 0.5)])
    assert [one["method"] for one in found["probe"]] == ["full", "winnow"]
    # The made-up predictions are sure of everything and right in 60 %: 40 points off.
    assert found["probe"][0]["ece"] == pytest.approx(40, abs=2)
    assert found["probe"][0]["accuracy"] == pytest.approx([60], abs=2)
    write_json(folder / "results.json", results)
    analysis = analyse(load_results(folder), folder)
    assert [row["ece"] for row in analysis["rows"]] == pytest.approx([40] * len(analysis["rows"]))
    header, first = results_csv(analysis).splitlines()[:2]
    record = dict(zip(header.split(","), first.split(",")))
    assert float(record["calibration_error"]) == pytest.approx(40)
    assert float(record["mean_per_class"]) == pytest.approx(float(record["accuracy"]), abs=1e-4)
