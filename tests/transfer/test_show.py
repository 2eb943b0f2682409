from __future__ import annotations

import json
from pathlib import Path

import pytest

from transfer.__main__ import main
from transfer.verdicts.advice import advice_sentences
from transfer.verdicts.analysis import analyse
from transfer.verdicts.headline import verdict_line
from transfer.verdicts.results_file import load_results

CONTROLS = {("full", 1.0): 0.6, ("random", 0.2): 0.4, ("random", 0.5): 0.5}


def line_of(folder: Path) -> str:
    return verdict_line(analyse(load_results(folder), folder))


def test_the_line_names_the_smallest_keep_that_holds_and_its_factor(study):
    # A surrogate of 5 % and keep 0.2: 1 / 0.25 = 4 times cheaper; winnow at 0.5 holds as well and is not named.
    line = line_of(study({**CONTROLS, ("winnow", 0.2): 0.61, ("winnow", 0.5): 0.63}))
    assert line.startswith("Winnow at keep 0.2 holds on the mean of 2 targets: +1.")
    assert "at 4.0x less compute with one use of the index" in line
    assert "it beats random at the same keep by 2" in line


def test_the_line_says_plainly_that_pruning_did_not_hold(study):
    line = line_of(study({**CONTROLS, ("winnow", 0.2): 0.45, ("winnow", 0.5): 0.53}))
    assert line.startswith("Pruning did not hold at any keep tried (0.2, 0.5): the best, winnow at keep 0.5, is -7.")
    assert "The smallest keep that holds is 1, full data, which saves nothing." in line


def test_the_line_says_when_random_would_have_done(study):
    held = {**CONTROLS, ("random", 0.5): 0.61, ("winnow", 0.5): 0.61}
    assert "random holds as well, so the selection was not needed" in line_of(study(held))


def test_the_line_says_when_only_random_holds(study):
    line = line_of(study({**CONTROLS, ("random", 0.5): 0.62, ("winnow", 0.5): 0.5}))
    assert "Only random holds, at keep 0.5." in line
    assert "saves nothing" not in line


def test_the_line_is_undecided_where_the_interval_reaches_both_sides(study):
    line = line_of(study({**CONTROLS, ("winnow", 0.5): 0.595}, noise=0.01, images=500))
    assert line.startswith("Undecided: no keep tried (0.5) is shown to hold within 0.5 points")


def test_a_keep_that_holds_below_one_that_does_not_is_not_named_the_smallest(study):
    folder = study({**CONTROLS, ("winnow", 0.2): 0.63, ("winnow", 0.5): 0.55})
    assert line_of(folder).startswith("Undecided: winnow at keep 0.2 holds, +")
    words = advice_sentences(analyse(load_results(folder), folder))
    assert words[0].startswith("winnow at keep 0.2 is shown to hold and no larger keep is")


def test_a_keep_of_many_digits_finds_its_costs(study):
    line = line_of(study({("full", 1.0): 0.6, ("random", 1 / 3): 0.5, ("winnow", 1 / 3): 0.63}))
    assert "at 2.6x less compute" in line  # 1 / (1/3 + 0.05)


def test_one_seed_is_undecided_in_so_many_words(study):
    assert line_of(study({**CONTROLS, ("winnow", 0.5): 0.9}, seeds=(0,))).startswith("Undecided: one seed is too few")


def test_a_surrogate_that_costs_more_than_it_saves_is_called_out(study):
    # 0.9 once and 0.5 each time: 1.4 for one use; 0.9 / 0.5 = 1.8, so the second use pays.
    line = line_of(study({**CONTROLS, ("winnow", 0.5): 0.62}, surrogate=0.9))
    assert "at 1.4x MORE compute with one use of the index (pays from use 2)" in line


@pytest.mark.parametrize(
    ("accuracy", "start"),
    [
        (CONTROLS, "No verdict: the study contains controls and no pruning method"),
        ({("random", 0.5): 0.5, ("winnow", 0.5): 0.55}, "No verdict against full data"),
    ],
)
def test_without_something_to_compare_there_is_no_verdict(study, accuracy, start: str):
    assert line_of(study(accuracy)).startswith(start)


def test_the_line_says_when_a_condition_holds_only_without_the_correction_for_their_number(study):
    folder = study({**CONTROLS, ("winnow", 0.5): 0.62})
    analysis = analyse(load_results(folder), folder)
    sure = verdict_line(analysis)
    assert "Holm" not in sure
    for row in analysis["rows"]:
        row["verdict_corrected"] = "undecided"
    assert verdict_line(analysis) == (
        f"{sure} That is the verdict on this condition by itself; corrected for the number of conditions that the "
        "study compares (Holm), it is not shown to hold."
    )


def test_show_prints_a_table_for_each_target_and_ends_with_the_line(study, capsys):
    folder = study({**CONTROLS, ("winnow", 0.5): 0.62}, targets=("birds", "[bold]cars"))
    assert main(["show", "--study", str(folder)]) == 0
    text = capsys.readouterr().out
    assert "probe on the mean over targets" in text
    assert "probe on [bold]cars, 4000 images" in text  # markup of rich stays text
    assert text.splitlines()[-1] == line_of(folder)


def test_show_prints_everything_as_json(study, capsys):
    folder = study({**CONTROLS, ("winnow", 0.5): 0.62})
    assert main(["show", "--study", str(folder), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["verdict"] == line_of(folder)
    assert {"rows", "ledger", "margin", "config"} <= found.keys()


def leaks(leaked, images=2000):
    return {"images": images, "leaked": leaked, "source_images": 2 * leaked, "identical": leaked // 2}


def test_test_images_that_the_source_holds_are_reported_in_one_line(study, capsys):
    folder = study({**CONTROLS, ("winnow", 0.5): 0.62}, leaks={"cars": leaks(1), "birds": leaks(12)})
    assert main(["show", "--study", str(folder)]) == 0
    (said,) = [line for line in capsys.readouterr().out.splitlines() if "near-duplicate" in line]
    assert said.startswith(
        "12 of 2,000 test images of birds (6 identical) and 1 of 2,000 test images of cars (0 identical) have a near-"
    )
    assert "`prune score --leaks` and `prune select --drop-leaks`" in said
    assert main(["show", "--study", str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["leaks"]["birds"]["leaked"] == 12


def test_look_alikes_of_which_none_is_identical_are_called_no_more_than_that(study, capsys):
    folder = study({**CONTROLS, ("winnow", 0.5): 0.62}, leaks={"birds": leaks(1)})
    assert main(["show", "--study", str(folder)]) == 0
    said = capsys.readouterr().out
    assert (
        "1 of 2,000 test images of birds look to the surrogate like a copy of a source image; none is identical."
        in said
    )
    assert "raises the accuracy" not in said


PIXEL = "data:image/png;base64,iVBORw0KGgo="


def compared(**more):
    pair = {"ids": ["x/<b>1</b>.png", "t/1.png"], "likeness": 0.97, "images": [PIXEL, PIXEL]}
    return leaks(3) | {"similar": 5, "compared": True, "closest": [pair, pair | {"likeness": 0.41}]} | more


def test_copies_that_were_compared_on_the_images_are_called_copies_and_the_page_shows_the_closest_pairs(study, capsys):
    folder = study({**CONTROLS, ("winnow", 0.5): 0.62}, leaks={"birds": compared()})
    assert main(["show", "--study", str(folder)]) == 0
    assert "3 of 2,000 test images of birds (1 identical) have a copy in the source" in capsys.readouterr().out
    assert main(["report", "--study", str(folder)]) == 0
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert page.count(f'<img src="{PIXEL}"') == 4
    assert "0.97: a copy" in page
    assert "0.41: alike only to the surrogate" in page
    assert "source image x/&lt;b&gt;1&lt;/b&gt;.png" in page


@pytest.mark.parametrize("uri", ["javascript:alert(1)", 'data:image/png;base64,A" onerror="x', "http://x/y.png", 3])
def test_a_pair_whose_images_are_no_data_uris_is_refused(study, capsys, uri):
    pair = {"ids": ["a", "b"], "likeness": 0.9, "images": [PIXEL, uri]}
    folder = study({**CONTROLS, ("winnow", 0.5): 0.62}, leaks={"birds": compared(closest=[pair])})
    assert main(["report", "--study", str(folder)]) == 2
    assert "no valid closest pairs" in capsys.readouterr().err


@pytest.mark.parametrize("found", [None, {}, {"birds": leaks(0)}])
def test_without_leaks_none_are_mentioned(study, capsys, found):
    folder = study({**CONTROLS, ("winnow", 0.5): 0.62}, leaks=found)
    assert main(["show", "--study", str(folder)]) == 0
    assert "near-duplicate" not in capsys.readouterr().out


@pytest.mark.parametrize("step", ["show", "report"])
def test_a_directory_without_results_is_one_clear_line_and_exit_code_2(tmp_path, capsys, step: str):
    assert main([step, "--study", str(tmp_path)]) == 2
    assert capsys.readouterr().err.strip() == (
        f"transfer {step}: {tmp_path}/results.json: no such file; `transfer study` writes it"
    )
    assert not list(tmp_path.iterdir())
