"""The README's Python blocks run as they stand, in one folder, and each finds the images that the index keeps."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from prune import selection, write

README = Path(__file__).parents[1] / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
HEAD, *WAYS = BLOCKS


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("readme")
    rng = np.random.default_rng(0)
    for name in ("cat", "dog", "newt"):
        (place / "photos" / name).mkdir(parents=True)
        for k in range(4):
            pixels = rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(place / "photos" / name / f"{k}.jpg")
    beton = place / "runs/photos.beton"
    write.run(write.Config(images=str(place / "photos"), out=beton))
    manifest = beton.with_name("photos.manifest.npz")
    out = place / "pets-30.index.npz"
    selection.run(selection.Config(out=out, manifest=manifest, method="random", keep=0.5))
    return place


@pytest.mark.parametrize("block", WAYS, ids=["torchvision", "timm", "datasets", "ffcv"])
def test_a_block_of_the_readme_finds_the_kept_images(block, folder, monkeypatch):
    monkeypatch.chdir(folder)
    space: dict[str, object] = {}
    exec(HEAD + block, space)
    index = space["index"]
    if "loader" in space:
        assert sorted(np.asarray(space["rows"]).tolist()) == sorted(index.positions.tolist())
        return
    kept = space["kept"]
    assert len(kept) == len(index) == 6
    labels = kept["label"] if hasattr(kept, "features") else [kept[k][1] for k in range(6)]
    assert sorted(labels) == sorted(index.labels.tolist())


def test_the_page_of_arrays_runs_and_names_functions_that_exist():
    text = (README.parent / "docs/python.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        exec(block, {})
    named = re.findall(r"`(prune(?:\.\w+)+)\.(\w+)`", text)
    assert len(named) > 12
    assert [f"{module}.{name}" for module, name in named if not hasattr(import_module(module), name)] == []
