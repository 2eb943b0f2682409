"""The search for keep and passes at a given total compute, on worlds whose best keep is known."""

from __future__ import annotations

import math

import pytest

from transfer.verdicts.analysis import analyse
from transfer.verdicts.headline import smallest_holding, verdict_line
from transfer.verdicts.keep_search import keep_to_try, most_accurate_keep
from transfer.verdicts.results_file import load_results

LADDER = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7)


def world(relevant: float, compute: float):
    """Accuracy by keep at a total compute, where only the best `relevant` of the images help.

    A keep inside what helps gets compute / keep passes over it, and less from each further pass; beyond it a share of
    the compute is wasted on what does not help.
    """

    def accuracy(keep: float) -> float:
        useful = min(keep, relevant)
        passes = compute / keep
        return math.log(1 + 20 * useful * (1 - math.exp(-passes)))

    return accuracy


def searched(accuracy, ladder, start):
    """The keep that the search ends with, and the keeps that it tried, in order."""
    tried: dict[float, float] = {}
    while (keep := keep_to_try(ladder, tried, start)) is not None:
        assert keep not in tried
        tried[keep] = accuracy(keep)
    return most_accurate_keep(tried), list(tried)


@pytest.mark.parametrize(("relevant", "compute"), [(0.1, 0.1), (0.1, 0.25), (0.25, 0.25), (0.25, 0.1), (1.0, 0.25)])
@pytest.mark.parametrize("start", LADDER)
def test_the_search_ends_at_the_best_keep_of_the_ladder_wherever_it_starts(relevant, compute, start):
    accuracy = world(relevant, compute)
    best, tried = searched(accuracy, LADDER, start)
    assert best == max(LADDER, key=accuracy)
    assert tried[0] == start
    assert len(tried) <= len(LADDER)


def test_a_right_prediction_is_confirmed_against_its_two_neighbours_alone():
    accuracy = {0.05: 0.3, 0.1: 0.5, 0.2: 0.6, 0.3: 0.55, 0.5: 0.5, 0.7: 0.4}.__getitem__
    assert searched(accuracy, LADDER, 0.2) == (0.2, [0.2, 0.1, 0.3])
    assert searched({0.1: 0.5, 0.2: 0.4}.__getitem__, (0.1, 0.2), 0.1) == (0.1, [0.1, 0.2])
    assert searched({0.1: 0.5}.__getitem__, (0.1,), 0.1) == (0.1, [0.1])


def test_a_keep_beside_the_ladder_that_the_user_asked_for_counts_too():
    assert keep_to_try((0.1, 0.3), {0.2: 0.6}, 0.1) == 0.1
    assert keep_to_try((0.1, 0.3), {0.2: 0.6, 0.1: 0.5}, 0.1) == 0.3
    assert keep_to_try((0.1, 0.3), {0.2: 0.6, 0.1: 0.5, 0.3: 0.5}, 0.1) is None


def test_of_equal_keeps_the_smallest_is_taken():
    assert most_accurate_keep({0.3: 0.5, 0.1: 0.5, 0.2: 0.4}) == 0.1


def made(study, accuracy, compute=0.25):
    folder = study(accuracy)
    results = load_results(folder)
    results["config"]["compute"] = compute
    return analyse(results, folder)


def test_at_a_given_compute_all_data_of_that_length_are_the_rival_and_a_smaller_keep_may_hold_alone(study):
    accuracy = {("full", 1.0): 0.6, ("full-length", 0.25): 0.4, ("random", 0.1): 0.35, ("random", 0.5): 0.45}
    analysis = made(study, accuracy | {("winnow", 0.1): 0.62, ("winnow", 0.5): 0.5})
    rows = {(row["method"], row["keep"], row["target"]): row for row in analysis["rows"]}
    assert rows["winnow", 0.1, None]["full_equal"]["value"] == pytest.approx(22, abs=1)
    assert rows["random", 0.5, None]["full_equal"]["value"] == pytest.approx(5, abs=1)
    assert rows["winnow", 0.1, None]["efficiency"] is None  # keeps differ in passes: no keep of random is equal
    assert smallest_holding(analysis)["keep"] == 0.1
    line = verdict_line(analysis)
    assert "winnow at keep 0.1 holds" in line
    assert "it beats all data at equal compute by 2" in line
