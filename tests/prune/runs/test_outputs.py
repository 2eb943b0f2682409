"""What identifies a run, who holds its output, and when it is up to date."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from prune.runs.files import InputError, read_json, write_json
from prune.runs.identity import Location, OnceUnrecorded, RunOption, differences, identity
from prune.runs.outputs import claim, claim_file, finish
from prune.runs.run_lock import directory_lock, file_lock


@dataclass(frozen=True)
class Config:
    out: Location[Path]
    keep: float = 0.3
    workers: RunOption[int | None] = None
    scores: Location[Path | None] = None
    seed: int = 0


def test_marked_fields_are_no_part_of_the_identity():
    assert identity(Config(Path("a"), workers=4, scores=Path("b"))) == {"keep": 0.3, "seed": 0}


def test_a_field_that_an_older_record_lacks_counts_as_its_default():
    assert differences({"keep": 0.3}, Config(Path("a")), {}) == []
    assert differences({"keep": 0.3}, Config(Path("a"), seed=1), {}) == ["seed: 0 -> 1"]


def test_a_field_that_older_runs_did_not_record_fits_any_value_until_it_is_recorded():
    @dataclass(frozen=True)
    class Reader:
        loader: OnceUnrecorded[str] = "auto"

    assert identity(Reader("torch")) == {"loader": "torch"}
    assert differences({}, Reader("torch"), {}) == []
    assert differences({"loader": "ffcv"}, Reader("torch"), {}) == ["loader: 'ffcv' -> 'torch'"]


def test_a_field_that_is_marked_now_is_ignored_in_an_older_record():
    assert differences({"keep": 0.3, "workers": 8, "scores": "x"}, Config(Path("a")), {}) == []


def test_a_setting_that_this_version_does_not_know_is_a_difference():
    assert differences({"keep": 0.3, "gate": "auto"}, Config(Path("a")), {}) == ["gate: 'auto' -> None"]


def test_the_fingerprint_of_an_input_counts_under_the_name_of_its_place():
    assert differences({"keep": 0.3, "scores": "f1"}, Config(Path("a")), {"scores": "f1"}) == []
    assert differences({"keep": 0.3, "scores": "f1"}, Config(Path("a")), {"scores": "f2"}) == ["scores: 'f1' -> 'f2'"]


def test_a_run_directory_belongs_to_one_config(tmp_path):
    config = Config(tmp_path / "run")
    with claim(config.out, config) as done:
        assert not done
        finish(config.out, seconds=1.0)
    with claim(config.out, replace(config, workers=4)) as done:
        assert done
    with pytest.raises(InputError, match=r"keep: 0\.3 -> 0\.5"), claim(config.out, replace(config, keep=0.5)):
        pass
    with pytest.raises(InputError, match="beton: None -> 'f1'"), claim(config.out, config, {"beton": "f1"}):
        pass


def test_a_directory_with_other_things_is_nobody_s_run(tmp_path):
    (tmp_path / "photos/cats").mkdir(parents=True)
    with (
        pytest.raises(InputError, match="holds 'cats' and no run of this project"),
        claim(tmp_path / "photos", Config(tmp_path)),
    ):
        pass
    assert [p.name for p in (tmp_path / "photos").iterdir()] == ["cats"]
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="is a file"), claim(tmp_path / "file", Config(tmp_path)):
        pass


def test_ranks_above_0_check_the_settings_and_write_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    with claim(tmp_path / "run", Config(tmp_path)) as done:
        assert not done
    assert not (tmp_path / "run").exists()


def up_to_date(place, config):
    with claim_file(place, read_json, config) as done:
        return done


def test_a_file_is_up_to_date_when_its_record_says_so(tmp_path, capsys):
    place = tmp_path / "x.json"
    assert not up_to_date(place, Config(place))
    write_json(place, {"keep": 0.3})
    assert up_to_date(place, Config(place, workers=2))
    assert capsys.readouterr().err == f"{place}: up to date\n"
    with pytest.raises(InputError, match="keep"):
        up_to_date(place, Config(place, keep=0.1))
    place.write_text("{")
    with pytest.raises(InputError, match="remove it"):
        up_to_date(place, Config(place))
    with pytest.raises(InputError, match="is a directory"):
        up_to_date(tmp_path, Config(place))


HOLDER = """
import sys, time
from pathlib import Path
from prune.runs.run_lock import directory_lock
with directory_lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def holder(place, **environment):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(place)], stdout=subprocess.PIPE, text=True, env=os.environ | environment
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_run_is_refused_with_the_holder_of_the_lock_and_a_dead_process_holds_none(tmp_path):
    process = holder(tmp_path / "run")
    try:
        told = f"another run is at work there .*process {process.pid}, since 20"
        with pytest.raises(InputError, match=told), directory_lock(tmp_path / "run"):
            pass
        process.send_signal(signal.SIGSTOP)  # a stopped holder is not a dead one
        with pytest.raises(InputError, match="another run"), directory_lock(tmp_path / "run"):
            pass
    finally:
        process.kill()
        process.wait()
    with directory_lock(tmp_path / "run"):
        assert json.loads((tmp_path / "run/.lock").read_text())["process"] == os.getpid()


def test_a_heartbeat_keeps_others_away_where_the_file_system_has_no_locks(tmp_path, monkeypatch, capsys):
    process = holder(tmp_path / "run", WINNOW_LOCKS="heartbeat")
    monkeypatch.setenv("WINNOW_LOCKS", "heartbeat")
    try:
        beat = tmp_path / "run/.lock.beat"
        assert beat.exists()
        began = time.monotonic()
        with pytest.raises(InputError, match=f"process {process.pid}"), directory_lock(tmp_path / "run"):
            pass
        assert time.monotonic() - began < 30
        assert "no locks" in capsys.readouterr().err
    finally:
        process.kill()
        process.wait()


def test_the_lock_of_a_file_is_gone_with_its_run(tmp_path):
    with file_lock(tmp_path / "x.npz"):
        assert (tmp_path / ".x.npz.lock").exists()
        with pytest.raises(InputError, match="another run"), file_lock(tmp_path / "x.npz"):
            pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("flag", "way_out"), [("--history", "wait for its end, or give another --history"), (None, "wait for its end")]
)
def test_a_place_at_work_is_refused_with_the_flag_that_names_another_or_none_where_there_is_no_other(
    tmp_path, flag, way_out
):
    for lock in (file_lock, directory_lock):
        place = tmp_path / lock.__name__
        with lock(place, flag), pytest.raises(InputError, match=rf"; {way_out}$"), lock(place, flag):
            pass


def test_folders_for_a_file_that_was_not_written_go_again(tmp_path):
    with file_lock(tmp_path / "new/deep/x.npz"):
        assert (tmp_path / "new/deep").is_dir()
    assert list(tmp_path.iterdir()) == []
    with file_lock(tmp_path / "kept/deep/x.npz"):
        (tmp_path / "kept/deep/x.npz").touch()
    assert (tmp_path / "kept/deep/x.npz").exists()


def test_a_mistake_that_is_found_late_leaves_no_directory(tmp_path):
    with pytest.raises(InputError, match="late"), claim(tmp_path / "run", Config(tmp_path)):
        raise InputError("found late")
    assert list(tmp_path.iterdir()) == []


def test_processes_of_the_same_number_write_and_claim_as_if_they_had_their_own(tmp_path):
    # In containers every process may be number 1, and eight of them may share a folder.
    program = """
import os, sys
os.getpid = lambda: 1
from pathlib import Path
from prune.runs.files import write_json
from prune.runs.outputs import claim
out, rank = Path(sys.argv[1]), sys.argv[2]
os.environ["RANK"] = rank
for turn in range(30):
    write_json(out / "shared.json", {"rank": rank, "turn": turn})
with claim(out / "run", None) as done:
    write_json(out / f"{rank}.json", {"done": done})
"""
    command = [sys.executable, "-c", program, str(tmp_path)]
    running = [subprocess.Popen([*command, str(k)], stderr=subprocess.PIPE, text=True) for k in range(8)]
    said = [process.communicate(timeout=60)[1] for process in running]
    assert [process.returncode for process in running] == [0] * 8, said
    assert read_json(tmp_path / "shared.json")["turn"] == 29
    assert sorted(place.name for place in tmp_path.iterdir() if place.name.startswith(".")) == []
    assert [read_json(tmp_path / f"{k}.json") for k in range(8)] == [{"done": False}] * 8


def test_a_temporary_file_that_a_killed_writer_left_is_removed_whatever_version_named_it(tmp_path):
    for name in (".x.json.4711.partial", ".x.json.0123456789abcdef.partial"):
        (tmp_path / name).write_text("half")
    write_json(tmp_path / "y.json", {})
    assert [place.name for place in tmp_path.iterdir()] == ["y.json"]
