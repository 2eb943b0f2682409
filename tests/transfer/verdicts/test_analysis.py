from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prune.index.npz import open_arrays, save_arrays
from prune.runs.files import InputError, read_json, write_json
from transfer.pages.tables import results_csv, study_markdown
from transfer.verdicts.analysis import analyse
from transfer.verdicts.results_file import load_results

STRONG = {("full", 1.0): 0.6, ("random", 0.2): 0.4, ("random", 0.5): 0.5, ("winnow", 0.2): 0.5, ("winnow", 0.5): 0.62}


def judged(folder: Path, **settings: Any) -> dict[tuple[str, float, str | None], dict[str, Any]]:
    rows = analyse(load_results(folder), folder, **settings)["rows"]
    return {(row["method"], row["keep"], row["target"]): row for row in rows}


def test_verdicts_follow_the_accuracies_that_the_study_was_made_with(study):
    rows = judged(study(STRONG))
    assert rows["winnow", 0.5, None]["verdict"] == "holds"
    assert rows["winnow", 0.2, None]["verdict"] == "loses"
    assert rows["random", 0.5, None]["verdict"] == "loses"
    assert rows["winnow", 0.2, "birds"]["beats_random"] is True
    assert rows["full", 1.0, None]["verdict"] is None
    # 50 % is where random stands at keep 0.5; winnow needed 0.2.
    assert rows["winnow", 0.2, None]["efficiency"]["value"] == pytest.approx(2.5, rel=0.05)


def test_equal_accuracies_beat_nothing(study):
    rows = judged(study({("full", 1.0): 0.6, ("random", 0.2): 0.5, ("winnow", 0.2): 0.5}))
    assert not any(row["beats_random"] for row in rows.values())


def test_a_result_worse_than_random_is_reported_as_such(study):
    row = judged(study({("full", 1.0): 0.6, ("random", 0.2): 0.5, ("winnow", 0.2): 0.4}))["winnow", 0.2, None]
    assert (row["beats_random"], row["worse_than_random"]) == (False, True)


def test_one_seed_decides_nothing(study):
    rows = judged(study(STRONG, seeds=(0,)))
    assert {row["verdict"] for row in rows.values()} == {None, "undecided"}
    assert not any(row["beats_random"] for row in rows.values())
    assert rows["winnow", 0.2, None]["std"] is None


def test_a_wider_margin_lets_more_hold(study):
    folder = study(STRONG)
    assert judged(folder)["winnow", 0.2, None]["verdict"] == "loses"
    assert judged(folder, margin=15.0)["winnow", 0.2, None]["verdict"] == "holds"


def test_intervals_without_predictions_are_wider(study):
    folder = study(STRONG, noise=0.0)
    paired = judged(folder)["winnow", 0.5, "birds"]["random"]
    rows = analyse(load_results(folder), None)["rows"]
    alone = next(r for r in rows if (r["method"], r["keep"], r["target"]) == ("winnow", 0.5, "birds"))["random"]
    assert alone["high"] - alone["low"] > 1.3 * (paired["high"] - paired["low"])


def test_equal_time_is_a_control_of_its_own(study):
    row = judged(study({**STRONG, ("random-equal-time", 0.2): 0.55}))["winnow", 0.2, None]
    assert row["equal_time"]["value"] == pytest.approx(-5, abs=1)
    assert (row["beats_random"], row["beats_equal_time"]) == (True, False)


def test_a_target_that_is_not_finished_stays_out_of_the_mean(study):
    folder = study(STRONG)
    results = read_json(folder / "results.json")
    results["cells"] = [c for c in results["cells"] if (c["target"], c["method"]) != ("cars", "winnow")]
    write_json(folder / "results.json", results)
    rows = judged(folder)
    assert ("winnow", 0.2, "birds") in rows
    assert ("winnow", 0.2, "cars") not in rows
    assert ("winnow", 0.2, None) not in rows
    assert ("random", 0.2, None) in rows


def test_each_evaluation_is_judged_on_its_own(study):
    rows = analyse(load_results(folder := study(STRONG, evaluations=("probe", "finetune"))), folder)["rows"]
    assert [row["evaluation"] for row in rows] == ["probe"] * (len(rows) // 2) + ["finetune"] * (len(rows) // 2)


def test_the_analysis_is_the_same_every_time_and_is_json(study):
    folder = study(STRONG)
    one, other = (json.dumps(analyse(load_results(folder), folder), allow_nan=False) for _ in range(2))
    assert one == other


def test_the_csv_holds_every_row_with_its_intervals(study):
    analysis = analyse(load_results(folder := study(STRONG)), folder)
    rows = list(csv.DictReader(io.StringIO(results_csv(analysis))))
    assert len(rows) == len(analysis["rows"]) == 15  # five conditions on two targets and their mean
    found = next(r for r in rows if (r["method"], r["keep"], r["target"]) == ("winnow", "0.5", "(mean)"))
    assert found["verdict"] == "holds"
    assert float(found["vs_full_low"]) < float(found["vs_full_value"]) < float(found["vs_full_high"])


def test_markdown_has_a_table_per_target_and_no_markup_of_others(study):
    analysis = analyse(load_results(folder := study(STRONG)), folder)
    text = study_markdown(analysis, "A | verdict.", "2026-01-01")
    assert [line for line in text.splitlines() if line.startswith("## ")] == [
        "## probe: mean over targets", "## probe: birds (4000 test images)", "## probe: cars (4000 test images)",
        "## Cost", "## Command",
    ]  # fmt: skip
    assert "2 cores &lt;made up>" in text
    widths = {line.count("|") for line in text.splitlines() if line.startswith("| ")}
    assert len(widths) == 3  # verdicts, costs, stages: every line of a table has its columns


def damaged(results: dict[str, Any], what: str) -> dict[str, Any]:
    one = results["cells"][0]
    if what == "format":
        results["format"] = "winnow-study/9"
    elif what == "value":
        del one["value"]
    elif what == "twice":
        results["cells"].append(one)
    elif what == "empty":
        results["cells"] = []
    return results


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("format", "winnow-study/9"),
        ("value", r"cells\[0\] has no valid value"),
        ("twice", "two results for full, 1.0, 0, birds, probe"),
        ("empty", "holds no result"),
    ],
)
def test_a_results_file_that_makes_no_sense_is_refused(study, what: str, message: str):
    folder = study(STRONG)
    write_json(folder / "results.json", damaged(read_json(folder / "results.json"), what))
    with pytest.raises(InputError, match=message):
        load_results(folder)


def test_predictions_on_other_test_images_are_refused(study):
    folder = study(STRONG)
    place = folder / load_results(folder)["cells"][3]["predictions"]
    arrays, meta = open_arrays(place, "winnow-predictions/1", mapped=False)
    save_arrays(place, {**arrays, "label": np.roll(arrays["label"], 1)}, meta)
    with pytest.raises(InputError, match="not those of the other runs on birds"):
        analyse(load_results(folder), folder)


def test_predictions_that_are_gone_are_named(study):
    folder = study(STRONG)
    place = folder / load_results(folder)["cells"][0]["predictions"]
    place.unlink()
    with pytest.raises(InputError, match=r"predictions\.npz: no such file"):
        analyse(load_results(folder), folder)
