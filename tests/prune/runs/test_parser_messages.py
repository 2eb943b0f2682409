"""A mistyped flag or value gets one line that names it; a path means what a shell makes of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from prune.__main__ import main
from prune.runs.parser_messages import one_line

HELP = "; `prune select --help` explains the flags"
MISTAKES = {
    "--scors x --out y": "Unrecognized options: --scors, x; perhaps you meant --scores",
    "--combine meen --out y": "invalid choice 'meen' for argument '--combine'. Expected one of ('mean', 'max', 'min')",
    "--keep much --out y": "Error parsing --keep: Could not find valid parse for arguments: ['much']",
    "--keep 0.5": "missing: --out PATH",
    "--keep 0.5 --outt y": "missing: --out PATH; Unrecognized options: --outt y",
    "--out": "Missing value for argument '--out'. Expected 1 values",
    f"--keep 0.5 --out y {'very-long-' * 30}word": f"Unrecognized options: {'very-long-' * 30}word",
}


@pytest.mark.parametrize("words", MISTAKES)
def test_a_mistyped_flag_or_value_is_one_line(capsys, words):
    with pytest.raises(SystemExit) as end:
        main(["select", *words.split()])
    assert end.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == f"prune select: {MISTAKES[words]}{HELP}\n"


def test_it_is_one_json_object_with_log_json(capsys):
    with pytest.raises(SystemExit):
        main(["select", "--scors", "x", "--out", "y", "--log-json"])
    assert json.loads(capsys.readouterr().err)["event"] == "error"


def test_text_that_is_no_box_is_passed_on_in_one_line():
    assert one_line("a new\n  parser\n", "prune select") == "a new parser"


@pytest.fixture
def home(tmp_path, monkeypatch):
    (tmp_path / "home/photos").mkdir(parents=True)
    (tmp_path / "here").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "home"


def test_a_tilde_behind_the_sign_of_equality_is_the_home_in_paths_of_inputs_and_outputs(home, capsys):
    assert main(["generate", "--out=~/toy", "--per-class", "8", "--target-test", "2"]) == 0
    assert main(["write", "--images=~/toy/source/train", "--out=~/made/x.beton"]) == 0
    assert main(["verify", "~/made/x.beton"]) == 0
    assert main(["select", "--manifest=~/made/x.manifest.npz", "--method", "random", "--keep", "0.5",
                 "--out=~/i.index.npz"]) == 0  # fmt: skip
    assert (home / "i.index.npz").is_file()
    assert not list(Path().iterdir())


@pytest.mark.parametrize(
    "words",
    [["write", "--images", "", "--out", "x.beton"], ["write", "--images=", "--out", "x.beton"],
     ["show", ""], ["verify", ""], ["select", "--scores", "", "--out", "x"], ["select", "--out", "", "--keep", "1"],
     ["combine", "", "b", "--out", "x"]],
)  # fmt: skip
def test_an_empty_path_is_refused_and_is_not_the_current_folder(home, capsys, words):
    assert main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "is empty; give a path, or . for the current folder" in line
    assert not list(Path().iterdir())


def test_a_link_that_leads_nowhere_is_no_output(home, capsys):
    Path("x.index.npz").symlink_to("nowhere")
    assert main(["select", "--keep", "0.5", "--out", "x.index.npz"]) == 2
    assert "x.index.npz: is a link to nowhere, which does not exist; remove the link" in capsys.readouterr().err
    assert Path("x.index.npz").is_symlink()
