"""The search for the smallest keep that holds: which keep of the ladder comes next, and what the answer is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transfer.verdicts.keep_search import LADDER, keep_to_confirm, keeps_that_hold, predicted_keep, smallest_keep


def test_the_ladder_predicts_the_lowest_keep_of_an_unbroken_run_from_the_top():
    # Full data stands at 70 and the margin is 2. 0.2 is within it, but 0.3 above it is not: 0.5 is the lowest.
    values = {0.1: 0.50, 0.2: 0.69, 0.3: 0.67, 0.5: 0.69, 0.7: 0.71}
    assert predicted_keep(values, 0.70, 0.02) == 0.5
    assert predicted_keep({0.1: 0.70, 0.2: 0.69}, 0.70, 0.02) == 0.1
    assert predicted_keep({0.1: 0.20, 0.5: 0.30}, 0.70, 0.02) == 0.5  # none holds: begin at the top


@pytest.mark.parametrize(
    ("holds", "expected"),
    [
        ({}, 0.2),  # starts at the predicted keep
        ({0.2: True}, 0.1),  # down, until one does not hold
        ({0.2: True, 0.1: True}, 0.05),
        ({0.2: True, 0.1: False}, None),
        ({0.2: False}, 0.3),  # up, until one holds
        ({0.2: False, 0.3: False}, 0.5),
        ({0.2: False, 0.3: True}, None),
        (dict.fromkeys(LADDER, False), None),
        ({0.05: True, 0.1: True}, None),  # nothing below the lowest keep
        ({0.4: True}, 0.3),  # a keep that the user had confirmed, off the ladder
    ],
)
def test_the_next_keep_to_confirm(holds, expected):
    assert keep_to_confirm(LADDER, holds, 0.2) == expected


def test_a_keep_that_holds_below_one_that_does_not_is_not_the_answer():
    assert smallest_keep({0.1: True, 0.2: False, 0.5: True}) == 0.5
    assert smallest_keep({0.1: False}) == 1.0
    assert smallest_keep({}) == 1.0


@given(st.sampled_from([*LADDER, 1.0]), st.sampled_from(LADDER))
def test_wherever_it_begins_the_search_finds_the_truth_and_confirms_the_keep_below(truth: float, start: float):
    holds: dict[float, bool] = {}
    while (keep := keep_to_confirm(LADDER, holds, start)) is not None:
        assert keep not in holds
        holds[keep] = keep >= truth
    assert smallest_keep(holds) == truth
    below = [keep for keep in LADDER if keep < truth]
    assert not below or holds[below[-1]] is False
    assert len(holds) <= len(LADDER)


def test_a_keep_holds_when_any_pruning_method_holds_there_and_controls_do_not_count():
    def row(method, keep, verdict):
        return {"method": method, "keep": keep, "verdict": verdict}

    rows = [row("full", 1.0, None), row("random", 0.2, "holds"), row("winnow", 0.2, "undecided"),
            row("dp4tl-lm", 0.5, "loses"), row("winnow", 0.5, "holds"), row("winnow", 0.1, "loses")]  # fmt: skip
    assert keeps_that_hold(rows) == {0.2: False, 0.5: True, 0.1: False}
