"""The examples train a few steps on what an index keeps, with the libraries that they name, as a user starts them."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient
from PIL import Image

from prune import features, selection, write
from prune.index.manifest import Manifest, manifest_path

ROOT = Path(__file__).parents[1]
CLASSES, EACH = ("cat", "dog", "newt"), 16

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """photos/ with JPEGs of several sizes, its beton, and an index that keeps half of each class."""
    place = tmp_path_factory.mktemp("examples")
    rng = np.random.default_rng(0)
    for name in CLASSES:
        (place / "photos" / name).mkdir(parents=True)
        for k in range(EACH):
            pixels = rng.integers(0, 255, (40 + k, 48, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(place / "photos" / name / f"{k:02}.jpg")
    write.run(write.Config(images=str(place / "photos"), out=place / "photos.beton"))
    manifest = place / "photos.manifest.npz"
    selection.run(selection.Config(out=place / "half.index.npz", manifest=manifest, method="random", keep=(0.5,)))
    return place


@pytest.mark.parametrize(
    ("program", "images"),
    [
        ("train_with_timm.py", "photos"),
        ("train_with_transformers.py", "photos"),
        ("train_with_lightning.py", "photos"),
        ("train_with_ffcv.py", "photos.beton"),
    ],
)
def test_a_program_trains_on_the_kept_half(folder, program, images):
    settings = {
        "HF_HOME": str(folder / "hf"),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / program, "half.index.npz", images, "1"],
        cwd=folder, capture_output=True, text=True, timeout=300, env={**os.environ, **settings},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    last = done.stdout.strip().splitlines()[-1]
    assert re.match(r"24 images kept( of 48)?, 1 steps", last), done.stdout
    assert "nan" not in last


def test_shards_on_ray_are_those_of_the_commands_and_only_what_is_missing_runs_again(folder, tmp_path):
    def on_ray(*words: object) -> list[str]:
        settings = {"HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, ROOT / "examples" / "shards_on_ray.py", "--cpus", "1", *map(str, words)],
            cwd=folder, capture_output=True, text=True, timeout=900, env={**os.environ, **settings},
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.splitlines()

    betons, found = tmp_path / "betons", tmp_path / "features"
    said = on_ray("write", "--shards", 2, "--images", "photos", "--out", betons)
    assert said[-1] == "2 of 2 shards are done"
    for k in (1, 2):
        beton, alone = betons / f"{k}.beton", tmp_path / f"{k}.beton"
        write.run(write.Config(images=str(folder / "photos"), out=alone, shard=f"{k}/2"))
        assert beton.read_bytes() == alone.read_bytes()
        assert (
            Manifest.load(betons / f"{k}.manifest.npz").ids.tolist() == Manifest.load(manifest_path(alone)).ids.tolist()
        )
    features.run(features.Config(thumbnail=True, betons=(betons / "1.beton",), out=found))
    features.run(features.Config(thumbnail=True, betons=(betons / "2.beton",), out=tmp_path / "alone"))
    said = on_ray("features", "--thumbnail", "--betons", betons, "--out", found)
    assert said[-1] == "1 of 1 shards are done"
    assert said[0].startswith("2.beton: ")
    assert (found / "2.features.npz").read_bytes() == (tmp_path / "alone" / "2.features.npz").read_bytes()
    assert on_ray("features", "--thumbnail", "--betons", betons, "--out", found) == [f"{found}: up to date"]


@pytest.mark.parametrize("name", ["choose_and_look", "does_it_pay"])
def test_a_notebook_runs_from_the_first_cell_to_the_last(name, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    book = nbformat.read(ROOT / "examples" / f"{name}.ipynb", as_version=4)
    NotebookClient(book, timeout=600, kernel_name="python3", resources={"metadata": {"path": tmp_path}}).execute()
    texts = [text_of(cell) for cell in book.cells if cell.cell_type == "code"]
    pages = [one for cell in book.cells for one in cell.get("outputs", ()) if "text/html" in one.get("data", {})]
    assert len(pages) == 1
    assert "<iframe srcdoc=" in pages[0]["data"]["text/html"]
    if name == "choose_and_look":
        assert "160 of 640 images" in texts[-1]  # a quarter of 16 classes of 40
        assert " is dropped: " in texts[-2]
    else:
        assert len(texts) == 5
        assert "gate" in texts[3]


def text_of(cell) -> str:
    """What a cell printed."""
    return "".join(one.get("text", "") for one in cell.outputs)


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.ipynb")), ids=lambda p: p.name)
def test_a_notebook_in_the_repository_holds_no_output(path):
    for cell in nbformat.read(path, as_version=4).cells:
        assert cell.cell_type == "markdown" or (cell.outputs == [] and cell.execution_count is None)


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.py")), ids=lambda p: p.name)
def test_a_program_says_how_it_is_started(path):
    assert f"python examples/{path.name}" in (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "")
