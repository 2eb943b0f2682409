"""Speed-ups of whole studies, from made-up results: all data at several lengths, a surrogate that costs 5 %."""

from __future__ import annotations

import json
import re

import pytest

from transfer.__main__ import main
from transfer.pages.tables import results_csv, speed_up_note, speed_up_table
from transfer.verdicts.advice import advice_sentences
from transfer.verdicts.analysis import analyse
from transfer.verdicts.headline import verdict_line
from transfer.verdicts.results_file import load_results
from transfer.verdicts.speed_up_rows import compute_shares, speed_up_sentences, speed_up_text

LADDER = {("full", 1.0): 0.6, ("full-length", 0.5): 0.5, ("full-length", 0.25): 0.4}
"""All data: 10 points for each doubling."""
PRUNED = {("random", 0.2): 0.3, ("winnow", 0.1): 0.45, ("winnow", 0.2): 0.59}


def judged(folder, **settings):
    analysis = analyse(load_results(folder), folder, **settings)
    return analysis, {(row["method"], row["keep"], row["target"]): row for row in analysis["rows"]}


def test_a_use_bears_its_share_of_the_preparation():
    factors = {"1": 4.0, "3": 1 / 0.2166, "10": 5.0}
    unknown = dict.fromkeys(factors)
    rows = [{"method": m, "keep": 0.2, "factor_flops": f} for m, f in (("winnow", factors), ("el2n", unknown))]
    assert compute_shares({"rows": rows}) == {("winnow", 0.2): {1: 0.25, 3: pytest.approx(0.2166), 10: 0.2}}


def test_the_speed_up_counts_the_surrogate_once_per_index(study):
    _, rows = judged(study({**LADDER, **PRUNED}))
    # 45 % takes all data 0.25 * 2 ** 0.5 = 0.3536. The condition: 0.1 each time, 0.05 once.
    found = rows["winnow", 0.1, None]["speed_up"]
    for uses, cost in (("1", 0.15), ("3", 0.1 + 0.05 / 3), ("10", 0.105)):
        assert found[uses]["value"] == pytest.approx(0.25 * 2**0.5 / cost, rel=0.05)
        assert found[uses]["low"] < found[uses]["value"] < found[uses]["high"]
    # Random has no surrogate, and lies below what was measured: all data need at most a quarter.
    random = rows["random", 0.2, "birds"]["speed_up"]["1"]
    assert (random["value"], random["open"]) == (pytest.approx(0.25 / 0.2), "below")
    assert rows["full", 1.0, None]["speed_up"] is None


def test_all_data_at_equal_compute_join_the_curve_and_are_compared_at_the_same_keep(study):
    _, rows = judged(study({("full", 1.0): 0.6, ("full-equal-compute", 0.25): 0.4, ("winnow", 0.25): 0.55}))
    row = rows["winnow", 0.25, None]
    assert row["full_equal"]["value"] == pytest.approx(15, abs=1)
    assert (row["beats_full_equal"], row["worse_than_full_equal"]) == (True, False)
    # 15 of 20 points over two doublings: 0.25 * 4 ** 0.75 = 0.7071, for 0.3.
    assert row["speed_up"]["1"]["value"] == pytest.approx(0.7071 / 0.3, rel=0.05)
    assert rows["full-equal-compute", 0.25, None]["speed_up"] is None
    assert rows["full-equal-compute", 0.25, None]["full_equal"] is None


def test_other_lengths_are_no_claims_and_no_keeps(study):
    analysis, rows = judged(study({**LADDER, **PRUNED}))
    assert rows["full-length", 0.5, None]["verdict"] is None
    assert rows["full-length", 0.5, None]["random"] is None
    assert analysis["keeps"] == [0.1, 0.2, 1.0]


def test_the_speed_up_to_within_two_points_is_that_of_the_cheapest_keep_that_gets_there(study):
    analysis, _ = judged(study({**LADDER, **PRUNED, ("winnow", 0.5): 0.61}))
    (found,) = analysis["speed_ups"]
    assert (found["method"], found["points"], found["target"]) == ("winnow", 2.0, None)
    # 58 % takes all data 0.5 * 2 ** 0.8 = 0.8706; keep 0.2 costs 0.25 and keep 0.5 gets there for more.
    assert found["1"]["keep"] == 0.2
    assert found["1"]["value"] == pytest.approx(0.8706 / 0.25, rel=0.05)
    assert found["10"]["value"] == pytest.approx(0.8706 / 0.205, rel=0.05)
    sentence, curve = speed_up_sentences(analysis)
    assert sentence.startswith("Speed-up to within 2 points of all data, by winnow at keep 0.2, everything counted: 3.")
    assert re.match(
        r"Speed-up over accuracy, with one use, against all data: \+[01]\.\d points \(6[01]\.\d %\): ", curve
    )
    assert advice_sentences(analysis)[:2] == [sentence, curve]


def test_the_curve_over_accuracy_names_the_gap_beside_every_factor_the_most_accurate_first(study):
    analysis, _ = judged(study({**LADDER, **PRUNED, ("winnow", 0.5): 0.58}))
    (curve,) = analysis["speed_up_curves"]
    # keep 0.5 costs more than keep 0.2 and is less accurate: it is no point of the curve.
    assert [(one["method"], one["keep"]) for one in curve["1"]] == [("winnow", 0.2), ("winnow", 0.1)]
    assert [one["gap"] for one in curve["1"]] == pytest.approx([-1, -15], abs=0.5)
    assert curve["1"][1]["value"] == pytest.approx(0.25 * 2**0.5 / 0.15, rel=0.05)
    text = speed_up_sentences(analysis)[1]
    near, far = text.removesuffix(".").split(": ", 1)[1].split("; ")
    assert re.fullmatch(r"-[01]\.\d points \(5[89]\.\d %\): [34]\.\d .* by winnow at keep 0\.2", near)
    assert re.fullmatch(r"-1[45]\.\d points \(4[45]\.\d %\): 2\.\d .* by winnow at keep 0\.1", far)


def test_time_and_money_stand_beside_the_speed_up(study):
    analysis, _ = judged(study({**LADDER, **PRUNED}), price=2.0)
    one = analysis["speed_ups"][0]["1"]
    full = analysis["ledger"]["full"]["seconds"]
    row = next(r for r in analysis["ledger"]["rows"] if (r["method"], r["keep"]) == ("winnow", 0.2))
    assert one["seconds"] == pytest.approx(row["preparation"]["seconds"] + row["pretraining"]["seconds"])
    assert one["seconds_all_data"] == pytest.approx(0.8706 * full, rel=0.05)  # the compute that reaches 58 %
    assert one["price_all_data"] == pytest.approx(one["seconds_all_data"] / 3600 * 2)
    assert ", in money " in verdict_line(analysis)
    assert "of the machine instead of " in verdict_line(analysis)
    for one in analysis["speed_ups"]:
        one["1"]["price"] = None
    assert ", in money " not in verdict_line(analysis)


def test_the_verdict_begins_with_the_speed_up_and_names_all_data_at_equal_compute(study):
    line = verdict_line(judged(study({**LADDER, ("full-equal-compute", 0.2): 0.4, ("winnow", 0.2): 0.62}))[0])
    assert line.startswith("Speed-up to within 2 points of all data: ")
    assert "with one use, everything counted, by winnow at keep 0.2 (" in line
    assert "; winnow at keep 0.2 holds on the mean of 2 targets: " in line
    assert re.search(r"; it beats all data at equal compute by 2[12]\.\d points\.$", line)
    assert re.search(
        r"; for its accuracy all data need at least 4\.0 \(95 %: 4\.0 or more\) times its compute with", line
    )
    assert "x less compute" not in line


def test_where_no_condition_comes_near_the_verdict_begins_with_that(study):
    line = verdict_line(judged(study({**LADDER, ("winnow", 0.1): 0.45}))[0])
    assert line.startswith("Speed-up to within 2 points of all data: none, since no condition that was tried comes so ")


def test_where_no_condition_comes_near_the_sentence_says_so(study):
    analysis, _ = judged(study({**LADDER, ("winnow", 0.1): 0.45}))
    assert analysis["speed_ups"][0]["1"] is None
    assert speed_up_sentences(analysis)[0].startswith("No condition that was tried comes within 2 points of all data")


def test_a_study_without_other_lengths_has_no_speed_up(study):
    analysis, rows = judged(study({("full", 1.0): 0.6, **PRUNED}))
    assert analysis["speed_ups"] == []
    assert speed_up_sentences(analysis) == []
    assert speed_up_table(analysis, "probe") is None
    assert {row["speed_up"] for row in rows.values()} == {None}


def test_the_table_lists_speed_up_over_accuracy_the_best_first(study):
    analysis, _ = judged(study({**LADDER, **PRUNED}))
    header, body = speed_up_table(analysis, "probe")
    assert header[-3:] == ("speed-up, 1 use", "speed-up, 3 uses", "speed-up, 10 uses")
    assert [cells[0] for cells in body] == [
        "full data", "winnow at keep 0.2", "all data at 0.5 of the length", "winnow at keep 0.1",
        "all data at 0.25 of the length", "random at keep 0.2",
    ]  # fmt: skip
    assert [cells[3] for cells in body] == ["100", "25", "50", "15", "25", "20"]
    assert body[0][4:] == body[2][4:] == ["1", "1", "1"]
    assert body[5][4].startswith("≤1.25")


def test_the_note_says_which_controls_were_trained_exactly_and_which_are_read_off(study, capsys):
    exact = {("full-equal-compute", 0.2): 0.4, ("random-equal-compute", 0.2): 0.35}
    folder = study({**LADDER, **PRUNED, **exact})
    note = speed_up_note(judged(folder)[0])
    assert note.endswith(
        "All data (keep 0.2) and a random part (keep 0.2) were trained for exactly the compute that pruned runs take "
        "in all; everywhere else, all data at a condition's compute are read off the curve through lengths 0.25, 0.5, "
        "1 and those runs."
    )
    assert main(["report", "--study", str(folder)]) == 0
    assert "All data (keep 0.2) and a random part (keep 0.2) were trained" in (folder / "report.html").read_text()
    assert main(["show", "--study", str(folder)]) == 0
    assert note in capsys.readouterr().out


def test_the_note_of_a_study_with_other_lengths_alone_says_that_all_is_read_off(study):
    assert speed_up_note(judged(study({**LADDER, **PRUNED}))[0]).endswith(
        "No control was trained for exactly the compute that pruned runs take in all; everywhere else, all data at a "
        "condition's compute are read off the curve through lengths 0.25, 0.5, 1."
    )


def test_speed_ups_are_printed_drawn_and_in_the_csv(study, capsys):
    folder = study({**LADDER, **PRUNED})
    assert main(["show", "--study", str(folder)]) == 0
    printed = capsys.readouterr().out
    assert "Speed-up to within 2 points of all data, by winnow at keep 0.2" in printed
    assert "all data at 0.5 of the length" in printed
    assert main(["show", "--study", str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["speed_ups"][0]["method"] == "winnow"
    assert main(["report", "--study", str(folder)]) == 0
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert '<h2 id="speed-up">Speed-up</h2>' in page
    assert "Speed-up to within 2 points of all data</dt>" in page
    assert "The control full-equal-compute is missing" not in page  # its accuracy can be read off the other lengths
    assert "speed_up_10_value" in results_csv(judged(folder)[0]).splitlines()[0]


@pytest.mark.parametrize(
    ("where", "low_open", "high_open", "text"),
    [
        ("", False, False, "2.6 (95 %: 2.1 to 3.3)"),
        ("above", False, True, "at least 2.6 (95 %: 2.1 or more)"),
        ("below", True, False, "at most 2.6 (95 %: 3.3 or less)"),
        ("", True, True, "2.6 (no limits: beyond the measured lengths)"),
    ],
)
def test_bounds_are_put_in_words(where, low_open, high_open, text):
    one = {"value": 2.6, "low": 2.1, "high": 3.3, "open": where, "low_open": low_open, "high_open": high_open}
    assert speed_up_text(one) == text
