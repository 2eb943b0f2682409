"""`transfer decide`: what each way to store the data takes, what a tenth less loses, and what nobody knows yet."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from prune.__main__ import main as prune_main
from prune.byte_budget.budget_inputs import Curves
from prune.data.dataset import open_dataset
from prune.index.manifest import Manifest
from prune.index.pruned_index import PrunedIndex
from prune.runs.files import InputError
from transfer.__main__ import main
from transfer.pages.decision_page import cells_of
from transfer.pages.storage_options import chosen_of, option, plan_worth

ACCURACY = {
    ("full", 1.0): 0.6,
    ("random", 0.2): 0.4,
    ("random", 0.5): 0.5,
    ("winnow", 0.2): 0.61,
    ("winnow", 0.5): 0.63,
}


def told(capsys, *words: object) -> dict:
    capsys.readouterr()
    assert main(["decide", *map(str, words), "--json"]) == 0
    found: dict = json.loads(capsys.readouterr().out)
    return found


def named(decision: dict, name: str) -> dict:
    (found,) = [one for one in decision["options"] if one["name"] == name]
    return found


def test_a_study_takes_the_part_that_holds_with_the_fewest_bytes(study, capsys):
    folder = study(ACCURACY, classes=("cat", "dog"))
    found = told(capsys, folder, "--storage-price", 2, "--price", 3, "--watts", 500)
    assert found["chosen"] == "winnow at keep 0.2"
    assert "of 2 parts that hold the one with the fewest bytes, within 0.5 points of all data" in found["why"]
    whole, part = named(found, "all data"), named(found, "winnow at keep 0.2")
    index = PrunedIndex.load(folder / "indices/winnow-0.2.index.npz")
    assert part["bytes"] == int(index.nbytes.sum())
    assert part["storage"] == pytest.approx(2 * part["bytes"] / 1e9)
    assert part["price"] == pytest.approx(3 * part["seconds"] / 3600)
    assert part["kwh"] == pytest.approx(0.5 * part["seconds"] / 3600)
    assert whole["bytes"] == index.source_nbytes
    # Between keeps 0.2 (or 0.5) and 1 the accuracy is interpolated over the logarithm of the keep.
    value = {one["name"]: one["accuracy"]["value"] for one in found["options"]}
    share = math.log(0.45 / 0.2) / math.log(0.5 / 0.2)
    there = value["winnow at keep 0.2"] + share * (value["winnow at keep 0.5"] - value["winnow at keep 0.2"])
    less = named(found, "winnow at keep 0.5")["less"]["points"]
    assert less == pytest.approx(there - value["winnow at keep 0.5"])
    # Below the smallest keep nobody has measured: the command that would is named.
    assert part["less"] is None
    (unknown,) = [one for one in found["unknown"] if one["what"] == "a tenth less than keep 0.2"]
    assert "0.18" in unknown["command"]
    assert unknown["command"].startswith(f"cd {folder} && ")
    assert any(one["what"].startswith("decoding time (") for one in found["unknown"])  # the beton has no manifest


def test_other_lengths_of_all_data_are_no_keeps_to_try_less_of(study, capsys):
    found = told(capsys, study({**ACCURACY, ("full-length", 0.25): 0.4, ("full-equal-compute", 0.3): 0.4}))
    assert [one["name"] for one in found["options"]] == [
        "all data", "random at keep 0.2", "random at keep 0.5", "winnow at keep 0.2", "winnow at keep 0.5"
    ]  # fmt: skip
    assert [one["what"] for one in found["unknown"] if "a tenth" in one["what"]] == ["a tenth less than keep 0.2"]


def test_a_table_in_a_pipe_cuts_no_word(study, capsys):
    assert main(["decide", str(study(ACCURACY)), "--price", "3", "--storage-price", "2", "--watts", "500"]) == 0
    shown = capsys.readouterr().out
    assert "…" not in shown
    assert "price of training" in shown


def test_a_study_without_its_indices_is_judged_by_keep_and_its_bytes_are_unknown(study, capsys):
    found = told(capsys, study(ACCURACY))
    assert found["chosen"] == "winnow at keep 0.2"
    assert "the one with the smallest keep" in found["why"]
    assert named(found, "winnow at keep 0.2")["bytes"] is None
    assert any(one["what"].startswith("bytes of all data, random at keep 0.2") for one in found["unknown"])


def test_a_study_in_which_nothing_holds_keeps_all_data(study, capsys):
    found = told(capsys, study({**ACCURACY, ("winnow", 0.2): 0.45, ("winnow", 0.5): 0.5}))
    assert found["chosen"] == "all data"
    assert found["why"] == "No part is shown to hold within 0.5 points of all data (4 tried): keep all data."


def test_a_page_has_the_same_and_escapes_every_name(study, tmp_path):
    folder = study({("full", 1.0): 0.6, ("random", 0.5): 0.5, ("<b>&x", 0.5): 0.63}, classes=("<i>",))
    page = tmp_path / "d.html"
    assert main(["decide", str(folder), "--html", str(page)]) == 0
    text = page.read_text()
    assert "&lt;b&gt;&amp;x at keep 0.5" in text
    assert "<b>&x" not in text
    assert "What is not known, and what finds it out" in text
    assert "<svg" in text
    assert "unknown" in text


def curves_of(manifest: Manifest, fmse: list[list[float]], sizes: list[list[int]]) -> Curves:
    n = len(manifest)
    return Curves(np.array([0, 50], np.uint8), np.array(sizes), np.array(fmse, np.float32), np.ones(n, np.float32),
                  np.ones(n, bool), "", None)  # fmt: skip


def test_worth_and_what_a_tenth_less_loses_by_hand():
    n = 4
    manifest = Manifest(np.array([b"a", b"b", b"c", b"d"]), np.zeros(n, np.int32), np.full(n, 100, np.int32),
                        np.ones(n, np.int32), np.ones(n, np.int32), np.arange(n, dtype=np.uint64),
                        np.zeros(n, np.uint32), ["x"])  # fmt: skip
    index = PrunedIndex.from_rows(manifest, np.array([0, 1, 2]), provenance=[])
    # Dropping costs 1 each; at quality 50 an image takes 60 bytes and has lost 0.1, 0.2, 0.3.
    curves = curves_of(manifest, [[0, 0.1], [0, 0.2], [0, 0.3], [0, 0]], [[100, 60]] * 4)
    worth, lost = plan_worth(index, curves)
    assert worth == pytest.approx(3 / 4)
    # 300 bytes now, 270 then: the one that loses least, 0.1 of 3, is stored at quality 50.
    assert lost == pytest.approx(0.1 / 3)
    # A plan that has it there already holds 260 bytes, worth 2.9; 234 bytes need the second, too: 0.2 less.
    planned = replace(index, quality=np.array([50, 0, 0], np.uint8), nbytes=np.array([60, 100, 100], np.int32))
    worth, lost = plan_worth(planned, curves)
    assert worth == pytest.approx(2.9 / 4)
    assert lost == pytest.approx(0.2 / 2.9)
    with pytest.raises(InputError, match="measured no quality 77"):
        plan_worth(replace(planned, quality=np.array([77, 0, 0], np.uint8)), curves)


def test_a_plan_without_an_accuracy_says_so_and_takes_the_results_that_are_given(toy, tmp_path, capsys):
    manifest = open_dataset(toy.source).manifest
    place = tmp_path / "plan.index.npz"
    PrunedIndex.from_rows(manifest, np.arange(0, len(manifest), 3), provenance=[]).save(place)
    found = told(capsys, place)
    assert found["chosen"] is None
    assert found["why"].endswith("its accuracy is not measured.")
    assert {"accuracy", "time of training", "decoding time"} <= {one["what"] for one in found["unknown"]}
    assert named(found, "the plan")["accuracy"] is None
    (tmp_path / "probe").mkdir()
    (tmp_path / "probe/result.json").write_text('{"value": 0.5}')
    (tmp_path / "model").mkdir()
    (tmp_path / "model/metrics.jsonl").write_text('{"seconds": 2, "samples": 400}\n{"seconds": 2, "samples": 400}\n')
    given = ("--evaluation", tmp_path / "probe", "--trained", tmp_path / "model", "--source", toy.source)
    found = told(capsys, place, *given)
    plan = named(found, "the plan")
    assert plan["accuracy"] == {"value": 50.0}
    assert plan["seconds"] == 4.0
    assert plan["decode_share"] == pytest.approx(plan["decode_ms"] / 5)  # 5 ms of training an image
    assert plan["decode_ms"] > 0
    assert not {"accuracy", "time of training", "decoding time"} & {one["what"] for one in found["unknown"]}


def test_fields_of_the_source_are_counted_for_what_the_plan_keeps(toy, tmp_path, capsys):
    images = str(toy.root / "data/signs/test")
    write = ["write", "--images", images, "--out", str(tmp_path / "x.beton")]
    assert prune_main(write) == 0
    manifest = open_dataset(tmp_path / "x.beton").manifest
    rows = "".join(f"{name.decode()},{'cc0' if k < 3 else 'by'}\n" for k, name in enumerate(manifest.ids.tolist()))
    (tmp_path / "t.csv").write_text("id,licence\n" + rows)
    assert prune_main([*write, "--fields", str(tmp_path / "t.csv")]) == 0
    PrunedIndex.from_rows(manifest, np.arange(2, 7), provenance=[]).save(tmp_path / "p.index.npz")
    found = told(capsys, tmp_path / "p.index.npz", "--source", tmp_path / "x.beton")
    assert found["retention"] == {"licence": {"by": 4, "cc0": 1}}


def test_a_run_of_a_stream_is_read_and_its_gaps_are_named(tmp_path, capsys):
    heads = {"linear": {"mean": 0.3, "std": 0.01}, "nearest-mean": {"mean": 0.4, "std": None}}
    entry = {"policy": "uniform", "seeds": 1, "peak": 1000, "held": 7.0, "heads": heads}
    result = {"task": "stream", "summary": [entry], "config": {"memory": 1000}}
    (tmp_path / "result.json").write_text(json.dumps(result))
    found = told(capsys, tmp_path)
    assert found["chosen"] == "uniform"
    assert named(found, "uniform")["accuracy"] == {"value": 40.0, "std": None, "head": "nearest-mean"}
    assert any("--memory 900" in one["command"] for one in found["unknown"])


def test_a_run_of_incremental_learning_interpolates_between_its_memories(tmp_path, capsys):
    def entry(form: str, memory: int, mean: float) -> dict:
        heads = {"linear": {"mean": mean, "std": 0.02}}
        return {"form": form, "memory": memory, "bytes": memory - 5.0, "exemplars": 9.0, "heads": heads}

    summary = [entry("raw", 1000, 0.3), entry("raw", 100, 0.2), entry("compressed", 1000, 0.5)]
    (tmp_path / "result.json").write_text(json.dumps({"task": "incremental", "summary": summary, "config": {}}))
    found = told(capsys, tmp_path, "--storage-price", "1")
    assert found["chosen"] == "compressed, 1,000 bytes"
    # A factor of ten costs 10 points, so a tenth less 10 log10(0.9) of them.
    assert named(found, "raw, 1,000 bytes")["less"]["points"] == pytest.approx(10 * math.log10(0.9))
    assert named(found, "raw, 100 bytes")["less"] is None
    assert named(found, "compressed, 1,000 bytes")["less"] is None
    assert named(found, "raw, 100 bytes")["storage"] == pytest.approx(95e-9)
    assert any("--memory 90 " in one["command"] for one in found["unknown"])


def test_of_equal_parts_the_smaller_is_taken_and_a_tie_by_time():
    parts = [
        option("a", "m", bytes=10, verdict="holds", seconds=5.0),
        option("b", "m", bytes=10, verdict="holds", seconds=4.0),
        option("c", "m", bytes=1, verdict="undecided"),
    ]
    assert chosen_of("study", parts, 1.0)[0] == "b"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("nowhere",), "no such file or directory"),
        (("empty",), "neither a study nor a run"),
        (("bad",), "not a result of `transfer stream`"),
        (("empty", "--price", "-1"), "--price -1"),
        (("empty", "--html", "x.htm"), "a file that ends in .html"),
    ],
)
def test_mistakes_are_one_line(tmp_path: Path, capsys, words, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad/result.json").write_text('{"task": "probe"}')
    assert main(["decide", str(tmp_path / words[0]), *words[1:]]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_one_seed_is_called_too_few_and_not_a_reason_for_all_data(study, capsys):
    found = told(capsys, study({**ACCURACY, ("winnow", 0.2): 0.598}, seeds=(0,)))
    assert found["why"].startswith("Undecided: one seed is too few for a verdict (4 tried, 0.5 points allowed).")
    assert found["chosen"] == "all data"
    assert any(one["command"].startswith("prune curves ") for one in found["unknown"])
    # 1e12 FLOPs are one pretraining on full data; a part of 0.2 costs a fifth of them, and its surrogate.
    assert named(found, "all data")["flops"] == pytest.approx(1e12)
    assert named(found, "random at keep 0.2")["flops"] == pytest.approx(0.2e12)
    assert any("are wall-clock seconds of the machine that trained" in text for text in found["notes"])


def test_prices_follow_flops_where_other_work_slowed_one_training_down(study, capsys):
    folder = study(ACCURACY)
    results = json.loads((folder / "results.json").read_text())
    for entry in results["ledger"]:
        if entry["stage"] == "pretrain" and (entry["method"], entry["keep"]) == ("winnow", 0.2):
            entry["seconds"] *= 5  # 3,600 seconds instead of 720
    (folder / "results.json").write_text(json.dumps(results))
    found = told(capsys, folder, "--price", 3, "--watts", 500)
    slow, random, whole = (named(found, name) for name in ("winnow at keep 0.2", "random at keep 0.2", "all data"))
    assert slow["seconds"] == pytest.approx(3600 + 180)  # as measured
    # All five trainings cost 1 + 0.2 + 0.5 + 0.2 + 0.5 of full data, and took as many hours and 0.8 more.
    speed = (2.4 + 0.8) / 2.4
    assert whole["price"] == pytest.approx(3 * speed)
    assert random["price"] == pytest.approx(3 * 0.2 * speed)
    assert slow["price"] == pytest.approx(3 * (0.2 * speed + 0.05))  # and its surrogate
    assert slow["kwh"] == pytest.approx(0.5 * (0.2 * speed + 0.05))
    assert any(text.startswith("Prices and energy are by FLOPs: each training") for text in found["notes"])


def test_a_planned_study_has_no_results_yet(tmp_path, capsys):
    (tmp_path / "plan.jsonl").write_text("{}\n")
    assert main(["decide", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert "the study is planned and has no results yet; `transfer study --out" in error
    assert error.count("\n") == 1


def test_a_loss_that_rounds_to_nothing_has_no_sign_of_a_loss():
    assert cells_of(option("a", "m", less={"points": -0.04}))[-1] == "+0.0 points"
    assert cells_of(option("a", "m", less={"worth": 0.00001}))[-1] == "+0.00 % of its worth"
