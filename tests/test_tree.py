"""Laws of the code's tree: which way imports run, where a file may lie, names, sizes, quick --help, no pickle."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections import Counter
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("prune", "pretrain", "transfer", "winnow")
SOURCES = sorted(p for package in PACKAGES for p in (ROOT / package).rglob("*.py"))
DATA = {".jinja", ".css", ".js", ".typed", ".md"}
ALLOWED = {package: set(PACKAGES[: place + 1]) for place, package in enumerate(PACKAGES)}
SHIMS = {"prune": {"manifest"}}
"""Modules at the top of a package that are no steps: public import paths of earlier versions."""


def named(path: Path) -> str:
    """Name under which a module is imported."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {named(path): path for path in SOURCES}


def imported(path: Path) -> set[str]:
    """Full names of all that a module imports, wherever in it the import stands, under TYPE_CHECKING too.

    `from package import name` counts as package.name where that is a module of ours, and as package otherwise.
    """
    folder = ".".join(path.parent.relative_to(ROOT).parts)
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 or (node.level == 1 and folder == "prune.index"), f"{path}: relative import"
            base = ".".join(filter(None, (folder if node.level else "", node.module)))
            whole = {f"{base}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else base for name in whole}
    return found


IMPORTS = {name: imported(path) for name, path in MODULES.items()}


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Groups of nodes each of which reaches all others of its group."""

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        waiting = [start]
        while waiting:
            new = graph.get(waiting.pop(), set()) & graph.keys() - seen
            seen |= new
            waiting += new
        return seen

    reach = {node: reached(node) for node in graph}
    groups = {frozenset(other for other in reach[node] if node in reach[other]) for node in graph}
    return sorted(sorted(group) for group in groups if group)


def steps(package: str) -> set[str]:
    """Names of the modules that are a package's commands."""
    return {text.split(":")[0].split(".")[1] for text in import_module(f"{package}.__main__").STEPS.values()}


def folder_of(module: str) -> str:
    """Folder of a module, relative to the root."""
    return str(MODULES[module].parent.relative_to(ROOT))


def test_circles_are_found():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a", "d.x"}}) == [["b", "c"]]


def test_no_import_runs_in_a_circle():
    assert circles(IMPORTS) == []


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_run_one_way_and_nothing_is_pickled(path):
    names = {name.split(".")[0] for name in IMPORTS[named(path)]}
    assert names & set(PACKAGES) <= ALLOWED[path.relative_to(ROOT).parts[0]]
    assert not names & {"pickle", "dill", "cloudpickle", "shelve"}
    text = path.read_text(encoding="utf-8")
    assert "allow_pickle=True" not in text
    assert "weights_only=False" not in text
    assert len(text.splitlines()) <= 400, "has it a second room in it?"


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_the_first_line_of_a_file_is_a_sentence_that_says_what_it_is_for(path):
    first = (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").splitlines()
    assert first, "no docstring"
    assert first[0].endswith((".", ":", "?"))


def test_no_module_or_folder_is_named_like_one_of_the_standard_library():
    names = {part for p in SOURCES for part in p.relative_to(ROOT).with_suffix("").parts}
    assert not names & (set(sys.stdlib_module_names) - {"__init__", "__main__"})
    assert not names & {"utils", "common", "helpers", "misc"}


def test_no_two_modules_have_one_name_but_steps():
    commands = {ROOT / package / f"{step}.py" for package in ("prune", "transfer") for step in steps(package)}
    shims = {ROOT / package / f"{shim}.py" for package, names in SHIMS.items() for shim in names}
    count = Counter(p.stem for p in SOURCES if p not in shims and p.stem not in ("__init__", "__main__"))
    assert [str(p.relative_to(ROOT)) for p in SOURCES if count[p.stem] > 1 and p not in commands | shims] == []


@pytest.mark.parametrize("package", ["prune", "transfer"])
def test_steps_lie_beside_their_main_and_what_does_their_work_in_folders(package):
    found = {p.stem for p in (ROOT / package).glob("*.py")}
    assert found == steps(package) | {"__main__", "__init__"} | SHIMS.get(package, set())
    # A folder of a step's name would hide the step.
    assert not steps(package) & {p.name for p in (ROOT / package).iterdir() if p.is_dir()}


@pytest.mark.parametrize("package", ["prune", "transfer"])
def test_folders_import_no_step(package):
    commands = {f"{one}.{step}" for one in ("prune", "transfer") for step in steps(one)}
    inside = {name for name in MODULES if folder_of(name).startswith(f"{package}/")}
    assert {name: IMPORTS[name] & commands for name in inside if IMPORTS[name] & commands} == {}


def test_the_index_needs_numpy_and_itself_alone():
    inside = {name for name in MODULES if folder_of(name) == "prune/index"}
    outside = {name for module in inside for name in IMPORTS[module]} - inside - {"prune.index"}
    assert {name.split(".")[0] for name in outside} - set(sys.stdlib_module_names) <= {"numpy"}


def test_all_folders_and_what_their_pages_are_made_of_are_installed():
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    mapped = setuptools["package-dir"]
    assert mapped == {"winnow.slurm": "slurm", "winnow.examples": "examples"}
    assert set(setuptools["packages"]) == {".".join(p.parent.relative_to(ROOT).parts) for p in SOURCES} | set(mapped)
    data = {path for package in PACKAGES for path in (ROOT / package).rglob("*") if path.suffix in DATA}
    data |= {path for path in (ROOT / "slurm").iterdir() if path.suffix in (".sh", ".md")}
    found = set()
    for package, patterns in setuptools["package-data"].items():
        folder = ROOT / mapped.get(package, package.replace(".", "/"))
        found |= {path for pattern in patterns for path in folder.glob(pattern)}
    assert data == found


def test_help_of_every_command_answers_without_numpy_or_torch():
    program = """
import contextlib, io, sys
from importlib import import_module
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
    assert import_module("winnow.__main__").main(["--help"]) == 0
    assert import_module("winnow.__main__").main(["--version"]) == 0
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
