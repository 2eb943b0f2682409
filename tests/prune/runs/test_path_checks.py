"""Wrong paths and numbers are refused by every command at once, before torch is imported."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from prune.runs.files import InputError
from prune.runs.identity import Location
from prune.runs.path_checks import Written, check_paths, check_place
from prune.runs.run_lock import directory_lock, file_lock


@dataclass(frozen=True)
class Config:
    beton: Location[Path]
    """Beton of `prune write`. More of it."""
    out: Location[Path] = Path("out")
    """What is written."""
    scores: tuple[Path, ...] = ()
    """Scores files."""
    html: Location[Written[Path | None]] = None
    """Page to write."""


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos.beton").write_bytes(b"x")
    return tmp_path


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (
            Config(Path("photo.beton")),
            "--beton photo.beton: no such file or directory; there is photos.beton; wanted: Beton of `prune write`",
        ),
        (Config(Path("runs/a/b.beton")), "--beton runs/a/b.beton: no such file or directory; runs is absent, too"),
        (Config(Path("photos.beton"), scores=(Path("photos.beton"), Path("s.npz"))), "--scores s.npz: no such file"),
        (Config(Path("photos.beton/x")), "--beton photos.beton/x: no such file or directory"),
        (
            Config(Path("photos.beton"), html=Path("photos.beton/x.html")),
            "x.html: a file lies where a folder is needed",
        ),
    ],
)
def test_a_path_that_is_wrong_is_named_with_its_flag_and_what_was_wanted(here, config, words):
    with pytest.raises(InputError) as error:
        check_paths(config)
    assert words in str(error.value)
    assert sorted(p.name for p in here.iterdir()) == ["photos.beton"]


def test_outputs_may_be_absent_and_so_may_what_a_pattern_or_a_scheme_names(here):
    (here / "alone.manifest.npz").write_bytes(b"x")
    for beton in ("photos.beton", "shards/*.beton", "torchvision:CIFAR10:data:train", "alone.beton"):
        check_paths(Config(Path(beton), out=Path("a/b/c"), html=Path("d/e.html")))
    assert sorted(p.name for p in here.iterdir()) == ["alone.manifest.npz", "photos.beton"]


@pytest.mark.parametrize("lock", [directory_lock, file_lock])
@pytest.mark.parametrize(
    ("out", "words"), [("/proc/x", "/proc/x: nothing can be made in /proc"), ("photos.beton/x", "a file lies where")]
)
def test_a_place_that_takes_no_files_is_not_taken_for_another_run(here, lock, out, words):
    with pytest.raises(InputError) as early:
        check_place(Path(out))
    with pytest.raises((InputError, OSError)) as late, lock(Path(out)):
        pass
    assert words in str(early.value)
    assert "another run" not in str(late.value)


def test_a_folder_without_permission_is_said_to_be_one(here, monkeypatch):
    (here / "locked").mkdir(mode=0o555)
    monkeypatch.chdir(here / "locked")  # entered first: the folders above may be closed to others
    is_root = os.geteuid() == 0
    if is_root:
        os.seteuid(65534)  # root may write anywhere
    try:
        with pytest.raises(InputError, match=r"^x: Permission denied; .* give a place where you may write"):
            check_place(Path("x"))
    finally:
        if is_root:
            os.seteuid(0)


EVERY_COMMAND = """
import contextlib, dataclasses, importlib, io, json, re, sys
from pathlib import Path
from typing import get_args, get_type_hints

class NoLibraries:
    def find_spec(self, name, path=None, target=None):
        if name in sys.argv[2:]:
            raise AssertionError(f"{name} is imported")

sys.meta_path.insert(0, NoLibraries())
from prune.__main__ import STEPS as PRUNE
from transfer.__main__ import STEPS as TRANSFER
from prune.runs.command_line import run_step
from prune.runs.path_checks import Output

Path("there").write_text("")
commands = {f"{p} {n}": t.split(":")[0] for p, s in (("prune", PRUNE), ("transfer", TRANSFER)) for n, t in s.items()}
for command, module in {**commands, "pretrain": "pretrain.train"}.items():
    kind = importlib.import_module(module).Config
    hints, fields = get_type_hints(kind, include_extras=True), dataclasses.fields(kind)
    needed = [f for f in fields if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING]
    for wrong in fields:
        hint = str(hints[wrong.name])
        is_number = "Literal" not in hint and re.search(r"\\b(int|float)\\b", hint) is not None
        if not (is_number if sys.argv[1] == "number" else "Path" in hint):
            continue
        written = wrong.name == "out" or "Output()" in hint
        argv = []
        for one in dict.fromkeys((*needed, wrong)):
            value = "1" if hints[one.name] in (int, float) else "there"
            if "Literal" in str(hints[one.name]):
                value = get_args(hints[one.name])[0]
            if one is wrong:
                value = "-1" if is_number else "there/x" if written else "absent"
            flag = [] if "Positional" in str(hints[one.name]) else [f"--{one.name.replace('_', '-')}"]
            at = len(argv) if flag else sum("Positional" in str(hints[f.name]) for f in needed[: needed.index(one)])
            argv[at:at] = [*flag, value]
        said = io.StringIO()
        with contextlib.redirect_stderr(said):
            try:
                code = run_step(command, module, argv)
            except BaseException as error:
                code = repr(error)
        print(json.dumps([command, wrong.name, written, code, said.getvalue()]))
"""


def refused(folder, kind, *libraries):
    """What every command says of a wrong path or number at each of its flags, where these cannot be imported."""
    argv = [sys.executable, "-c", EVERY_COMMAND, kind, *libraries]
    where = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    ended = subprocess.run(argv, cwd=folder, env=where, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert sorted(p.name for p in folder.iterdir()) == ["there"]
    return [json.loads(line) for line in ended.stdout.splitlines()]


def test_every_command_refuses_a_wrong_path_before_it_imports_a_library(tmp_path):
    cases = refused(tmp_path, "path", "numpy", "torch", "scipy", "cv2", "PIL", "timm")
    assert len({command for command, *_ in cases}) >= 43
    for command, flag, written, code, said in cases:
        assert code == 2, (command, flag, code, said)
        words = "a file lies where" if written else "absent: no such file or directory"
        assert words in said, (command, flag, said)


def test_every_command_refuses_a_wrong_number_before_it_imports_torch(tmp_path):
    cases = refused(tmp_path, "number", "torch", "timm")
    assert len({command for command, *_ in cases}) >= 25
    for command, flag, _, code, said in cases:
        assert code == 2, (command, flag, code, said)


WITHOUT_TORCH = """
import importlib, json, sys

class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name in ("torch", "timm"):
            raise AssertionError(f"{name} is imported")

sys.meta_path.insert(0, NoTorch())
for line in sys.argv[1:]:
    program, *argv = line.split()
    code = importlib.import_module(f"{program}.__main__").main(argv)
    print(code, line, file=sys.stderr)
"""
NAMES = {
    "prune features --model empty --betons there --out o": "empty: not a trained model (no model.json there)",
    "prune curves there --model empty --out x.npz": "empty: not a trained model",
    "prune codecs there --model empty": "empty: not a trained model",
    "transfer probe --model empty --train there --test there --out o": "empty: not a trained model",
    "transfer knn --model empty --train there --test there --out o": "empty: not a trained model",
    "transfer finetune --model empty --train there --test there --out o": "empty: not a trained model",
    "transfer export --model empty --images there --out o": "empty: not a trained model",
    "transfer watch-codec --model empty --reference there --images there --history h.jsonl": "not a trained model",
    "transfer incremental --train there --test there --memory 5kB --out o --recipe huge": "no such recipe",
    "transfer stream --train there --test there --memory 5kB --out o --recipe huge": "no such recipe",
    "pretrain --beton there --recipe huge --out o": "no such recipe",
    "prune select --scores there --method magic --keep 0.3 --out x.index.npz": "no method 'magic'",
    "prune select --scores there --quota magic --keep 0.3 --out x.index.npz": "no quota 'magic'",
    "prune budget there --curves there --ratio 3 --out x.index.npz": "--ratio 3.0 is outside (0, 1]",
    "transfer report --study empty --margin -3": "--margin -3.0: 0 or more is needed",
}


def test_a_directory_that_is_no_model_and_an_unknown_recipe_are_refused_before_torch_is_imported(tmp_path):
    (tmp_path / "there").write_text("")
    (tmp_path / "empty").mkdir()
    where = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    argv = [sys.executable, "-c", WITHOUT_TORCH, *NAMES]
    ended = subprocess.run(argv, cwd=tmp_path, env=where, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    said = ended.stderr.splitlines()
    for (line, words), mistake, code in zip(NAMES.items(), said[::2], said[1::2], strict=True):
        assert code == f"2 {line}"
        assert words in mistake
    assert sorted(p.name for p in tmp_path.iterdir()) == ["empty", "there"]
