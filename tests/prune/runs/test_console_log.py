"""Standard error: lines for people, a line a minute without a terminal, JSON, or errors alone."""

from __future__ import annotations

import json
import os

import pytest

from prune import __main__ as prune
from prune.runs import progress
from prune.runs.files import note


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test sets."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_without_a_terminal_there_is_a_line_a_minute_with_done_total_rate_and_time_left(clock, capsys):
    for item in progress.track(range(200), 200, "features"):
        clock[0] = item + 1.0  # one a second
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "features: 60 of 200, 1.0/s, 2 min left",
        "features: 120 of 200, 1.0/s, 80 s left",
        "features: 180 of 200, 1.0/s, 20 s left",
    ]


def test_a_short_step_writes_no_line(clock, capsys):
    assert list(progress.track(range(5), 5, "scores")) == list(range(5))
    assert capsys.readouterr().err == ""


def test_what_is_not_counted_has_a_share_and_its_state(clock, capsys):
    with progress.display("training", 1.0, counted=False) as update:
        assert update is not None
        clock[0] = 90.0
        update(0.25, "epoch 2")
    assert capsys.readouterr().err == "training: 25%, 4 min left, epoch 2\n"


def test_processes_above_the_first_show_nothing(clock, capsys, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    with progress.display("training", 1.0) as update:
        assert update is None


def test_log_json_makes_every_line_an_object(clock, capsys, monkeypatch):
    monkeypatch.setenv("WINNOW_LOG_JSON", "1")
    note("a \x1b[2J note")
    with progress.display("scores", 100) as update:
        clock[0] = 60.0
        update(25, "")
    first, second = map(json.loads, capsys.readouterr().err.splitlines())
    assert (first["event"], first["text"]) == ("note", "a \\x1b[2J note")
    assert {key: second[key] for key in ("event", "what", "done", "total", "rate", "seconds_left")} == {
        "event": "progress",
        "what": "scores",
        "done": 25,
        "total": 100,
        "rate": 0.4167,
        "seconds_left": 180.0,
    }


def test_every_step_takes_the_flags_and_leaves_the_environment_as_it_was(toy, tmp_path, capsys):
    select = ["select", "--manifest", str(toy.source), "--method", "random", "--keep", "0.5", "--out"]
    assert prune.main([*select, str(tmp_path / "a.index.npz"), "--quiet"]) == 0
    assert capsys.readouterr().err == ""
    assert prune.main([*select, str(tmp_path / "b.index.npz"), "--log-json"]) == 0
    assert "keeps" in json.loads(capsys.readouterr().err)["text"]
    assert prune.main(["show", str(tmp_path / "x.npz"), "--quiet"]) == 2
    assert "no such file" in capsys.readouterr().err
    assert prune.main(["show", "--log-json", str(tmp_path / "x.npz")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert json.loads(line)["event"] == "error"
    assert not {"WINNOW_QUIET", "WINNOW_LOG_JSON"} & set(os.environ)


def test_help_names_the_flags_of_every_step(capsys):
    with pytest.raises(SystemExit):
        prune.main(["show", "--help"])
    said = capsys.readouterr().out
    assert "--quiet" in said
    assert "--log-json" in said
