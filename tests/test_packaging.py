"""What a stranger installs: a wheel that works outside the checkout, with few packages and with more."""

from __future__ import annotations

import ast
import json
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from importlib import import_module, metadata
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from prune import PrunedIndex
from prune.index.manifest import Manifest
from prune.index.version import VERSION
from prune.runs import command_line
from prune.runs.extras import DISTRIBUTION, EXTRA

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
IDS = [f"class-{k % 3}/{k:03}.jpg" for k in range(30)]
OWN = {"prune", "pretrain", "transfer", "winnow"}
DISTRIBUTION_OF = {
    "PIL": "pillow",
    "cv2": "opencv-python-headless",
    "faiss": "faiss-cpu",
    "google": "onnx",  # which brings protobuf
    "llvmlite": "numba",  # numba pins the llvmlite that goes with it
    "markupsafe": "jinja2",  # which returns its strings
    "torch_pruning": "torch-pruning",
}
"""Modules whose distribution has another name."""


def names(requirements: list[str]) -> set[str]:
    """Distributions that requirements name, without versions."""
    return {requirement.split(">")[0].split("[")[0].strip() for requirement in requirements}


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """`run(*words)` in a new environment that has the wheel and the base dependencies, outside the checkout."""
    root = tmp_path_factory.mktemp("install")
    parts = ("prune", "pretrain", "transfer", "winnow", "slurm", "examples")
    for part in parts:
        shutil.copytree(ROOT / part, root / "source" / part, ignore=shutil.ignore_patterns("__pycache__"))
    for part in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / part, root / "source")
    (root / "elsewhere").mkdir()

    def uv(*words: str | Path) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "uv", *map(str, words)], cwd=root, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr

    # First the archive of sources, then the wheel from it: what the archive lacks is missed here.
    uv("build", "--quiet", "--no-build-isolation", "--python", sys.executable, "--out-dir", root / "dist", "source")
    uv("venv", "--quiet", "--python", sys.executable, "venv")
    (wheel,) = (root / "dist").glob("*.whl")
    uv("pip", "install", "--quiet", "--python", "venv/bin/python", "--constraint", ROOT / "constraints.txt", wheel)

    def run(*words: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [root / "venv/bin" / words[0], *map(str, words[1:])],
            cwd=root / "elsewhere",
            capture_output=True,
            text=True,
            timeout=120,
            env={"PATH": "/usr/bin:/bin", "HOME": str(root)},
        )

    run.folder = root / "elsewhere"  # type: ignore[attr-defined]
    return run


@pytest.fixture(scope="module")
def index(installed):
    """An index that keeps every second of 30 images, saved by this checkout."""
    n = len(IDS)
    manifest = Manifest(
        ids=np.array(IDS, "S"),
        labels=np.arange(n, dtype="<i4") % 3,
        nbytes=np.full(n, 100, "<i4"),
        width=np.full(n, 8, "<i4"),
        height=np.full(n, 8, "<i4"),
        digests=np.arange(n, dtype="<u8"),
        crc32=np.zeros(n, "<u4"),
        classes=["a", "b", "c"],
    )
    place = installed.folder / "half.index.npz"
    PrunedIndex.from_rows(manifest, np.arange(0, n, 2), provenance=[]).save(place)
    return place


@pytest.mark.slow
def test_an_index_goes_through_the_installed_wheel(installed, index):
    shown = installed("winnow", "prune", "show", index, "--json")
    assert shown.returncode == 0, shown.stderr
    assert json.loads(shown.stdout)["kept"] == 15
    program = (
        "import sys, prune\n"
        "index = prune.PrunedIndex.load(sys.argv[1])\n"
        "print(prune.__file__, *index.rows(sys.argv[:1:-1]))\n"  # the same listing, backwards
    )
    read = installed("python", "-c", program, index, *IDS)
    assert read.returncode == 0, read.stderr
    place, *rows = read.stdout.split()
    assert not Path(place).is_relative_to(ROOT)
    assert rows == [str(29 - row) for row in range(0, 30, 2)]


@pytest.mark.slow
def test_base_dependencies_are_enough_to_combine_and_export_an_index(installed, index):
    assert installed("winnow", "prune", "combine", index, index, "--out", "both.index.npz").returncode == 0
    done = installed("prune", "export", "both.index.npz", "--out", "rows.npy")
    assert done.returncode == 0, done.stderr
    assert np.load(installed.folder / "rows.npy").tolist() == list(range(0, 30, 2))


@pytest.mark.slow
def test_every_command_of_an_install_has_help_and_names_the_extra_that_it_lacks(installed):
    assert installed("winnow", "--version").stdout == f"winnow {VERSION}\n"
    assert "rn50-16ep" in installed("winnow", "pretrain", "--list").stdout
    for command in ("prune show", "prune score", "transfer study", "transfer export", "pretrain"):
        done = installed("winnow", *command.split(), "--help")
        assert done.returncode == 0, done.stderr
        assert f"usage: winnow {command}" in done.stdout
    (installed.folder / "m").mkdir()
    for name in ("m/model.json", "b"):  # what is absent is named before what is not installed
        (installed.folder / name).write_text("")
    done = installed("winnow", "prune", "features", "--model", "m", "--betons", "b", "--out", "o")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("winnow prune features: the extra 'train' is not installed (no module ")
    assert line.endswith("): pip install 'winnow-pretrain[train]'")


@pytest.mark.slow
def test_an_install_has_the_slurm_scripts_and_the_examples(installed):
    folder = Path(installed("winnow", "slurm").stdout.strip())
    assert {p.name for p in folder.glob("*.sh")} == {p.name for p in (ROOT / "slurm").glob("*.sh")}
    copied = installed("winnow", "slurm", "--out", "cluster")
    assert copied.returncode == 0, copied.stderr
    usage = subprocess.run(
        [installed.folder / "cluster/slurm/submit.sh", "--help"], capture_output=True, text=True, timeout=60
    )
    assert usage.returncode == 0, usage.stderr
    assert "slurm/submit.sh [--dry-run]" in usage.stdout
    assert (installed.folder / "cluster/examples/reuse_index.py").is_file()
    again = installed("winnow", "slurm", "--out", "cluster")
    assert again.returncode == 2
    assert "--out cluster: holds slurm already" in again.stderr


def test_the_version_is_written_in_one_place():
    assert "version" in PROJECT["dynamic"]
    assert metadata.version(DISTRIBUTION) == VERSION


def test_every_third_party_module_belongs_to_the_extra_that_installs_it():
    used = set()
    for package in OWN:
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Import):
                    used |= {alias.name.split(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and not node.level:
                    used.add((node.module or "").split(".")[0])
    named_elsewhere = {"ffcv", "onnxscript", "tensorboard"}  # found by their spec, or imported by torch
    assert used - OWN - set(sys.stdlib_module_names) | named_elsewhere == set(EXTRA)
    extras = {"": PROJECT["dependencies"], **PROJECT["optional-dependencies"]}
    for module, extra in EXTRA.items():
        assert DISTRIBUTION_OF.get(module, module) in names(extras[extra]), module


def test_nothing_is_installed_that_no_module_imports():
    wanted = {DISTRIBUTION_OF.get(module, module) for module in EXTRA} | {DISTRIBUTION}
    # ffcv imports distutils, and its numba code runs on tbb; examples/shards_on_ray.py imports ray
    wanted |= {"setuptools", "tbb", "ray"}
    extras = {"": PROJECT["dependencies"], **PROJECT["optional-dependencies"]}
    assert {name for requirements in extras.values() for name in names(requirements)} == wanted


def test_all_has_every_extra():
    *extras, last = PROJECT["optional-dependencies"]
    assert last == "all"
    assert PROJECT["optional-dependencies"]["all"] == [f"{DISTRIBUTION}[{','.join(extras)}]"]


def test_a_missing_extra_is_one_line_and_a_missing_module_of_ours_a_traceback(monkeypatch, capsys):
    @dataclass
    class Config:
        """Nothing to set."""

    def run(config):
        import_module("plotly")

    monkeypatch.setitem(sys.modules, "plotly", None)  # what Python meets when a package is not installed
    monkeypatch.setitem(sys.modules, "step_that_draws", SimpleNamespace(Config=Config, run=run))
    assert command_line.run_step("prune draw", "step_that_draws", []) == 2
    line = "prune draw: the extra 'report' is not installed (no module plotly): pip install 'winnow-pretrain[report]'\n"
    assert capsys.readouterr().err == line
    with pytest.raises(ModuleNotFoundError, match=r"prune\.nothing"):
        command_line.run_step("prune nothing", "prune.nothing", [])
