"""Laws of the whole tree: the direction of imports, quick --help, no pickle, file sizes, README commands that parse."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("prune", "pretrain", "transfer")
SOURCES = sorted(p for package in PACKAGES for p in (ROOT / package).rglob("*.py"))
DATA = {".jinja", ".css", ".js"}
ALLOWED = {"prune": {"prune"}, "pretrain": {"prune", "pretrain"}, "transfer": {"prune", "pretrain", "transfer"}}


def imported(path: Path) -> set[str]:
    """Top-level names of all that a module imports, wherever in it the import stands."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add((node.module or "").split(".")[0])
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_run_one_way_and_nothing_is_pickled(path):
    names = imported(path)
    assert names & set(PACKAGES) <= ALLOWED[path.relative_to(ROOT).parts[0]]
    assert not names & {"pickle", "dill", "cloudpickle", "shelve"}
    text = path.read_text(encoding="utf-8")
    assert "allow_pickle=True" not in text
    assert "weights_only=False" not in text
    assert len(text.splitlines()) <= 400, "has it a second room in it?"


def test_no_module_is_named_like_one_of_the_standard_library():
    names = {p.stem for p in SOURCES} | {p.parent.name for p in SOURCES}
    assert not names & (set(sys.stdlib_module_names) - {"__init__", "__main__"})
    assert not names & {"utils", "common", "helpers", "misc"}


def test_steps_lie_beside_their_main_and_what_does_their_work_in_folders():
    for name in ("prune", "transfer"):
        for step, text in import_module(f"{name}.__main__").STEPS.items():
            package, module = text.split(":")[0].split(".")
            assert (ROOT / package / f"{module}.py").is_file(), step
    main, init = "__main__", "__init__"
    steps = {text.split(":")[0].split(".")[1] for text in import_module("transfer.__main__").STEPS.values()}
    assert {p.stem for p in (ROOT / "transfer").glob("*.py")} == steps | {main, init}
    # A folder of a step's name would hide the step.
    assert not steps & {p.name for p in (ROOT / "transfer").iterdir() if p.is_dir()}


def test_all_folders_and_what_their_pages_are_made_of_are_installed():
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    assert set(setuptools["packages"]) == {".".join(p.parent.relative_to(ROOT).parts) for p in SOURCES}
    data = {path for package in PACKAGES for path in (ROOT / package).rglob("*") if path.suffix in DATA}
    named = {ROOT / p.replace(".", "/") / name for p, names in setuptools["package-data"].items() for name in names}
    assert data == named


def test_help_of_every_command_answers_without_numpy_or_torch():
    program = """
import contextlib, io, sys
from importlib import import_module
from prune.runs.command_line import run_step
shown = []
for package in ("prune", "transfer"):
    main = import_module(f"{package}.__main__")
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert main.main(["--help"]) == 0
        for step in main.STEPS:
            try:
                main.main([step, "--help"])
            except SystemExit as end:
                assert end.code == 0, step
                shown.append(step)
    assert all(step in out.getvalue() for step in main.STEPS)
with contextlib.redirect_stdout(io.StringIO()):
    try:
        import_module("pretrain.__main__").main(["--help"])
    except SystemExit as end:
        assert end.code == 0
heavy = sorted({"numpy", "torch", "ffcv", "faiss", "timm", "sklearn", "scipy", "accelerate"} & set(sys.modules))
print(len(shown), *heavy)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert done.returncode == 0, done.stderr
    count, *heavy = done.stdout.split()
    assert int(count) >= 14
    assert heavy == []


def commands(document: Path) -> list[list[str]]:
    """Every prune, pretrain and transfer command in the document's shell blocks, as argument lists."""
    found = []
    for block in re.findall(r"```(?:bash|sh|shell)\n(.*?)```", document.read_text(encoding="utf-8"), re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            line = re.sub(r"^\s*(?:[A-Z_]+=\S+\s+)*", "", line.split(" #")[0])
            line = re.sub(r"^(?:accelerate launch|torchrun)(?: --\S+(?: \d+)?)* -m ", "", line)
            line = re.sub(r"^(?:\S*python3? -m |\.venv/bin/)", "", line)
            words = shlex.split(line)
            if words and words[0] in PACKAGES:
                found.append(words)
    return found


DOCUMENTS = sorted(p for p in ROOT.rglob("*.md") if not {".venv", "runs", ".data"} & set(p.relative_to(ROOT).parts))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_command_in_the_documents_parses(document):
    from prune.runs.command_line import parse

    for program, *arguments in commands(document):
        main = import_module(f"{program}.__main__")
        if program == "pretrain":
            parse("pretrain", import_module("pretrain.train"), arguments)
        elif arguments and not arguments[0].startswith("-"):
            assert arguments[0] in main.STEPS, f"{document.name}: {program} {arguments[0]}"
            parse(program, import_module(main.STEPS[arguments[0]].split(":")[0]), arguments[1:])


def test_the_readme_shows_commands_of_all_three_programs():
    assert {words[0] for words in commands(ROOT / "README.md")} == set(PACKAGES)
