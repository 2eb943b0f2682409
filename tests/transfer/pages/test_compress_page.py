"""The page of compressions: sizes by step, nearest classes, names from outside, no network."""

from __future__ import annotations

import json
import math

import pytest

from transfer.__main__ import main
from transfer.compression import journal
from transfer.pages import compress_page

EVIL = "<b>newt</b></script>"


def line(step: int, base: int, kind: str, params: int, verdict: str, newt: float, **more) -> dict:
    values = {
        "step": step, "base": base, "kind": kind, "what": {"ratio": 0.2}, "params": params, "bytes": 4 * params,
        "macs": 10 * params, "latency_ms": params / 100 if verdict == "accepted" else None, "accuracy": 0.9,
        "per_class": {"cat": 0.9, EVIL: newt, "none": None}, "overall_used": 0.1, "class_used": (0.8 - newt) * 10,
        "nearest": EVIL, "verdict": verdict, "reason": "within the margins", "files": {}, "seconds": 1.0,
    }  # fmt: skip
    return {**values, **more}


LINES = [
    line(0, 0, "original", 1000, "accepted", 0.8, what={}),
    line(1, 0, "channels", 600, "accepted", 0.8),
    line(2, 1, "channels", 300, "rolled-back", 0.6, reason=f"{EVIL}: 20.0 points lost, 10 are allowed"),
    line(3, 1, "channels", 450, "accepted", 0.75),
    line(4, 3, "int8", 450, "accepted", 0.74, bytes=500, what={"mode": "int8"}),
]


@pytest.fixture
def run(tmp_path):
    place = tmp_path / "pets <i>small"
    place.mkdir()
    journal.write_journal(place, LINES)
    (place / "config.json").write_text(json.dumps({"class_margin": 10.0, "note": EVIL}))
    return place


BACK = {**LINES[1], "step": 5, "base": 1, "kind": "rollback", "what": {"to": 1}, "reason": "by hand, from step 4"}


def test_kept_steps_are_the_chain_from_the_original_without_what_was_rolled_back():
    assert [one["step"] for one in journal.kept_steps(LINES)] == [0, 1, 3, 4]
    assert [one["step"] for one in journal.kept_steps([*LINES, BACK])] == [0, 1]
    assert journal.undone_steps(LINES) == {}
    assert journal.undone_steps([*LINES, BACK]) == {3: 5, 4: 5}
    more = [
        line(6, 1, "channels", 500, "accepted", 0.8),
        {**LINES[0], "step": 7, "kind": "rollback", "what": {"to": 0}},
    ]
    assert journal.undone_steps([*LINES, BACK, *more]) == {1: 7, 3: 5, 4: 5, 6: 7}
    again = {**LINES[3], "step": 6, "base": 3, "kind": "rollback", "what": {"to": 3}}
    assert journal.undone_steps([*LINES, BACK, again]) == {4: 5}


def test_after_a_rollback_the_page_shows_the_model_that_came_back_and_which_steps_it_undid():
    lines = [*LINES, {**BACK, "counted": False}]
    said = compress_page.outcome_sentences({"pets": (lines, {})})
    # Step 1: 2,400 of 4,000 bytes, 10.00 ms against 6.00; steps 3 and 4 are no part of it.
    assert said == (
        "pets: the model of step 1: 60.0 % of the file, 1.7x as fast, +0.0 points on the preservation set; 1 step "
        "accepted, 1 rolled back, 2 accepted steps (3, 4) undone by a later rollback."
    )
    rows = [compress_page.step_texts("pets", one, lines) for one in lines]
    verdicts = ["accepted", "accepted", "rolled-back", "accepted, undone by 5", "accepted, undone by 5", ""]
    assert [row[-2] for row in rows] == verdicts
    assert rows[5][1] == "rollback to step 1"
    assert rows[5][3:8] == rows[1][3:8]
    assert rows[5][-1] == "by hand, from step 4; does not count towards --steps"
    result = journal.summary(lines)
    assert (result["step"], result["accepted"], result["undone"], result["rolled_back"]) == (1, 1, [3, 4], 1)


def test_attempts_that_found_nothing_to_remove_are_no_rollbacks():
    empty = line(5, 4, "channels", 450, "rolled-back", 0.74, reason="nothing is left", counted=False)
    assert "3 steps accepted, 1 rolled back, 1 attempt with nothing to remove" in compress_page.outcome_sentences(
        {"pets": ([*LINES, empty], {})}
    )


def test_nearest_classes_are_those_that_lost_most_of_their_margin():
    # newt: 0.80 -> 0.74 is 6 points, 0.6 of a margin of 10; cat lost nothing; a class without images does not count.
    found = compress_page.nearest_classes(LINES, {"class_margin": 10.0})
    assert [(name, round(lost, 6), round(share, 6)) for name, lost, share in found] == [(EVIL, 6, 0.6), ("cat", 0, 0)]
    assert compress_page.nearest_classes(LINES, {"class_margin": None})[0][2] is None


def test_the_size_goes_down_with_accepted_steps_and_spikes_at_the_others():
    stairs, spikes = compress_page._sizes("pets", LINES)
    assert list(zip(stairs.x, stairs.y)) == [
        (0, 100), (1, 100), (1, 60), (2, 60), (2, 60), (3, 60), (3, 45), (4, 45), (4, 45)
    ]  # fmt: skip
    assert list(zip(spikes.x, spikes.y)) == [(2, 60), (2, 30)]
    again = line(5, 4, "channels", 200, "rolled-back", 0.1)
    spikes = compress_page._sizes("pets", [*LINES, again])[1]
    assert spikes.x == [2, 2, 5, 5, 5]
    assert math.isnan(spikes.y[2])


def test_the_page_says_what_came_out_and_escapes_names(run, tmp_path, browser):
    out = tmp_path / "page.html"
    assert main(["compress-report", "--runs", str(run), "--out", str(out)]) == 0
    text = out.read_text(encoding="utf-8")
    # int8: 500 of 4000 bytes; 10.00 ms against 4.50.
    assert "12.5 % of the file, 2.2x as fast, +0.0 points" in text
    assert "3 steps accepted, 1 rolled back" in text
    assert EVIL not in text
    browser.open(out)
    assert browser.complaints() == []
    assert all(address.startswith(("file:", "data:")) for address in browser.requests())
    assert browser.run("document.querySelectorAll('table b, table i, h1 i, td i').length") == 0
    assert browser.run("document.querySelectorAll('.chart svg').length") >= 5
    assert browser.run("document.querySelectorAll('tbody tr').length") == len(LINES)
    assert browser.serious() == []


def test_the_page_lists_what_each_step_removed(tmp_path):
    removed = [
        {"layer": "conv1", "of": 8, "channels": [2, 5], "importance": [0.1, 0.25], "rank": [8, 7],
         "serves": [EVIL, None], "rise": [0.1, None], "classes": {EVIL: 0.08}},
    ]  # fmt: skip
    step = line(1, 0, "channels", 600, "accepted", 0.8, what={"ratio": 0.2, "removed": removed})
    wanted = ["pets 1", "conv1", "2 of 8", "0.1 to 0.25", "8 to 7", f"{EVIL} +0.08", "2, 5"]
    assert compress_page.removed_texts("pets", step) == [wanted]
    assert compress_page.removed_texts("pets", LINES[1]) == []  # of an older version
    text = compress_page.compression_html({"pets": ([LINES[0], step], {})})
    assert text.count("<tbody>") == 2
    assert "What each step removed" in text
    assert EVIL not in text
    assert "What each step removed" not in compress_page.compression_html({"pets": (LINES, {})})


def test_the_page_of_a_language_model_speaks_of_tokens_groups_and_perplexity(tmp_path):
    def test(name, lost, allowed):
        return {"test": name, "original": 1.0, "value": 1.0, "lost": lost, "margin": allowed, "allowed": allowed,
                "holds": True}  # fmt: skip

    tests = [test("perplexity", 2.0, 3.0), test("dates", 0.02, 0.1), test("names", 0.075, 0.1)]
    lines = [{**one, "perplexity": 20.0 + one["step"], "tests": tests} for one in (LINES[0], LINES[1])]
    assert compress_page.nearest_text(lines, {}) == (
        "names 0.075 nats lost (75 % of its margin), dates 0.02 nats lost (20 % of its margin)"
    )
    assert compress_page.header_of([lines])[7:9] == ("tokens predicted right %", "nearest group")
    text = compress_page.compression_html({"lm": (lines, {})})
    assert "perplexity 20.0 to 21.0 on held-out text; 1 step accepted, 0 rolled back" in text
    assert "Groups of prompts nearest to their margin in the current model." in text
    assert [word in text for word in ("accuracy %", "preservation set,", "One image", "nearest class")] == [False] * 4
    both = compress_page.compression_html({"lm": (lines, {}), "pets": (LINES, {})})
    assert "accuracy, or tokens predicted right, %" in both


def test_several_runs_share_the_charts_and_a_run_without_latencies_is_not_in_that_chart(run, tmp_path, capsys):
    other = tmp_path / "unguarded"
    other.mkdir()
    journal.write_journal(other, [{**one, "latency_ms": None} for one in LINES])
    (other / "config.json").write_text("{}")
    out = tmp_path / "page.html"
    assert main(["compress-report", "--runs", str(run), str(other), "--out", str(out)]) == 0
    assert "unguarded: 12.5 % of the file, +0.0 points" in capsys.readouterr().err


def test_other_directories_are_refused(tmp_path, capsys):
    assert main(["compress-report", "--runs", str(tmp_path), "--out", str(tmp_path / "x.html")]) == 2
    assert "not a run of `transfer compress`" in capsys.readouterr().err
    assert not (tmp_path / "x.html").exists()
