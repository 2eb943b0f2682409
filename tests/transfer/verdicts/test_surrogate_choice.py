"""Which surrogate is chosen, worked out by hand."""

from __future__ import annotations

import pytest

from transfer.verdicts.surrogate_choice import Prediction, choice_sentence, predictions

FULL = {0.25: 0.4, 0.5: 0.5, 1.0: 0.6}
"""Ten points for each doubling: 55 % takes all data 0.7071 of the full length."""


def test_the_speed_up_is_what_all_data_need_divided_by_keep_and_preparation():
    accuracies = {"none": {0.2: 0.5}, "0.1": {0.2: 0.55}}
    found = predictions({"none": 0.0, "0.1": 0.05}, accuracies, FULL, uses=1, compute=None)
    # All data need 0.5 and 0.7071; the conditions cost 0.2 and 0.25.
    assert [one.surrogate for one in found] == ["0.1", "none"]
    assert [one.speed_up for one in found] == pytest.approx([0.7071 / 0.25, 0.5 / 0.2], rel=0.02)


def test_a_dear_surrogate_pays_with_many_uses_or_a_dear_backbone():
    def best(dear, uses):
        accuracies = {"cheap": {0.2: 0.5}, "dear": {0.2: 0.58}}
        return predictions({"cheap": 0.02, "dear": dear}, accuracies, FULL, uses=uses, compute=None)[0].surrogate

    # 0.5 / 0.22 = 2.27 against 0.87 / 0.7 = 1.24; with ten uses 2.48 against 3.48; at a tenth of the share 3.48.
    assert best(0.5, uses=1) == "cheap"
    assert best(0.5, uses=10) == "dear"
    assert best(0.05, uses=1) == "dear"


def test_several_keeps_count_alike_and_what_lies_beyond_the_lengths_is_a_bound():
    (one,) = predictions({"a": 0.0}, {"a": {0.1: 0.3, 0.5: 0.7}}, FULL, uses=1, compute=None)
    assert one.speed_up == pytest.approx((0.25 / 0.1 + 1.0 / 0.5) / 2)


def test_at_a_given_compute_the_most_accurate_surrogate_is_best_and_of_equal_ones_the_cheapest():
    accuracies = {"a": {0.2: 0.5}, "b": {0.2: 0.55}, "c": {0.2: 0.55}}
    found = predictions({"a": 0.0, "b": 0.2, "c": 0.1}, accuracies, FULL, uses=1, compute=0.25)
    assert [one.surrogate for one in found] == ["c", "b", "a"]
    assert found[-1].speed_up == pytest.approx(2.0)


def test_the_sentence_names_the_choice_and_what_the_next_best_would_cost():
    said = choice_sentence([Prediction("0.1", 0.05, 2.31), Prediction("none", 0.0, 1.9)], 3)
    assert "the study chose 0.1: predicted speed-up 2.3 with 3 uses, at 5.0 % of one full pretraining" in said
    assert said.endswith("; the next best is none: 1.9, at 0.0 %.")
    assert choice_sentence([Prediction("none", 0.0, 1.9)], 1).endswith("at 0.0 % of one full pretraining.")
