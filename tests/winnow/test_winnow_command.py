"""The command `winnow`: which program it starts, what it prints by itself, and what the shell completes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from prune.index.version import VERSION
from winnow.__main__ import PROGRAMS, main

ROOT = Path(__file__).parents[2]


def test_version_help_and_nothing(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"winnow {VERSION}\n"
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"  {name} ..." in shown for name in PROGRAMS)
    assert main([]) == 2
    assert capsys.readouterr().out == shown


@pytest.mark.parametrize(
    ("words", "usage"),
    [
        ("prune select", "usage: winnow prune select "),
        ("transfer study", "usage: winnow transfer study "),
        ("pretrain", "usage: winnow pretrain "),
        ("slurm", "usage: winnow slurm "),
        ("prune", "usage: winnow prune STEP "),
    ],
)
def test_a_program_is_started_under_the_name_that_was_typed(words, usage, capsys):
    try:
        code = main([*words.split(), "--help"])
    except SystemExit as end:
        code = end.code
    assert code == 0
    assert capsys.readouterr().out.startswith(usage)


def test_a_mistake_keeps_the_code_and_the_name(capsys, tmp_path):
    assert main(["prune", "show", str(tmp_path / "x.npz")]) == 2
    assert capsys.readouterr().err.startswith("winnow prune show: ")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["select"], "no program 'select'; there are prune, pretrain, transfer, slurm. Did you mean: winnow prune sel"),
        (["show"], "Did you mean: winnow prune show or winnow transfer show?"),
        (["polish"], "no program 'polish'; there are prune, pretrain, transfer, slurm\n"),
        (["--completion"], "--completion needs a shell: bash or zsh"),
        (["--completion", "cmd"], "--completion needs a shell: bash or zsh"),
    ],
)  # fmt: skip
def test_a_wrong_word_is_reported_with_the_way_out(words, told, capsys):
    assert main(words) == 2
    error = capsys.readouterr().err
    assert told in error
    assert len(error.splitlines()) == 1


@pytest.fixture(scope="module")
def bash_script(tmp_path_factory):
    place = tmp_path_factory.mktemp("completion") / "winnow.bash"
    done = subprocess.run([sys.executable, "-m", "winnow", "--completion", "bash"], cwd=ROOT, capture_output=True)
    assert done.returncode == 0, done.stderr
    place.write_bytes(done.stdout)
    return place


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        (["winnow", "pr"], ["pretrain", "prune"]),
        (["winnow", "prune", "sel"], ["select"]),
        (["winnow", "prune", "select", "--sco"], ["--scores"]),
        (["winnow", "transfer", "study", "--evalu"], ["--evaluations"]),
        (["winnow", "pretrain", "--reci"], ["--recipe"]),
        (["winnow", "slurm", "--o"], ["--out"]),
    ],
)
def test_bash_completes_programs_steps_and_flags(bash_script, typed, offered):
    words = " ".join(typed)
    program = (
        f"source {bash_script}; COMP_WORDS=({words}); COMP_CWORD={len(typed) - 1}; COMP_LINE='{words}'; "
        f"COMP_POINT={len(words)}; $(complete -p winnow | sed -E 's/.*-F ([^ ]+).*/\\1/'); "
        'printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(["bash", "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.split()) == offered


def test_zsh_gets_a_script_of_its_own(capsys):
    assert main(["--completion", "zsh"]) == 0
    assert capsys.readouterr().out.startswith("#compdef winnow\n")


def test_slurm_prints_the_folder_or_copies_it(capsys, tmp_path):
    assert main(["slurm"]) == 0
    assert Path(capsys.readouterr().out.strip()) == ROOT / "slurm"
    assert main(["slurm", "--out", str(tmp_path / "cluster")]) == 0
    copied = {p.name for p in (tmp_path / "cluster/slurm").iterdir()}
    assert copied == {p.name for p in (ROOT / "slurm").iterdir()} - {"__pycache__"}
    assert (tmp_path / "cluster/slurm/submit.sh").stat().st_mode & 0o111
    assert main(["slurm", "--out", str(tmp_path / "cluster")]) == 2
    assert "holds slurm already" in capsys.readouterr().err
